"""What somebody may do with the kernels of others: by the role that their login token names.

Owns the roles and how they are read from claims. Whatever is not exactly a role is a student's, who may do nothing with
others' kernels; a list of students that is none is empty. Knows no requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

STUDENT: Final = "student"
INSTRUCTOR: Final = "instructor"
OPERATOR: Final = "operator"


@dataclass(frozen=True, slots=True)
class Standing:
    """`students`: whose kernels an instructor may see and end."""

    role: str = STUDENT
    students: frozenset[str] = frozenset()

    def may_see(self, user: str) -> bool:
        """Whether the kernels of another user are theirs to see and end."""
        return self.role == OPERATOR or (self.role == INSTRUCTOR and user in self.students)


NOBODY_SPECIAL: Final = Standing()


@dataclass(frozen=True, slots=True)
class Claims:
    """The names of the two claims."""

    role: str = "role"
    students: str = "students"

    def standing(self, claims: Mapping[str, Any]) -> Standing:
        """What a good token's claims say."""
        return standing_of(claims.get(self.role), claims.get(self.students))


USUAL: Final = Claims()


def standing_of(role: object, students: object) -> Standing:
    """From what was written somewhere."""
    if role == OPERATOR:
        return Standing(OPERATOR)
    if role == INSTRUCTOR:
        named = students if isinstance(students, list) else []
        return Standing(INSTRUCTOR, frozenset(each for each in named if isinstance(each, str)))
    return NOBODY_SPECIAL
