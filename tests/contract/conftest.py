"""Fixtures of the contract tests: a Redis of our own, a client of it, a crew of workers, a context for kernels."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import zmq.asyncio
from redis.asyncio import Redis

from kernels.kernel_manager import kernel_context
from sharding.peers import Peers
from sharding.registry import Registry
from tests.contract.crew import HOST, LEASE_S, Crew
from tests.contract.peer_kit import Refusals
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


@pytest.fixture
def registry(redis: Redis) -> Registry:
    """The registry of the tests' host on it."""
    return Registry(redis, HOST, LEASE_S)


@pytest.fixture
def refusals() -> Refusals:
    """Whom the peers have reported as refusing."""
    return Refusals()


@pytest.fixture
def peers(crew: Crew, refusals: Refusals) -> Peers:
    """Connections to peers, closed with the crew."""
    return crew.peers(refusals)


@pytest.fixture
def context() -> Iterator[zmq.asyncio.Context]:
    """For what connects to a kernel as jupyter_client does."""
    found = kernel_context()
    yield found
    found.destroy(linger=0)
