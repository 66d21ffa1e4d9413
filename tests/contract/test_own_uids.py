"""Installations that run side by side have uids of their own."""

import os
import subprocess
import sys

from local import own_uids
from local.paths import ROOT

SAME_WISH = "import os; os.getpid = lambda: {pid}\nfrom local import own_uids\nprint(*own_uids.claim())"


def taken(pid: int) -> tuple[int, int]:
    """What another process is given that looks first where process `pid` did."""
    command = [sys.executable, "-c", SAME_WISH.format(pid=pid)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    first, last = map(int, said.split())
    return first, last


def test_no_uid_is_given_twice_while_its_process_lives() -> None:
    claims = [own_uids.claim(), own_uids.claim(), taken(os.getpid())]
    ranges = [range(first, last + 1) for first, last in claims]
    assert sum(map(len, ranges)) == len(set().union(*ranges))


def test_a_claim_goes_with_its_process() -> None:
    mine = own_uids.claim()
    assert taken(os.getpid()) == taken(os.getpid()) != mine
