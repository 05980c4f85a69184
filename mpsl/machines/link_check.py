"""A participant's side of having its link measured: asked on its `cmd` topic, it answers over a link of its own.

It tells how far the broker is (a small message to itself and back), sends trains when told to and times those that come
in; what follows from that the orchestrator decides. Nothing of it outlives the orchestrator, a plan, or its silence.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from mpsl import facts
from mpsl.errors import UsageError
from mpsl.link.channel import CHUNK_BYTES, Channel, Limits, Outbound, Peer
from mpsl.machines.effects import CancelTimer, Effect, Log, SetTimer, Subscribe, Unsubscribe
from mpsl.machines.permissions import may_measure
from mpsl.machines.probe_burst import MAX_BYTES, Arrival, probe_burst
from mpsl.messages import Echo, End, Linked, Message, ProbeBurst, Pull, Took
from mpsl.names import ORCHESTRATOR
from mpsl.profiling import LinkQuestion
from mpsl.topics import Address, BinaryTopic, Topics
from mpsl.wire import Buffer

COMMAND = "link"
"""What `do` says in the command."""
TIMER = "link-check"
QUIET_S = 10.0
"""How long the orchestrator may say nothing before it counts as gone."""
ECHOES = 5


def command(boot: str, question: LinkQuestion) -> dict[str, Any]:
    """The command that asks the process `boot`."""
    return {"do": COMMAND, "boot": boot, "link": facts.plain(question)}


def limits_of(chunk_bytes: int) -> Limits:
    """Of the link on which is measured, at either end."""
    return Limits(chunk_bytes, message=MAX_BYTES, paced=False)


class LinkCheck:
    """The measuring that goes on, if any; `do` wants effects and `post` publishes what the link sends."""

    def __init__(
        self,
        id: str,
        boot: str,
        topics: Topics,
        do: Callable[[Effect], None],
        post: Callable[[list[Outbound]], None],
    ) -> None:
        self._id, self._boot, self._topics = id, boot, topics
        self._do, self._post = do, post
        self._question: LinkQuestion | None = None
        self._ended: LinkQuestion | None = None
        """The last question that was dealt with: it may come again, late."""
        self._forget()

    def _forget(self) -> None:
        self._channel: Channel | None = None
        self._arrival = Arrival()
        self._sent_at = 0.0
        self._shortest_s = inf
        self._until = 0.0

    @property
    def run(self) -> str | None:
        """The run for which is measured."""
        return self._question.run if self._question else None

    def filters(self) -> list[str]:
        """The subscriptions that it needs."""
        return [self._topics.binary(self.run, self._id, "+", "+")] if self.run else []

    def commanded(self, content: Mapping[str, Any], where: str, now: float, max_packet: int | None) -> None:
        """Begin to be measured, unless that goes on or is over. Raises UsageError for what is no command to us."""
        if content.get("boot") != self._boot:
            raise UsageError(f"{where}: no command to this process")
        question = facts.read(LinkQuestion, content.get("link"), where)
        if self._question is not None or self._is_over(question):
            return
        self._question = question
        chunk = min(question.chunk_bytes, (max_packet or CHUNK_BYTES * 1024) - 1024)
        run, term = question.run, question.term
        self._channel = Channel(self._topics, run, self._id, self._boot, term, limits_of(chunk))
        self._channel.set_peers(
            {self._id: Peer(self._boot, self._id), ORCHESTRATOR: Peer(question.orchestrator, ORCHESTRATOR)}
        )
        self._do(Subscribe(tuple(self.filters())))
        self._until = now + QUIET_S
        self._echo(1, now)
        self.wake()

    def _is_over(self, question: LinkQuestion) -> bool:
        """Whether a question is the last one again, or from before it."""
        ended = self._ended
        same = ended is not None and (ended.run, ended.orchestrator) == (question.run, question.orchestrator)
        return same and ended is not None and question.term <= ended.term

    def receive(self, topic: BinaryTopic, payload: Buffer, now: float) -> None:
        """Something on our own address in that run."""
        channel = self._channel
        if channel is None:
            return
        messages, outbound = channel.receive(topic, payload, now)
        self._post(outbound)
        if topic.source == ORCHESTRATOR:
            self._until = now + QUIET_S
        for message in messages:
            if self._channel is channel and may_measure(self._id, topic.source, self._id, message):
                self._take(message, now)
        self.wake()

    def _take(self, message: Message, now: float) -> None:
        assert self._channel is not None
        match message:
            case Echo(number):
                self._shortest_s = min(self._shortest_s, now - self._sent_at)
                if number < ECHOES:
                    self._echo(number + 1, now)
                else:
                    self._send(ORCHESTRATOR, Linked(self._shortest_s / 2), now)
            case Pull(number, size):
                for piece in probe_burst(number, size):
                    self._send(ORCHESTRATOR, piece, now)
            case ProbeBurst(number):
                whole = self._arrival.add(message, now, self._channel.received_bytes)
                if whole is not None:
                    self._send(ORCHESTRATOR, Took(number, *whole), now)
            case End():
                self._post(self._channel.due(inf))
                self.stop()

    def _echo(self, number: int, now: float) -> None:
        self._sent_at = now
        self._send(self._id, Echo(number), now)

    def _send(self, to: Address, message: Message, now: float) -> None:
        assert self._channel is not None
        self._post(self._channel.send(to, message, now))

    def fired(self, now: float) -> None:
        """The timer: something is to be sent again, or the orchestrator has fallen silent."""
        if self._channel is None:
            return
        if now >= self._until:
            self._do(Log("warning", "link-not-measured", {"run": self.run, "reason": f"silence for {QUIET_S:g} s"}))
            self.stop()
            return
        self._post(self._channel.due(now))
        self.wake()

    def wake(self) -> None:
        """Set the timer to when something is next to be done."""
        if self._channel is not None:
            due = self._channel.next_due()
            self._do(SetTimer(TIMER, self._until if due is None else min(due, self._until)))

    def stop(self) -> None:
        """It is over, or no longer wanted: leave nothing behind."""
        if self._question is not None:
            self._do(Unsubscribe(tuple(self.filters())))
            self._do(CancelTimer(TIMER))
            self._ended, self._question = self._question, None
            self._forget()
