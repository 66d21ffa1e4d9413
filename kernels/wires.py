"""The four ZMQ connections from an owner to one kernel process.

Owns the sockets, signatures and the handshake (first answer, subscription, identity). Hands verified messages up as
(channel, parts) and never looks into their content; the channel of a status that is due to a request of our own is
`probe`: nobody's business, but it has its number. One set serves one process: a restart gets new wires.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import stat
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, suppress
from typing import Any, Final

import structlog
import zmq
from jupyter_client.session import DELIM, Session

from kernels import framing
from kernels.errors import KernelCut, KernelSilent, PortLost
from kernels.inside.window import MESSAGE_BYTES
from kernels.port import Port

log = structlog.get_logger(__name__)

# One identity for whoever owns the kernel: replies to requests that the owner before sent come to the owner now
# (ipykernel sets ROUTER_HANDOVER). Shell and stdin must share it, because input requests are addressed with it.
OWNER_IDENTITY: Final = b"kernelring-owner"
PROBE_PREFIX: Final = "kernelring-probe-"
SCOUT_RECONNECT_MS: Final = 5  # libzmq's 100 ms would be paid by every start, for the kernel binds when it likes
UNHEARD_S: Final = 1.0  # a kernel begins within milliseconds of having its sockets, unless its start files take long
WELCOME_WAIT_S: Final = 0.1  # ipykernel >= 7.2 welcomes a subscriber within milliseconds
SUBSCRIBE_TRIES: Final = 20
CONNECT_WAIT_S: Final = 5.0
SETTLE_S: Final = 0.2
# What a kernel with a recorder may have under way to us on iopub. So much, and not more, libzmq holds for one kernel at
# both ends, however fast it prints. The kernel is told four times as often how far we have read.
WINDOW_BYTES: Final = 2 * 2**20
# While not even the fastest client keeps up, the kernel is told later, so that who reads well loses nothing. Only by so
# much: no cell comes below a window in that time (4 MiB a second) because its clients are slow or deaf.
LAG_S: Final = 0.5
LAG_LOOK_S: Final = 0.01
MAX_HELD_BYTES: Final = 16 * 2**20  # of output that waits for a replay; more than a recorder keeps by default


def is_bound(connection_info: dict[str, Any]) -> bool:
    """Whether the kernel has made its sockets, so that a single attempt to connect succeeds."""
    channels = ("shell", "control", "stdin", "iopub")
    return all(_is_socket(f"{connection_info['ip']}-{connection_info[f'{name}_port']}") for name in channels)


def _is_socket(path: str) -> bool:
    """Whether there is one, and no link to something else: a kernel's own user may have put it there."""
    with suppress(OSError):
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    return False


