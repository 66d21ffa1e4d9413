"""Login sessions in Redis: one record each, and a tombstone for each that was ended by a logout.

Owns these keys, their lifetimes, and every Redis command about logins; Redis' errors are mapped here and
nowhere else. Redis is soft state: the signed cookie (server.login_session) says who somebody is, and a record
that Redis has lost is made again from it. What Redis adds is the logout: a tombstone outlives every copy of
its cookie.

It never decides who may log in, and never asks Redis twice in CHECKED_FOR_S about the same session. So a
logout is in force at once on the worker that took it, and on the others after at most CHECKED_FOR_S.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.expiring_lru import ExpiringLru
from server.roles import STUDENT

log = structlog.get_logger(__name__)

T = TypeVar("T")

# Every key of this module. Type, owner, lifetime. One hash tag, so that MGET also runs on Redis Cluster.
SESSION_KEY: Final = "{kernelring}:session:%s"  # string (JSON), any worker, until the cookie expires
LOGOUT_KEY: Final = "{kernelring}:logout:%s"  # string ("1"), any worker, until the cookie expires

# For one command, whatever the client's own retries would like. Measured with 300 new sessions at once on 2 cores:
# 0.12 s at most, 0.4 s with seven processes wanting each core. A worker short of CPU must not take Redis for lost.
REDIS_TIMEOUT_S: Final = 1.0
AT_ONCE: Final = 16  # commands: a class that comes back together must not use up the client's connections
PAUSE_S: Final = 1.0  # between two questions to a Redis that is away
CHECKED_FOR_S: Final = 5.0  # how long an answer of Redis is believed
REMEMBERED_SESSIONS: Final = 8192
REMEMBERED_LOGOUTS: Final = 8192

Values = dict[str, Any]


class RecordsUnavailable(Exception):  # noqa: N818
    """Redis cannot be reached or refuses to write, or was so less than PAUSE_S ago."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a login cookie says. Times in seconds since 1970."""

    sid: str
    user: str
    guest: bool
    issued: int
    expires: int
    role: str = STUDENT

    @property
    def left_s(self) -> int:
        """Until it expires, at least 1: Redis refuses a lifetime of 0."""
        return max(1, self.expires - int(time.time()))


class SessionRecords:
    """`redis`: a client without decode_responses."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._checked: ExpiringLru[str, Values] = ExpiringLru(REMEMBERED_SESSIONS, time.monotonic)
        # The logouts that this worker knows of: they hold while Redis is away, and are written again to one
        # that came back empty.
        self._ended: ExpiringLru[str, Login] = ExpiringLru(REMEMBERED_LOGOUTS, time.time)
        self._owed = False  # Redis may lack some of them
        self._away = False
        self._ask_again_at = 0.0
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def open(self, login: Login, values: Values) -> None:
        """Write a record. Raises RecordsUnavailable: without Redis nobody new is let in."""
        await self._ask(lambda: self._write(login, values))
        self._remember(login, values)

    async def check(self, login: Login) -> Values | None:
        """The values of a session whose cookie is good; None when it was logged out.

        With Redis away the cookie alone is believed, and the values are empty.
        """
        if self._ended.get(login.sid) is not None:
            return None
        known = self._checked.get(login.sid)
        if known is not None:
            return known
        return await self._look_up(login)

    async def end(self, login: Login) -> None:
        """Log out, for good. Never fails: what Redis cannot take now is written when it is back."""
        self._ended.put(login.sid, login, login.expires)
        self._checked.discard(login.sid)
        try:
            await self._ask(lambda: self._bury([login]))
        except RecordsUnavailable:
            self._owed = True

    async def _look_up(self, login: Login) -> Values | None:
        try:
            record, tombstone = await self._ask(lambda: self._read(login.sid))
            if tombstone is not None:
                self._ended.put(login.sid, login, login.expires)
                return None
            values = _values(record) if record is not None else await self._restore(login)
            await self._pay()
        except RecordsUnavailable:
            return {}
        # A logout on this worker while we waited for Redis: the answer is older than it.
        if self._ended.get(login.sid) is not None:
            return None
        self._remember(login, values)
        return values

    async def _restore(self, login: Login) -> Values:
        """Redis has lost the record: it came back empty, and then lacks the tombstones too.

        Another worker may write a tombstone between our reading and this writing. Then both keys exist, and
        the tombstone counts.
        """
        await self._ask(lambda: self._write(login, {}))
        # One known logout tells whether all are gone: asked, because after a flush every session of the
        # class comes here, and writing all logouts for each would be a storm.
        sample = next(iter(self._ended), None)
        if sample is not None and not await self._ask(lambda: self._redis.exists(LOGOUT_KEY % sample)):
            self._owed = True
        log.debug("login_session_restored", user=login.user)
        return {}

    async def _pay(self) -> None:
        """Write the logouts that Redis lacks. Claimed before the wait, so that one request does it."""
        if not self._owed:
            return
        self._owed = False
        owed = [login for sid in self._ended if (login := self._ended.get(sid)) is not None]
        try:
            await self._ask(lambda: self._bury(owed))
        except BaseException:  # a cancelled request too: the next one pays
            self._owed = True
            raise

    def _remember(self, login: Login, values: Values) -> None:
        self._checked.put(login.sid, values, time.monotonic() + CHECKED_FOR_S)

    # The commands.

    async def _read(self, sid: str) -> tuple[bytes | str | None, bytes | str | None]:
        record, tombstone = await self._redis.mget(SESSION_KEY % sid, LOGOUT_KEY % sid)
        return record, tombstone

    async def _write(self, login: Login, values: Values) -> None:
        record = {"user": login.user, "created": login.issued, "session": values}
        await self._redis.set(SESSION_KEY % login.sid, orjson.dumps(record), ex=login.left_s)

    async def _bury(self, logins: list[Login]) -> None:
        async with self._redis.pipeline(transaction=False) as pipe:
            for login in logins:
                pipe.set(LOGOUT_KEY % login.sid, b"1", ex=login.left_s)
                pipe.delete(SESSION_KEY % login.sid)
            await pipe.execute()

    async def _ask(self, command: Callable[[], Awaitable[T]]) -> T:
        """The one place where Redis' errors become ours.

        The next question is put off before this one is asked: while Redis is away, one request in PAUSE_S
        waits for it, and all others go on at once, also those that were queueing here when it went.
        """
        async with self._turns:
            if time.monotonic() < self._ask_again_at:
                raise RecordsUnavailable
            if self._away:
                self._ask_again_at = time.monotonic() + PAUSE_S
            try:
                async with asyncio.timeout(REDIS_TIMEOUT_S):
                    answer = await command()
            except (RedisError, OSError) as error:  # OSError: TimeoutError too
                self._lost(error)
                raise RecordsUnavailable from error
            self._found()
            return answer

    def _lost(self, error: Exception) -> None:
        self._ask_again_at = time.monotonic() + PAUSE_S
        if not self._away:
            self._away = True
            log.warning("login_sessions_without_redis", error=type(error).__name__)

    def _found(self) -> None:
        self._ask_again_at = 0.0
        if self._away:
            self._away = False
            log.info("login_sessions_with_redis_again")


def _values(record: bytes | str) -> Values:
    """What was kept in the session. A record that is not ours to read is as good as an empty one."""
    try:
        kept = orjson.loads(record)
    except ValueError:
        return {}
    values = kept.get("session") if isinstance(kept, Mapping) else None
    return values if isinstance(values, dict) else {}
