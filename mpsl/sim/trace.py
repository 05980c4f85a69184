"""The trace of a simulation, for people: its last lines, with messages decoded where possible."""

from collections import deque

from mpsl.errors import WireError
from mpsl.link import chunk
from mpsl.machines.events import JobDone, JobFailed, Received, TimerFired
from mpsl.wire import Buffer, header_of


class Trace:
    """Keeps the last `length` lines; formats them only when asked."""

    def __init__(self, length: int) -> None:
        self._notes: deque[tuple[float, str, str, object]] = deque(maxlen=length)

    def note(self, now: float, process: str, what: str, fact: object) -> None:
        """Add a line."""
        self._notes.append((now, process, what, fact))

    def text(self) -> str:
        """Return all lines, oldest first."""
        return "\n".join(
            f"{now:10.4f}  {process:<8} {what:<8} {_shown(fact)}" for now, process, what, fact in self._notes
        )


def _shown(fact: object) -> str:
    match fact:
        case Received(topic, payload):
            return f"{'/'.join(topic.split('/')[3:])} {_message(payload)}"
        case JobDone(job):
            return f"done {_short(job)}"
        case JobFailed(job, reason):
            return f"failed {_short(job)}: {reason}"
        case TimerFired(name):
            return f"timer {name}"
        case (str(event), dict(facts)):
            return f"{event} {' '.join(f'{key}={value}' for key, value in facts.items())}"
    return _short(fact)


def _short(fact: object) -> str:
    text = f"{type(fact).__name__} {getattr(fact, 'ticket', '')}" if hasattr(fact, "tensor") else str(fact)
    return text if len(text) <= 200 else text[:197] + "…"


def _message(payload: Buffer) -> str:
    if bytes(payload[:4]) != chunk.MAGIC:
        return bytes(payload[:200]).decode(errors="replace")
    try:
        decoded = chunk.decode(payload)
        if isinstance(decoded, chunk.Ack):
            return f"ack {decoded.lane} session {decoded.session} next {decoded.next} gaps {decoded.gaps}"
        header, body = decoded
        where = f"session {header.session} #{header.sequence} {header.index + 1}/{header.total}"
        if header.index:
            return where
        message, _ = header_of(body)
        return f"{where} {message.get('k')} {message.get('f')}"
    except WireError as error:
        return f"{len(payload)} bytes: {error}"
