"""This worker's place on the ring, and the ring as this worker knows it.

It owns the boot id, the beats, the last known ring and everybody who listens for its changes. Lookups are in
memory; Redis is asked in the background. Redis away: the last ring stays. It opens no socket to a peer and
knows nothing of requests; `probe` is given to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Literal

import structlog

from sharding.burial import Burial
from sharding.ending import end
from sharding.errors import RegistryUnavailable
from sharding.member import Candidate, Member
from sharding.registry import Registry, View
from sharding.ring import Ring

log = structlog.get_logger(__name__)

State = Literal["joining", "joined", "detached", "left"]
Listener = Callable[[Ring, Ring], None]

START_S = 3.0
"""How long `start` waits for the first join."""
LEAVE_S = 1.0
"""How long `leave` may take."""
RETRY_S = (0.05, 1.0)
"""First and longest wait between two tries when Redis is away."""


class Membership:
    """One worker on the ring of its host.

    registry: the members in Redis. identity: this process. beat_s: time between beats. lease_s: as the
    registry's. probe: does this member's process answer on its socket? (True: yes.)

    Listeners are called synchronously, in order, as `listener(old, new)`. They must not block.
    """

    def __init__(
        self,
        registry: Registry,
        identity: Candidate,
        beat_s: float,
        lease_s: float,
        probe: Callable[[Member], Awaitable[bool]],
    ) -> None:
        self._registry = registry
        self._identity = identity
        self._beat_s = beat_s
        self._lease_s = lease_s
        self._burial = Burial(registry, probe)
        self._boot = _new_boot()
        self._view = View()
        self._ring = Ring(0)
        self._me: Member | None = None
        self._superseded = False
        self._leaving = False
        self._away = False
        self._joined_at = 0
        self._lease_until = 0.0
        self._listeners: list[Listener] = []
        self._changed = asyncio.Event()
        self._registered = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._reading = asyncio.Lock()
        self._reads_begun = 0
        self._suspects: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    # What is known, from memory

    @property
    def ring(self) -> Ring:
        """The last known ring. Epoch 0 and empty before the first one is known."""
        return self._ring

    @property
    def me(self) -> Member | None:
        """This worker as a member; None while it is not on the ring."""
        return self._me

    @property
    def state(self) -> State:
        """left: off the ring on purpose (by `leave`, or superseded by a newer generation).
        detached: Redis cannot be reached. joined, joining: what they say."""
        if self._leaving:
            return "left"
        if self._away:
            return "detached"
        if self._superseded:
            return "left"
        return "joined" if self._me else "joining"

    @property
    def superseded(self) -> bool:
        """A newer generation has this worker's place. It follows the ring, and may be an entry worker."""
        return self._superseded

    @property
    def lease_held(self) -> bool:
        """Is the own lease certainly unexpired? (Counted from before the beat was sent.)"""
        return self._me is not None and _now() < self._lease_until

    def owner(self, user: str) -> Member:
        """The member that owns the user's kernels. Raises EmptyRing."""
        return self._ring.owner(user)

    def owns(self, user: str) -> bool:
        """Is it this worker, in this life of it?"""
        me = self._me
        return me is not None and bool(self._ring.members) and self._ring.owner(user).boot == me.boot

    def listen(self, callback: Listener) -> None:
        """Call `callback(old, new)` on every change of the epoch from now on.

        Also when this worker finds itself evicted or superseded: then `new` does not contain its boot.
        """
        self._listeners.append(callback)

    # Life

    async def start(self) -> None:
        """Begin. Returns when joined, or when it has tried for START_S; it goes on in the background.

        Call it when the internal socket listens: a member whose socket refuses is evicted.
        """
        self._tasks = [asyncio.create_task(self._live()), asyncio.create_task(self._follow())]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                await self._registered.wait()

    async def leave(self) -> None:
        """Leave the ring, and go on following it. At most LEAVE_S; never raises (then the lease runs out)."""
        me, self._me, self._leaving = self._me, None, True
        if me is None:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._registry.leave(me)
                await self.refresh()
            log.info("worker_left", slot=me.slot, boot=me.boot, epoch=self._ring.epoch)
        except (RegistryUnavailable, TimeoutError) as error:
            log.warning("worker_left_unheard", slot=me.slot, boot=me.boot, reason=str(error) or "timeout")

    async def stop(self) -> None:
        """End all background work. Does not leave the ring."""
        await end([*self._tasks, *self._suspects.values()])
        await self._burial.stop()

    # News

    async def refresh(self, at_least: int = 0) -> Ring:
        """Read the ring from Redis now, unless the known one has `at_least` that epoch already.

        Returns the ring known afterwards: the old one when Redis does not answer. Callers share reads: one
        that waits takes the result of a read that began after its call, never of one from before.
        """
        enough = self._reads_begun + 1
        async with self._reading:
            if self._reads_begun < enough and not 0 < at_least <= self._ring.epoch:
                self._reads_begun += 1
                try:
                    self._apply(await self._registry.view())
                except RegistryUnavailable:
                    pass
                except asyncio.CancelledError:
                    # Whoever waits for this read must not take it for done: only its caller has gone.
                    self._reads_begun -= 1
                    raise
        return self._ring

    async def wait_newer(self, epoch: int, timeout_s: float) -> bool:
        """Wait until the known ring is newer than `epoch`. False: not within the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._ring.epoch <= epoch:
                    await self._changed.wait()
        return self._ring.epoch > epoch

    async def suspect(self, member: Member) -> None:
        """The member's socket refused a connection: no process listens there, so it is dead. Evict it.

        Nothing happens when its slot holds another boot by now. Never raises; callers share the call.
        """
        task = self._suspects.get(member.boot)
        if task is None:
            task = asyncio.create_task(self._evict_dead(member))
            self._suspects[member.boot] = task
            task.add_done_callback(lambda _: self._suspects.pop(member.boot, None))
        await asyncio.wait({task})  # a caller that is cancelled does not take the others' call with it

    async def _evict_dead(self, member: Member) -> None:
        try:
            outcome = await self._registry.evict(member, "dead")
        except RegistryUnavailable:
            return
        if outcome == "evicted":
            log.warning("member_evicted", slot=member.slot, boot=member.boot, reason="connection refused")
        await self.refresh()

    def _apply(self, view: View) -> None:
        if view.epoch <= self._ring.epoch:
            return
        old, self._view, self._ring = self._ring, view, Ring(view.epoch, view.members)
        # A view may have been read before the own join and arrive after it. It says nothing of this life:
        #   refresh: read at epoch 5 ... join: epoch 6, place given ... the answer of epoch 5 arrives
        me = self._me
        if me is not None and view.epoch >= self._joined_at and self._ring.member(me.boot) is None:
            self._lose_place(me)
        self._changed.set()
        self._changed = asyncio.Event()
        for listener in self._listeners:
            try:
                listener(old, self._ring)
            except Exception:
                log.exception("ring_listener_failed", epoch=view.epoch)

    def _lose_place(self, me: Member) -> None:
        self._me = None
        self._boot = _new_boot()
        self._beat_now.set()
        newer = any(member.generation > me.generation for member in self._ring.members)
        event = "worker_superseded" if newer else "worker_evicted"
        log.warning(event, slot=me.slot, boot=me.boot, epoch=self._ring.epoch)
        self._superseded = newer

    # Background

    async def _live(self) -> None:
        """Beat, join, or follow: one turn after another, for ever."""
        failures = 0
        while True:
            begun = _now()
            try:
                await self._turn()
                self._note_back()
                failures, pause_s = 0, max(0.0, begun + self._beat_s - _now())
            except RegistryUnavailable as error:
                self._note_away(error)
                first, longest = RETRY_S
                failures, pause_s = failures + 1, min(first * 2**failures, longest, self._beat_s)
            except Exception:
                log.exception("membership_turn_failed")
                pause_s = self._beat_s
            await self._pause(pause_s)

    async def _turn(self) -> None:
        if self._me is not None:
            await self._beat(self._me)
        elif not self._leaving:
            await self._join()
        else:
            self._apply(await self._registry.view())

    async def _beat(self, me: Member) -> None:
        sent = _now()
        beat = await self._registry.beat(me, self._view)
        if beat.status == "emptied":
            await self._join()
            return
        if beat.status == "held":
            self._lease_until = sent + self._lease_s
        if beat.status == "evicted" or beat.epoch > self._ring.epoch:
            # Also how a missed publication is noticed.
            self._apply(await self._registry.view())
        if beat.status == "evicted" and self._me is me:
            self._lose_place(me)  # Redis came back with an older state, whose epochs do not count
        if self._me is me:
            self._burial.consider(self._ring, me, beat.expired, self.refresh)

    async def _join(self) -> None:
        sent, boot, newcomer = _now(), self._boot, self._me is None
        place = await self._registry.join(self._identity, boot, self._view)
        if self._leaving:  # `leave` was called while the join was on its way
            if place.slot >= 0:
                await self._registry.leave(self._identity.member(boot, place.slot))
            return
        self._superseded = place.how == "superseded"
        if self._superseded:
            self._me = None
        else:
            self._me, self._joined_at = self._identity.member(boot, place.slot), place.epoch
            self._lease_until = sent + self._lease_s
        self._apply(await self._registry.view())
        self._registered.set()
        if self._me is not None and newcomer:
            log.info("worker_registered", slot=place.slot, boot=boot, epoch=place.epoch)

    async def _follow(self) -> None:
        """Read the ring on each publication. What is missed here is noticed at the next beat."""
        while True:
            with contextlib.suppress(RegistryUnavailable):
                async for epoch in self._registry.watch():
                    if epoch > self._ring.epoch:
                        await self.refresh(epoch)
            await asyncio.sleep(min(RETRY_S[1], self._beat_s))

    async def _pause(self, pause_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._beat_now.wait()
        self._beat_now.clear()

    def _note_away(self, error: RegistryUnavailable) -> None:
        if not self._away:
            log.warning("registry_away", reason=str(error), epoch=self._ring.epoch)
        self._away = True

    def _note_back(self) -> None:
        if self._away:
            log.info("registry_back", epoch=self._ring.epoch)
        self._away = False


def _new_boot() -> str:
    return secrets.token_hex(4)


def _now() -> float:
    return asyncio.get_running_loop().time()
