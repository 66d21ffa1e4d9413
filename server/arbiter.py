"""What gunicorn's arbiter tells the workers that it forks.

The arbiter writes `ARBITER` before each fork; a worker reads it in `create_app`. It lies in memory that arbiter and
workers share, so a worker that is asked to end can see whether newer ones are on their way to take its place (a
reload), and how many.

And what the system tells them. A signal that comes while a worker starts would be lost: until its event loop runs it
has the arbiter's handlers, and then uvloop's, which do nothing yet. Such a worker would be killed when its time to stop
is over. So the signals that end one are held back from before the fork until the loop runs.
"""

import mmap
import os
import signal
import struct
from typing import Final

_NUMBERS: Final = struct.Struct("QQ")
_NUMBER: Final = struct.Struct("Q")
_ENDING: Final = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


class Arbiter:
    """The arbiter's generation (nanoseconds of its start or last reload) and how many workers it wants.

    Outside gunicorn no arbiter writes here. All such processes then have generation 0, so that none takes the slot of
    another by being newer; each gets the lowest slot that is free.
    """

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, _NUMBERS.size)  # anonymous and shared: it is one memory across forks
        self.n_slots = 1

    @property
    def generation(self) -> int:
        """The newest generation that the arbiter has begun."""
        return int(_NUMBER.unpack_from(self._shared)[0])

    @generation.setter
    def generation(self, value: int) -> None:
        _NUMBER.pack_into(self._shared, 0, value)

    @property
    def n_slots(self) -> int:
        """How many workers the arbiter wants."""
        return int(_NUMBER.unpack_from(self._shared, _NUMBER.size)[0])

    @n_slots.setter
    def n_slots(self, value: int) -> None:
        _NUMBER.pack_into(self._shared, _NUMBER.size, value)


ARBITER = Arbiter()


def hold_signals() -> None:
    """In the arbiter, before a fork: what is to end the new worker waits for it. The arbiter itself hears again."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)


def heed_signals() -> None:
    """In the worker, once its loop runs: take what has come meanwhile."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


os.register_at_fork(after_in_parent=heed_signals)  # gunicorn has no hook there
