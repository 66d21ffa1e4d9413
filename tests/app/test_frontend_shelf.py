"""What the pages cost a host once: the list of settings that its workers share, and the packages' import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.frontend.frontend import read_catalogue
from server.frontend.settings import LabSettings
from server.frontend.shelf import shelved, stamp_of


class Maker:
    def __init__(self, **plugins: bytes) -> None:
        self.plugins, self.n = plugins, 0

    def __call__(self) -> dict[str, bytes]:
        self.n += 1
        return dict(self.plugins)


def test_the_second_worker_reads_what_the_first_has_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue, shelf = read_catalogue(), tmp_path / "static" / "settings"
    first = LabSettings(catalogue, shelf)
    with monkeypatch.context() as patch:
        patch.setattr(LabSettings, "_listed", lambda *_: pytest.fail("made a second time"))
        second = LabSettings(catalogue, shelf)
    assert second.all_of_none == first.all_of_none
    assert second.ids_only == first.ids_only
    assert len(first.all_of_none) > 100_000


def test_it_is_made_anew_for_another_stamp_and_when_it_is_damaged(tmp_path: Path) -> None:
    shelf, old, new = tmp_path / "settings", Maker(a=b"1"), Maker(a=b"2", b=b"\xc3\xa4")
    assert [shelved(shelf, "x", old), shelved(shelf, "x", new)] == [old.plugins] * 2
    assert [shelved(shelf, "y", new), shelved(shelf, "y", new)] == [new.plugins] * 2
    shelf.write_bytes(b"")
    assert shelved(shelf, "y", new) == new.plugins
    assert (old.n, new.n) == (1, 2)
    assert [*tmp_path.iterdir()] == [shelf]


def test_without_a_disk_it_is_made_each_time(tmp_path: Path) -> None:
    (tmp_path / "static").touch()
    maker = Maker(a=b"1")
    assert shelved(tmp_path / "static" / "settings", "x", maker) == maker.plugins
    assert maker.n == 1


def test_the_stamp_knows_of_files_that_change_come_and_go(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.touch()
    seen = [stamp_of([one]), stamp_of([one], "x")]
    os.utime(one, ns=(1, 1))
    seen.append(stamp_of([one]))
    one.write_bytes(b"more")
    os.utime(one, ns=(1, 1))
    seen.append(stamp_of([one]))
    two.touch()
    seen.append(stamp_of([one, two]))
    assert len(set(seen)) == len(seen)
    assert stamp_of([two, one]) == seen[-1]


def test_importing_the_packages_starts_no_process() -> None:
    told = "import sys; sys.addaudithook(lambda event, said: event == 'subprocess.Popen' and print(said[0]))"
    command = [
        sys.executable,
        "-c",
        f"{told}\nimport server.gunicorn as g, importlib\nfor n in g.SHARED_IMPORTS: importlib.import_module(n)",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    # ctypes asks ldconfig where libseccomp is: a millisecond. JupyterLab asked node, for most of a second.
    assert (done.returncode, set(done.stdout.split()) - {"/sbin/ldconfig"}) == (0, set()), done.stderr
