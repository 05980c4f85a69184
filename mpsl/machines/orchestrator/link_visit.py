"""One participant's link being measured: trains pulled from it and sent to it in turn, until both directions are known.

Who is measured, when, and how long that may take is the survey's. It is told the time and returns what to publish.
"""

from collections.abc import Callable
from math import inf
from typing import Any

from mpsl.link.channel import Peer
from mpsl.machines.effects import Effect
from mpsl.machines.link_check import command, limits_of
from mpsl.machines.permissions import may_measure
from mpsl.machines.probe_burst import Arrival, Direction, probe_burst
from mpsl.machines.session import Session
from mpsl.machines.session_id import SessionId
from mpsl.messages import End, Linked, Message, ProbeBurst, Pull, Took
from mpsl.names import ORCHESTRATOR
from mpsl.profile_questions import NO_LIMIT_MBPS, LinkFigures, LinkQuestion
from mpsl.topics import BinaryTopic, Branch, Topics
from mpsl.wire import Buffer


class LinkVisit:
    """The measuring of participant `id`, in boot `boot`; `until` is when it is given up."""

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
        """Of the last burst; odd ones go up, from the participant, and even ones down."""

    def command(self) -> dict[str, Any]:
        """What the participant is told."""
        return command(self.boot, self._question)

    @property
    def answered(self) -> bool:
        """Whether the participant has said that it is ready."""
        return self._latency_s is not None

    def figures(self) -> LinkFigures | None:
        """What is known so far: where there was time for one direction only, the other counts as much."""
        up = self._up.bytes_per_s or self._down.bytes_per_s
        down = self._down.bytes_per_s or up
        if up is None or down is None or self._latency_s is None:
            return None
        return LinkFigures(_mbps(up), _mbps(down), _rounded(self._latency_s * 1e3))

    def end(self, now: float) -> None:
        """Tell the participant that this was all; where that is lost, its own deadline tells it."""
        self.over = True
        self.session.send(self.id, End("done", ""), now)

    def receive(self, topic: BinaryTopic, payload: Buffer, now: float) -> None:
        """Something on our address."""
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
        """The directions take turns, so that little time shows something of both."""
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
    """Four digits: the rest is chance."""
    return float(f"{figure:.4g}")
