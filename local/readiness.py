"""Ask a server on this machine whether it is ready."""

import http.client

_ANSWER_CHARS = 500


def readiness(port: int, timeout_s: float = 2.0) -> tuple[bool, str]:
    """Whether `/readyz` on loopback answers 200, and what it says (or why it says nothing)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status == 200, answer.read(_ANSWER_CHARS).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as problem:
        return False, str(problem)
    finally:
        connection.close()
