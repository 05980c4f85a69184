"""One participant's link being measured: trains pulled from it and sent to it in turn, until both directions are known.

Who is measured, when, and how long that may take is the survey's. It is told the time and returns what to publish.
"""

from math import inf
from typing import Any

from mpsl.link.channel import Channel, Outbound, Peer
from mpsl.machines.link_check import command, limits_of
from mpsl.machines.permissions import may_measure
from mpsl.machines.probe_burst import Arrival, Direction, probe_burst
from mpsl.messages import End, Linked, Message, ProbeBurst, Pull, Took
from mpsl.names import ORCHESTRATOR
from mpsl.profiling import NO_LIMIT_MBPS, LinkFigures, LinkQuestion
from mpsl.topics import BinaryTopic, Branch, Topics
from mpsl.wire import Buffer


class LinkVisit:
    """The measuring of participant `id`, in boot `boot`; `until` is when it is given up."""

    def __init__(
        self, topics: Topics, question: LinkQuestion, branch: Branch, id: str, boot: str, until: float
    ) -> None:
        self.branch: Branch = branch
        self.id, self.boot, self.until = id, boot, until
        self.asked_at = -inf
        self.over = False
        self._question = question
        limits = limits_of(question.chunk_bytes)
        self._channel = Channel(topics, question.run, ORCHESTRATOR, question.orchestrator, question.term, limits)
        self._channel.set_peers({id: Peer(boot, id)})
        self._latency_s: float | None = None
        self._up, self._down = Direction(question.chunk_bytes), Direction(question.chunk_bytes)
        self._arrival = Arrival()
        self._number = 0
        """Of the last train; odd ones go up, from the participant, and even ones down."""

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

    def next_due(self) -> float | None:
        """When `due` wants to be called."""
        return self._channel.next_due()

    def due(self, now: float) -> list[Outbound]:
        """What the link has to say again."""
        return self._channel.due(now)

    def end(self, now: float) -> list[Outbound]:
        """Tell the participant that this was all; where that is lost, its own deadline tells it."""
        return self._channel.send(self.id, End("done", ""), now)

    def receive(self, topic: BinaryTopic, payload: Buffer, now: float) -> list[Outbound]:
        """Something on our address."""
        messages, outbound = self._channel.receive(topic, payload, now)
        for message in messages:
            if may_measure(self.id, topic.source, ORCHESTRATOR, message):
                outbound += self._take(message, now)
        return outbound

    def _take(self, message: Message, now: float) -> list[Outbound]:
        match message:
            case Linked(latency_s) if not self.answered and 0 <= latency_s < inf:
                self._latency_s = latency_s
                return self._next(now)
            case ProbeBurst(number):
                whole = self._arrival.add(message, now, self._channel.received_bytes)
                if whole is not None and number == self._number:
                    self._up.took(*whole)
                    return self._next(now)
            case Took(number, received, seconds) if number == self._number and received > 0 and 0 <= seconds < inf:
                self._down.took(received, seconds)
                return self._next(now)
        return []

    def _next(self, now: float) -> list[Outbound]:
        """The directions take turns, so that little time shows something of both."""
        if self._up.done and self._down.done:
            self.over = True
            return self.end(now)
        upwards = self._number % 2 == 0
        if (self._up if upwards else self._down).done:
            upwards = not upwards
        self._number += 1 if (self._number % 2 == 0) == upwards else 2
        if upwards:
            return self._channel.send(self.id, Pull(self._number, self._up.size), now)
        pieces = probe_burst(self._number, self._down.size)
        return [each for piece in pieces for each in self._channel.send(self.id, piece, now)]


def _mbps(bytes_per_s: float) -> float:
    return _rounded(min(NO_LIMIT_MBPS, bytes_per_s * 8 / 1e6))


def _rounded(figure: float) -> float:
    """Four digits: the rest is chance."""
    return float(f"{figure:.4g}")
