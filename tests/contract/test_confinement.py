"""What a host offers is found out by trying; a kernel's process is put behind all of it or not started at all."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import zmq

from kernels import nursery_call
from kernels.__main__ import main as kernels_command
from kernels.confine import folders, host, landlock, seccomp
from kernels.confine.child import ConfineError, Fitting
from kernels.confine.options import Options, Room, Walls
from kernels.errors import NurseryUnavailable, PortLost, SpawnRefused
from kernels.records import SpawnOrder
from kernels.wires import Wires, is_bound
from local import own_uids
from local.paths import ROOT
from server.confinement import Identities, Identity
from server.settings import Settings
from tests.cluster.confined import status
from tests.nursery_fixture import Place, client, nursery, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give each user a uid")

UIDS = own_uids.claim() if os.geteuid() == 0 else (0, 0)
FIRST = UIDS[0]


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that other users can pass through."""
    with tempfile.TemporaryDirectory(prefix="kc-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.fixture
def options(open_place: Path) -> Options:
    return Options(open_place / "n", uids=UIDS)


@contextmanager
def confining(open_place: Path, options: Options) -> Iterator[Place]:
    """A nursery that confines. Skips where this machine cannot."""
    report, _ = host.probe(options, open_place / "r")
    if report.level == "none":
        pytest.skip(f"kernels cannot be confined here: {report.missing}")
    with nursery(open_place / "r", confine=options) as place:
        yield place


def order(place: Place, options: Options, *argv: str, user: str = "ann", home: str = "") -> SpawnOrder:
    """For a program that is no kernel, in the user's directory."""
    cwd = options.notebooks / (home or user)
    cwd.mkdir(mode=0o700, exist_ok=True)
    return replace(place.order(*argv, user=user), cwd=cwd)


def in_child(walls: Walls, room: Room) -> str:
    """What becomes of a child that enters a room: the error, or its uid."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            Fitting(walls).enter(room)
            os.write(write, str(os.getuid()).encode())
        except ConfineError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    with os.fdopen(read) as told:
        return told.read()


# -- the host -----------------------------------------------------------------------------------------------------


def test_what_is_missing_is_said_in_a_sentence_that_says_how_to_get_it(open_place: Path) -> None:
    closed = open_place / "closed"
    closed.mkdir(mode=0o700)
    for name in ("notebooks", "runtime"):
        paths = {"notebooks": open_place / "n", "runtime": open_place / "r"} | {name: closed / "x"}
        report, walls = host.probe(Options(paths["notebooks"], UIDS, level="uids"), paths["runtime"])
        assert (report.level, walls) == ("none", Walls())
        assert f"cannot enter {closed}/" in report.missing[0]
        assert "chmod o+x" in report.missing[0]


def test_uids_that_are_somebodys_are_not_taken(open_place: Path) -> None:
    report, _ = host.probe(Options(open_place / "n", (65_000, 65_534), level="uids"), open_place / "r")
    assert report.level == "none"
    assert "KERNELRING_UIDS" in report.missing[0]


def test_a_python_that_others_cannot_read_is_named(open_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = open_place / "python"
    hidden.touch(0o600)
    monkeypatch.setattr(host, "_must_read", lambda: [str(hidden)])
    report, _ = host.probe(Options(open_place / "n", UIDS, level="uids"), open_place / "r")
    assert f"cannot read {hidden}" in report.missing[0]
    assert "/opt" in report.missing[0]


def test_a_host_without_landlock_and_seccomp_still_gives_uids(
    options: Options, open_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(**_: bool) -> bytes:
        raise RuntimeError("Unable to find libseccomp")

    monkeypatch.setattr(landlock, "version", lambda: 0)
    monkeypatch.setattr(seccomp, "compiled", missing)
    report, walls = host.probe(options, open_place / "r")
    if report.level == "none":
        pytest.skip(f"kernels cannot be confined here: {report.missing}")
    assert (report.name, walls.landlock, walls.seccomp) == ("uids", 0, b"")
    assert len(report.missing) == 2


@pytest.mark.parametrize(("bind", "behind_tls"), [("0.0.0.0:0", "0"), ("127.0.0.1:0", "1")])
def test_several_users_are_refused_where_nothing_confines(open_place: Path, bind: str, behind_tls: str) -> None:
    open_place.chmod(0o700)
    env = {
        "PATH": os.environ["PATH"],
        "KERNELRING_BIND": bind,
        "KERNELRING_BEHIND_TLS": behind_tls,
        "KERNELRING_CONFINEMENT": "uids",
        "KERNELRING_RUNTIME_DIR": str(open_place / "r"),
        "KERNELRING_NOTEBOOKS": str(open_place / "n"),
    }
    command = [sys.executable, "-c", "import server.gunicorn"]
    refused = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert f"cannot enter {open_place}/" in refused.stderr
    trusted = subprocess.run(command, cwd=ROOT, env=env | {"KERNELRING_UNCONFINED": "1"}, timeout=60)
    assert trusted.returncode == 0


async def test_the_server_is_told_who_owns_a_users_files(options: Options, open_place: Path) -> None:
    level = ""
    settings = Settings(notebooks=options.notebooks, uids=UIDS)
    options.notebooks.mkdir()
    identities = Identities(settings, lambda: level)
    with pytest.raises(NurseryUnavailable):
        identities.home("ann")
    level = "none"
    assert identities.home("ann") == (options.notebooks / "ann", None)
    level = "landlock+landlock7+seccomp"
    assert identities.home("ann") == (options.notebooks / "ann", None)
    assert Walls.from_text(identities.walls()).level == "landlock"
    level = "uids+seccomp"
    assert identities.walls() == ""
    assert identities.home("ann") == (options.notebooks / "ann", Identity(FIRST, FIRST))
    assert (options.notebooks / "ann").stat().st_uid == FIRST
    os.chown(options.notebooks / "ann", 65534, 65534)
    with pytest.raises(NurseryUnavailable, match="chown"):
        identities.home("ann")


# -- a process ----------------------------------------------------------------------------------------------------


def test_each_layer_that_fails_is_named(open_place: Path) -> None:
    room = Room(FIRST, str(open_place), str(open_place))
    assert in_child(Walls(), room) == str(FIRST)
    assert in_child(Walls(seccomp=b"12345678"), room).startswith("seccomp: ")
    assert in_child(Walls(limits=((10**6, 1),)), room).startswith("limits: ")
    if landlock.version():
        assert in_child(Walls(landlock=10**6), room).startswith("Landlock: ")


def test_the_filter_compiles_to_the_same_each_time() -> None:
    assert seccomp.compiled() == seccomp.compiled()


def test_no_limit_is_raised_above_what_the_server_has(open_place: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = dict(host._limits(Options(open_place, files=10**9)))
    assert limits[resource.RLIMIT_NOFILE] == hard


# -- the nursery --------------------------------------------------------------------------------------------------


async def test_a_program_runs_as_its_user_and_its_files_are_closed(
    open_place: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    with confining(open_place, options) as place:
        async with client(place) as nurse:
            first = await nurse.spawn(order(place, options))
            second = await nurse.spawn(order(place, options, user="bob"))
            assert nurse.confinement.startswith("uids")
            assert kernels_command(["status", "--runtime", str(place.runtime)]) == 0
            assert f"confinement: {nurse.confinement}" in capsys.readouterr().out
            for record, uid in ((first, FIRST), (second, FIRST + 1)):
                assert status(record.pid)["Uid"].split() == [str(uid)] * 4
                found = record.directory.stat()
                assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, uid, 0o710)
                key = (record.directory / "connection.json").stat()
                assert (key.st_uid, key.st_gid, stat.S_IMODE(key.st_mode)) == (0, uid, 0o640)
            assert await nurse.signal(first.kernel_id, 2)
            for record in (first, second):
                await nurse.end(record.kernel_id, "over")


async def test_a_kernel_starts_in_its_users_own_directory_or_not_at_all(open_place: Path, options: Options) -> None:
    with confining(open_place, options) as place:
        async with client(place) as nurse:
            record = await nurse.spawn(order(place, options))
            theirs = order(place, options, user="eve", home="ann")
            outside = replace(order(place, options, user="eve"), cwd=Path("/"))
            hidden = replace(order(place, options, user="eve"), cwd=options.notebooks / ".kernelring")
            above = replace(order(place, options, user="eve"), cwd=options.notebooks / "eve" / ".." / "ann")
            for wrong in (theirs, outside, hidden, above):
                with pytest.raises(SpawnRefused):
                    await nurse.spawn(wrong)
                await nurse.end(wrong.kernel_id, "refused")
            await nurse.end(record.kernel_id, "over")


async def test_files_that_the_server_had_made_are_given_to_their_user(open_place: Path, options: Options) -> None:
    home = options.notebooks / "ann"
    (home / "deep").mkdir(parents=True)
    (home / "deep" / "old.ipynb").write_text("{}")
    outside = open_place / "outside"
    outside.write_text("root's")
    (home / "link").symlink_to(outside)
    (home / "hard").hardlink_to(outside)
    with confining(open_place, options) as place:
        async with client(place) as nurse:
            record = await nurse.spawn(order(place, options))
            assert (home / "deep" / "old.ipynb").stat().st_uid == FIRST
            assert outside.stat().st_uid == 0
            await nurse.end(record.kernel_id, "over")


async def test_sockets_are_the_servers_once_they_are_there(open_place: Path, options: Options) -> None:
    program = (
        "import os, socket, sys, time\n"
        "made = [socket.socket(socket.AF_UNIX) for _ in range(5)]\n"
        "for n, each in enumerate(made, 1): each.bind(f'{sys.argv[1]}/s/s-{n}')\n"
        "time.sleep(600)"
    )
    with confining(open_place, options) as place:
        async with client(place) as nurse:
            made = order(place, options)
            directory = made.directory
            made = replace(made, argv=("/usr/bin/python3", "-c", program, str(directory)))
            record = await nurse.spawn(made)
            await until(lambda: stat.S_IMODE((directory / "s").stat().st_mode) == 0o710)
            assert {(directory / "s" / name).lstat().st_uid for name in folders.SOCKETS} == {0}
            await nurse.signal(record.kernel_id, 9)
            await until(lambda: nursery_call.ask(place.runtime, "list", 5)["records"][0]["state"] == "exited")
            again = await nurse.spawn(replace(made, incarnation=2))  # it can make its sockets anew
            await until(lambda: stat.S_IMODE((directory / "s").stat().st_mode) == 0o710)
            assert again.state == "running"
            await nurse.end(record.kernel_id, "over")


async def test_a_nursery_that_was_killed_confines_as_before(open_place: Path, options: Options) -> None:
    with confining(open_place, options) as place:
        async with client(place) as nurse:
            record = await nurse.spawn(order(place, options))
            place.kill_nursery()
            await until(lambda: nursery_call.answers(place.runtime))
            assert status(record.pid)["Uid"].split()[0] == str(FIRST)
            other = await nurse.spawn(order(place, options, user="bob"))
            assert status(other.pid)["Uid"].split()[0] == str(FIRST + 1)
            for each in (record, other):
                await nurse.end(each.kernel_id, "over")


def test_what_is_no_socket_is_left_where_it_is_and_seen(open_place: Path) -> None:
    directory = open_place / "k"
    directory.mkdir()
    folders.fresh_sockets(directory)
    (directory / "connection.json").write_text("{}")
    folders.give_kernel(directory, FIRST)
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(open_place / "theirs"))
        for name in folders.SOCKETS:
            (directory / "s" / name).symlink_to(open_place / "theirs")
            os.chown(directory / "s" / name, FIRST, FIRST, follow_symlinks=False)
        assert folders.seal(directory, FIRST)
        assert (open_place / "theirs").stat().st_uid == 0
        assert (directory / "s" / "s-1").is_symlink()
    (directory / "s" / "a" / "b").mkdir(parents=True)
    folders.fresh_sockets(directory)
    assert list((directory / "s").iterdir()) == []


async def test_the_owner_connects_to_no_link_in_the_place_of_a_socket(open_place: Path) -> None:
    ports = {f"{name}_port": at for at, name in enumerate(("shell", "iopub", "stdin", "hb", "control"), 1)}
    info = {"ip": str(open_place / "s"), "key": b"k", **ports}
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(open_place / "theirs"))
        for at in ports.values():
            (open_place / f"s-{at}").symlink_to(open_place / "theirs")
        assert not is_bound(info)
        wires = Wires(context, info, lambda channel, parts: None)
        with pytest.raises(PortLost, match="replaced"):
            async with asyncio.timeout(10):
                await wires.subscribe_for_sure()
        wires.close()
    context.destroy(linger=0)
