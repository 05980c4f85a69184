"""Events: what can happen to a machine, as plain data. A host makes them, and machines read them."""

from dataclasses import dataclass

from msgspec import Struct

from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.session_id import SessionId
from mpsl.wire import Buffer


@dataclass(frozen=True)
class Connected:
    """The broker accepted the connection. `max_packet` is its Maximum Packet Size in bytes, None if it has none."""

    max_packet: int | None = None
    is_private: bool = True
    """Whether nobody on the way to the broker reads what is sent: TLS, or a broker on this machine."""


@dataclass(frozen=True)
class Disconnected:
    """The connection is lost. The host reconnects by itself."""

    reason: str


@dataclass(frozen=True)
class Subscribed:
    """The broker has granted all subscriptions asked for so far."""


class Received(Struct, frozen=True, gc=False):
    """A publish arrived. Its topic and payload are unchecked."""

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
    """A job raised an exception; `reason` is its text."""

    job: WorkerJob
    reason: str
    session: SessionId | None = None
    is_disk: bool = False
    """Whether a file could not be written: nothing was changed, and the same job may succeed later."""
    is_unforeseen: bool = False
    """Whether it is no error that the project raises on purpose: it says more about this process than about the run."""


@dataclass(frozen=True)
class TimerFired:
    """A timer of the machine has fired."""

    name: str
    session: SessionId | None = None


@dataclass(frozen=True)
class Warned:
    """Something outside of the machine needs a person's attention; "" once it needs none any more."""

    text: str


@dataclass(frozen=True)
class StopRequested:
    """The process is to end (SIGTERM, Ctrl-C)."""


Event = Connected | Disconnected | Subscribed | Received | JobDone | JobFailed | TimerFired | Warned | StopRequested
