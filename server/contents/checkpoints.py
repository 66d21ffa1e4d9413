"""jupyter_server's file checkpoints, with their file access replaced by `beneath.py`'s.

A checkpoint is one hidden copy beside the file. It is not counted before it is written: there is one at most for each
file, and a save must not fail after the file itself has been written.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jupyter_server.services.contents.filecheckpoints import FileCheckpoints
from tornado.web import HTTPError

from server.contents import listing
from server.contents.paths import checked, joined, split

_Base: Any = FileCheckpoints  # not typed


class Checkpoints(_Base):  # type: ignore[misc]
    """`parent` is the `Files` that it belongs to."""

    def checkpoint_path(self, checkpoint_id: str, path: str) -> str:
        """Where a checkpoint is; makes nothing."""
        place: str = self.parent._get_os_path(self._beside(checkpoint_id, path))
        return place

    def _beside(self, checkpoint_id: str, path: str) -> str:
        folder, name = split(checked(path))
        stem, extension = os.path.splitext(name)  # noqa: PTH122 - as jupyter_server has it
        return joined(joined(folder, self.checkpoint_dir), f"{stem}-{checkpoint_id}{extension}")

    def checkpoint_model(self, checkpoint_id: str, os_path: str) -> dict[str, Any]:
        """What is told of a checkpoint."""
        path = self.parent.api_path(os_path)
        found = self.parent.beneath.stat(path)
        if found is None:
            self.no_such_checkpoint(path, checkpoint_id)
        return {"id": checkpoint_id, "last_modified": listing.time(found.st_mtime)}

    def create_checkpoint(self, contents_mgr: Any, path: str) -> dict[str, Any]:
        """Copy the file to its checkpoint."""
        if not contents_mgr.file_exists(path):
            contents_mgr.get(path, content=False)  # says that it is not there
            self._no_file(path)
        target = self._beside("checkpoint", path)
        self.parent.beneath.make_folders(split(target)[0])
        with self.perm_to_403(self.checkpoint_path("checkpoint", path)):
            self.parent.beneath.copy(self.parent.beneath, checked(path), target, keep_times=True)
        model: dict[str, Any] = self.checkpoint_model("checkpoint", self.checkpoint_path("checkpoint", path))
        return model

    def restore_checkpoint(self, contents_mgr: Any, checkpoint_id: str, path: str) -> None:
        """Copy the checkpoint over the file."""
        if not Path(self.checkpoint_path(checkpoint_id, path)).is_file():
            self.no_such_checkpoint(path, checkpoint_id)
        source = self._beside(checkpoint_id, path)
        with self.perm_to_403(self.checkpoint_path(checkpoint_id, path)):
            self.parent.beneath.copy(self.parent.beneath, source, checked(path), keep_times=True)

    def rename_checkpoint(self, checkpoint_id: str, old_path: str, new_path: str) -> None:
        """Let the checkpoint follow its file."""
        old, new = self._beside(checkpoint_id, old_path), self._beside(checkpoint_id, new_path)
        beneath = self.parent.beneath
        beneath.make_folders(split(new)[0])
        beneath.rename(beneath.resolved(old, last=False), beneath.resolved(new, last=False))

    def delete_checkpoint(self, checkpoint_id: str, path: str) -> None:
        """Delete a checkpoint."""
        if not os.path.lexists(self.checkpoint_path(checkpoint_id, path)):
            self.no_such_checkpoint(path, checkpoint_id)
        beneath = self.parent.beneath
        beneath.remove(beneath.resolved(self._beside(checkpoint_id, path), last=False))

    def _no_file(self, path: str) -> None:
        raise HTTPError(400, f"Only files have checkpoints, and {path} is none")
