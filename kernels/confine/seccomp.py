"""The system calls that a kernel and all that it starts must not make.

Owns the lists and the compiled filter. It is compiled once, by libseccomp (which takes 11 ms), and loaded in each child
without it. Refused is what leads out of a process or to parts of Linux that no lesson needs and that were often broken
into. AF_NETLINK stays: without it libzmq aborts.

`_SHARED` is refused besides where all kernels have one uid. Landlock keeps them from each other's files, memory and
signals, and from none of this: the sockets of others, their limits, their place at the processor and the disk, what
happens in their directories, and the modes, owners and times of whatever has a path.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterable
from typing import Any, Final

_REFUSED: Final = (
    # other processes
    "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp",
    # the machine
    "acct", "adjtimex", "clock_adjtime", "clock_settime", "settimeofday", "delete_module", "finit_module",
    "init_module", "ioperm", "iopl", "kexec_file_load", "kexec_load", "quotactl", "quotactl_fd", "reboot",
    "sethostname", "setdomainname", "swapoff", "swapon", "syslog", "vhangup", "nfsservctl", "lookup_dcookie",
    # file systems and namespaces
    "chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree",
    "pivot_root", "setns", "umount", "umount2", "name_to_handle_at", "open_by_handle_at",
    # what no limit counts, and stays when all of its owner's processes have ended
    "shmget", "semget", "msgget", "mq_open",
    # keys, which are shared by all of a session, and large parts of Linux that no lesson needs
    "add_key", "keyctl", "request_key", "bpf", "perf_event_open", "userfaultfd", "modify_ldt", "remap_file_pages",
    "fanotify_init",
)  # fmt: skip
_ABSENT: Final = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")
"""Said not to exist, so that callers take the older way. The flags of clone3 lie where no filter can read them."""

_SHARED: Final = (
    "process_mrelease", "migrate_pages", "move_pages", "file_setattr",
    "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
)  # fmt: skip
_SHARED_ABSENT: Final = ("inotify_init", "inotify_init1", "inotify_add_watch")
_PRETENDED: Final = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat",
    "utime", "utimes", "futimesat", "utimensat",
)  # fmt: skip
"""Done by half of all programs (`cp`, `pip`, `tar`) and by none for its own sake: they are told that it was done."""

_OF_ANOTHER: Final = ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam")
_OF_A_THREAD: Final = "sched_setscheduler"
"""Whose first argument is the process that they are about; 0 is the caller. The last is called by each thread of libzmq
with its own number, which no filter can tell from another's; it aborts when that is refused, so that is pretended."""

_DATAGRAMS: Final = (2, 3)  # a pair of them can be connected to somebody else
_KIND: Final = 0xF
_WHOLE_USER_PRIORITY, _WHOLE_USER_IO = 2, 3
_SET_SUBREAPER: Final = 36
_SETFLAGS: Final = (0x40086602, 0x401C5820, 0x40806685)  # FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_ENABLE_VERITY

_NAMESPACES: Final = (0x00000080, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_FAMILIES: Final = frozenset({0, 1, 2, 10, 16})  # unspecified, Unix, IPv4, IPv6, netlink
_MOST_FAMILIES: Final = 64
_INT: Final = 0xFFFFFFFF  # the machine looks at so much of these arguments, and so must the filter
_INTO_A_TERMINAL: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

_BINARY_TREE: Final = 2
_INSTRUCTION: Final = 8
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_PRCTL: Final = ctypes.CDLL(None, use_errno=True).prctl


class _Program(ctypes.Structure):
    """struct sock_fprog of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def compiled(*, shared_uid: bool = False) -> bytes:
    """The filter. Raises OSError, RuntimeError or ImportError where libseccomp is missing or refuses.

    `shared_uid`: for kernels that have their uid in common with each other and with the server.
    """
    import pyseccomp

    denied = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse, absent = pyseccomp.ERRNO(errno.EPERM), pyseccomp.ERRNO(errno.ENOSYS)
    denied.set_attr(pyseccomp.Attr.ACT_BADARCH, absent)  # else 32-bit calls would get past
    denied.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, _BINARY_TREE)  # else it takes twice as long to load
    _add_all(denied, refuse, _REFUSED)
    _add_all(denied, absent, _ABSENT)
    for call in ("clone", "unshare"):
        for flag in _NAMESPACES:
            denied.add_rule(refuse, call, pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    for family in set(range(_MOST_FAMILIES)) - _FAMILIES:
        for call in ("socket", "socketpair"):
            denied.add_rule(
                pyseccomp.ERRNO(errno.EAFNOSUPPORT), call, pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _INT, family)
            )
    for request in (*_INTO_A_TERMINAL, *(_SETFLAGS if shared_uid else ())):
        denied.add_rule(refuse, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _INT, request))
    if shared_uid:
        _refuse_what_one_uid_allows(denied)
    return _exported(denied)


def _refuse_what_one_uid_allows(denied: Any) -> None:
    import pyseccomp

    refuse, absent, done = (pyseccomp.ERRNO(number) for number in (errno.EPERM, errno.ENOSYS, 0))
    for names, action in ((_SHARED, refuse), (_SHARED_ABSENT, absent), (_PRETENDED, done)):
        _add_all(denied, action, names)

    def refuse_if(call: str, *conditions: tuple[int, int, int, int]) -> None:
        denied.add_rule(refuse, call, *(pyseccomp.Arg(*each) for each in conditions))

    equal, other = pyseccomp.MASKED_EQ, pyseccomp.NE
    refuse_if("socket", (0, equal, _INT, socket.AF_UNIX))
    for kind in _DATAGRAMS:
        refuse_if("socketpair", (0, equal, _INT, socket.AF_UNIX), (1, equal, _KIND, kind))
    for call in _OF_ANOTHER:
        refuse_if(call, (0, other, 0, 0))
    denied.add_rule(done, _OF_A_THREAD, pyseccomp.Arg(0, other, 0, 0))
    for call, whole_user in (("setpriority", _WHOLE_USER_PRIORITY), ("ioprio_set", _WHOLE_USER_IO)):
        refuse_if(call, (1, other, 0, 0))
        refuse_if(call, (0, equal, _INT, whole_user))
    refuse_if("prctl", (0, equal, _INT, _SET_SUBREAPER))


def load(program: bytes) -> None:
    """Puts this process, which must have no_new_privs, behind a filter, for ever. Raises OSError."""
    text = ctypes.create_string_buffer(program, len(program))
    filled = _Program(len(program) // _INSTRUCTION, ctypes.addressof(text))
    if _PRCTL(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(filled), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _add_all(denied: Any, action: int, names: Iterable[str]) -> None:
    for name in names:
        try:
            denied.add_rule(action, name)
        except OSError as error:
            if error.errno != errno.EINVAL:  # this libseccomp does not know the name
                raise


def _exported(denied: Any) -> bytes:
    fd = os.memfd_create("seccomp")
    with os.fdopen(fd, "r+b") as file:
        denied.export_bpf(file)
        file.seek(0)
        return file.read()
