"""A participant's side of a link measurement: asked on its `cmd` topic, it answers in a separate session.

It measures the latency to the broker (a small message to itself and back), sends bursts on request, and times those
that arrive. The orchestrator evaluates the figures. The session ends with the orchestrator, with a plan, or after
silence.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from mpsl import facts
from mpsl.errors import UsageError
from mpsl.link.channel import Limits, Peer
from mpsl.link_messages import Echo, Linked, ProbeBurst, Pull, Took
from mpsl.machines.effects import Effect, Log, Subscribe, Unsubscribe
from mpsl.machines.participant_session import Identity
from mpsl.machines.permissions import may_measure
from mpsl.machines.probe_burst import MAX_BYTES, Arrival, probe_burst
from mpsl.machines.session import LINK_TIMER, Session, chunk_limit
from mpsl.machines.session_id import SessionId
from mpsl.messages import End, Message
from mpsl.names import ORCHESTRATOR
from mpsl.profile_questions import LinkQuestion
from mpsl.topics import BinaryTopic
from mpsl.wire import Buffer

COMMAND = "link"
"""The value of `do` in the command."""
QUIET_TIMER = "quiet"
QUIET_S = 10.0
"""How long the orchestrator may be silent before it counts as gone."""
ECHOES = 5


def command(boot: str, question: LinkQuestion) -> dict[str, Any]:
    """The command that asks the process `boot`."""
    return {"do": COMMAND, "boot": boot, "link": facts.plain(question)}


def limits_of(chunk_bytes: int) -> Limits:
    """Return the limits of the measured link, for both ends."""
    return Limits(chunk_bytes, message=MAX_BYTES, paced=False)


class LinkCheck:
    """The present measurement in the process `identity`, if any; `emit` receives its effects."""

    def __init__(self, identity: Identity, emit: Callable[[Effect], None]) -> None:
        self._identity = identity
        self._emit = emit
        self._session: Session | None = None
        self._question: LinkQuestion | None = None
        self._ended: LinkQuestion | None = None
        """The last question that was handled; a late repeat of it is ignored."""
        self._arrival = Arrival()
        self._asked_at = self._sent_at = 0.0
        self._shortest_s = inf

    @property
    def session_id(self) -> SessionId | None:
        """The session of the measurement."""
        return self._session.id if self._session else None

    @property
    def run(self) -> str | None:
        """The run that it is measured for."""
        return self._session.id.run if self._session else None

    def filters(self) -> list[str]:
        """The subscriptions that it needs."""
        identity = self._identity
        return [identity.topics.binary(self.run, identity.id, "+", "+")] if self.run else []

    def commanded(self, content: Mapping[str, Any], where: str, now: float, max_packet: int | None) -> None:
        """Start a measurement, unless the question is a repeat. Raises UsageError if it is for another process."""
        identity = self._identity
        if content.get("boot") != identity.boot:
            raise UsageError(f"{where}: the command is for another process")
        question = facts.read(LinkQuestion, content.get("link"), where)
        if self._session is not None or self._is_over(question):
            return
        limits = limits_of(chunk_limit(question.chunk_bytes, max_packet))
        session_id = SessionId(question.run, question.term)
        session = Session(session_id, identity.topics, identity.id, identity.boot, limits, self._emit)
        session.set_peers(
            {
                identity.id: Peer(identity.boot, identity.id),
                ORCHESTRATOR: Peer(question.orchestrator, ORCHESTRATOR),
            }
        )
        self._session, self._question = session, question
        self._arrival, self._shortest_s = Arrival(), inf
        self._asked_at = now
        self._emit(Subscribe(tuple(self.filters())))
        session.set_timer(QUIET_TIMER, now + QUIET_S)
        self._echo(session, 1, now)

    def _is_over(self, question: LinkQuestion) -> bool:
        """Whether a question is the last one again, or from before it."""
        ended = self._ended
        same = ended is not None and (ended.run, ended.orchestrator) == (question.run, question.orchestrator)
        return same and ended is not None and question.term <= ended.term

    def receive(self, topic: BinaryTopic, payload: Buffer, now: float) -> None:
        """Take a payload on this process's address in that run."""
        session = self._session
        if session is None:
            return
        messages = session.receive(topic, payload, now)
        if topic.source == ORCHESTRATOR:
            session.set_timer(QUIET_TIMER, now + QUIET_S)
        for message in messages:
            if not session.over and may_measure(self._identity.id, topic.source, self._identity.id, message):
                self._take(session, message, now)
        session.wake()

    def _take(self, session: Session, message: Message, now: float) -> None:
        match message:
            case Echo(number):
                self._shortest_s = min(self._shortest_s, now - self._sent_at)
                if number < ECHOES:
                    self._echo(session, number + 1, now)
                else:
                    session.send(ORCHESTRATOR, Linked(self._shortest_s / 2), now)
            case Pull(number, size):
                for piece in probe_burst(number, size):
                    session.send(ORCHESTRATOR, piece, now)
            case ProbeBurst(number):
                whole = self._arrival.add(message, now, session.channel.received_bytes)
                if whole is not None:
                    session.send(ORCHESTRATOR, Took(number, *whole), now)
            case End():
                session.flush(inf)
                self.stop()

    def _echo(self, session: Session, number: int, now: float) -> None:
        self._sent_at = now
        session.send(self._identity.id, Echo(number), now)

    def timer_fired(self, name: str, now: float) -> None:
        """A timer has fired: resend, or end because the orchestrator is silent."""
        session = self._session
        if session is None:
            return
        if name == LINK_TIMER:
            session.flush(now)
        elif name == QUIET_TIMER and now < (quiet_at := self._quiet_at(session)):
            session.set_timer(QUIET_TIMER, quiet_at)
        elif name == QUIET_TIMER:
            session.log(Log("warning", "link-not-measured", {"reason": f"silence for {QUIET_S:g} s"}))
            self.stop()

    def _quiet_at(self, session: Session) -> float:
        """When the orchestrator counts as gone. Bytes in flight to it extend the time, up to a maximum."""
        under_way_s = session.channel.seconds_under_way(ORCHESTRATOR)
        heard_at = session.channel.heard_at.get(ORCHESTRATOR, self._asked_at)
        return heard_at + QUIET_S + min(QUIET_S, under_way_s)

    def back_online(self) -> None:
        """Have the link resend what was lost with the connection."""
        if self._session is not None:
            self._session.wake()

    def stop(self) -> None:
        """End the measurement, because it is over or no longer wanted."""
        if self._session is not None:
            self._emit(Unsubscribe(tuple(self.filters())))
            self._session.end()
            self._ended, self._question, self._session = self._question, None, None
