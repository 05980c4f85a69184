"""What a process has yet to send: binary effects in one queue, JSON in another, so that neither waits for the other.

Both are emptied when the connection is lost: the links send again by themselves, and machines say anew how they are.
Nothing here looks into a payload.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence

from mpsl.machines.effects import Effect, Publish

MAX_TOGETHER = 64
"""Publishes that go out in one call of the system,"""
MAX_TOGETHER_BYTES = 1024 * 1024
"""and their bytes: a message costs as much as some ten thousand bytes, most of it in the system, and in the broker."""


class Outbox:
    """Effects that wait to be sent, in order."""

    def __init__(self) -> None:
        self._entries: deque[Effect] = deque()
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, effect: Effect) -> None:
        """Queue an effect."""
        self._entries.append(effect)
        self._filled.set()
        self._empty.clear()

    async def next(self) -> Sequence[Effect]:
        """The oldest effect, with publishes at QoS 0 those that follow and are small; queued until they are `done`."""
        while not self._entries:
            self._filled.clear()
            await self._filled.wait()
        together: list[Effect] = []
        room = MAX_TOGETHER_BYTES
        for effect in itertools.islice(self._entries, MAX_TOGETHER):
            if not isinstance(effect, Publish) or effect.qos:
                break
            room -= len(effect.payload)
            if together and room < 0:
                break
            together.append(effect)
        return together or [self._entries[0]]

    def done(self, count: int) -> None:
        """The `count` oldest effects have been performed."""
        for _ in range(count):
            self._entries.popleft()
        if not self._entries:
            self._empty.set()

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._empty.set()

    async def empty(self) -> None:
        """Wait until all is sent."""
        await self._empty.wait()


class JsonOutbox:
    """JSON that waits to be sent, in order. A newer publish takes the place of an older one on the same subject.

    So the queue never holds more than one publish for each subject, however slow the link, and what goes out is never
    older than it has to be. `answered` tells it that the broker has taken one.
    """

    def __init__(self) -> None:
        self._waiting: dict[object, Publish] = {}
        self._unanswered = 0
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, publish: Publish) -> None:
        """Queue a publish."""
        # A key that is in use keeps its place in the dict; a publish without a subject has a key of its own.
        key = object() if publish.subject is None else (publish.topic, publish.subject)
        self._waiting[key] = publish
        self._filled.set()
        self._empty.clear()

    async def next(self) -> Publish:
        """The oldest publish, which leaves the queue; call `answered` once the broker has taken it."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        self._unanswered += 1
        return self._waiting.pop(next(iter(self._waiting)))

    def answered(self) -> None:
        """The broker has taken one, or has refused it."""
        self._unanswered -= 1
        self._note_empty()

    def clear(self) -> None:
        """Forget everything, also what is not answered yet."""
        self._waiting.clear()
        self._unanswered = 0
        self._note_empty()

    async def empty(self) -> None:
        """Wait until all is sent and answered."""
        await self._empty.wait()

    def _note_empty(self) -> None:
        if not self._waiting and not self._unanswered:
            self._empty.set()
