"""What mallory's cells try against ada's kernel, the server and the machine, and how each is refused, level by level.

Owns the tables alone. Each attack is an expression in her kernel, where `attack_tools` is at hand and `at` names what
to aim at; its refusal is the error that it must end with.
"""

from __future__ import annotations

from typing import Final

DENIED: Final = r"PermissionError: \[Errno (1|13)\]"
ATTACKS: Final = {
    # what ada's kernel says
    "a forged connection file": ("forged_connection()", "Empty"),
    "an abstract socket of hers": ("connect('\\0' + at.abstract)", DENIED),
    "her socket by a pair of datagrams": ("datagrams_to(at.k + '/s/s-2')", DENIED),
    "her socket by a pair of streams": (
        "socket.socketpair()[0].connect(at.k + '/s/s-2')", r"OSError: \[Errno 106\]|" + DENIED),
    "her socket through her process' root": ("os.chdir(f'/proc/{at.pid}/root' + at.k) or connect('s/s-2')", DENIED),
    "her descriptors": ("os.open(f'/proc/{at.pid}/fd/1', os.O_RDONLY)", DENIED),
    "a copy of her descriptor": ("libc('syscall', 438, os.pidfd_open(at.pid), 1, 0)", DENIED),
    "a watch on her folder": ("libc('inotify_add_watch', libc('inotify_init'), at.home.encode(), 0xfff)", DENIED),
    # her processes, and those of the server
    "a map of her memory": ("open(f'/proc/{at.pid}/maps').read()", DENIED),
    "her memory through a thread": ("open(f'/proc/{at.pid}/task/{at.pid}/mem', 'rb').read(1)", DENIED),
    "where her memory lies": ("open(f'/proc/{at.pid}/auxv', 'rb').read()", DENIED),
    "what she reads and writes": ("open(f'/proc/{at.pid}/io').read()", DENIED),
    "where her locks lie": ("libc('syscall', 274, at.pid, room(), room())", DENIED),
    "when her clocks wake her": ("open(f'/proc/{at.pid}/timerslack_ns', 'w').write('9' * 9)", DENIED),
    "to move her memory elsewhere": ("libc('syscall', 256, at.pid, 64, room(), room())", DENIED),
    "her program": ("os.readlink(f'/proc/{at.pid}/exe')", DENIED),
    "her namespaces": ("os.open(f'/proc/{at.pid}/ns/net', os.O_RDONLY)", DENIED),
    "the environment of Redis": ("open(f'/proc/{at.redis_pid}/environ').read()", DENIED),
    "the memory of Redis": ("open(f'/proc/{at.redis_pid}/mem', 'rb').read(1)", DENIED),
    "ptrace by the x32 door": ("libc('syscall', 0x40000000 + 521, 16, at.pid, None, None)", r"OSError: \[Errno 38\]"),
    "to end her kernel": ("os.kill(at.pid, signal.SIGKILL)", DENIED),
    "to end her group": ("os.killpg(at.pid, signal.SIGKILL)", DENIED),
    "a signal by a descriptor": ("signal.pidfd_send_signal(os.pidfd_open(at.pid), signal.SIGKILL)", DENIED),
    "a signal to a thread": ("libc('syscall', 234, at.pid, at.pid, 9)", DENIED),
    "a signal with a value": ("libc('sigqueue', at.pid, 9, None)", DENIED),
    "a signal by a pipe": ("signal_by_pipe(at.pid)", "TimeoutError"),
    "to end Redis": ("os.kill(at.redis_pid, signal.SIGKILL)", DENIED),
    "to slow her down": ("os.setpriority(os.PRIO_PROCESS, at.pid, 19)", DENIED),
    "to slow her and all of hers down": ("os.setpriority(os.PRIO_USER, at.uid, 19)", DENIED),
    "to put her last at the disk": ("libc('syscall', 251, 1, at.pid, 3 << 13)", DENIED),
    "to bind her to a processor": ("os.sched_setaffinity(at.pid, [0])", DENIED),
    "to take her memory away": ("resource.prlimit(at.pid, resource.RLIMIT_DATA, (0, 0))", DENIED),
    "to have her ended first": ("open(f'/proc/{at.pid}/oom_score_adj', 'w').write('1000')", DENIED),
    "to come first": ("os.setpriority(os.PRIO_PROCESS, 0, -20)", DENIED),
    "to come always": ("os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))", DENIED),
    # Redis, the server, the machine
    "to ask Redis": ("redis('KEYS *')", "PermissionError: -NOAUTH"),
    "to empty Redis": ("redis('FLUSHALL')", "PermissionError: -NOAUTH"),
    "to guess at Redis": ("redis('AUTH x')", "PermissionError: -WRONGPASS"),
    "the server's port": ("listen(at.port)", r"OSError: \[Errno 98\]"),
    "the port of Redis": ("listen(at.redis_port)", r"OSError: \[Errno 98\]"),
    "her keys by a program of root's": ("run('su', '-c', 'id')", "PermissionError"),
    "where the machine puts cores": ("open('/proc/sys/kernel/core_pattern', 'w')", "PermissionError|OSError"),
    "keys pressed on a terminal": ("fcntl.ioctl(os.openpty()[1], 0x5412, b'x')", DENIED),
    "a raw socket": ("socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", DENIED),
    "memory that stays without its process": ("libc('shmget', 0, 4096, 0o1600)", DENIED),
    "locks that stay without their process": ("libc('semget', 0, 1, 0o1600)", DENIED),
    "messages that stay without their process": ("libc('msgget', 0, 0o1600)", DENIED),
    "a queue that stays without its process": ("libc('syscall', 240, b'kr', 0o102, 0o600, None)", DENIED),
    # her folders, and what the server works with
    "to move one's own folder": ("os.rename(at.mine, at.mine + '2')", DENIED),
    "to open her folder to all": ("change_mode(at.home, 0o777)", DENIED),
    "to close her folder": ("change_mode(at.home, 0)", DENIED),
    "to close the server's folder": ("change_mode(at.servers, 0)", DENIED),
    "to give her file away": ("give_away(at.home + '/diary.txt')", DENIED),
    "the times of her file": ("change_times(at.home + '/diary.txt')", DENIED),
    "a mark on her file": ("os.setxattr(at.home + '/diary.txt', 'user.kr', b'1')", DENIED),
    "to empty her file": ("os.truncate(at.home + '/diary.txt', 0)", DENIED),
    "to take her file": ("os.rename(at.home + '/diary.txt', 'diary')", "PermissionError|OSError"),
    "to put a file in the place of hers": (
        "os.rename('forged.json', at.home + '/diary.txt')", "PermissionError|OSError"),
    "what who runs the server has": ("open(at.servers + '/private.txt').read()", DENIED),
    "what there is of who runs the server": ("os.listdir(at.servers)", DENIED),
    "to write into the libraries": ("open(os.__file__, 'a')", DENIED),
    "to move among the machine's control groups": (
        "open('/sys/fs/cgroup/cgroup.procs', 'w')", "PermissionError|OSError"),
    "a hard link to one's key": ("os.link(at.mine_k + '/connection.json', 'key')", "PermissionError|OSError"),
    "a hard link to the table of uids": ("os.link(at.table, 'table')", DENIED),
    "a link among the sockets": ("os.symlink(at.home, at.mine_k + '/s/s-9')", DENIED),
    # bombs
    "a fork bomb": ("fork_bomb()", r"BlockingIOError: \[Errno 11\]"),
    "a thread bomb": ("thread_bomb()", "RuntimeError: can't start new thread"),
    "a memory bomb": ("memory_bomb()", "MemoryError"),
    "a memory bomb of a library": ("malloc_bomb()", "MemoryError"),
    "to hold memory fast": ("hold_memory()", r"OSError: \[Errno 12\]"),
    "to fill the disk": ("disk_bomb('large')", r"OSError: \[Errno 27\]"),
    "to fill what is shared": ("disk_bomb('/dev/shm/kr-attack')", r"OSError: \[Errno 27\]"),
    "files without end": ("descriptor_bomb(lambda: open('/dev/null'))", r"OSError: \[Errno 24\]"),
    "sockets without end": ("descriptor_bomb(socket.socket)", r"OSError: \[Errno 24\]"),
    "connections without end": (
        "descriptor_bomb(lambda: socket.create_connection(('127.0.0.1', at.port), 10))", r"OSError: \[Errno 24\]"),
    "descriptors under way without end": ("descriptors_under_way()", r"OSError: \[Errno 109\]"),
}  # fmt: skip

