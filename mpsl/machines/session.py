"""A session: everything that belongs to one run under one term in one process.

Its links, timers, jobs and counts end with it, so nothing of an earlier term can be delivered. The orchestrator,
devices and nodes use it in a run, and both ends use it while a link is measured. It must never know what a message
means.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from mpsl.job import FleetSection
from mpsl.link.channel import CHUNK_BYTES, Channel, Limits, Peer, Unanswered
from mpsl.machines.effects import CancelTimer, Effect, EndSession, Log, Run, SetTimer, Write
from mpsl.machines.jobs import WorkerJob
from mpsl.machines.session_id import SessionId
from mpsl.messages import Message, Slice
from mpsl.plan import Plan
from mpsl.topics import Address, BinaryTopic, Lane, Topics
from mpsl.wire import Buffer

LINK_TIMER = "link"
LOST_GRACE_S = FleetSection.grace_s
"""How long a last will is provisional unless the job says otherwise: a restarting broker publishes it, and the process
is back soon."""
PACKET_HEADROOM = 1024
"""Bytes of a packet beside the chunk: the topic, the properties, the MQTT headers."""


def chunk_limit(wanted: int, max_packet: int | None) -> int:
    """Return the bytes of a chunk: the job's, within the broker's Maximum Packet Size (None: no limit)."""
    return min(wanted, (max_packet or CHUNK_BYTES * 1024) - PACKET_HEADROOM)


def peers_of(plan: Plan) -> dict[str, Peer]:
    """Return all participants of a plan, with boot and the address of acknowledgements."""
    return {id: Peer(boot, address) for id, (boot, address) in plan.boots().items()}


class Session:
    """The session `id` of process (`source`, `boot`); `emit` receives its effects.

    `links_before`: links that earlier sessions of this id started, for a process that left and joins again.
    """

    def __init__(
        self,
        id: SessionId,
        topics: Topics,
        source: str,
        boot: str,
        limits: Limits,
        emit: Callable[[Effect], None],
        links_before: int = 0,
    ) -> None:
        self.id = id
        self.channel = Channel(topics, id.run, source, boot, id.term, limits, links_before)
        self.dropped: Counter[str] = Counter()
        self.over = False
        self._emit = emit
        self._reported: set[tuple[Address, Lane]] = set()
        """Links whose missing acknowledgements are in the log."""

    def set_peers(self, peers: Mapping[str, Peer]) -> None:
        """Accept messages from exactly these boots."""
        self.channel.set_peers(peers)

    # Messages

    def send(self, to: Address, message: Message, now: float) -> None:
        """Send a message over the link to `to`."""
        self._publish(self.channel.send(to, message, now))
        self.wake()

    def receive(self, topic: BinaryTopic, payload: Buffer, now: float) -> list[Message]:
        """Return the messages that a payload completes, and acknowledge it. Call `wake` once they are handled."""
        messages, outbound = self.channel.receive(topic, payload, now)
        self._publish(outbound)
        return messages

    def flush(self, now: float) -> None:
        """Send the acknowledgements and repeats that are due; at `now` = infinity, all of them."""
        self._publish(self.channel.due(now))
        if not self.over:
            self.wake()

    def wake(self) -> None:
        """Set the timer of the links to their next deadline."""
        if not self.over and (at := self.channel.next_due()) is not None:
            self.set_timer(LINK_TIMER, at)

    def unanswered(self, now: float) -> list[Unanswered]:
        """Return the links on which acknowledgements are overdue; each is logged when it is found first."""
        found = self.channel.unanswered(now)
        links = {(each.to, each.lane) for each in found}
        for each in found:
            if (each.to, each.lane) not in self._reported:
                facts = {"to": each.to, "lane": each.lane, "seconds": round(each.seconds), "bytes": each.bytes}
                self.log(Log("warning", "unanswered", facts))
        self._reported = links
        return found

    def drop(self, message: Message, why: str) -> None:
        """Count a message that is late, early or repeated, or whose sender may not send it."""
        self.dropped[f"{message.kind} {why}"] += 1

    @property
    def dropped_total(self) -> int:
        """Messages and chunks that were dropped."""
        return self.dropped.total() + self.channel.dropped.total()

    def _publish(self, outbound: Sequence[Effect]) -> None:
        for each in outbound:
            self._emit(each)

    # Jobs and timers

    def start_job(self, job: WorkerJob) -> None:
        """Ask the worker for a job."""
        self._emit(Run(job, self.id))

    def write(self, source: str, message: Slice) -> None:
        """Have a slice of weights copied into its tensor."""
        self._emit(Write(source, message, self.id))

    def set_timer(self, name: str, at: float) -> None:
        """Set a timer of this session."""
        self._emit(SetTimer(name, at, self.id))

    def cancel_timer(self, name: str) -> None:
        """Cancel a timer of this session."""
        self._emit(CancelTimer(name, self.id))

    def log(self, line: Log) -> None:
        """Write a log line that names run and term."""
        self._emit(Log(line.level, line.event, {"run": self.id.run, "term": self.id.term, **line.facts}))

    def end(self, replaced: bool = False) -> None:
        """End the session with its timers and jobs. The performer frees its memory, unless a successor takes it."""
        if not self.over:
            self.over = True
            self._emit(EndSession(self.id, replaced))
