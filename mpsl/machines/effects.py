"""What a machine wants done. Facts only: `Interpreter` performs them over a host, in the order given.

A job, a slice and a timer belong to a session, or to the process itself (session None); `EndSession` ends them with it.
"""

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from mpsl.machines.jobs import WorkerJob
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice
from mpsl.publish import Publish as Publish  # noqa: PLC0414

LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True)
class Subscribe:
    """Subscribe to these filters; answered by `Subscribed` once all are granted."""

    filters: tuple[str, ...]


@dataclass(frozen=True)
class Unsubscribe:
    """Leave these filters."""

    filters: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """Run a job on the worker; answered by `JobDone` or `JobFailed`. Jobs run one at a time, in the order given."""

    job: WorkerJob
    session: SessionId | None = None


@dataclass(frozen=True)
class Write:
    """Copy a slice of weights into the tensor that it belongs to, at once (a memory copy, no computing)."""

    source: str
    slice: Slice
    session: SessionId | None = None


class SetTimer(Struct, frozen=True, gc=False):
    """Ask for `TimerFired(name)` at `at` (seconds of the host's clock).

    It replaces the session's timer of the same name.
    """

    name: str
    at: float
    session: SessionId | None = None


@dataclass(frozen=True)
class CancelTimer:
    """Forget a timer."""

    name: str
    session: SessionId | None = None


@dataclass(frozen=True)
class EndSession:
    """Forget the timers and waiting jobs of a session, and the answer of its running job; then run `Leave` for it."""

    session: SessionId


@dataclass(frozen=True)
class Log:
    """One line for people: an event's name and its facts."""

    level: LogLevel
    event: str
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Stop:
    """End this process: publish what is queued, disconnect cleanly, exit with `status`."""

    status: int
    reason: str = ""


Effect = Subscribe | Unsubscribe | Publish | Run | Write | SetTimer | CancelTimer | EndSession | Log | Stop
