"""Fixtures of the contract tests: a Redis of our own, a client of it, a crew of workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from tests.contract.crew import Crew
from tests.redis_server import RedisServer


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running Redis of this test's own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of it, as the registry wants one."""
    client = Redis.from_url(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def crew(redis_server: RedisServer) -> AsyncIterator[Crew]:
    """Makes workers on it."""
    async with Crew(redis_server.url) as crew:
        yield crew
