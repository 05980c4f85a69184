"""The retained messages of a broker, in a tree of levels, so that a new subscription need not check all of them."""

from collections.abc import Iterator

from mpsl.machines.effects import Publish


class Retained:
    """One level of the tree: its own message, and the levels below."""

    def __init__(self) -> None:
        self._publish: Publish | None = None
        self._below: dict[str, Retained] = {}

    def keep(self, publish: Publish) -> None:
        """Retain a message instead of the topic's last; an empty one clears the topic."""
        level = self
        for part in publish.topic.split("/"):
            level = level._below.setdefault(part, Retained())
        level._publish = publish if publish.payload else None

    def matching(self, filter: str) -> list[Publish]:
        """Return the messages of all topics that match the filter."""
        return list(self._matching(filter.split("/")))

    def _matching(self, parts: list[str]) -> Iterator[Publish]:
        if parts in ([], ["#"]) and self._publish is not None:
            yield self._publish
        if not parts:
            return
        first, rest = parts[0], parts if parts[0] == "#" else parts[1:]
        levels = (
            list(self._below.values()) if first in ("+", "#") else [self._below[first]] if first in self._below else []
        )
        for level in levels:
            yield from level._matching(rest)
