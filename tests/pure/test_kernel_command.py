"""Which kernelspecs get the flight recorder, and which of those can be forked."""

import sys

from kernels.provisioner import INSIDE, is_forkable, with_recorder

FILE = "/run/k/connection.json"
OURS = ("--RingApp.incarnation=2", "--RingApp.recorder_mib=4")
PLAIN = [sys.executable, "-m", "ipykernel_launcher", "-f", FILE]


def test_ipykernel_under_our_interpreter_gets_the_recorder_and_can_be_forked() -> None:
    command = with_recorder(PLAIN, FILE, OURS)
    assert command == [sys.executable, INSIDE, "-f", FILE, *OURS]
    assert is_forkable(command)


def test_the_option_that_ipython_kernel_install_adds_is_kept() -> None:
    command = with_recorder([sys.executable, "-Xfrozen_modules=off", *PLAIN[1:]], FILE, OURS)
    assert command == [sys.executable, "-Xfrozen_modules=off", INSIDE, "-f", FILE, *OURS]
    assert is_forkable(command)


def test_arguments_of_a_kernelspec_are_kept_and_such_a_kernel_is_not_forked() -> None:
    more = with_recorder([*PLAIN, "--IPKernelApp.matplotlib=inline"], FILE, OURS)
    assert more == [sys.executable, INSIDE, "-f", FILE, *OURS, "--IPKernelApp.matplotlib=inline"]
    assert not is_forkable(more)
    assert not is_forkable(with_recorder([sys.executable, "-Xdev", *PLAIN[1:]], FILE, OURS))


def test_other_programs_and_interpreters_stay_as_they_are() -> None:
    for command in (["R", "--slave", "-f", FILE], ["/other/python", *PLAIN[1:]], [sys.executable], ["python3", "-m"]):
        assert with_recorder(command, FILE, OURS) == command
        assert not is_forkable(command)