class Wires:
    """Connections to the kernel process that `connection_info` (jupyter_client's dictionary) describes."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        connection_info: dict[str, Any],
        on_message: Callable[[str, list[bytes]], None],
    ) -> None:
        self._context = context
        self._info = connection_info
        self._deliver = on_message
        self._session = Session(key=connection_info["key"])
        self._ports: dict[str, Port] = {}
        self._probes: dict[str, Callable[[], None]] = {}
        self._iopub_seen = asyncio.Event()
        self._answered = asyncio.Event()
        self._asked: dict[str, asyncio.Future[list[bytes]]] = {}
        self._held: deque[tuple[str, list[bytes]]] | None = None
        self._held_bytes = 0
        self.lags: Callable[[], bool] = lambda: False  # whether not even the fastest client keeps up
        self._unsaid_bytes = 0  # of output that was read since the kernel was told how far
        self._closed = False
        self._forged_seen = False

    async def first_answer(self, timeout_s: float) -> None:
        """Wait until the kernel answers at all; raise KernelSilent after `timeout_s`, or when it ends before."""
        scout = self._scout("shell")
        self._send_probe(scout, {}, self._answered.set)
        try:
            async with asyncio.timeout(timeout_s):
                await self._answered.wait()
        except TimeoutError as error:
            raise KernelSilent(f"the kernel did not answer within {timeout_s:g} s") from error
        finally:
            scout.close()
        self._raise_if_closed()

    async def begun(self, timeout_s: float) -> None:
        """Wait until a kernel that we are subscribed to has run what its user has it run at the start.

        Its sockets are there before; were it taken for alive then, one whose start files end it would be started again.
        It says so itself, which more output than the recorder keeps may have pushed out: so it is also asked, later.
        Raises KernelSilent.
        """
        asking = asyncio.get_running_loop().call_later(UNHEARD_S, self._ask_whether_it_began)
        try:
            async with asyncio.timeout(timeout_s):
                await self._answered.wait()
        except TimeoutError as error:
            raise KernelSilent(f"the kernel did not begin within {timeout_s:g} s") from error
        finally:
            asking.cancel()
        self._raise_if_closed()

    def _ask_whether_it_began(self) -> None:
        with suppress(PortLost):
            self.probe("shell", self._answered.set)

    async def subscribe(self) -> None:
        """Subscribe to iopub and return once the subscription is in force.

        ipykernel says so itself. Other kernels are made to say something, on the control channel, until a message
        arrives; one that is busy and does not serve control meanwhile is taken on trust after two seconds.
        """
        self._ports["iopub"] = self._port(zmq.SUB, "iopub")
        with ExitStack() as scouts:
            scout: Port | None = None
            for _ in range(SUBSCRIBE_TRIES):
                with suppress(TimeoutError):
                    async with asyncio.timeout(WELCOME_WAIT_S):
                        await self._iopub_seen.wait()
                        break
                scout = scout or scouts.enter_context(closing(self._scout("control")))
                self._send_probe(scout, {}, lambda: None)
            else:
                log.warning("iopub_not_confirmed", endpoint=self._endpoint("iopub"))
        self._raise_if_closed()

    async def subscribe_for_sure(self) -> None:
        """Subscribe to a kernel that welcomes every subscriber, however long that takes while it is busy."""
        self._ports["iopub"] = self._port(zmq.SUB, "iopub")
        await self._iopub_seen.wait()
        self._raise_if_closed()

    async def connect(self, identity: bytes) -> None:
        """Connect shell, control and stdin under an owner's identity, taking it from whoever has it."""
        self._raise_if_closed()
        for channel in ("shell", "control", "stdin"):
            self._ports[channel] = self._port(zmq.DEALER, channel, identity=identity)
        try:
            async with asyncio.timeout(CONNECT_WAIT_S):
                for channel in ("shell", "control", "stdin"):
                    await self._ports[channel].connected()
        except TimeoutError as error:
            raise KernelSilent("the kernel's sockets take no connection") from error
        except PortLost:
            self._raise_if_closed()
            raise
        self._raise_if_closed()

    def send(self, channel: str, parts: list[bytes]) -> None:
        """Sign `parts` and write them to `channel`; raise PortLost when the kernel's end is gone.

        A kernel whose identity was taken over reads nothing from here, and libzmq does not say so (measured on 4.3.5):
        an owner must not write after it has yielded or lost its claim.
        """
        self._ports[channel].send([DELIM, self._session.sign(parts[:4]), *parts])

    async def ask(self, kind: str, content: dict[str, Any]) -> list[bytes]:
        """Send a request of our own on control; return the parts of its reply. Raises KernelSilent if the end is first.

        There is no deadline: a cell that holds Python's lock keeps the kernel from answering, as long as it likes.
        """
        msg_id = self.tell(kind, content)
        answer: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._asked[msg_id] = answer
        parts = await answer
        self._raise_if_closed()
        return parts

    def tell(self, kind: str, content: dict[str, Any]) -> str:
        """Send a request of our own on control; return its msg_id. Raises PortLost."""
        header = self._session.msg(kind, {})["header"] | {"msg_id": PROBE_PREFIX + uuid.uuid4().hex}
        parts = [self._session.pack(header), b"{}", b"{}", self._session.pack(content)]
        self.send("control", parts)
        return str(header["msg_id"])

    @property
    def holds(self) -> bool:
        """Whether what comes is held."""
        return self._held is not None

    def hold(self, *first: tuple[str, list[bytes]]) -> None:
        """Deliver nothing until `release`, and then `first` before all else.

        Of output only so much is held: the rest is thrown away, and has to be asked for.
        """
        if self._held is None:
            self._held, self._held_bytes = deque(), 0
        self._held.extendleft(reversed(first))

    def release(self) -> None:
        """Deliver what has come meanwhile, until something of it asks for `hold` again."""
        held, self._held = self._held or deque(), None
        overflown = self._held_bytes > MAX_HELD_BYTES
        while held and not self.holds:
            self._deliver(*held.popleft())
        if self.holds or overflown:
            self.hold()
            self._hold_all(held)

    def _hold_all(self, messages: Iterable[tuple[str, list[bytes]]]) -> None:
        for channel, parts in messages:
            self._hold(channel, parts)

    def replay(self, channel: str, signed: list[bytes]) -> None:
        """Deliver a message (from its signature on) that the kernel has recorded, whatever is held."""
        self._take(channel, [DELIM, *signed], self._deliver)

    def probe(self, channel: str, on_reply: Callable[[], None], subshell: str | None = None) -> None:
        """Send a request of our own behind all that is queued on `channel`; its reply calls `on_reply`."""
        extra = {"subshell_id": subshell} if subshell else {}
        self._send_probe(self._ports[channel], extra, on_reply)

    async def settle(self) -> None:
        """Return when what was written before has left for the kernel.

        One thread of libzmq writes all sockets in order, so the reply to a request on the control channel, sent after
        it, shows that. A kernel that does not serve control while it is busy is given `SETTLE_S`.
        """
        answered = asyncio.Event()
        with suppress(TimeoutError, PortLost):
            async with asyncio.timeout(SETTLE_S):
                self.probe("control", answered.set)
                await answered.wait()

    def drain(self) -> None:
        """Deliver what has arrived by now."""
        for port in self._ports.values():
            port.drain_all()
        self.release()

    def close(self) -> None:
        """Close all sockets; nothing is delivered afterwards, and who waits for the kernel is told so."""
        self._closed = True
        for port in self._ports.values():
            port.close()
        self._probes.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_result([])
        self._answered.set()
        self._iopub_seen.set()

    # -- inside ---------------------------------------------------------------------------------------------------

    def _endpoint(self, channel: str) -> str:
        return f"ipc://{self._info['ip']}-{self._info[f'{channel}_port']}"

    def _refuse_what_is_no_socket(self, channel: str) -> None:
        path = self._endpoint(channel).removeprefix("ipc://")
        if os.path.lexists(path) and not _is_socket(path):
            raise PortLost(f"the kernel's {channel} socket was replaced by something that is none")

    def _port(self, kind: int, channel: str, identity: bytes = b"") -> Port:
        receive = lambda parts: self._receive(channel, parts)  # noqa: E731
        self._refuse_what_is_no_socket(channel)
        return Port(self._context, kind, self._endpoint(channel), receive, identity=identity)

    def _scout(self, channel: str) -> Port:
        receive = lambda parts: self._receive(channel, parts)  # noqa: E731
        self._refuse_what_is_no_socket(channel)
        return Port(self._context, zmq.DEALER, self._endpoint(channel), receive, reconnect_ms=SCOUT_RECONNECT_MS)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise KernelCut("the kernel ended before it answered")

    def _send_probe(self, port: Port, extra: dict[str, str], on_reply: Callable[[], None]) -> None:
        message = self._session.msg("kernel_info_request", {})
        header = {**message["header"], "msg_id": PROBE_PREFIX + uuid.uuid4().hex, **extra}
        self._probes[header["msg_id"]] = on_reply
        parts = [self._session.pack(header), b"{}", b"{}", b"{}"]
        port.send([DELIM, self._session.sign(parts), *parts])

    def _receive(self, channel: str, wire: list[bytes]) -> None:
        self._take(channel, wire, self._deliver if self._held is None else self._hold)

    def _hold(self, channel: str, parts: list[bytes]) -> None:
        assert self._held is not None
        if channel in ("iopub", "probe"):
            self._held_bytes += sum(map(len, parts))
            if self._held_bytes > MAX_HELD_BYTES:
                return
        self._held.append((channel, parts))

    def _take(self, channel: str, wire: list[bytes], deliver: Callable[[str, list[bytes]], None]) -> None:
        try:
            at = wire.index(DELIM)
            signature, parts = wire[at + 1], wire[at + 2 :]
        except (ValueError, IndexError):
            return self._forged(channel)
        if len(parts) < 4 or not hmac.compare_digest(self._session.sign(parts[:4]), signature):
            return self._forged(channel)
        if channel == "iopub":
            self._iopub_seen.set()
            if b"iopub_welcome" in parts[0]:
                return None
            self._note_read(parts)
            if b'"starting"' in parts[3] and b'"status"' in parts[0]:
                self._answered.set()
        parent = framing.msg_id_of(parts[1])
        if answer := self._asked.pop(parent, None):
            return answer.set_result(parts)
        if parent.startswith(PROBE_PREFIX) and self._is_probes_own(channel, parent, parts[0]):
            return deliver("probe", parts) if channel == "iopub" else None
        return deliver(channel, parts)

    def _note_read(self, parts: list[bytes]) -> None:
        self._unsaid_bytes += sum(map(len, parts)) + MESSAGE_BYTES
        if self._unsaid_bytes > WINDOW_BYTES / 4 and (number := framing.number_of(parts[2])):
            self._unsaid_bytes = 0
            self._tell_read(number[1], asyncio.get_running_loop().time() + LAG_S)

    def _tell_read(self, n: int, latest: float) -> None:
        """Say that all up to `n` has been read; `latest` is by the loop's clock."""
        loop = asyncio.get_running_loop()
        if self._closed:
            return
        if self.lags() and loop.time() < latest:
            loop.call_later(LAG_LOOK_S, self._tell_read, n, latest)
            return
        with suppress(PortLost, KeyError):  # the wires have been cut, or are not complete yet
            self.tell("kernelring_read_request", {"n": n})

    def _is_probes_own(self, channel: str, probe: str, header: bytes) -> bool:
        """Whether a message is the reply or the status of a probe, which is nobody else's business.

        Output is not, even if it names a probe: to what background threads print ipykernel gives the last request.
        """
        if channel == "iopub":
            return b'"status"' in header
        if on_reply := self._probes.pop(probe, None):
            on_reply()
        return True

    def _forged(self, channel: str) -> None:
        if not self._forged_seen:
            self._forged_seen = True
            log.warning("kernel_message_refused", channel=channel, why="signature or form is wrong")
