"""A warm kernel behaves as a cold one does: the public kernel test suite, and what notebooks of a class do."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jupyter_kernel_test as jkt
import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from kernels import nursery_call
from kernels.kernel_manager import NurseryKernelManager, kernel_context
from kernels.nursery_client import NurseryClient
from kernels.warmth import Warmth
from tests.nursery_fixture import Ear, Place, kernel_env, nursery, until
from tests.sleeping import SLEEPS

T = TypeVar("T")
WITHIN_S = 30.0


class Starter:
    """Starts warm kernels, from a loop in a thread of its own; the tests here block."""

    def __init__(self, place: Place) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._place = place
        self._context = kernel_context()
        self._nurse = self.run(self._connect())

    def run(self, work: Awaitable[T]) -> T:
        async def done() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(90)

    def start(self, cwd: Path = Path("/")) -> NurseryKernelManager:
        manager = self.run(
            NurseryKernelManager.start(
                kernel_name="python3",
                user="ann",
                nursery=self._nurse,
                zmq_context=self._context,
                cwd=cwd,
                env=kernel_env(),
            )
        )
        assert manager.kernel_record is not None
        assert manager.kernel_record.warm
        return manager

    def end(self, manager: NurseryKernelManager) -> None:
        self.run(manager.shutdown_kernel(now=True))

    def close(self) -> None:
        self.run(self._nurse.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._context.destroy(linger=0)

    async def _connect(self) -> NurseryClient:
        nurse = NurseryClient(self._place.socket, "worker", Ear())
        await nurse.start()
        await until(lambda: nursery_call.ask(self._place.runtime, "status", 5)["zygote"]["ready"], 60)
        return nurse


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    with tempfile.TemporaryDirectory(prefix="kr-") as folder:
        runtime = Path(folder) / "r"
        with nursery(runtime, warmth=Warmth(("numpy", "pandas", "matplotlib"), 2)) as place:
            made = Starter(place)
            try:
                yield made
            finally:
                made.close()


def client_of(manager: NurseryKernelManager) -> BlockingKernelClient:
    client = BlockingKernelClient(connection_file=str(manager.directory / "connection.json"))
    client.load_connection_file()
    client.start_channels()
    client.wait_for_ready(timeout=WITHIN_S)
    return client


@pytest.mark.filterwarnings("default")
class TestPublicSuite(jkt.KernelTests):  # type: ignore[misc]
    """jupyter_kernel_test's own tests, against a kernel that was forked."""

    kernel_name = "python3"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    code_execute_result = ({"code": "6*7", "result": "42"}, {"code": "None; 'a'", "result": "'a'"})
    code_display_data = (
        {"code": "from IPython.display import HTML, display; display(HTML('<b>x</b>'))", "mime": "text/html"},
        {"code": "import matplotlib.pyplot as plt; _ = plt.plot([1, 2])", "mime": "image/png"},
    )
    completion_samples = ({"text": "zi", "matches": {"zip"}}, {"text": "import datet", "matches": {"datetime"}})
    complete_code_samples = ("1", "print('hello')", "def f(x):\n  return x\n\n")
    incomplete_code_samples = ("print('''hello", "def f(x):")
    invalid_code_samples = ("import = 7q",)
    code_page_something = "zip?"
    code_generate_error = "raise"
    code_inspect_sample = "zip"
    supported_history_operations = ("tail", "range", "search")
    code_history_pattern = "6?7*"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    @classmethod
    def setUpClass(cls) -> None:
        """The kernel comes from the fixture."""

    @classmethod
    def tearDownClass(cls) -> None:
        """The fixture ends it."""

    @pytest.fixture(autouse=True)
    def _kernel(self, warm_suite_kernel: BlockingKernelClient) -> None:
        type(self).kc = warm_suite_kernel


@pytest.fixture(scope="module")
def warm_suite_kernel(starter: Starter) -> Iterator[BlockingKernelClient]:
    manager = starter.start()
    client = client_of(manager)
    yield client
    client.stop_channels()
    starter.end(manager)


