"""The queues of a process: binary effects in one, JSON in the other, so that neither waits for the other.

Both are cleared when the connection is lost, because links resend by themselves and machines publish their status
again. Nothing here looks into a payload.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence

from mpsl.machines.effects import Effect, Publish

MAX_TOGETHER = 64
"""The maximum number of publishes in one system call."""
MAX_TOGETHER_BYTES = 1024 * 1024
"""The maximum of their bytes. A message costs as much as some ten thousand bytes, mostly in system and broker."""


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
        """Return the oldest effect, or several small publishes at QoS 0 in a row. They stay queued until `done`."""
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
        """Remove the `count` oldest effects, which have been performed."""
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
    """JSON that waits to be sent, in order. A newer publish replaces an older one on the same subject.

    So the queue holds at most one publish for each subject, however slow the link, and never sends outdated ones. Call
    `answered` once the broker has accepted one.
    """

    def __init__(self) -> None:
        self._waiting: dict[object, Publish] = {}
        self._unanswered = 0
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, publish: Publish) -> None:
        """Queue a publish."""
        # A key that is in use keeps its place in the dict; each publish without a subject has a unique key.
        key = object() if publish.subject is None else (publish.topic, publish.subject)
        self._waiting[key] = publish
        self._filled.set()
        self._empty.clear()

    async def next(self) -> Publish:
        """Remove and return the oldest publish. Call `answered` once the broker has accepted it."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        self._unanswered += 1
        return self._waiting.pop(next(iter(self._waiting)))

    def answered(self) -> None:
        """The broker has accepted or refused a publish."""
        self._unanswered -= 1
        self._note_empty()

    def clear(self) -> None:
        """Forget everything, including unanswered publishes."""
        self._waiting.clear()
        self._unanswered = 0
        self._note_empty()

    async def empty(self) -> None:
        """Wait until all is sent and answered."""
        await self._empty.wait()

    def _note_empty(self) -> None:
        if not self._waiting and not self._unanswered:
            self._empty.set()
