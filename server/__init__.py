"""What clients talk to: HTTP, WebSockets, login, pages and files."""

import sys
from typing import Any

# jsonschema, which nbformat needs, would have it build a grammar of international addresses: 1.8 s of processor time in
# each worker that starts, for a format that no schema here asks for. It does without what cannot be imported.
_modules: dict[str, Any] = sys.modules
_modules.setdefault("rfc3987_syntax", None)
