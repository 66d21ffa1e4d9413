"""The members in Redis: one method per script. It owns the scripts' arguments and replies, and nothing else.

It keeps no state and never decides: losing a race is a return value. Whatever goes wrong
between here and Redis is RegistryUnavailable, after at most `call_s` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, cast

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from sharding.errors import RegistryUnavailable
from sharding.keys import KEYS_LIFETIME_S, keys_of
from sharding.member import Candidate, Member, padded

CALL_S = 1.0
"""How long one call may take. Scripts take well under a millisecond; a Redis that hangs must be noticed
within a lease."""

CONNECTIONS_TRIED = 3
"""More than the connections that a worker uses at once: the beat, a refresh."""

Joined = Literal["joined", "again", "superseded"]
Beaten = Literal["held", "emptied", "evicted"]
Evicted = Literal["evicted", "gone", "alive", "unfit"]
Why = Literal["left", "dead", "expired"]


@dataclass(frozen=True, slots=True)
class View:
    """The ring as Redis has it. epoch 0: it has none. born: when the keys were created (Redis' ms)."""

    epoch: int = 0
    born: int = 0
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """The answer to a join. slot is -1 when superseded."""

    how: Joined
    slot: int
    epoch: int
    born: int


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a beat. expired: boots whose leases have run out and whom the caller may evict."""

    status: Beaten
    epoch: int
    expired: tuple[str, ...] = ()


def _load(name: str) -> str:
    here = files("sharding")
    return here.joinpath("prelude.lua").read_text() + here.joinpath(f"{name}.lua").read_text()


SCRIPTS = {name: _load(name) for name in ("join", "beat", "evict", "evict_pid", "view")}
"""The scripts by name, the prelude in front. Read at import, so that no event loop waits for a file."""


def preamble(host: str, lease_s: float) -> tuple[tuple[str, ...], tuple[str, str, str]]:
    """(KEYS, first three ARGV) of every script, as the prelude wants them."""
    keys = keys_of(host)
    return keys.stored, (keys.changes, str(int(KEYS_LIFETIME_S * 1000)), str(int(lease_s * 1000)))


class Registry:
    """The members of one host in Redis.

    redis: a client without `decode_responses`, closed by whoever made it. lease_s: how long a member
    counts as alive after its last beat. call_s: bound of each call.
    """

    def __init__(self, redis: Redis, host: str, lease_s: float, call_s: float = CALL_S) -> None:
        self._redis = redis
        self._channel = keys_of(host).changes
        self._keys, self._first = preamble(host, lease_s)
        self._call_s = call_s

    async def join(self, candidate: Candidate, boot: str, known: View) -> Place:
        """Take a place under this boot id. `known`: the caller's last view; seeds a Redis just emptied."""
        seeds = [part for member in known.members for part in (str(member.slot), member.to_json())]
        how, slot, epoch, born = await self._run(
            "join",
            boot,
            padded(candidate.generation),
            candidate.member(boot).to_json(),
            candidate.n_slots,
            known.epoch,
            known.born,
            *seeds,
        )
        return Place(cast(Joined, how.decode()), int(slot), int(epoch), int(born))

    async def beat(self, me: Member, known: View) -> Beat:
        """Renew the lease of `me`. See beat.lua for the three answers."""
        status, epoch, *expired = await self._run("beat", me.boot, me.slot, known.epoch, known.born)
        return Beat(cast(Beaten, status.decode()), int(epoch), tuple(boot.decode() for boot in expired))

    async def leave(self, me: Member) -> Evicted:
        """Take `me` off the ring: "evicted", or "gone" when it was off already."""
        return await self.evict(me, "left")

    async def evict(self, member: Member, why: Why, evictor: Member | None = None) -> Evicted:
        """Take a member off the ring, if its slot still holds its boot.

        "dead" needs proof from the caller. "expired" needs an `evictor`, and Redis checks both leases.
        """
        by = evictor.boot if evictor else ""
        status, _epoch = await self._run("evict", member.boot, member.slot, by, why)
        return cast(Evicted, status.decode())

    async def evict_pid(self, pid: int) -> int:
        """Take off the members with this pid, which is dead. Returns how many there were."""
        count, _epoch = await self._run("evict_pid", pid)
        return int(count)

    async def view(self) -> View:
        """The ring as it is now."""
        epoch, born, *flat = await self._run("view")
        pairs = zip(flat[::2], flat[1::2], strict=True)
        return View(int(epoch), int(born), tuple(_members(pairs)))

    async def watch(self) -> AsyncIterator[int]:
        """Yield 0 once listening, then each epoch that is published. Ends only by RegistryUnavailable."""
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            await pubsub.subscribe(self._channel)
            yield 0
            async for message in pubsub.listen():
                yield int(message["data"])
        except (RedisError, OSError) as error:
            raise RegistryUnavailable(_said(error)) from error
        finally:
            with contextlib.suppress(RedisError, OSError):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _run(self, name: str, *args: str | int) -> list[Any]:
        try:
            async with asyncio.timeout(self._call_s):
                return await self._eval(SCRIPTS[name], *self._keys, *self._first, *args)
        except TimeoutError as error:
            raise RegistryUnavailable(f"Redis did not answer within {self._call_s} s") from error
        except (RedisError, OSError) as error:
            raise RegistryUnavailable(_said(error)) from error

    async def _eval(self, text: str, *args: str | int) -> list[Any]:
        """Send one script. With its text: about 3 KB a beat, and no NOSCRIPT to handle after a restart.

        Connections that lay in the pool when Redis restarted fail at their next use, one after another. So
        a few are tried, at once; every script may be repeated. Whoever refuses, refuses as often.
        """

        def attempt() -> Awaitable[Any]:
            return self._redis.eval(text, len(self._keys), *args)

        for _ in range(CONNECTIONS_TRIED - 1):
            with contextlib.suppress(RedisConnectionError):
                return cast(list[Any], await attempt())
        return cast(list[Any], await attempt())


def _members(pairs: Any) -> list[Member]:
    found = []
    for slot, text in pairs:
        # A record that is not ours to read is as if it were not there, as in the scripts.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found.append(Member.from_json(int(slot), text))
    return found


def _said(error: Exception) -> str:
    """What the client library says. It names host and port, never the password."""
    return str(error) or type(error).__name__
