"""What is to be kept warm for Python kernels. Two settings, as the nursery and its supervisor are given them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_SPARES: Final = 4


@dataclass(frozen=True, slots=True)
class Warmth:
    """What to keep warm. `spares`: how many forked kernels wait, 0 to 4; `preload`: modules to import."""

    preload: tuple[str, ...] = ()
    spares: int = 2
