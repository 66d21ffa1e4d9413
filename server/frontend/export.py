"""The program that turns a notebook into another format.

`python -m server.frontend.export FORMAT NAME USE MIB [UID GID | WALLS]`

Run by `nbconvert.py`, one process for each conversion, so that a notebook that never ends or eats memory harms nobody.
Reads the notebook from standard input; writes one line of JSON (`{"mime", "name"}`, or `{"error"}`) and then the bytes.
It opens no file of the user's. What is in a notebook decides which exporter runs and what that does, so where kernels
are confined it runs as the user, too, or where those have no uids, behind their walls, in a room with nothing in it.

USE is `shown` for a page of this server, which loads nothing from elsewhere, or `kept` for a file: that is as nbconvert
makes it, since it must find MathJax wherever it is opened.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import zipfile
from pathlib import PurePath
from typing import Any, Final

from kernels.confine.child import Fitting
from kernels.confine.options import Room, Walls

CPU_S: Final = 60
NOWHERE: Final = "/nonexistent"
# MathJax is ours, with the fonts that its package has; require.js, the widgets' manager and Mermaid are not here, and
# what needs them shows as text.
MATHJAX: Final = "/static/mathjax/MathJax.js?config=TeX-AMS-MML_HTMLorMML-full,Safe"
SHOWN: Final = """{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}
<script type="text/x-mathjax-config">
MathJax.Hub.Config({"HTML-CSS": {availableFonts: [], imageFont: null, preferredFont: null, webFont: "STIX-Web"}});
</script>
{{ super() }}
{%- endblock -%}
"""


def main(kind: str, name: str, use: str, memory_mib: int, *confined: str) -> None:
    """Convert standard input. `confined`: uid and gid, or walls as JSON."""
    if len(confined) == 1:
        Fitting(Walls.from_text(confined[0])).enter(Room(0, NOWHERE, NOWHERE, NOWHERE, makes_sockets=False))
    elif confined:
        uid, gid = map(int, confined)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    for what, most in ((resource.RLIMIT_DATA, memory_mib * 2**20), (resource.RLIMIT_CPU, CPU_S)):
        _, hard = resource.getrlimit(what)  # behind walls it may be less already
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (least, least))
    try:
        mime, named, body = _converted(kind, name, use, sys.stdin.buffer.read())
        told: dict[str, str] = {"mime": mime, "name": named}
    except MemoryError:
        told, body = {"error": f"it needs more than {memory_mib} MiB"}, b""
    except Exception as error:
        told, body = {"error": f"{type(error).__name__}: {error}"[:2000]}, b""
    sys.stdout.buffer.write(json.dumps(told).encode() + b"\n" + body)
    sys.stdout.buffer.flush()


def _converted(kind: str, name: str, use: str, text: bytes) -> tuple[str, str, bytes]:
    import nbformat
    from nbconvert.exporters import get_exporter

    notebook = nbformat.reads(text.decode(), as_version=4)  # type: ignore[no-untyped-call]
    # A template in memory comes before a format's own, so only for the one that it extends.
    ours = {"mathjax_url": MATHJAX, "raw_template": SHOWN} if (kind, use) == ("html", "shown") else {}
    exporter = get_exporter(kind)(**ours)  # type: ignore[no-untyped-call]
    stem = PurePath(name).stem
    output, found = exporter.from_notebook_node(notebook, resources={"metadata": {"name": stem}})
    body = output.encode() if isinstance(output, str) else bytes(output)
    if pictures := found.get("outputs"):
        return "application/zip", f"{stem}.zip", _zipped(stem + found["output_extension"], body, pictures)
    return exporter.output_mimetype or "text/plain", stem + found["output_extension"], body


def _zipped(name: str, body: bytes, pictures: dict[str, Any]) -> bytes:
    """The document with the pictures that lie beside it."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, body)
        for each, data in pictures.items():
            archive.writestr(PurePath(each).name, data)
    return whole.getvalue()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
