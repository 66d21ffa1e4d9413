"""Who may see whose kernels, by what a token says."""

from __future__ import annotations

import pytest

from server.roles import Claims, Standing, standing_of

STUDENTS = ["ada", "ben"]


def test_an_instructor_sees_the_students_named_and_an_operator_all() -> None:
    instructor = standing_of("instructor", STUDENTS)
    assert [instructor.may_see(user) for user in ("ada", "ben", "cy")] == [True, True, False]
    assert standing_of("operator", None).may_see("cy")


@pytest.mark.parametrize("role", ["student", "admin", "Operator", "operator ", "", None, True, 1, ["operator"], {}])
def test_whatever_is_no_role_is_a_student_who_sees_nobody(role: object) -> None:
    assert standing_of(role, STUDENTS) == Standing()
    assert not Standing().may_see("ada")


@pytest.mark.parametrize("students", [None, "ada", {"ada": True}, 7, [["ada"]], [None]])
def test_a_list_of_students_that_is_none_names_nobody(students: object) -> None:
    assert standing_of("instructor", students) == Standing("instructor")


def test_the_claims_are_called_as_the_settings_say() -> None:
    claims = Claims("https://school.example/role", "class")
    said = {"role": "operator", "https://school.example/role": "instructor", "class": ["ada"]}
    assert claims.standing(said) == Standing("instructor", frozenset({"ada"}))
