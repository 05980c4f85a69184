"""Measures one participant's link with probe bursts, up and down in turn, until both directions are known.

The survey decides who is measured, when, and for how long. The clock comes from outside.
"""

from collections.abc import Callable
from math import inf
from typing import Any

from mpsl.link.channel import Peer
from mpsl.link_messages import Linked, ProbeBurst, Pull, Took
from mpsl.machines.effects import Effect
from mpsl.machines.link_check import command, limits_of
from mpsl.machines.permissions import may_measure
from mpsl.machines.probe_burst import Arrival, Direction, probe_burst
from mpsl.machines.session import Session
from mpsl.machines.session_id import SessionId
from mpsl.messages import End, Message
from mpsl.names import ORCHESTRATOR
from mpsl.profile_questions import NO_LIMIT_MBPS, LinkFigures, LinkQuestion
from mpsl.topics import BinaryTopic, Branch, Topics
from mpsl.wire import Buffer


class LinkVisit:
    """The measurement of participant `id` with boot `boot`; it is given up at `until`."""

    def __init__(
        self,
        topics: Topics,
        question: LinkQuestion,
        branch: Branch,
        id: str,
        boot: str,
        until: float,
        emit: Callable[[Effect], None],
    ) -> None:
        self.branch: Branch = branch
        self.id, self.boot, self.until = id, boot, until
        self.asked_at = -inf
        self.over = False
        self._question = question
        session_id = SessionId(question.run, question.term)
        limits = limits_of(question.chunk_bytes)
        self.session = Session(session_id, topics, ORCHESTRATOR, question.orchestrator, limits, emit)
        self.session.set_peers({id: Peer(boot, id)})
        self._latency_s: float | None = None
        self._up, self._down = Direction(question.chunk_bytes), Direction(question.chunk_bytes)
        self._arrival = Arrival()
        self._number = 0
        """The number of the last burst. Odd bursts go up, from the participant; even ones go down."""

    def command(self) -> dict[str, Any]:
        """Return the command for the participant."""
        return command(self.boot, self._question)

    @property
    def answered(self) -> bool:
        """Whether the participant has reported that it is ready."""
        return self._latency_s is not None

    def figures(self) -> LinkFigures | None:
        """Return the figures so far. If only one direction was measured, the other counts as equal."""
        up = self._up.bytes_per_s or self._down.bytes_per_s
        down = self._down.bytes_per_s or up
        if up is None or down is None or self._latency_s is None:
            return None
        return LinkFigures(_mbps(up), _mbps(down), _rounded(self._latency_s * 1e3))

    def end(self, now: float) -> None:
        """Tell the participant that the measurement is over. If the message is lost, its own deadline ends it."""
        self.over = True
        self.session.send(self.id, End("done", ""), now)

    def receive(self, topic: BinaryTopic, payload: Buffer, now: float) -> None:
        """Take a payload on the orchestrator's address."""
        for message in self.session.receive(topic, payload, now):
            if may_measure(self.id, topic.source, ORCHESTRATOR, message):
                self._take(message, now)
        self.session.wake()

    def _take(self, message: Message, now: float) -> None:
        match message:
            case Linked(latency_s) if not self.answered and 0 <= latency_s < inf:
                self._latency_s = latency_s
                self._next(now)
            case ProbeBurst(number):
                whole = self._arrival.add(message, now, self.session.channel.received_bytes)
                if whole is not None and number == self._number:
                    self._up.took(*whole)
                    self._next(now)
            case Took(number, received, seconds) if number == self._number and received > 0 and 0 <= seconds < inf:
                self._down.took(received, seconds)
                self._next(now)

    def _next(self, now: float) -> None:
        """Start the next burst. Directions take turns, so that even a short measurement covers both."""
        if self._up.done and self._down.done:
            self.end(now)
            return
        upwards = self._number % 2 == 0
        if (self._up if upwards else self._down).done:
            upwards = not upwards
        self._number += 1 if (self._number % 2 == 0) == upwards else 2
        if upwards:
            self.session.send(self.id, Pull(self._number, self._up.size), now)
            return
        for piece in probe_burst(self._number, self._down.size):
            self.session.send(self.id, piece, now)


def _mbps(bytes_per_s: float) -> float:
    return _rounded(min(NO_LIMIT_MBPS, bytes_per_s * 8 / 1e6))


def _rounded(figure: float) -> float:
    """Round to four significant digits; the others are noise."""
    return float(f"{figure:.4g}")
