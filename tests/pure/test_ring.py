"""The ring: who owns a key, and who does not have to move when the members change."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharding.errors import EmptyRing
from sharding.member import Candidate, Member, padded
from sharding.ring import Ring

KEYS = [f"student-{number}" for number in range(10_000)]

# The machine may be busy with other things: how long an example takes says nothing here.
settings.register_profile("ring", deadline=None, suppress_health_check=[HealthCheck.too_slow])
unhurried = settings.get_profile("ring")

hosts = st.text("0123456789abcdef", min_size=12, max_size=12)


def member(slot: int, boot: str = "", host: str = "5ca1ab1e0123", generation: int = 1) -> Member:
    return Member(slot, boot or f"boot{slot}", generation, host, f"/run/w/{slot}.sock", 100 + slot, 7)


def crew(count: int, host: str = "5ca1ab1e0123") -> tuple[Member, ...]:
    return tuple(member(slot, host=host) for slot in range(count))


@unhurried
@given(data=st.data(), count=st.integers(2, 16), host=hosts)
def test_any_boot_order_gives_the_same_ring(data: st.DataObject, count: int, host: str) -> None:
    members = crew(count, host)
    shuffled = tuple(data.draw(st.permutations(members)))

    ring, other = Ring(5, members), Ring(5, shuffled)

    assert other == ring
    for key in KEYS[:200]:
        assert other.owner(key) == ring.owner(key)
        assert other.successors(key) == ring.successors(key)


@pytest.mark.parametrize("dead", range(4))
def test_killing_one_of_four_moves_only_its_keys_and_its_replacement_takes_exactly_those_back(
    dead: int,
) -> None:
    full = Ring(1, crew(4))
    without = Ring(2, tuple(m for m in full.members if m.slot != dead))
    replaced = Ring(3, (*without.members, member(dead, "another")))

    moved = {key for key in KEYS if without.owner(key) != full.owner(key)}
    back = {key for key in KEYS if replaced.owner(key) != without.owner(key)}

    assert moved == {key for key in KEYS if full.owner(key).slot == dead}
    assert 0 < len(moved) <= 0.35 * len(KEYS)
    assert back == moved
    assert {replaced.owner(key).boot for key in moved} == {"another"}


@unhurried
@given(host=hosts, count=st.integers(2, 16))
def test_no_member_of_any_host_is_left_without_keys_or_with_most_of_them(host: str, count: int) -> None:
    ring = Ring(1, crew(count, host))
    owned = dict.fromkeys(range(count), 0)
    for key in KEYS[:2000]:
        owned[ring.owner(key).slot] += 1

    fair = 2000 / count
    assert all(0.4 * fair <= number <= 1.8 * fair for number in owned.values())


def test_the_successors_of_a_key_are_all_members_once_with_the_owner_first() -> None:
    ring = Ring(1, crew(5))
    for key in KEYS[:300]:
        successors = ring.successors(key)
        assert successors[0] == ring.owner(key)
        assert sorted(m.slot for m in successors) == [0, 1, 2, 3, 4]


def test_the_second_successor_owns_the_key_when_the_owner_has_gone() -> None:
    ring = Ring(1, crew(5))
    for key in KEYS[:300]:
        owner, heir, *_ = ring.successors(key)
        assert Ring(2, tuple(m for m in ring.members if m != owner)).owner(key) == heir


def test_an_empty_ring_has_no_owner() -> None:
    with pytest.raises(EmptyRing):
        Ring(0).owner("ada")
    assert Ring(0).successors("ada") == []
    assert Ring(0).member("boot0") is None


def test_a_member_is_found_by_its_boot() -> None:
    ring = Ring(1, crew(3))
    assert ring.member("boot2") == member(2)
    assert ring.member("boot9") is None


def test_two_members_cannot_be_in_one_slot() -> None:
    with pytest.raises(ValueError, match="one slot"):
        Ring(1, (member(0), member(0, "other")))


def test_a_member_survives_its_way_through_json() -> None:
    original = member(3, generation=1_795_527_093_347_123_457)
    assert Member.from_json(3, original.to_json()) == original
    assert original.name == "5ca1ab1e0123/3"


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"boot": "b"}', '{"boot": 1, "generation": "x"}'])
def test_what_is_no_member_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Member.from_json(0, text)


@unhurried
@given(st.integers(0, 2**63), st.integers(0, 2**63))
def test_generations_compare_as_text_as_they_do_as_numbers(one: int, other: int) -> None:
    assert (padded(one) < padded(other)) == (one < other)


def test_a_process_that_does_not_run_is_no_candidate() -> None:
    with pytest.raises(ProcessLookupError):
        Candidate("5ca1ab1e0123", "/run/w/x.sock", 1, 4, 2**22 + 1)
