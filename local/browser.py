"""See to it that the browser is there with which the tests look at the pages: Debian's Chromium."""

import os
import shutil
import subprocess

from local.install import say

PACKAGES = ("chromium", "chromium-driver")


def ensure_chromium() -> bool:
    """Whether there is a `chromium`; as root on Debian it is installed when it is missing."""
    if shutil.which("chromium"):
        return True
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("installing chromium with apt-get, for the tests of the pages")
        environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *PACKAGES]
        for command in (["apt-get", "-qq", "update"], install):
            subprocess.run(command, env=environ, stdout=subprocess.DEVNULL)
    if shutil.which("chromium"):
        return True
    say(f"the tests of the pages need a browser, and will fail: apt-get install {' '.join(PACKAGES)}")
    return False
