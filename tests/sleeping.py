"""A cell that does nothing for ten minutes, for tests that interrupt it."""

from typing import Final

SLEEPS: Final = "import time\nfor _ in range(6000): time.sleep(0.1)"
"""Not one long sleep: Python sees a signal that comes just before a system call when that returns, and there is none
that would end it. A machine with much to do makes that moment long."""
