"""What can happen to a machine. Facts only: a host makes them, the machines read them."""

from dataclasses import dataclass

from msgspec import Struct

from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.session_id import SessionId
from mpsl.wire import Buffer


@dataclass(frozen=True)
class Connected:
    """The broker has taken us; `max_packet` is its Maximum Packet Size in bytes, None where it names none."""

    max_packet: int | None = None


@dataclass(frozen=True)
class Disconnected:
    """The connection is gone; the host tries again by itself."""

    reason: str


@dataclass(frozen=True)
class Subscribed:
    """The broker has granted all subscriptions asked for so far."""


class Received(Struct, frozen=True, gc=False):
    """A publish arrived; any topic, any bytes."""

    topic: str
    payload: Buffer


@dataclass(frozen=True)
class JobDone:
    """The worker has finished a job."""

    job: WorkerJob
    result: Result
    session: SessionId | None = None


@dataclass(frozen=True)
class JobFailed:
    """A job raised; `reason` is for a person."""

    job: WorkerJob
    reason: str
    session: SessionId | None = None


@dataclass(frozen=True)
class TimerFired:
    """A timer that the machine had set."""

    name: str
    session: SessionId | None = None


@dataclass(frozen=True)
class StopRequested:
    """A person or the system wants this process to end (SIGTERM, Ctrl-C)."""


Event = Connected | Disconnected | Subscribed | Received | JobDone | JobFailed | TimerFired | StopRequested
