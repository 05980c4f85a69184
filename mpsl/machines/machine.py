"""What all state machines share: events in, effects out, transitions in a table.

Synchronous and total: no I/O, no clock, no chance. An event that the table does not allow raises IllegalEvent before
anything has changed.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from mpsl import strict_json
from mpsl.errors import IllegalEvent
from mpsl.machines.effects import Effect, Log, Publish
from mpsl.machines.events import Event
from mpsl.wire import Buffer


def as_json(content: Mapping[str, Any]) -> bytes:
    """How every JSON topic is written: one line, keys in the order given."""
    return strict_json.dumps(content, compact=True).encode()


def from_json(payload: Buffer) -> dict[str, Any] | None:
    """The object in a JSON payload; None for anything else (foreign, empty, truncated)."""
    try:
        content = json.loads(bytes(payload))
    except (ValueError, RecursionError):  # a thousand brackets, one in the other
        return None
    return content if isinstance(content, dict) else None


class Machine:
    """Base of the three machines. A subclass names its state and its table: state -> kind of event -> method."""

    EVENTS: ClassVar[Mapping[type, str]]
    """What happens whatever the state: kind of event -> method."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stopped = False
        self._effects: list[Effect] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at time `now` (seconds, monotonic) and return what is to be done."""
        method = self.EVENTS.get(type(event))
        if method is None or self.stopped:
            raise IllegalEvent(f"{type(self).__name__}: {type(event).__name__} is not allowed here")
        self.now = now
        self._effects = []
        getattr(self, method)(event)
        return self._effects

    def _do(self, *effects: Effect) -> None:
        self._effects += effects

    def _publish(self, topic: str, content: Mapping[str, Any] | None, retain: bool = False) -> None:
        """Publish JSON at QoS 1; None clears a retained topic."""
        self._do(Publish(topic, b"" if content is None else as_json(content), 1, retain))

    def _log(self, level: Any, event: str, **facts: object) -> None:
        self._do(Log(level, event, facts))
