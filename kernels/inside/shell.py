"""IPython's shell, with completion by its own means.

jedi's first search costs a kernel 4.4 s of CPU and 55 MB, each of numpy and pandas 3 to 5 s and 20 MB more (jedi 0.20,
IPython 9.18), and a page shows nothing that comes after 1 s. IPython's own completer knows what has been run, and what
the cell imports, in a few ms. `%config IPCompleter.use_jedi = True`, or a student's configuration, brings jedi back.
"""

from __future__ import annotations

from subprocess import CalledProcessError
from typing import Any

from ipykernel.zmqshell import ZMQInteractiveShell

from kernels.inside import narrow


class RingShell(ZMQInteractiveShell):
    """Its completer's defaults are ours."""

    def system_piped(self, cmd: str) -> None:
        """As IPython's, which runs a command on a terminal: where there are none it runs without."""
        if not narrow.narrows():
            super().system_piped(cmd)  # type: ignore[no-untyped-call]
            return
        if cmd.rstrip().endswith("&"):
            raise OSError("Background processes not supported.")
        code = narrow.run_piped(self.var_expand(cmd, depth=1))  # type: ignore[no-untyped-call]
        self.user_ns["_exit_code"] = code
        if self.system_raise_on_error and code != 0:
            raise CalledProcessError(code, cmd)

    system = system_piped

    def init_completer(self) -> None:
        """The original; what is configured counts."""
        super().init_completer()  # type: ignore[no-untyped-call]
        for name, value in {"use_jedi": False, "policy_overrides": {"allow_auto_import": True}}.items():
            if not any(name in self.config.get(section, {}) for section in ("Completer", "IPCompleter")):
                setattr(self.Completer, name, value)


def without_dots(reply: dict[str, Any], code: str) -> dict[str, Any]:
    """A complete_reply in which attributes are named as jedi names them: `upper` after `x.`, and not `.upper`."""
    parts = [part for found in reply.get("metadata", {}).values() if isinstance(found, list) for part in found]
    attributes = [part for part in parts if part["type"] == "attribute" and part["text"].startswith(".")]
    start = reply.get("cursor_start", 0)
    if not parts or len(attributes) != len(parts) or code[start : start + 1] != ".":
        return reply
    for part in parts:
        part.update(text=part["text"][1:], start=part["start"] + 1)
    return reply | {"matches": [match[1:] for match in reply["matches"]], "cursor_start": start + 1}
