"""Each user has a directory of their own, and a notebook's path never leads out of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import workdir

# As server.tokens lets them through: 1 to 255 printable characters.
USERS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=255)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Ann's directory."""
    return workdir.user_directory(tmp_path, "ann")


@settings(max_examples=30)
@given(st.lists(USERS, min_size=2, max_size=8, unique=True))
def test_two_users_never_share_a_directory(tmp_path_factory: pytest.TempPathFactory, users: list[str]) -> None:
    notebooks = tmp_path_factory.mktemp("notebooks")
    directories = {workdir.user_directory(notebooks, user) for user in users}
    assert len(directories) == len(users)
    assert {each.parent for each in directories} == {notebooks}
    assert sorted(each.name for each in notebooks.iterdir()) == sorted(each.name for each in directories)


@pytest.mark.parametrize("user", [".", "..", "../ann", "/etc", "a/b", ".hidden", "%2E", "a%2Fb", "a" * 255, "é" * 255])
def test_an_odd_id_is_one_directory_below_the_notebooks(tmp_path: Path, user: str) -> None:
    directory = workdir.user_directory(tmp_path, user)
    assert directory.parent == tmp_path
    assert list(tmp_path.iterdir()) == [directory]
    assert directory.stat().st_mode & 0o777 == 0o700


def test_nobody_can_choose_an_id_that_spells_the_shortened_name_of_another(tmp_path: Path) -> None:
    long = "a" * 255
    shortened = workdir.user_directory(tmp_path, long)
    assert workdir.user_directory(tmp_path, shortened.name) != shortened
    imitation = f"{'a' * 135}-{hashlib.sha256(long.encode()).hexdigest()}"
    assert workdir.user_directory(tmp_path, imitation) != shortened


def test_a_directory_is_found_again(tmp_path: Path) -> None:
    assert workdir.user_directory(tmp_path, "ann") == workdir.user_directory(tmp_path, "ann")


def test_a_kernel_starts_beside_its_notebook(tmp_path: Path, home: Path) -> None:
    (home / "course" / "week 1").mkdir(parents=True)
    for path in ("course/week 1/lesson.ipynb", "/course/week 1/lesson.ipynb", "course/week 1"):
        assert workdir.start_directory(tmp_path, "ann", path) == home / "course" / "week 1"
    assert workdir.start_directory(tmp_path, "ann", "course/none/lesson.ipynb") == home / "course"


@pytest.mark.parametrize(
    "path",
    [None, "", "/", ".", "..", "../bob", "../../../../etc/passwd", "/etc/passwd", "course/../../bob/x.ipynb", "a\0b",
     "x" * 300, "x" * 300 + "/lesson.ipynb", "/".join(["deep"] * 800), "~", "~root/x"],
)  # fmt: skip
def test_no_path_leads_out_of_the_users_directory(tmp_path: Path, home: Path, path: str | None) -> None:
    workdir.user_directory(tmp_path, "bob")
    assert workdir.start_directory(tmp_path, "ann", path) == home


@pytest.mark.parametrize("target", ["../bob", "/", "/etc", "loop", "nowhere"])
def test_no_link_leads_out_of_the_users_directory(tmp_path: Path, home: Path, target: str) -> None:
    workdir.user_directory(tmp_path, "bob")
    (home / "loop").symlink_to("loop")
    (home / "link").symlink_to(target)
    for path in ("link", "link/lesson.ipynb", "loop/lesson.ipynb"):
        assert workdir.start_directory(tmp_path, "ann", path) == home


def test_a_link_within_the_users_directory_is_followed(tmp_path: Path, home: Path) -> None:
    (home / "course").mkdir()
    (home / "link").symlink_to("course")
    assert workdir.start_directory(tmp_path, "ann", "link/lesson.ipynb") == home / "course"


def test_a_very_deep_path_is_followed_only_so_far(tmp_path: Path, home: Path) -> None:
    deep = home.joinpath(*["d"] * (workdir.MAX_DEPTH + 5))
    deep.mkdir(parents=True)
    found = workdir.start_directory(tmp_path, "ann", "/".join(["d"] * 2000))
    assert len(found.relative_to(home).parts) == workdir.MAX_DEPTH


def test_a_kernels_environment_has_nothing_of_the_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REDIS_URL", "KERNELRING_JWT_SECRET", "JPY_PARENT_PID", "AWS_SECRET_ACCESS_KEY", "COURSE"):
        monkeypatch.setenv(name, "secret")
    environment = workdir.kernel_environment(("COURSE",), tmp_path)
    assert {name for name, value in environment.items() if value == "secret"} == {"COURSE"}
    assert environment["PWD"] == str(tmp_path)
    assert environment["PATH"].endswith(os.environ["PATH"])


@pytest.mark.parametrize(
    "text", ["", "..", "1234", "a-b-c-d-e", "../../x", "0" * 36, "{8a3f0a4e-0000-4000-8000-000000000000}"]
)
def test_only_a_uuid_names_a_kernel(text: str) -> None:
    assert not workdir.is_kernel_id(text)
    assert workdir.is_kernel_id("8a3f0a4e-0000-4000-8000-000000000000")
