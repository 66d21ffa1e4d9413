"""`python -m server.token --user ada [--role instructor --student ben] [--hours 12]`, or `--guest`: prints a token for
this server.

Signs with KERNELRING_JWT_SECRET; puts in KERNELRING_JWT_AUDIENCE and KERNELRING_JWT_ISSUER when they are set. Role and
students are in the claims that KERNELRING_ROLE_CLAIM and KERNELRING_STUDENTS_CLAIM name.
Owns the command line alone. Prints the token on standard output, or one sentence on standard error and ends
with status 2.
"""

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from server.roles import INSTRUCTOR, OPERATOR, STUDENT, USUAL
from server.tokens import mint_guest, mint_user

SECRET: Final = "KERNELRING_JWT_SECRET"  # noqa: S105 (the variable's name)
LONGEST_HOURS: Final = 24 * 366


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        print(_token(parsed, environment))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m server.token", description="Print a token for this server.")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", help="the user's id")
    who.add_argument("--guest", action="store_true", help="each browser that opens it becomes its own guest")
    parser.add_argument("--role", choices=(STUDENT, INSTRUCTOR, OPERATOR), help="the user's role (default: student)")
    parser.add_argument("--student", action="append", help="a user whose kernels an instructor sees; may be repeated")
    parser.add_argument("--hours", type=float, default=12, help="until it expires (default: %(default)s)")
    return parser


def _token(parsed: argparse.Namespace, environment: Mapping[str, str]) -> str:
    secret = environment.get(SECRET)
    if not secret:
        raise ValueError(f"{SECRET} is not set: set it to the secret that the server uses.")
    hours: float = parsed.hours
    if not (math.isfinite(hours) and 0 < hours <= LONGEST_HOURS):
        raise ValueError(f"--hours must be above 0 and at most {LONGEST_HOURS}, not {hours}.")
    audience = environment.get("KERNELRING_JWT_AUDIENCE") or None
    issuer = environment.get("KERNELRING_JWT_ISSUER") or None
    lifetime_s = hours * 3600
    if parsed.guest:
        return mint_guest(secret, lifetime_s=lifetime_s, audience=audience, issuer=issuer)
    claims = _claims(parsed, environment)
    return mint_user(secret, parsed.user, lifetime_s=lifetime_s, audience=audience, issuer=issuer, claims=claims)


def _claims(parsed: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any]:
    said = {
        environment.get("KERNELRING_ROLE_CLAIM") or USUAL.role: parsed.role,
        environment.get("KERNELRING_STUDENTS_CLAIM") or USUAL.students: parsed.student,
    }
    return {name: value for name, value in said.items() if value}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
