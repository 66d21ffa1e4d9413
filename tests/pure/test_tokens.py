"""Tokens: what passes, what does not and what is said about it, without a server."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from server import token as token_command
from server.expiring_lru import ExpiringLru
from server.roles import Claims, Standing
from server.token_errors import TokenRefused
from server.tokens import MAX_USER_CHARS, TokenVerifier, check_user, mint_guest, mint_user

SECRET = "a secret of at least thirty-two bytes"
OTHER_SECRET = "some other secret of thirty-two bytes"
NOW = int(time.time())


def signed(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """A token with these claims; a claim given as None is left out."""
    whole = {"sub": "ada", "exp": NOW + 3600} | claims
    kept = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(kept, secret, algorithm=algorithm)


def by_hand(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    """A token as PyJWT would refuse to make it."""
    parts = [json.dumps(part).encode() for part in (header, claims)]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    mac = base64.urlsafe_b64encode(hmac.digest(key, text, hashlib.sha256)).rstrip(b"=")
    return (text + b"." + mac).decode()


def verifier(**options: Any) -> TokenVerifier:
    return TokenVerifier(**({"secret": SECRET} | options))


async def refusal(token: str, **options: Any) -> str:
    """The sentence with which it is refused."""
    with pytest.raises(TokenRefused) as refused:
        await verifier(**options).verify(token)
    sentence = str(refused.value)
    assert len(token) < 8 or token not in sentence
    return sentence


async def test_a_minted_token_names_its_user() -> None:
    verified = await verifier().verify(mint_user(SECRET, "ada", lifetime_s=60))
    assert (verified.user, verified.guest) == ("ada", False)
    assert 55 < verified.expires - time.time() <= 61


async def test_a_guest_token_names_nobody() -> None:
    verified = await verifier().verify(mint_guest(SECRET, lifetime_s=60))
    assert (verified.user, verified.guest) == (None, True)


async def test_an_expired_token_is_called_expired() -> None:
    assert await refusal(signed(exp=NOW - 60)) == "The token has expired."


async def test_a_token_of_the_future_is_not_valid_yet() -> None:
    assert await refusal(signed(nbf=int(time.time()) + 600)) == "The token is not valid yet."


async def test_a_token_without_an_end_is_refused() -> None:
    assert await refusal(signed(exp=None)) == "The token has no 'exp' claim."


async def test_a_token_without_a_user_is_refused() -> None:
    assert "'sub'" in await refusal(signed(sub=None))


async def test_a_token_signed_by_somebody_else_is_refused() -> None:
    assert await refusal(signed(OTHER_SECRET)) == "The token's signature is wrong."


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_another_algorithm_is_refused_even_with_the_right_secret(algorithm: str) -> None:
    secret = SECRET * 4
    assert "algorithm" in await refusal(signed(secret, algorithm), secret=secret)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 1, [], {}, ["HS256"]])
async def test_alg_none_and_algs_that_are_no_name_are_refused(algorithm: object) -> None:
    token = by_hand({"typ": "JWT", "alg": algorithm}, {"sub": "ada", "exp": NOW + 3600}, SECRET.encode())
    for text in (token, token.rsplit(".", 1)[0] + "."):
        assert "algorithm" in await refusal(text)


async def test_a_public_key_does_not_serve_as_an_hmac_secret() -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    forged = by_hand({"typ": "JWT", "alg": "HS256"}, {"sub": "ada", "exp": NOW + 3600}, pem)
    # The address is never asked: HS256 has no secret here, whatever is published.
    assert "algorithm" in await refusal(forged, secret=None, jwks_url="http://127.0.0.1:9/jwks")
    assert await refusal(forged) == "The token's signature is wrong."


@pytest.mark.parametrize("sub", ["", 7, ["ada"], "a\nb", "a\x00", "\ud800", "x" * 256, " ada", "ada ", "a\u202eb"])
async def test_a_user_id_that_could_do_harm_is_refused(sub: object) -> None:
    token = by_hand({"alg": "HS256"}, {"sub": sub, "exp": NOW + 3600}, SECRET.encode())
    assert "user id (sub)" in await refusal(token)


@pytest.mark.parametrize("sub", ["x" * MAX_USER_CHARS, "Ada Lovelace", "ada@example.org", "爱达", "auth0|42"])
async def test_user_ids_as_people_have_them_are_good(sub: str) -> None:
    assert (await verifier().verify(signed(sub=sub))).user == sub


async def test_a_token_with_both_a_user_and_a_guest_claim_is_refused() -> None:
    assert "guest" in await refusal(signed(kernelring_guest=True))


async def test_a_guest_claim_that_is_not_true_invites_nobody() -> None:
    assert "'sub'" in await refusal(signed(sub=None, kernelring_guest="yes"))


@pytest.mark.parametrize(
    "garbage",
    ["", ".", "..", "...", "a.b.c", "null", "undefined", "e30.e30.e30", "é", "\udcff", "x" * 65536, "\x00",
     "eyJhbGciOiJIUzI1NiJ9.W10." + "A" * 43, "eyJhbGciOiJIUzI1NiIsImtpZCI6W119.e30."],
)  # fmt: skip
async def test_garbage_is_refused_with_a_sentence(garbage: str) -> None:
    assert (await refusal(garbage)).endswith(".")


@given(st.text(max_size=200))
async def test_no_text_whatever_raises_anything_but_a_refusal(text: str) -> None:
    with pytest.raises(TokenRefused):
        await verifier().verify(text)


@given(st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers()))))
async def test_no_claims_whatever_raise_anything_but_a_refusal(claims: dict[str, Any]) -> None:
    token = by_hand({"alg": "HS256"}, claims, SECRET.encode())
    with pytest.raises(TokenRefused):
        await verifier().verify(token)


@pytest.mark.parametrize("exp", [10**400, 1e308, float("inf"), "soon", None, [], -1, True])
async def test_an_end_beyond_all_numbers_does_no_harm(exp: object) -> None:
    token = by_hand({"alg": "HS256"}, {"sub": "ada", "exp": exp}, SECRET.encode())
    try:
        verified = await verifier().verify(token)
    except TokenRefused:
        return
    assert verified.expires > NOW


async def test_audience_and_issuer_are_demanded_when_configured() -> None:
    strict: dict[str, Any] = {"audience": "kernelring", "issuer": "https://login.example.org"}
    good = mint_user(SECRET, "ada", lifetime_s=60, **strict)
    assert (await verifier(**strict).verify(good)).user == "ada"
    assert await refusal(signed(aud="other", iss=strict["issuer"]), **strict) == ("The token is for another audience.")
    assert await refusal(signed(aud="kernelring", iss="https://evil.example"), **strict) == (
        "The token is from another issuer."
    )
    assert await refusal(signed(iss=strict["issuer"]), **strict) == "The token has no 'aud' claim."
    assert await refusal(signed(aud="kernelring"), **strict) == "The token has no 'iss' claim."


async def test_a_token_for_another_audience_is_refused_when_none_is_configured() -> None:
    assert await refusal(signed(aud="the wiki")) == "The token is for another audience."


async def test_a_remembered_token_ends_when_it_expires() -> None:
    now = [time.time()]
    checker = verifier(clock=lambda: now[0])
    token = signed(exp=int(now[0]) + 1000)
    assert (await checker.verify(token)).user == "ada"
    remembered = await checker.verify(token)
    assert remembered is await checker.verify(token)
    now[0] += 2000
    assert await checker.verify(token) is not remembered  # checked anew (by PyJWT's clock it is still good)


@pytest.mark.parametrize("secret", ["", "short", "x" * 31])
def test_a_short_secret_is_refused_at_once(secret: str) -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        TokenVerifier(secret=secret)
    with pytest.raises(ValueError, match="at least 32 bytes"):
        mint_user(secret, "ada", lifetime_s=60)


def test_check_user_hands_the_id_back() -> None:
    assert check_user("ada") == "ada"


def test_the_lru_forgets_the_least_recently_used_and_the_expired() -> None:
    now = [0.0]
    lru: ExpiringLru[str, int] = ExpiringLru(2, lambda: now[0])
    lru.put("a", 1, 10)
    lru.put("b", 2, 20)
    assert lru.get("a") == 1
    lru.put("c", 3, 30)
    assert lru.get("b") is None
    now[0] = 10
    assert lru.get("a") is None
    assert (list(lru), len(lru)) == (["c"], 1)
    lru.clear()
    assert len(lru) == 0


# The command `python -m server.token`.

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str, **environment: str) -> tuple[int, str, str]:
        status = token_command.main(arguments, {"KERNELRING_JWT_SECRET": SECRET} | environment)
        said = capsys.readouterr()
        return status, said.out.strip(), said.err.strip()

    return command


async def test_the_command_prints_a_token_for_a_user(run: Run) -> None:
    status, out, err = run("--user", "ada", "--hours", "1")
    assert (status, err) == (0, "")
    verified = await verifier().verify(out)
    assert verified.user == "ada"
    assert 3590 < verified.expires - time.time() < 3602


async def test_the_command_prints_an_instructors_token(run: Run) -> None:
    _, out, _ = run("--user", "eve", "--role", "instructor", "--student", "ada", "--student", "ben")
    assert (await verifier().verify(out)).standing == Standing("instructor", frozenset({"ada", "ben"}))
    _, out, _ = run("--user", "eve", "--role", "operator", KERNELRING_ROLE_CLAIM="rank")
    assert (await verifier().verify(out)).standing == Standing()
    assert (await verifier(claims=Claims(role="rank")).verify(out)).standing == Standing("operator")


async def test_the_command_prints_a_guest_token(run: Run) -> None:
    assert (await verifier().verify(run("--guest")[1])).guest


async def test_the_command_obeys_the_configured_audience(run: Run) -> None:
    _, out, _ = run("--user", "ada", KERNELRING_JWT_AUDIENCE="kernelring", KERNELRING_JWT_ISSUER="me")
    assert (await verifier(audience="kernelring", issuer="me").verify(out)).user == "ada"


@pytest.mark.parametrize(
    ("arguments", "environment", "word"),
    [
        (["--user", "ada"], {"KERNELRING_JWT_SECRET": ""}, "KERNELRING_JWT_SECRET"),
        (["--user", "ada"], {"KERNELRING_JWT_SECRET": "short"}, "32 bytes"),
        (["--user", ""], {}, "user id"),
        (["--user", "a\nb"], {}, "user id"),
        (["--user", "ada", "--hours", "0"], {}, "--hours"),
        (["--user", "ada", "--hours", "nan"], {}, "--hours"),
        (["--guest", "--hours", "inf"], {}, "--hours"),
    ],
)
def test_the_command_says_in_one_sentence_what_is_wrong(
    run: Run, arguments: list[str], environment: dict[str, str], word: str
) -> None:
    status, out, err = run(*arguments, **environment)
    assert (status, out) == (2, "")
    assert word in err
    assert err.count("\n") == 0
    assert "Traceback" not in err