NEEDED: Final = {
    "an abstract socket of hers": "landlock([6-9]|[1-9][0-9])",
    "ptrace by the x32 door": "seccomp",
    "memory that stays without its process": "seccomp",
    "locks that stay without their process": "seccomp",
    "messages that stay without their process": "seccomp",
    "a queue that stays without its process": "seccomp",
}

NO_TABLE: Final = {"a hard link to the table of uids": "there are no uids, and no table of them"}
NOT_SEEN: Final = "ProcessLookupError|FileNotFoundError"
UNSEEN: Final = (
    "a copy of her descriptor", "a map of her memory", "a signal by a descriptor", "a signal by a pipe",
    "a signal to a thread", "a signal with a value", "a watch on her folder", "her descriptors",
    "her memory through a thread", "her namespaces", "her program", "her socket by a pair of datagrams",
    "her socket by a pair of streams", "her socket through her process' root", "the environment of Redis",
    "the memory of Redis", "to bind her to a processor", "to close her folder", "to end Redis", "to end her group",
    "to end her kernel", "to have her ended first", "to move her memory elsewhere", "to open her folder to all",
    "to put her last at the disk", "to slow her down", "to take her memory away", "what she reads and writes",
    "when her clocks wake her", "where her locks lie", "where her memory lies", "what who runs the server has",
    "to take her file", "to put a file in the place of hers", "to give her file away", "to empty her file",
    "the times of her file", "a mark on her file", "a link among the sockets",
)  # fmt: skip
"""What in namespaces is not refused but not there: others' processes and folders."""

OTHERWISE: Final[dict[str, dict[str, str]]] = {
    "namespaces": dict.fromkeys(UNSEEN, NOT_SEEN)
    | {"to slow her and all of hers down": "GOT None"},  # who they see of that uid, which is themselves
    "landlock": {
        "a watch on her folder": r"OSError: \[Errno 38\]",
        "to fill what is shared": DENIED,  # it is not
    },
}
"""Where another layer refuses it than at "uids", and so in other words."""

LEFT_OUT: Final[dict[str, dict[str, str]]] = {
    "uids": {},
    "namespaces": NO_TABLE
    | {
        "a fork bomb": "what it orphans its kernel keeps: test_a_fork_bomb_is_refused_in_a_kernel_of_its_own",
        "to close the server's folder": "what a kernel sees there is an empty one of its own, closed to nobody else",
    },
    "landlock": NO_TABLE
    | {"a fork bomb": "the system counts by uid, so that it is ended: test_a_kernel_of_too_many_processes_is_ended"},
}
"""What means nothing at a level, and why."""


def refusal_of(level: str, name: str) -> str:
    """A pattern for the error that an attack ends with."""
    return OTHERWISE.get(level, {}).get(name, ATTACKS[name][1])
