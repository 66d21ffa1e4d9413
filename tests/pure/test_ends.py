"""The words for how a kernel ended: a limit that it came to is named."""

import signal
from pathlib import Path

import pytest

from kernels.bounds import Bounds
from kernels.nursery_disk import LOG
from kernels.nursery_ends import how_it_ended
from kernels.nursery_ward import Ward
from kernels.records import KernelRecord, now_utc

CODE_1 = 1 << 8
LIBRARY = "a library needs more than the 1,024 MiB"


def ward(directory: Path, words: str = "", cpu_s: int = 0) -> Ward:
    (directory / LOG).write_text(words)
    kernel_id = "0123abcd-0123-4567-89ab-0123456789ab"
    record = KernelRecord(kernel_id, "ann", "python3", 1, directory, directory, 1, 1, now_utc())
    return Ward(record, bounds=Bounds(cpu_s=cpu_s))


@pytest.mark.parametrize(
    ("status", "words", "sentence"),
    [
        (
            signal.SIGABRT,
            "terminate called after throwing 'std::bad_alloc'",
            "Your notebook used more than its 1,024 MiB.",
        ),
        (CODE_1, "MemoryError", "Your notebook used more than its 1,024 MiB."),
        (
            signal.SIGSEGV,
            "",
            f"The kernel ended: killed by signal 11 (SIGSEGV), as when {LIBRARY} that a notebook may have.",
        ),
        (signal.SIGTERM, "", "The kernel ended: killed by signal 15 (SIGTERM)."),
        (signal.SIGXCPU, "", "Your notebook has used its 1.5 hours of processor time."),
        (signal.SIGXCPU << 8, "", "Your notebook has used its 1.5 hours of processor time."),
        (0, "MemoryError", "The kernel ended: exited with code 0."),
    ],
)
def test_the_sentence(tmp_path: Path, status: int, words: str, sentence: str) -> None:
    found = how_it_ended(ward(tmp_path, words, cpu_s=5400), status, for_memory=False, memory_mib=1024)
    assert found.sentence == sentence


def test_who_was_killed_for_the_machines_want_of_memory_reads_what_a_notebook_may_have(tmp_path: Path) -> None:
    found = how_it_ended(ward(tmp_path), signal.SIGKILL, for_memory=True, memory_mib=512)
    assert found.reason.startswith("there was not enough memory")
    assert found.reason.endswith("; a notebook may have 512 MiB")


def test_where_nothing_bounds_memory_no_limit_is_named(tmp_path: Path) -> None:
    for status in (signal.SIGSEGV, signal.SIGKILL, CODE_1):
        assert "MiB" not in how_it_ended(ward(tmp_path), status, for_memory=True, memory_mib=0).reason


def test_a_limit_of_time_that_is_not_known_any_more_is_named_without_its_figure(tmp_path: Path) -> None:
    found = how_it_ended(ward(tmp_path), signal.SIGXCPU, for_memory=False, memory_mib=0)
    assert found.sentence == "Your notebook has used all of the processor time that it may have."
