"""Effects: the actions that a machine asks for, as plain data. `Interpreter` performs them over a host, in their order.

A job, a slice and a timer belong to a session or to the process (session None). `EndSession` ends those of a session.
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
    """Subscribe to these filters. `Subscribed` follows once all are granted."""

    filters: tuple[str, ...]


@dataclass(frozen=True)
class Unsubscribe:
    """Unsubscribe from these filters."""

    filters: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """Run a job on the worker. `JobDone` or `JobFailed` follows. Jobs run one at a time, in their order."""

    job: WorkerJob
    session: SessionId | None = None


@dataclass(frozen=True)
class Write:
    """Copy a slice of weights into its tensor at once. It is a memory copy, not a computation."""

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
    """Cancel a timer."""

    name: str
    session: SessionId | None = None


@dataclass(frozen=True)
class EndSession:
    """Forget the timers and waiting jobs of a session, and the answer of its running job; then run `Leave` for it.

    `replaced`: no `Leave` follows, since the session of a higher term takes over what the performer holds.
    """

    session: SessionId
    replaced: bool = False


@dataclass(frozen=True)
class Log:
    """Write one log line: the name of an event and its facts."""

    level: LogLevel
    event: str
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Stop:
    """End this process: publish what is queued, disconnect cleanly, exit with `status`."""

    status: int
    reason: str = ""


Effect = Subscribe | Unsubscribe | Publish | Run | Write | SetTimer | CancelTimer | EndSession | Log | Stop
