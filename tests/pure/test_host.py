"""The runtime directory: made private, shared by all processes of one user, refused when it is not ours."""

import os
import re
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.host import Host, HostError

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_opening_makes_private_directories_and_files(runtime_dir: Path) -> None:
    host = Host.open(runtime_dir)
    assert [mode(each) for each in (runtime_dir, host.workers_dir, host.kernels_dir)] == [0o700] * 3
    assert [mode(runtime_dir / name) for name in ("host", "secret")] == [0o600] * 2
    assert re.fullmatch("[0-9a-f]{12}", host.id)
    assert re.fullmatch("[0-9a-f]{64}", host.secret)
    assert host.nursery_socket == runtime_dir / "nursery.sock"
    assert sorted(each.name for each in runtime_dir.iterdir()) == ["host", "k", "secret", "w"]


def test_a_loose_umask_opens_nothing(runtime_dir: Path) -> None:
    before = os.umask(0)
    try:
        Host.open(runtime_dir)
    finally:
        os.umask(before)
    assert [mode(runtime_dir / name) for name in ("", "w", "k", "host", "secret")] == [0o700] * 3 + [0o600] * 2


def test_opening_again_finds_the_same_host(runtime_dir: Path) -> None:
    assert Host.open(runtime_dir) == Host.open(runtime_dir)


def test_many_that_open_at_once_agree(runtime_dir: Path) -> None:
    n_threads = 16
    barrier = threading.Barrier(n_threads)

    def together(_: int) -> Host:
        barrier.wait(10)
        return Host.open(runtime_dir)

    with ThreadPoolExecutor(n_threads) as pool:
        assert len(set(pool.map(together, range(n_threads)))) == 1
    assert sorted(each.name for each in runtime_dir.iterdir()) == ["host", "k", "secret", "w"]


def test_a_repr_does_not_show_the_secret(runtime_dir: Path) -> None:
    host = Host.open(runtime_dir)
    assert host.secret not in repr(host)


def test_a_path_too_long_for_its_sockets_is_refused(tmp_path: Path) -> None:
    longest = 107 - len("/k/" + "0" * 36 + "/s/s-5")
    fits = Path("/tmp") / ("x" * (longest - len("/tmp/")))
    with pytest.raises(HostError, match="1 bytes too long"):
        Host.open(fits.with_name(fits.name + "x"))
    with pytest.raises(HostError, match="too long"):
        Host.open(Path("/tmp") / ("ü" * (longest // 2)))
    assert not fits.exists()


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(HostError, match="absolute"):
        Host.open(Path("here"))


def test_a_directory_open_to_others_is_refused_and_left_as_it_is(runtime_dir: Path) -> None:
    runtime_dir.mkdir()
    runtime_dir.chmod(0o755)
    with pytest.raises(HostError, match=r"open to others \(mode 0755\)"):
        Host.open(runtime_dir)
    assert mode(runtime_dir) == 0o755
    assert list(runtime_dir.iterdir()) == []


@ROOT_ONLY
@pytest.mark.parametrize("below", ["", "w", "k"])
def test_a_directory_of_somebody_else_is_refused(runtime_dir: Path, below: str) -> None:
    Host.open(runtime_dir)
    os.chown(runtime_dir / below, 65534, 65534)
    with pytest.raises(HostError, match="belongs to user 65534"):
        Host.open(runtime_dir)


def test_a_link_is_not_followed(runtime_dir: Path) -> None:
    target = runtime_dir.with_name("elsewhere")
    target.mkdir(mode=0o700)
    runtime_dir.symlink_to(target)
    with pytest.raises(HostError, match="not a directory"):
        Host.open(runtime_dir)
    assert list(target.iterdir()) == []


def test_a_secret_that_is_a_link_or_a_fifo_is_refused(runtime_dir: Path) -> None:
    Host.open(runtime_dir)
    (runtime_dir / "secret").rename(runtime_dir / "other")
    (runtime_dir / "secret").symlink_to(runtime_dir / "other")
    with pytest.raises(HostError):
        Host.open(runtime_dir)
    (runtime_dir / "secret").unlink()
    os.mkfifo(runtime_dir / "secret", 0o600)
    with pytest.raises(HostError, match="not a private file"):
        Host.open(runtime_dir)


def test_a_secret_that_others_can_read_is_refused(runtime_dir: Path) -> None:
    Host.open(runtime_dir)
    (runtime_dir / "secret").chmod(0o644)
    with pytest.raises(HostError, match="not a private file"):
        Host.open(runtime_dir)


@pytest.mark.parametrize("content", [b"", b"abc", b"Z" * 12, b"\xff" * 12])
def test_a_damaged_host_id_is_refused_in_words(runtime_dir: Path, content: bytes) -> None:
    Host.open(runtime_dir)
    (runtime_dir / "host").write_bytes(content)
    with pytest.raises(HostError, match="damaged"):
        Host.open(runtime_dir)


def test_a_place_where_nothing_can_be_made_is_refused_in_words() -> None:
    with pytest.raises(HostError, match="cannot be used"):
        Host.open(Path("/proc/kernelring"))


def test_sockets_of_killed_workers_are_swept_and_others_stay(runtime_dir: Path) -> None:
    host = Host.open(runtime_dir)
    gone = max(int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()) + 100_000
    names = [f"{os.getpid()}-ab.sock", f"{os.getppid()}-cd.sock", f"{gone}-ef.sock"]
    for name in names:
        (host.workers_dir / name).touch()
    host.sweep_sockets(killed=[os.getppid()])
    assert [path.name for path in host.workers_dir.iterdir()] == names[:1]
