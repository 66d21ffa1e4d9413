"""What gunicorn's arbiter tells the workers that it forks.

The arbiter writes `ARBITER` before each fork; a worker reads it in `create_app`. It lies in memory that arbiter and
workers share, so a worker that is asked to end can see whether newer ones are on their way to take its place (a
reload), and how many.
"""

import mmap
import struct
from typing import Final

_NUMBERS: Final = struct.Struct("QQ")
_NUMBER: Final = struct.Struct("Q")


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
