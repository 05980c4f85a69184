"""Finds the subscribers of a topic: MQTT filters with + and # in a tree of levels.

The cost of a look-up grows with the length of the topic.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class _Level:
    below: dict[str, "_Level"] = field(default_factory=dict)
    here: set[str] = field(default_factory=set)
    """Subscribers of exactly the levels so far."""
    rest: set[str] = field(default_factory=set)
    """Subscribers of this level and all below (#)."""


class Subscriptions:
    """Filters of named subscribers."""

    def __init__(self) -> None:
        self._root = _Level()
        self._of: dict[str, set[str]] = {}
        self._found: dict[str, list[str]] = {}

    def add(self, subscriber: str, filter: str) -> None:
        """Subscribe. Repeating it changes nothing."""
        self._found.clear()
        self._of.setdefault(subscriber, set()).add(filter)
        level, rest = self._level(filter)
        (level.rest if rest else level.here).add(subscriber)

    def remove(self, subscriber: str, filter: str) -> None:
        """Unsubscribe, if subscribed."""
        self._found.clear()
        self._of.get(subscriber, set()).discard(filter)
        level, rest = self._level(filter)
        (level.rest if rest else level.here).discard(subscriber)

    def forget(self, subscriber: str) -> None:
        """Remove all of a subscriber's filters."""
        for filter in list(self._of.pop(subscriber, ())):
            self.remove(subscriber, filter)

    def of(self, topic: str) -> list[str]:
        """Return the subscribers of a topic, each once, sorted."""
        found = self._found.get(topic)
        if found is None:
            found = self._found[topic] = sorted(set().union(*self._matching(topic)))
        return found

    def _level(self, filter: str) -> tuple[_Level, bool]:
        parts = filter.split("/")
        rest = parts[-1] == "#"
        level = self._root
        for part in parts[: len(parts) - rest]:
            level = level.below.setdefault(part, _Level())
        return level, rest

    def _matching(self, topic: str) -> Iterator[set[str]]:
        levels = [self._root]
        for part in topic.split("/"):
            yield from (level.rest for level in levels)
            levels = [level.below[key] for level in levels for key in (part, "+") if key in level.below]
        for level in levels:
            yield level.here
            yield level.rest
