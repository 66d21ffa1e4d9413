"""The browser, the installations and the students of all stories.

A story ends with the proof that its pages asked nobody else, that no script failed, and that the console has no error.
`stack` is for stories that only use it; those that kill workers take `rough_stack`. Each is started once.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, sync_playwright

from local.stack import Stack
from tests.browser.kit import Student
from tests.cluster.conftest import complaints, running
from tests.redis_server import RedisServer

# Chromium looks for its maker's hosts at every start; without these it waits for each of them.
FLAGS: Final = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS: Final = {"KERNELRING_GUESTS": "1"}

NewStudent = Callable[..., Student]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")  # and no longer: its event loop is in the way of tests that have one of their own
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    """Four workers that many stories use and none breaks. Kernels are confined, as far as this machine can."""
    with RedisServer() as redis, running(redis, settings=SETTINGS, confined=True) as shared:
        yield shared
        assert complaints(shared) == []


@pytest.fixture(scope="package")
def rough_stack() -> Iterator[Stack]:
    """Four workers that a story may kill; it waits until there are four again. Confined, too."""
    with RedisServer() as redis, running(redis, settings=SETTINGS, confined=True) as shared:
        yield shared


@pytest.fixture
def new_student(browser: Browser, request: pytest.FixtureRequest) -> Iterator[NewStudent]:
    """`new_student("ada")` is a student of that name and a number, who has never been here."""
    students: list[Student] = []

    def new(name: str, stack: Stack | None = None) -> Student:
        stack = stack or request.getfixturevalue("stack")
        students.append(Student(stack, browser, f"{name}-{next(_numbers)}"))
        return students[-1]

    yield new
    for student in students:
        student.close()
    assert [fault for student in students for fault in student.faults] == []


@pytest.fixture
def ada(new_student: NewStudent) -> Student:
    """A student."""
    return new_student("ada")
