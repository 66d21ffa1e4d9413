"""A kernel with a child that ignores SIGTERM and outlives it. The file `child` holds the child's pid."""

import os
import signal
import sys
from pathlib import Path

directory = Path(sys.argv[1]).parent
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
else:
    (directory / "child.new").write_text(str(child))
    (directory / "child.new").rename(directory / "child")
while True:
    signal.pause()
