"""Transitions as data, and their interpreter: the only writer of a machine's state.

A table says which outcome leads from which state to which, and which messages each state takes. A machine alone decides
what it does in a state. Nothing here may know a particular machine.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mpsl.errors import IllegalTransition
from mpsl.messages import Message

S = TypeVar("S", bound=enum.Enum)
O = TypeVar("O", bound=enum.Enum)  # noqa: E741  (an outcome)


@dataclass(frozen=True)
class Table(Generic[S, O]):
    """All transitions of one machine: (state, outcome) -> state, and the kinds of message that each state takes."""

    name: str
    initial: S
    transitions: Mapping[tuple[S, O], S]
    messages: Mapping[S, frozenset[type[Message]]]
    always: frozenset[type[Message]] = field(default_factory=frozenset)
    """Kinds of message that every state takes."""


class StateMachine(Generic[S, O]):
    """Holds the state of one machine; `on_transition(state, outcome, next)` is called at every change."""

    def __init__(self, table: Table[S, O], on_transition: Callable[[S, O, S], None] | None = None) -> None:
        self.table = table
        self._state = table.initial
        self._on_transition = on_transition

    @property
    def state(self) -> S:
        """The present state."""
        return self._state

    def takes(self, message: Message) -> bool:
        """Whether the present state takes a message of this kind."""
        kind = type(message)
        return kind in self.table.messages[self._state] or kind in self.table.always

    def leads_to(self, outcome: O) -> S:
        """Return the state that an outcome leads to. Raises IllegalTransition if the table has no such row."""
        following = self.table.transitions.get((self._state, outcome))
        if following is None:
            raise IllegalTransition(f"{self.table.name}: {outcome.name} is no outcome of {self._state.name}")
        return following

    def advance(self, outcome: O) -> S:
        """Follow an outcome to the next state. Raises IllegalTransition before anything has changed."""
        before, following = self._state, self.leads_to(outcome)
        self._state = following
        if self._on_transition is not None:
            self._on_transition(before, outcome, following)
        return following


def diagram(table: Table[S, O]) -> str:
    """Return the table as a Mermaid state diagram, one line per transition."""
    lines = ["stateDiagram-v2", f"    [*] --> {table.initial.value}"]
    lines += [
        f"    {before.value} --> {after.value}: {outcome.value}"
        for (before, outcome), after in table.transitions.items()
    ]
    return "\n".join(lines)
