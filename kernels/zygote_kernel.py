"""The kernel that a zygote forks: `kernels.inside`'s, with as much of it as possible made before the fork.

Owns the application and the shell that are made once in the zygote, so that all kernels share their memory, and
what of them is made anew in each child. A kernel's history is kept in its memory alone: one file for all kernels
would mix their users, and writing to it takes a third of a small cell's time. There is no thread for subshells,
which is another third; kernel_info says so. All else is as in `kernels.inside`.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import fnmatch
import os
import signal
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

import zmq
from ipykernel import ipkernel
from ipykernel.kernelbase import _accepts_parameters
from IPython.core.history import HistoryManager
from IPython.core.profiledir import ProfileDir
from traitlets.config import Config
from traitlets.traitlets import Type, default
from zmq.eventloop.zmqstream import ZMQStream

from kernels.inside import app as inside
from kernels.inside.kernel import RingKernel
from kernels.inside.shell import RingShell
from kernels.inside.stream import Stream
from kernels.zygote_thrift import known_modules

_OURS = frozenset({"RingApp", "WarmApp", "HistoryManager", "IPKernelApp", "ConnectionFileMixin"})
"""Sections of the configuration that the shell made in the zygote does not need to know."""

_ARGUMENTS: Final = {"--RingApp.incarnation": int, "--RingApp.recorder_mib": float}
"""All that a kernel's command has after `-f` and the connection file."""

HEART_S: Final = 0.5
"""Nobody waits for the heartbeat of a kernel that has just started, and it takes a context and three threads."""
_PACKAGE: list[str] = []
_KEPT: list[Any] = []

_WARM_UP: Final = {
    "sys": "1\nNone\n",
    "numpy": "import numpy\n_kr = numpy.linspace(0, 1, 9); _kr = repr(_kr.reshape(3, 3) @ numpy.eye(3)), _kr.mean()",
    "pandas": "import pandas\n_kr = pandas.DataFrame({'a': [1, 2, 3], 'b': list('xyz')})\n"
    "_kr = get_ipython().display_formatter.format(_kr), _kr.describe(), _kr.a.sum()",
    "matplotlib.backends.backend_agg": "from matplotlib.figure import Figure\n"
    "from matplotlib.backends.backend_agg import FigureCanvasAgg\n"
    "_kr = Figure(); _kr.subplots().plot([1, 2], [3, 4], label='a'); _kr.legend(); FigureCanvasAgg(_kr).draw()",
}
"""Cells for whichever of these modules has been imported. None of them draws a random number."""


class SessionHistory(HistoryManager):
    """Input and output of this session alone."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs | {"enabled": False})

    def get_tail(self, n: int | None = 10, raw: bool = True, output: bool = False, include_latest: bool = False) -> Any:
        """The last `n` inputs, oldest first. Without `include_latest` the cell that asks is not one of them."""
        found = list(self.get_range(0, 1, None, raw=raw, output=output))
        return (found if include_latest else found[:-1])[-(n or 10) :]

    def search(
        self,
        pattern: str = "*",
        raw: bool = True,
        search_raw: bool = True,
        output: bool = False,
        n: int | None = None,
        unique: bool = False,
    ) -> Any:
        """The inputs that match a glob, oldest first; the last `n`; with `unique` each but once, where it came last."""
        sought = self.input_hist_raw if search_raw else self.input_hist_parsed
        fits = [at for at, text in enumerate(sought) if at and fnmatch.fnmatchcase(text, pattern)]
        if unique:
            fits = sorted({sought[at]: at for at in fits}.values())
        shown = {line[1]: line for line in self.get_range(0, 1, None, raw=raw, output=output)}
        return [shown[at] for at in fits if at in shown][-n if n else 0 :]


class WarmShell(RingShell):
    """Made in the zygote, and settled in the child."""

    asked: str | None = None
    """The cell that the kernel is about to run: it transforms it, and hands the same text to `run_cell`."""
    _transformed: str | None = None

    def transform_cell(self, raw_cell: str) -> str:
        """As IPython's. The cell that was asked for is transformed once for both who need it, one after the other."""
        if raw_cell is not self.asked:
            return str(super().transform_cell(raw_cell))  # type: ignore[no-untyped-call]
        if self._transformed is None:
            self._transformed = str(super().transform_cell(raw_cell))  # type: ignore[no-untyped-call]
            return self._transformed
        found, self._transformed, self.asked = self._transformed, None, None
        return found

    def should_run_async(self, *args: Any, **kwargs: Any) -> bool:
        """As IPython's. A cell with `await` is run as it was transformed here, and asks no second time."""
        found = bool(super().should_run_async(*args, **kwargs))
        if found:
            self.asked = self._transformed = None
        return found

    def init_history(self) -> None:
        """The original, with our history."""
        self.history_manager = SessionHistory(shell=self, parent=self)
        self.configurables.append(self.history_manager)  # type: ignore[arg-type]

    def settle(self, profile_dir: ProfileDir, ipython_dir: str) -> None:
        """All that depends on environment, directories and streams, in the order in which the constructor does it."""
        self.profile_dir, self.ipython_dir = profile_dir, ipython_dir
        self.starting_dir = str(Path.cwd())
        self.init_environment()  # type: ignore[no-untyped-call]
        self.init_virtualenv()  # type: ignore[no-untyped-call]
        self.save_sys_module_state()  # type: ignore[no-untyped-call]
        assert isinstance(self.history_manager, SessionHistory)
        self.history_manager.dir_hist[:] = [Path.cwd()]
        self.init_encoding()  # type: ignore[no-untyped-call]
        self.init_pushd_popd_magic()  # type: ignore[no-untyped-call]


