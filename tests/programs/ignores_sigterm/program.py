"""A kernel that ignores every polite way of ending it. The file `up` in its directory says that it is up."""

import signal
import sys
from pathlib import Path

for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)
(Path(sys.argv[1]).parent / "up").touch()
while True:
    signal.pause()
