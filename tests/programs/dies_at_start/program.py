"""A kernel that ends before it has opened a socket, with the reason on its standard error."""

import sys

print("looking for the library", file=sys.stderr)
print("no module named spam", file=sys.stderr)
sys.exit(3)
