"""The kernel that a zygote forks: `kernels.inside`'s, with as much of it as possible made before the fork.

Owns the application and the shell that are made once in the zygote, so that all kernels share their memory, and
what of them is made anew in each child. A kernel's history is kept in its memory alone: one file for all kernels
would mix their users, and writing to it takes a third of a small cell's time. There is no thread for subshells,
which is another third; kernel_info says so. All else is as in `kernels.inside`.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from ipykernel.compiler import XCachingCompiler
from ipykernel.zmqshell import ZMQInteractiveShell
from IPython.core.history import HistoryManager
from IPython.core.profiledir import ProfileDir
from traitlets.traitlets import Type, default

from kernels.inside import app as inside
from kernels.inside.kernel import RingKernel

_OURS = frozenset({"RingApp", "WarmApp", "HistoryManager", "IPKernelApp", "ConnectionFileMixin"})
"""Sections of the configuration that the shell made in the zygote does not need to know."""

_ARGUMENTS: Final = {"--RingApp.incarnation": int, "--RingApp.recorder_mib": float}
"""All that a kernel's command has after `-f` and the connection file."""

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


class WarmShell(ZMQInteractiveShell):
    """Made in the zygote, and settled in the child once it knows whose it is."""

    _unsettled = False

    @classmethod
    def instance(cls, *args: Any, **kwargs: Any) -> Self:
        """What the kernel calls to get its shell."""
        made = cls._instance
        if not isinstance(made, cls) or not made._unsettled:
            return super().instance(*args, **kwargs)
        if set(kwargs["parent"].config) <= _OURS and not kwargs.get("user_ns") and not kwargs.get("user_module"):
            made._settle(**kwargs)
            return made
        # A configuration of the user's own: what it names is read when a shell is made.
        cls.clear_instance()
        return super().instance(*args, **kwargs)

    def init_history(self) -> None:
        """The original, with our history."""
        self.history_manager = SessionHistory(shell=self, parent=self)
        self.configurables.append(self.history_manager)

    def _settle(self, *, parent: Any, profile_dir: ProfileDir, kernel: Any, compiler_class: Any, **_: Any) -> None:
        """All that depends on environment, directories and streams, in the order in which the constructor does it."""
        self._unsettled = False
        self.parent, self.kernel, self.profile_dir = parent, kernel, profile_dir
        self.ipython_dir = parent.parent.ipython_dir
        self.compile = compiler_class()
        self.starting_dir = str(Path.cwd())
        self.init_environment()
        self.init_virtualenv()
        self.save_sys_module_state()
        self.init_sys_modules()
        self.history_manager.dir_hist[:] = [Path.cwd()]
        self.init_encoding()
        self.init_pushd_popd_magic()


class NoThread:
    """Stands where the thread for subshells would. ipykernel asks in most places whether there is one, and in one
    place (a cell with `await`) for the thread that made it."""

    def __init__(self) -> None:
        self.parent_thread = threading.current_thread()

    def __bool__(self) -> bool:
        return False


class WarmKernel(RingKernel):
    """With a shell that was made before, and without subshells."""

    shell_class = Type(WarmShell)

    @property
    def _supports_kernel_subshells(self) -> bool:
        return bool(self.shell_channel_thread)


class WarmApp(inside.RingApp):
    """Knows what it is told on a command line without one: reading it takes a fifth of a start."""

    name = "ipython-kernel"

    @default("kernel_class")
    def _default_warm_kernel_class(self) -> type[WarmKernel]:
        return WarmKernel

    def parse_command_line(self, argv: Any = None) -> None:
        """`be_kernel` has set all of it."""

    def init_control(self, context: Any) -> None:
        """As ipykernel's, without the thread for subshells."""
        super().init_control(context)
        self.shell_channel_thread = NoThread()


def command(connection_file: Path, incarnation: int, recorder_mib: float) -> list[str]:
    """The arguments of a kernel's command, forked or not."""
    return [
        "-f",
        str(connection_file),
        f"--RingApp.incarnation={incarnation}",
        f"--RingApp.recorder_mib={recorder_mib:g}",
    ]


def prepare() -> None:
    """In the zygote: makes the application and the shell."""
    WarmApp.instance()
    folder = os.environ["IPYTHONDIR"]
    Path(folder).mkdir(exist_ok=True)
    profile = ProfileDir.create_profile_dir_by_name(folder, "default")
    shell = WarmShell.instance(profile_dir=profile, ipython_dir=folder, compiler_class=XCachingCompiler)
    shell._unsettled = True
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.install_repl_displayhook()  # at its import there was no shell yet


def warm_up() -> None:
    """In the zygote: goes the ways that every kernel goes, so that what they fill and change is shared."""
    shell = WarmShell._instance
    assert shell is not None
    before = dict(shell.user_ns)
    for module, code in _WARM_UP.items():
        if module in sys.modules:
            shell.run_cell(code, store_history=False, silent=True)
    for name in set(shell.user_ns) - set(before):
        del shell.user_ns[name]
    shell.user_ns.update(before)


def be_kernel(arguments: Sequence[str]) -> None:
    """In the child: a kernel until it is shut down. `arguments` are those of `command`."""
    app = WarmApp.instance()
    given = dict(part.split("=", 1) for part in arguments[2:])
    app.connection_file = arguments[1]
    for name, value in given.items():
        setattr(app, name.rpartition(".")[2], _ARGUMENTS[name](value))
    inside.forget_package()
    app.initialize()
    app.start()


def understands(arguments: Sequence[str]) -> bool:
    """Whether `be_kernel` can do with these arguments what the command does."""
    return arguments[:1] == ("-f",) and all(part.partition("=")[0] in _ARGUMENTS for part in arguments[2:])