@pytest.fixture
def cell(starter: Starter, tmp_path: Path) -> Iterator[Cell]:
    manager = starter.start(tmp_path)
    found = Cell(client_of(manager))
    yield found
    found.client.stop_channels()
    starter.end(manager)


class Cell:
    """`cell(code)` runs it and returns what it printed; `outputs` has all of its messages."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client
        self.outputs: list[dict[str, Any]] = []

    def __call__(self, code: str) -> str:
        self.outputs = []
        reply = self.client.execute_interactive(
            code, allow_stdin=False, timeout=WITHIN_S, output_hook=self.outputs.append
        )
        assert reply["content"]["status"] == "ok", "\n".join(reply["content"]["traceback"])
        return "".join(each["content"]["text"] for each in self.outputs if each["msg_type"] == "stream").strip()

    def mimes(self) -> set[str]:
        return {mime for each in self.outputs for mime in each["content"].get("data", {})}


def test_figures_show_with_and_without_the_magic(cell: Cell) -> None:
    cell("import matplotlib.pyplot as plt; _ = plt.plot([1, 2])")
    assert "image/png" in cell.mimes()
    cell("%matplotlib inline\n%config InlineBackend.figure_formats = ['svg']\n_ = plt.plot([1, 2])")
    assert "image/svg+xml" in cell.mimes()
    assert cell("print(plt.get_backend())") == "inline"
    assert "zygote" not in cell("import matplotlib; print(matplotlib.get_cachedir(), matplotlib.get_configdir())")


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_multiprocessing(cell: Cell, how: str) -> None:
    cell("%%writefile squares.py\ndef square(x):\n    return x * x\n")
    code = f"import multiprocessing, squares\nwith multiprocessing.get_context('{how}').Pool(2) as pool: "
    assert cell(code + "print(pool.map(squares.square, [1, 2, 3]))") == "[1, 4, 9]"


def test_os_fork_and_subprocesses(cell: Cell) -> None:
    cell("import os\npid = os.fork()\nif pid == 0: os._exit(7)")
    assert cell("print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))") == "7"
    assert cell("!echo hello") == "hello"
    assert cell("%%bash\necho bash") == "bash"


def test_await_at_top_level_and_an_error_stops_what_waits(cell: Cell) -> None:
    assert cell("import asyncio\nawait asyncio.sleep(0.01)\nprint(1)") == "1"
    assert cell("print((await asyncio.gather(asyncio.sleep(0, 2), asyncio.sleep(0, 3))))") == "[2, 3]"


def test_an_error_aborts_the_cells_that_wait_behind_it_and_no_other(cell: Cell) -> None:
    client = cell.client
    for _ in range(60):
        client.execute("1/0", reply=True, timeout=WITHIN_S)
        while client.get_iopub_msg(timeout=WITHIN_S)["msg_type"] != "error":
            pass
        while client.get_iopub_msg(timeout=WITHIN_S)["content"].get("execution_state") != "idle":
            pass
        assert client.execute("x = 1", reply=True, timeout=WITHIN_S)["content"]["status"] == "ok"
    sent = [client.execute(code) for code in ("import time; time.sleep(0.5); 1/0", "y = 1", "y = 2", "y = 3")]
    replies = [client.get_shell_msg(timeout=WITHIN_S) for _ in sent]
    assert [each["parent_header"]["msg_id"] for each in replies] == sent
    assert [each["content"]["status"] for each in replies] == ["error", "aborted", "aborted", "aborted"]


def test_a_cell_is_transformed_once_and_what_it_runs_itself_by_the_rules_of_then(cell: Cell) -> None:
    cell("seen = []\ndef note(lines):\n    seen.append(1)\n    return lines")
    cell("get_ipython().input_transformers_post.append(note)")
    assert cell("print(len(seen))") == "1"
    for first in ("", "import asyncio\nawait asyncio.sleep(0)\n"):
        code = "get_ipython().input_transformers_post.append(lambda lines: ['print(7)'])\n"
        code += "_ = get_ipython().run_cell(In[-1])\nget_ipython().input_transformers_post.pop()"
        assert cell(f"{first}{code}") == "7"


def test_history_of_the_session(cell: Cell) -> None:
    cell("a = 1")
    cell("a + 1")
    assert cell("%history -n 1-2").splitlines() == ["1: a = 1", "   2: a + 1"]
    assert cell("print(In[1], Out[2], _2, _i1)") == "a = 1 2 2 a = 1"


def test_tab_knows_what_has_run_and_what_the_cell_imports_and_needs_no_jedi(cell: Cell) -> None:
    def names(code: str) -> tuple[set[str], str]:
        told = cell.client.complete(code, reply=True, timeout=WITHIN_S)["content"]
        return set(told["matches"]), code[told["cursor_start"] : told["cursor_end"]]

    cell("import numpy as np\nlessons = {'first': 1}")
    for code, match, part in (
        ("np.linsp", "linspace", "linsp"),
        ("less", "lessons", "less"),
        ("lessons['fi", "first", "fi"),
        ("lessons.ke", "keys", "ke"),
        ("import os.path\nos.path.isd", "isdir", "isd"),
        ("open('.his", "", ""),
    ):
        found, replaced = names(code)
        assert (match in found if match else not found, replaced) == (True, part)
    assert cell("import sys; print([name for name in sys.modules if name.startswith('jedi.api.interp')])") == "[]"
    cell("%config IPCompleter.use_jedi = True")
    assert names("[].app") == ({"append"}, "app")


def test_an_interrupt_ends_a_cell_and_not_the_kernel(cell: Cell, starter: Starter) -> None:
    request = cell.client.execute(f"import os\nprint(os.getpid(), flush=True)\n{SLEEPS}")
    pid = 0
    while not pid:
        message = cell.client.get_iopub_msg(timeout=WITHIN_S)
        if message["msg_type"] == "stream":
            pid = int(message["content"]["text"])
    os.kill(pid, signal.SIGINT)
    reply = cell.client.get_shell_msg(timeout=WITHIN_S)
    assert reply["parent_header"]["msg_id"] == request
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    while cell.client.get_iopub_msg(timeout=WITHIN_S)["content"].get("execution_state") != "idle":
        pass
    assert cell("print(os.getpid())") == str(pid)


def test_widgets_talk_through_comms(cell: Cell) -> None:
    pytest.importorskip("ipywidgets")
    cell("import ipywidgets\nslider = ipywidgets.IntSlider(value=3)\nslider")
    assert "application/vnd.jupyter.widget-view+json" in cell.mimes()
    opened = [each for each in cell.outputs if each["msg_type"] == "comm_open"]
    comm_id = cell("print(slider.comm.comm_id)")
    assert comm_id in {each["content"]["comm_id"] for each in opened}
    data = {"method": "update", "state": {"value": 9}, "buffer_paths": []}
    message = cell.client.session.msg("comm_msg", {"comm_id": comm_id, "data": data})
    cell.client.shell_channel.send(message)
    assert cell("print(slider.value)") == "9"


def test_the_debugger_attaches(cell: Cell) -> None:
    for number, command, arguments in (
        (1, "initialize", {"clientID": "test", "adapterID": "", "pathFormat": "path"}),
        (2, "attach", {}),
    ):
        request = {"type": "request", "seq": number, "command": command, "arguments": arguments}
        message = cell.client.session.msg("debug_request", request)
        cell.client.control_channel.send(message)
        reply = cell.client.get_control_msg(timeout=WITHIN_S)
        assert reply["msg_type"] == "debug_reply"
        if command == "initialize":
            assert reply["content"]["success"], reply["content"]
    assert cell("print(1)") == "1"


def test_numpy_takes_all_processors(cell: Cell) -> None:
    code = "import os, numpy\na = numpy.ones((900, 900)); b = a @ a\n"
    assert cell(code + "print(b[0, 0], len(os.listdir('/proc/self/task')) > 0)") == "900.0 True"
