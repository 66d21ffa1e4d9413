"""What a forked kernel need not do, because the zygote has done it for all of them.

Owns the last steps before the zygote forks. A child copies each page that it writes to, and for Python to look at an
object is to write to it (it counts references); each page costs some microseconds, and a start has thousands of them.
So what goes through large tables, or fills a cache that is the same for everybody, is done here, once.
"""

from __future__ import annotations

import glob
import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Final

_KNOWN: Final[set[str]] = set()
_LAST: Final[list[str]] = []


def spare_the_pages() -> None:
    """In the zygote, when all is imported."""
    # What is no folder now may be one in a child; the other finders look at times.
    for part in [part for part, finder in sys.path_importer_cache.items() if finder is None]:
        del sys.path_importer_cache[part]
    names = [name for name in sys.modules if name.partition(".")[0] != "kernels"]
    _KNOWN.update(names)
    _LAST[:] = names[-1:]
    for kind in (str, bytes, int, float, bool, tuple, list, type(Path())):
        issubclass(kind, Mapping)  # asked by each log record; the first "no" looks at all mappings that there are
    for pattern in ("*.py", "*.ipy"):  # IPython looks for such files; patterns are kept compiled
        list(Path("/proc/self/task").glob(pattern))
        glob.glob(f"/proc/self/task/{pattern}")  # noqa: PTH207 (it is IPython that uses both)


def known_modules() -> set[str]:
    """In a child: the names of all modules. One set, which the zygote has filled: a copy would touch each name."""
    _KNOWN.update(takewhile(lambda name: name not in _LAST, reversed(sys.modules)))
    return _KNOWN
