"""Tokens signed with keys that an identity provider publishes: fetched, remembered, changed, gone."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from pytest_aiohttp.plugin import AiohttpServer

from server import published_keys
from server.tokens import KeysUnavailable, TokenRefused, TokenVerifier
from tests.app.conftest import Logs, Worker, bearer, named, refused, who

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
NEW_KEY = rsa.generate_private_key(65537, 2048)


def jwk(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, kid: str | None, **more: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPrivateKey):
        public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**public, **({"kid": kid} if kid else {}), **more}


def signed(key: Any, kid: str | None, algorithm: str = "RS256", **claims: Any) -> str:
    headers = {"kid": kid} if kid else {}
    whole = {"sub": "ada", "exp": int(time.time()) + 3600} | claims
    return jwt.encode(whole, key, algorithm=algorithm, headers=headers)


class Provider:
    """What an identity provider publishes, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [jwk(RSA_KEY, "one"), jwk(EC_KEY, "two")]
        self.status = 200
        self.body: bytes | None = None
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        await self.gate.wait()
        if self.body is not None:
            return web.Response(body=self.body, status=self.status)
        return web.json_response({"keys": self.keys}, status=self.status)


@pytest.fixture
async def provider(aiohttp_server: AiohttpServer) -> Provider:
    made, app = Provider(), web.Application()
    app.router.add_get("/jwks", made.answer)
    server: TestServer = await aiohttp_server(app)
    made.url = str(server.make_url("/jwks"))
    return made


@pytest.fixture
async def verifier(provider: Provider) -> AsyncIterator[TokenVerifier]:
    made = TokenVerifier(secret=None, jwks_url=provider.url)
    yield made
    await made.close()


async def test_both_algorithms_pass_and_the_keys_are_fetched_once(verifier: TokenVerifier, provider: Provider) -> None:
    assert provider.asked == 0  # nothing at start: the provider may be slower than we are
    tokens = [signed(RSA_KEY, "one"), signed(EC_KEY, "two", "ES256"), signed(RSA_KEY, None)]
    verified = await asyncio.gather(*(verifier.verify(token) for token in tokens * 5))
    assert {each.user for each in verified} == {"ada"}
    assert provider.asked == 1


async def test_an_unknown_key_is_asked_for_once_in_a_while(
    verifier: TokenVerifier, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await verifier.verify(signed(RSA_KEY, "one"))).user == "ada"
    for kid in ("three", "four", "five"):
        with pytest.raises(TokenRefused, match="not published"):
            await verifier.verify(signed(NEW_KEY, kid))
    assert provider.asked == 1
    monkeypatch.setattr(published_keys, "REFRESH_PAUSE_S", 0.0)
    provider.keys.append(jwk(NEW_KEY, "three"))
    assert (await verifier.verify(signed(NEW_KEY, "three"))).user == "ada"
    assert provider.asked == 2


async def test_the_last_good_set_stays_when_the_provider_fails(
    verifier: TokenVerifier, provider: Provider, monkeypatch: pytest.MonkeyPatch, events: Logs
) -> None:
    monkeypatch.setattr(published_keys, "REFRESH_PAUSE_S", 0.0)
    assert (await verifier.verify(signed(RSA_KEY, "one"))).user == "ada"
    for status, body in ((500, None), (200, b"{"), (200, b"[]"), (200, b'{"keys": []}'), (302, b"")):
        provider.status, provider.body = status, body
        with pytest.raises(KeysUnavailable):
            await verifier.verify(signed(NEW_KEY, "new"))
        assert (await verifier.verify(signed(RSA_KEY, "one", sub="bob"))).user == "bob"
    assert len(named(events, "published_keys_unavailable")) == 5


async def test_a_set_that_is_too_large_is_refused(verifier: TokenVerifier, provider: Provider) -> None:
    provider.body = b'{"keys": [' + b" " * (1 << 21) + b"]}"
    with pytest.raises(KeysUnavailable):
        await verifier.verify(signed(RSA_KEY, "one"))


