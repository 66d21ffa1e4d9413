"""The state of a kernel's widgets, as a notebook keeps it ("Save Widget State").

Owns the models that the kernel has opened on the comm target `jupyter.widget`, kept up with its updates. Bounded: more
than that is not kept at all, because half of a widget is none. Pure.

Source: ipywidgets' "Jupyter widget messaging protocol" and its notebook metadata schema, version 2.0.
"""

from __future__ import annotations

import base64
from typing import Any, Final

TARGET: Final = "jupyter.widget"
MIMETYPE: Final = "application/vnd.jupyter.widget-state+json"
MAX_BYTES: Final = 4 * 2**20
MAX_MODELS: Final = 2048
KINDS: Final = frozenset({"comm_open", "comm_msg", "comm_close"})
_MODEL: Final = {"_model_name": "model_name", "_model_module": "model_module"}


class Widgets:
    """Of one process: a kernel that was started again has none."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, Any]] = {}
        self._buffers: dict[str, dict[tuple[Any, ...], str]] = {}
        self._sizes: dict[str, int] = {}
        self.too_many = False

    def hear(self, kind: str, content: dict[str, Any], buffers: list[bytes], size: int) -> bool:
        """Take one comm message of the kernel, of `size` bytes; return whether it has changed anything."""
        comm_id, data = content.get("comm_id"), content.get("data")
        if kind not in KINDS or not isinstance(comm_id, str) or self.too_many:
            return False
        if kind == "comm_close":
            self._buffers.pop(comm_id, None)
            self._sizes.pop(comm_id, None)
            return self._models.pop(comm_id, None) is not None
        if not isinstance(data, dict) or not isinstance(state := data.get("state"), dict):
            return False
        if kind == "comm_open" and content.get("target_name") == TARGET:
            self._models[comm_id], self._buffers[comm_id], self._sizes[comm_id] = {}, {}, 0
        elif comm_id not in self._models or data.get("method") not in ("update", "echo_update"):
            return False
        self._take(comm_id, state, data.get("buffer_paths"), buffers)
        self._sizes[comm_id] += size
        self._keep_in_bounds()
        return True

    def _take(self, comm_id: str, state: dict[str, Any], paths: object, buffers: list[bytes]) -> None:
        self._models[comm_id] |= state
        kept = self._buffers[comm_id]
        for path in [path for path in kept if path[0] in state]:
            del kept[path]
        for path, raw in zip(paths if isinstance(paths, list) else [], buffers, strict=False):
            if isinstance(path, list) and path and all(isinstance(step, str | int) for step in path):
                kept[tuple(path)] = base64.b64encode(raw).decode()

    def _keep_in_bounds(self) -> None:
        if sum(self._sizes.values()) > MAX_BYTES:  # of what was said; what is kept of it may be less
            for comm_id, state in self._models.items():
                self._sizes[comm_id] = len(repr(state)) + sum(map(len, self._buffers[comm_id].values()))
        if len(self._models) > MAX_MODELS or sum(self._sizes.values()) > MAX_BYTES:
            self.clear()
            self.too_many = True

    def clear(self) -> None:
        """The kernel's process has ended, and its widgets with it."""
        self._models, self._buffers, self._sizes, self.too_many = {}, {}, {}, False

    def to_metadata(self) -> dict[str, Any] | None:
        """What `metadata.widgets` of a notebook is; None when there is nothing to keep."""
        if not self._models:
            return None
        return {MIMETYPE: {"version_major": 2, "version_minor": 0, "state": self.to_json()}}

    def to_json(self) -> dict[str, Any]:
        """The models by their ids, as they are kept; `from_json` reads them."""
        return {comm_id: self._model(comm_id, state) for comm_id, state in self._models.items()}

    def _model(self, comm_id: str, state: dict[str, Any]) -> dict[str, Any]:
        model = {name: str(state.get(field, "")) for field, name in _MODEL.items()}
        model["model_module_version"] = str(state.get("_model_module_version", ""))
        kept: dict[str, Any] = {"state": state.copy()}
        if buffers := self._buffers[comm_id]:
            kept["buffers"] = [
                {"data": text, "path": list(path), "encoding": "base64"} for path, text in buffers.items()
            ]
        return model | kept

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Widgets:
        """The same again."""
        made = cls()
        for comm_id, model in found.items():
            made._models[comm_id] = model["state"]
            made._buffers[comm_id] = {tuple(one["path"]): one["data"] for one in model.get("buffers", [])}
            made._sizes[comm_id] = len(repr(model))
        return made
