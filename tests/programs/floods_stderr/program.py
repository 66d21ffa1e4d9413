"""A kernel that fills its log as fast as it can."""

import os

LINE = b"this is the line that never ends, it goes on and on my friend\n" * 64

while True:
    os.write(2, LINE)