async def test_a_withdrawn_key_ends_what_was_remembered_by_it(
    verifier: TokenVerifier, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = signed(RSA_KEY, "one")
    assert (await verifier.verify(old)).user == "ada"
    provider.keys = [jwk(NEW_KEY, "new")]
    monkeypatch.setattr(published_keys, "REFRESH_PAUSE_S", 0.0)
    assert (await verifier.verify(signed(NEW_KEY, "new"))).user == "ada"
    with pytest.raises(TokenRefused, match="not published"):
        await verifier.verify(old)


async def test_an_old_set_is_renewed_beside_the_requests(
    verifier: TokenVerifier, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await verifier.verify(signed(RSA_KEY, "one"))).user == "ada"
    monkeypatch.setattr(published_keys, "FRESH_S", 0.0)
    monkeypatch.setattr(published_keys, "REFRESH_PAUSE_S", 0.0)
    provider.gate.clear()  # it hangs: nobody whose key is known waits for it
    async with asyncio.timeout(2):
        assert (await verifier.verify(signed(RSA_KEY, "one", sub="bob"))).user == "bob"
    provider.gate.set()


async def test_only_signing_keys_of_the_two_algorithms_count(verifier: TokenVerifier, provider: Provider) -> None:
    secret = "a symmetric key has no business here, at all"
    provider.keys = [
        jwk(RSA_KEY, "encryption", use="enc"),
        jwk(RSA_KEY, "other", alg="RS512"),
        {"kty": "oct", "kid": "oct", "k": "YSBzeW1tZXRyaWMga2V5"},
        {"kty": "RSA", "kid": ["list"], "n": "!", "e": 7},
        jwk(EC_KEY, "two"),
    ]
    for token in (signed(RSA_KEY, "encryption"), signed(RSA_KEY, "other")):
        with pytest.raises(TokenRefused, match="not published"):
            await verifier.verify(token)
    for token in (signed(RSA_KEY, "other", "RS512"), signed(secret, "oct", "HS256")):
        with pytest.raises(TokenRefused, match="algorithm"):
            await verifier.verify(token)
    with pytest.raises(TokenRefused, match="not published"):
        await verifier.verify(signed(RSA_KEY, "two"))  # RS256 by name of an EC key
    assert (await verifier.verify(signed(EC_KEY, "two", "ES256"))).user == "ada"


async def test_without_a_name_two_keys_are_one_too_many(verifier: TokenVerifier, provider: Provider) -> None:
    provider.keys = [jwk(RSA_KEY, "one"), jwk(NEW_KEY, "new")]
    with pytest.raises(TokenRefused, match="not published"):
        await verifier.verify(signed(RSA_KEY, None))


async def test_a_providers_guest_claim_invites_nobody(verifier: TokenVerifier) -> None:
    with pytest.raises(TokenRefused, match="guest"):
        await verifier.verify(signed(RSA_KEY, "one", sub="ada", kernelring_guest=True))


async def test_while_the_provider_is_away_the_api_says_so(worker: Worker, provider: Provider) -> None:
    provider.status = 500
    client = await worker(verifier=TokenVerifier(secret=None, jwks_url=provider.url))
    async with client.get("/api/me", headers=bearer(signed(RSA_KEY, "one"))) as response:
        assert "cannot be fetched" in await refused(response, 503)
        assert "Retry-After" in response.headers


async def test_a_worker_takes_a_providers_token(worker: Worker, provider: Provider) -> None:
    client = await worker(verifier=TokenVerifier(secret=None, jwks_url=provider.url))
    assert await who(client, headers=bearer(signed(EC_KEY, "two", "ES256"))) == "ada"


async def test_closing_gives_up_a_fetch_under_way(provider: Provider) -> None:
    verifier = TokenVerifier(secret=None, jwks_url=provider.url)
    provider.gate.clear()
    waiting = asyncio.create_task(verifier.verify(signed(RSA_KEY, "one")))
    async with asyncio.timeout(5):
        while not provider.asked:  # noqa: ASYNC110 (the provider's counter signals nobody)
            await asyncio.sleep(0.01)
    await verifier.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    provider.gate.set()