class NoThread:
    """Stands where the thread for subshells would. ipykernel asks in most places whether there is one, and in one
    place (a cell with `await`) for the thread that made it."""

    def __init__(self) -> None:
        self.parent_thread = threading.current_thread()

    def __bool__(self) -> bool:
        return False


class Arrived(list[Any]):
    """A message as it came from the shell socket, with its place in the order of arrival."""

    number = 0


class WarmKernel(RingKernel):
    """Made in the zygote together with its shell, and settled in the child. Without subshells."""

    shell_class = Type(WarmShell)
    unsettled = False

    @classmethod
    def instance(cls, *args: Any, **kwargs: Any) -> Self:
        """What the application calls to get its kernel."""
        made: Any = cls._instance
        if not isinstance(made, cls) or not made.unsettled:
            return super().instance(*args, **kwargs)
        configured = {name for name, section in kwargs["parent"].config.items() if section}
        if configured <= _OURS and not kwargs["user_ns"]:
            made._settle(kwargs)
            return made
        # A configuration of the user's own: what it names is read when kernel and shell are made.
        cls.clear_instance()
        WarmShell.clear_instance()
        fresh = super().instance(*args, **kwargs)
        _hook_pyplot()
        return fresh

    _supports_kernel_subshells = False  # ipykernel asks nine times in each cell

    # An error aborts the cells that wait behind it, and no other. Without its thread ipykernel aborts what it comes to
    # within some turns of the loop instead: of cells sent after the error every fifth, of those before it not all.

    _arrived = _now = _abort_until = 0
    _aborting = property(lambda self: self._now <= self._abort_until, lambda self, value: None)

    def _arrives_on_main(self, msg: list[Any]) -> Awaitable[None] | None:
        """As RingKernel's, with messages numbered."""
        self._arrived += 1
        arrived = Arrived(msg)
        arrived.number = self._arrived
        return super()._arrives_on_main(arrived)

    async def dispatch_shell(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """As ipykernel's, which looks at `_aborting` before it awaits anything."""
        self._now = msg.number
        await super().dispatch_shell(msg, *args, **kwargs)

    async def do_execute(self, code: str, *args: Any, **kwargs: Any) -> Any:
        """As ipykernel's."""
        shell: Any = self.shell
        shell.asked, shell._transformed = code, None
        return await super().do_execute(code, *args, **kwargs)  # type: ignore[no-untyped-call]

    # ipykernel's go through the enums of `signal`, which cost more than the calls.

    def pre_handler_hook(self) -> None:
        """As ipykernel's."""
        self.saved_sigint_handler = _signal.signal(signal.SIGINT, signal.default_int_handler)

    def post_handler_hook(self) -> None:
        """As ipykernel's."""
        _signal.signal(signal.SIGINT, self.saved_sigint_handler)

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        assert self.shell_stream
        self.shell_stream.flush(zmq.POLLIN)
        self._abort_until = self._arrived

    def _settle(self, given: dict[str, Any]) -> None:
        """What the constructors do with what they are given, and with what differs between kernels."""
        self.unsettled = False
        for name in given.keys() - {"parent", "user_ns"}:
            setattr(self, name, given[name])
        self.ident = str(uuid.uuid4())
        self._stdout, self._stderr = sys.stdout, sys.stderr
        if hasattr(self, "debugger"):
            self.debugger = self.debugger_class(
                self.log,
                self.debugpy_stream,
                self._publish_debug_event,
                self.debug_shell_socket,
                self.session,
                self._kernel_modules,
                self.debug_just_my_code,
                self.filter_internal_frames,
            )
        shell: Any = self.shell
        shell.settle(self.profile_dir, given["parent"].ipython_dir)
        shell.displayhook.session = shell.display_pub.session = self.session
        shell.displayhook.pub_socket = shell.display_pub.pub_socket = self.iopub_socket
        shell.displayhook.topic = self._topic("execute_result")  # type: ignore[no-untyped-call]
        if session_name := os.environ.get("JPY_SESSION_NAME"):
            shell.user_ns["__session__"] = session_name


class WarmApp(inside.RingApp):
    """Knows what it is told on a command line without one: reading it takes a fifth of a start."""

    name = "ipython-kernel"
    when_bound: Callable[[], None]

    @default("kernel_class")
    def _default_warm_kernel_class(self) -> type[WarmKernel]:
        return WarmKernel

    def parse_command_line(self, argv: Any = None) -> None:
        """`be_kernel` has set all of it."""

    def init_sockets(self) -> None:
        """As ipykernel's."""
        super().init_sockets()  # type: ignore[no-untyped-call]
        self.when_bound()

    def init_heartbeat(self) -> None:
        """As ipykernel's, some time later, by the control thread: a cell may keep the main thread."""
        loop = self.control_thread.io_loop
        loop.add_callback(loop.call_later, HEART_S, super().init_heartbeat)

    def init_pdb(self) -> None:
        """`prepare` has done it."""

    def init_code(self) -> None:
        """As IPython's, but for the set of all modules' names: it takes the zygote's."""
        self._run_startup_files()  # type: ignore[no-untyped-call]
        self._run_exec_lines()  # type: ignore[no-untyped-call]
        self._run_exec_files()  # type: ignore[no-untyped-call]
        shell: Any = self.shell
        if self.hide_initial_ns:
            shell.user_ns_hidden.update(shell.user_ns)
        self._run_cmd_line_code()  # type: ignore[no-untyped-call]
        self._run_module()  # type: ignore[no-untyped-call]
        sys.stdout.flush()
        sys.stderr.flush()
        shell._sys_modules_keys = known_modules()

    def init_control(self, context: Any) -> None:
        """As ipykernel's, without the thread for subshells."""
        super().init_control(context)
        self.shell_channel_thread = NoThread()

    def init_kernel(self) -> None:
        """As ipykernel's, with a shell stream that costs less. The other two are of another thread."""

        def stream(socket: Any, io_loop: Any = None) -> ZMQStream:
            return Stream(socket, io_loop) if socket is self.shell_socket else ZMQStream(socket, io_loop)

        with inside.in_place_of("ZMQStream", stream):
            super().init_kernel()  # type: ignore[no-untyped-call]


def command(connection_file: Path, incarnation: int, recorder_mib: float) -> list[str]:
    """The arguments of a kernel's command, forked or not."""
    return [
        "-f",
        str(connection_file),
        f"--RingApp.incarnation={incarnation}",
        f"--RingApp.recorder_mib={recorder_mib:g}",
    ]


def prepare() -> None:
    """In the zygote: makes application, kernel and shell."""
    folder = os.environ["IPYTHONDIR"]
    Path(folder).mkdir(exist_ok=True)
    profile = ProfileDir.create_profile_dir_by_name(folder, "default")  # type: ignore[no-untyped-call]
    app = WarmApp.instance()
    inside.RingApp.init_pdb(app)  # type: ignore[no-untyped-call]
    WarmKernel.instance(parent=app, log=app.log, profile_dir=profile).unsettled = True
    app.config = Config()  # the shell has put a note for tqdm into it
    _hook_pyplot()
    ipkernel._accepts_parameters = _remembered  # type: ignore[attr-defined]


@lru_cache(maxsize=16)
def _parameters(function: Callable[..., Any], names: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = _accepts_parameters(function, names)  # type: ignore[no-untyped-call]
    return found


def _remembered(method: Any, names: Sequence[str]) -> dict[str, Any]:
    """ipykernel looks up in each cell which parameters `run_cell_async` has; inspect takes 50 us for it."""
    return _parameters(getattr(method, "__func__", method), tuple(names))


def _hook_pyplot() -> None:
    """When pyplot was imported there was no shell that it could have asked to draw after each cell."""
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.install_repl_displayhook()


def warm_up() -> None:
    """In the zygote: goes the ways that every kernel goes, so that what they fill and change is shared."""
    _PACKAGE.extend(name for name in sys.modules if name.partition(".")[0] == "kernels")
    shell: Any = WarmShell._instance
    before = dict(shell.user_ns)
    for module, code in _WARM_UP.items():
        if module in sys.modules:
            shell.run_cell(code, store_history=False, silent=True)
    for name in set(shell.user_ns) - set(before):
        del shell.user_ns[name]
    shell.user_ns.update(before)


def limber_up() -> None:
    """In a spare, while it waits: writes to the pages that every cell writes to, so that they are its own by then."""
    shell: Any = WarmShell._instance
    shell.run_cell("1", store_history=False, silent=True)


def be_kernel(
    arguments: Sequence[str],
    when_bound: Callable[[], None] = lambda: None,
    before_start: Callable[[], None] = lambda: None,
) -> None:
    """In the child: a kernel until it is shut down. `arguments` are those of `command`.

    `when_bound` is called when others can connect to the kernel's sockets, `before_start` when it is about to answer.
    """
    app = WarmApp.instance()
    app.when_bound = when_bound
    given = dict(part.split("=", 1) for part in arguments[2:])
    app.connection_file = arguments[1]
    for name, value in given.items():
        setattr(app, name.rpartition(".")[2], _ARGUMENTS[name](value))
    # As `inside.forget_package` does, which looks at all names, and so copies their pages.
    _KEPT.extend(sys.modules.pop(name, None) for name in _PACKAGE)
    app.initialize()
    before_start()
    app.start()
