"""A kernel that is the first process of a PID namespace, which Linux lets no signal end whose action is the default.

Owns the two signals that are sent to kernels to end them and that they may heed: without a handler they would do
nothing. SIGKILL from outside needs none.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_HEEDED: Final = (signal.SIGTERM, signal.SIGXCPU)
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.signal.restype = ctypes.c_void_p
_LIBC.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)


def heed_signals() -> None:
    """To be called before the user's code. What the kernel forks has the default actions again.

    The handler is exit(2) itself, so the number becomes the exit code. One of Python's would wait for the main thread:
    for a long call, or while that is about to wait for messages, for the next of these.
    """
    if os.getpid() == 1:
        _handle_with(ctypes.cast(_LIBC._exit, ctypes.c_void_p).value or 0)
        os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_forget)


def _handle_with(handler: int) -> None:
    for signum in _HEEDED:
        if signal.getsignal(signum) == signal.SIG_DFL:  # Python knows nothing of ours
            _LIBC.signal(signum, handler)


def _hold() -> None:
    """What comes for a child before it has the default actions."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEEDED)


def _let_go() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEEDED)


def _forget() -> None:
    _handle_with(signal.SIG_DFL)
    _let_go()
