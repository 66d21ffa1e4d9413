"""Why a token does not let its bearer in. The text of each is one sentence for a person, never the token."""


class TokenError(Exception):
    """The token cannot be accepted."""


class TokenRefused(TokenError):  # noqa: N818
    """It is bad and stays bad: expired, wrongly signed, incomplete."""


class KeysUnavailable(TokenError):  # noqa: N818
    """It may be good: the keys that would tell cannot be fetched now. Ask again."""
