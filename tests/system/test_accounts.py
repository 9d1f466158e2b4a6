"""The ledger's own accounts: each rule of it is broken once here, and must be noticed."""

from __future__ import annotations

import random

import pytest

from tests.system.ledger import AFTER_REPLACED, Death, Deaths, Line, Person, Stay, accounts

ROOM = 1


def person(name: str, since: float = 0.0) -> Person:
    """Somebody who is in the room from then on."""
    made = Person(name, "", [], random.Random(1))
    made.here[ROOM] = Stay(ROOM, since, since)
    made.stays.append(made.here[ROOM])
    return made


@pytest.fixture
def people() -> list[Person]:
    """Three in a room; the first has said a line, at 10 s, and all have heard it."""
    three = [person("a"), person("b"), person("c")]
    three[0].lines["a 0"] = Line("a 0", ROOM, 10.0)
    for each in three:
        each._hear_line("a 0", ROOM, 10.1)
    return three


def test_nothing_is_wrong_when_all_have_heard_it_once(people):
    assert accounts(people, Deaths()) == []


def test_a_line_that_somebody_has_not_heard_is_missing_unless_a_process_died_just_then(people):
    del people[1].stays[0].heard["a 0"]
    assert accounts(people, Deaths()) == ["b has not heard 'a 0' of 10.0"]
    assert accounts(people, Deaths([Death(False, 3.0, 9.9 - AFTER_REPLACED)])) != []
    assert accounts(people, Deaths([Death(False, 3.0, 10.1 - AFTER_REPLACED)])) == []
    assert accounts(people, Deaths([Death(False, 12.0)])) != []


def test_who_came_later_or_was_never_let_in_need_not_have_heard_it(people):
    people.append(person("late", since=10.05))
    assert accounts(people, Deaths()) == []


def test_a_line_that_nobody_has_heard_was_not_accepted(people):
    people[0].lines["a 1"] = Line("a 1", ROOM, 11.0)
    assert accounts(people, Deaths()) == []


def test_a_line_is_heard_once_and_in_its_room_whatever_has_died(people):
    people[1]._hear_line("a 0", ROOM, 10.2)
    people[2]._hear_line("a 0", 7, 10.2)
    people[2].here[8] = Stay(8, 0.0, 0.0)
    people[2].stays.append(people[2].here[8])
    people[2]._hear_line("a 0", 8, 10.2)
    assert accounts(people, Deaths([Death(True, 10.0)])) == [
        "b heard 'a 0' 2 times",
        "c in no room 7 heard 'a 0'",
        "c heard 'a 0' in room 8",
    ]


def test_only_the_death_of_a_server_cuts_a_page_off(people):
    people[1].cuts.append(20.0)
    wrong = ["b was cut off at 20.0, and no server had died"]
    assert accounts(people, Deaths([Death(False, 19.9, 20.5)])) == wrong  # a worker
    assert accounts(people, Deaths([Death(True, 20.1, 20.5)])) == wrong  # afterwards
    assert accounts(people, Deaths([Death(True, 12.0, 19.9 - AFTER_REPLACED)])) == wrong  # before
    assert accounts(people, Deaths([Death(True, 19.9, 20.5)])) == []
