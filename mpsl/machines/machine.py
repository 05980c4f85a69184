"""The base of all state machines: events in, effects out, invariants checked.

Synchronous and total: no I/O, no clock, no randomness. An event that comes after the stop raises IllegalEvent before
anything has changed.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from mpsl import strict_json
from mpsl.errors import IllegalEvent
from mpsl.machines.effects import Effect, Log, LogLevel, Publish
from mpsl.machines.events import Event
from mpsl.wire import Buffer


def as_json(content: Mapping[str, Any]) -> bytes:
    """Write the payload of a JSON topic: one line, keys in the given order."""
    return strict_json.dumps(content, compact=True).encode()


def from_json(payload: Buffer) -> dict[str, Any] | None:
    """Return the object in a JSON payload, or None for anything else (foreign, empty, truncated)."""
    try:
        content = json.loads(bytes(payload))
    except (ValueError, RecursionError):  # a thousand nested brackets
        return None
    return content if isinstance(content, dict) else None


class Machine(ABC):
    """Base of the three machines."""

    validating: ClassVar[bool] = False
    """Whether `validate` runs after every event: in all tests and in the simulator."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stopped = False
        self._effects: list[Effect] = []

    @property
    @abstractmethod
    def will(self) -> Publish:
        """The last will, which the broker publishes when this process vanishes."""

    @abstractmethod
    def _take(self, event: Event) -> None:
        """Handle an event."""

    @abstractmethod
    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold."""

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at time `now` (seconds, monotonic) and return the effects."""
        if self.stopped:
            raise IllegalEvent(f"{type(self).__name__}: {type(event).__name__} came after the stop")
        self.now = now
        self._effects = []
        self._take(event)
        if Machine.validating:
            self.validate()
        return self._effects

    def emit(self, *effects: Effect) -> None:
        """Add these effects to those of the present event."""
        self._effects += effects

    def publish_json(
        self, topic: str, content: Mapping[str, Any], retain: bool = False, subject: str | None = None
    ) -> None:
        """Publish JSON at QoS 1. While it waits to be sent, a newer one on the same topic and subject replaces it."""
        self.emit(Publish(topic, as_json(content), 1, retain, subject=subject))

    def log(self, level: LogLevel, event: str, **facts: object) -> None:
        """Write one line for people."""
        self.emit(Log(level, event, facts))
