"""What a machine wants done. Facts only: the driver (or the simulator) performs them, in the order given."""

from dataclasses import dataclass, field
from typing import Literal

from msgspec import Struct

from mpsl.machines.jobs import Job
from mpsl.messages import Slice
from mpsl.publish import Publish as Publish  # noqa: PLC0414


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

    job: Job


@dataclass(frozen=True)
class Write:
    """Copy a slice of weights into the tensor that it belongs to, at once (a memory copy, no computing)."""

    source: str
    slice: Slice


class SetTimer(Struct, frozen=True, gc=False):
    """Ask for `TimerFired(name)` at `at` (seconds of the driver's clock); a timer of the same name is replaced."""

    name: str
    at: float


@dataclass(frozen=True)
class CancelTimer:
    """Forget a timer."""

    name: str


@dataclass(frozen=True)
class Log:
    """One line for people: an event's name and its facts."""

    level: Literal["debug", "info", "warning", "error"]
    event: str
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Stop:
    """End this process: publish what is queued, disconnect cleanly, exit with `status`."""

    status: int
    reason: str = ""


Effect = Subscribe | Unsubscribe | Publish | Run | Write | SetTimer | CancelTimer | Log | Stop
