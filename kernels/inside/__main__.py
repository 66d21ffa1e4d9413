"""`python <this file> -f CONNECTION_FILE [--RingApp.incarnation=N] […]`: a kernel with a recorder.

It takes all arguments that ipykernel takes.

Run by its path. With `-m` the working directory would come first, and a student's own `kernels.py` would be run.
"""

import sys

if __name__ == "__main__":
    sys.path[0] = __file__.rpartition("/kernels/inside/")[0]
    from kernels.inside.app import RingApp, forget_package

    del sys.path[0]  # as ipykernel_launcher does; ipykernel puts the working directory there
    forget_package()
    RingApp.launch_instance()
