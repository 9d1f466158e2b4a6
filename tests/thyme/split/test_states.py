"""The transition tables: complete, consistent, and the same in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from thyme.split import states
from thyme.split.states import (
    ASSIGNMENT,
    DIAGRAMS,
    OWNERSHIP,
    AssignmentState,
    AssignmentTrigger,
    ImpossibleTransition,
    OwnershipState,
    OwnershipTrigger,
    diagram,
    next_state,
    section,
)

TABLES = [(title, table) for tables in DIAGRAMS.values() for title, table in tables]
DOCUMENT = Path(__file__).parents[3] / "docs" / "architecture.md"


@pytest.mark.parametrize(("title", "table"), TABLES, ids=[title for title, _ in TABLES])
def test_a_table_has_every_state_and_reaches_each_from_the_first(title, table):
    first = next(iter(table))
    assert list(table) == list(type(first))
    reached, todo = {first}, [first]
    while todo:
        following = set(table[todo.pop()].values()) - reached
        reached |= following
        todo += following
    assert reached == set(table)


@pytest.mark.parametrize(("title", "table"), TABLES, ids=[title for title, _ in TABLES])
def test_every_trigger_of_a_table_has_an_effect_somewhere(title, table):
    triggers = {each for transitions in table.values() for each in transitions}
    (kind,) = {type(each) for each in triggers}
    effective = {
        each
        for state, transitions in table.items()
        for each, to in transitions.items()
        if to is not state
    }
    assert effective == set(kind)


def test_a_transition_follows_the_table():
    state = next_state(ASSIGNMENT, AssignmentState.OFFERED, AssignmentTrigger.HELLO)
    assert state is AssignmentState.RUNNING


def test_an_impossible_transition_is_an_error_that_names_state_trigger_and_what_is_possible():
    message = r"^got ACCEPT in state AssignmentState\.OFFERED, expected HELLO or RELEASE or END$"
    with pytest.raises(ImpossibleTransition, match=message):
        next_state(ASSIGNMENT, AssignmentState.OFFERED, AssignmentTrigger.ACCEPT)


@pytest.mark.parametrize(
    "state",
    [each for each in OwnershipState if each.name in ("SUCCEEDED", "HANDED_OVER", "DISCONNECTED")],
)
def test_a_worker_that_is_out_of_charge_stays_so(state):
    for trigger in (OwnershipTrigger.SUCCEED, OwnershipTrigger.DISCONNECT):
        assert next_state(OWNERSHIP, state, trigger) is state


def test_a_diagram_has_a_beginning_an_end_and_the_transitions_with_an_effect():
    assert diagram(states.PEER) == (
        "stateDiagram-v2\n"
        "    [*] --> CONNECTED\n"
        "    CONNECTED --> GONE: DISCONNECT\n"
        "    GONE --> [*]\n"
    )
    assert "ENDED --> ENDED" not in diagram(ASSIGNMENT)


@pytest.mark.parametrize("name", DIAGRAMS)
def test_the_diagrams_in_the_documentation_are_those_of_the_tables(name):
    """If this fails, replace the section by what `python -m thyme.split.states` prints."""
    text = DOCUMENT.read_text()
    found = re.findall(rf"<!-- states:{name} -->\n.*?<!-- end -->\n", text, re.DOTALL)
    assert found == [section(name)]
