"""What gunicorn's arbiter tells the workers that it forks.

The arbiter writes `ARBITER` before each fork; a worker reads it once, in `create_app`. `n_slots` is the worker's own
copy from then on. `generation` lies in memory that arbiter and workers share, so a worker that is asked to end can see
whether newer ones are on their way to take its place (a reload) or not.
"""

import mmap
import struct
from typing import Final

_NUMBER: Final = struct.Struct("Q")


class Arbiter:
    """The arbiter's generation (nanoseconds of its start or last reload) and how many workers it wants.

    Outside gunicorn no arbiter writes here. All such processes then have generation 0, so that none takes the slot of
    another by being newer; each gets the lowest slot that is free.
    """

    def __init__(self) -> None:
        self.n_slots = 1
        self._shared = mmap.mmap(-1, _NUMBER.size)  # anonymous and shared: it is one memory across forks

    @property
    def generation(self) -> int:
        """The newest generation that the arbiter has begun."""
        return int(_NUMBER.unpack_from(self._shared)[0])

    @generation.setter
    def generation(self, value: int) -> None:
        _NUMBER.pack_into(self._shared, 0, value)


ARBITER = Arbiter()
