"""A kernel that is the first process of a PID namespace, which Linux lets no signal end whose action is the default.

Owns the two signals that are sent to kernels to end them and that they may heed: without a handler they would do
nothing. SIGKILL from outside needs none.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Final

_HEEDED: Final = (signal.SIGTERM, signal.SIGXCPU)
_AS_A_SHELL: Final = 128


def heed_signals() -> None:
    """To be called before the user's code. What the kernel forks has the default actions again."""
    if os.getpid() == 1:
        for signum in _HEEDED:
            signal.signal(signum, _end)
        os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_forget)


def _hold() -> None:
    """What comes for a child before it has the default actions: Python forgets what has come until then."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)


def _let_go() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)


def _end(signum: int, _: Any) -> None:
    os._exit(_AS_A_SHELL + signum)


def _forget() -> None:
    for signum in _HEEDED:
        if signal.getsignal(signum) is _end:
            signal.signal(signum, signal.SIG_DFL)
    _let_go()
