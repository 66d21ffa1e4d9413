"""Who owns whom, told to the kernels; and the one place that decides "me or a peer".

Joins `sharding` (the ring) and `kernels` (the house). Every request for a user's kernels goes through `at_owner`. There
is no fallback to serving somebody else's user here: a kernel is not a cache entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from kernels.errors import ClaimRefused, KernelMoved, NurseryUnavailable
from kernels.house import House
from server.api_errors import ApiError, api_error
from sharding.errors import EmptyRing, NotOwner, PeerLost, PeerUnreachable
from sharding.member import Member
from sharding.membership import Membership
from sharding.ring import Ring

log = structlog.get_logger(__name__)
T = TypeVar("T")

RESOLVE_S: Final = 8.0  # a request is answered within ten seconds, whatever dies meanwhile
RETRY_S: Final = 0.1  # between two attempts when no newer ring was heard of
BUSY_HEADERS: Final = {"Retry-After": "1"}


@dataclass(slots=True)
class Ownership:
    """`membership` says who owns a user, `house` has the kernels of the users that are mine."""

    membership: Membership

    def owns(self, user: str) -> bool:
        """Whether this worker owns the user's kernels by its newest ring."""
        return self.membership.owns(user)

    def claim(self) -> tuple[int, str]:
        """The epoch and boot id under which kernels are claimed."""
        me = self.membership.me
        return self.membership.ring.epoch, me.boot if me else ""

    def follow(self, house: House) -> None:
        """Let `house` follow the ring from now on."""

        def changed(old: Ring, new: Ring) -> None:
            # Evicted: the others were told that we are dead, so nothing here is ours any more. (A worker that leaves or
            # was superseded keeps its kernels until their new owners have taken them.)
            if self.membership.me is None and self.membership.state != "left":
                house.drop_all("this worker was evicted")
            house.ownership_changed()
            del old, new

        self.membership.listen(changed)

    async def at_owner(
        self,
        user: str,
        here: Callable[[], Awaitable[T]],
        there: Callable[[Member, int], Awaitable[T]],
        within_s: float = RESOLVE_S,
    ) -> T:
        """Return `here()` when this worker owns `user`, else `there(owner, epoch)`; when that proves wrong, ask again.

        Both must be safe to repeat. Raises a 503 ApiError after `within_s` seconds, and whatever else the two raise.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while True:
            epoch = self.membership.ring.epoch
            try:
                owner = self.membership.owner(user)
                if self.membership.owns(user):
                    return await here()
                return await there(owner, epoch)
            except (NotOwner, ClaimRefused) as stale:
                await self._catch_up(stale.epoch)
                problem: Exception = stale
            except NurseryUnavailable as error:  # it has waited for the nursery already
                raise unavailable(error) from error
            except (PeerUnreachable, PeerLost, KernelMoved, EmptyRing) as gone:
                problem = gone
            if loop.time() >= deadline:
                log.warning("owner_not_reached", user=user, epoch=epoch, why=repr(problem))
                raise unavailable(problem)
            await self.membership.wait_newer(epoch, RETRY_S)

    async def _catch_up(self, epoch: int) -> None:
        if epoch > self.membership.ring.epoch:
            await self.membership.refresh(epoch)


def unavailable(problem: Exception) -> ApiError:
    """The 503 that makes Jupyter's clients try again in a while (FACTS: any other status means "kernel died")."""
    return api_error(503, _sentence(problem), type(problem).__name__, headers=BUSY_HEADERS)


def _sentence(problem: Exception) -> str:
    if isinstance(problem, EmptyRing):
        return "No worker has joined yet: Redis cannot be reached, or the server is starting. Try again in a moment."
    if isinstance(problem, NurseryUnavailable):
        return f"Kernels cannot be started just now: {problem} Running kernels go on. Try again in a moment."
    return "Your kernels are moving to another worker. Try again in a moment."
