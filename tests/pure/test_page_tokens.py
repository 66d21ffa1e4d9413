"""Page tokens: good where they were made, for their time and nothing else."""

import jwt
import pytest

from server.login_session import derive_session_key
from server.page_tokens import PREFIX, PageTokens
from server.token_errors import TokenRefused
from server.tokens import TokenVerifier, mint_user

SECRET = "a secret of at least thirty-two bytes"
KEY = derive_session_key(SECRET)


def refusal(tokens: PageTokens, token: str) -> str:
    with pytest.raises(TokenRefused) as caught:
        tokens.user(token)
    return str(caught.value)


@pytest.mark.parametrize("user", ["ada", "ada@school.example", "Zoë 🦊"])
def test_every_worker_with_the_same_key_knows_whose_page_it_is(user: str) -> None:
    token = PageTokens(KEY, 12).make(user)
    other = PageTokens(KEY, 12)
    assert other.user(token) == user
    assert other.user(token) == user


def test_a_token_of_another_kind_is_none_of_its_business() -> None:
    for token in (mint_user(SECRET, "ada", lifetime_s=60), "", "x", "🦊"):
        assert PageTokens(KEY, 12).user(token) is None


def test_one_that_was_not_made_here_is_refused() -> None:
    tokens = PageTokens(KEY, 12)
    made = tokens.make("ada")
    forged = [
        PageTokens(derive_session_key(SECRET + "!"), 12).make("ada"),
        made[:-2] + ("AA" if made[-2:] != "AA" else "BB"),
        PREFIX + mint_user(SECRET, "ada", lifetime_s=60),
        PREFIX + jwt.encode({"sub": "ada", "exp": 1 << 40}, KEY, algorithm="HS256"),  # the cookies' own key
        PREFIX + jwt.encode({"sub": "ada", "exp": 1 << 40}, "", algorithm="none"),
        PREFIX,
        PREFIX + "🦊",
        PREFIX + "x" * 10_000,
    ]
    for token in forged:
        assert token not in refusal(tokens, token)


def test_its_time_ends() -> None:
    assert "too long ago" in refusal(PageTokens(KEY, 12), PageTokens(KEY, -0.01).make("ada"))


async def test_it_passes_for_no_other_token_so_no_page_can_log_in_or_renew_it() -> None:
    page = PageTokens(KEY, 12).make("ada")
    for token in (page, page.removeprefix(PREFIX)):
        with pytest.raises(TokenRefused):
            await TokenVerifier(secret=SECRET).verify(token)
