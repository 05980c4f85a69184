"""The table of a device's session: from `Prepare` to the end of the run."""

import enum

from mpsl.machines.tables.table import Table
from mpsl.messages import Accept, Activation, Admit, Discard, Evaluate, Gradient, Message, Probe, Slice


class DeviceState(enum.Enum):
    """The states of a device in a run; IDLE is a process without a run."""

    IDLE = "idle"
    PREPARING = "preparing"
    WAITING = "waiting"
    ADMITTED = "admitted"
    TRAINING = "training"
    UPLOADING = "uploading"
    CALLED = "called"
    PROBING = "probing"


class DeviceOutcome(enum.Enum):
    """What changes a device's state."""

    PREPARED = "prepared"
    ADMITTED = "admitted"
    ROUND_STARTED = "round started"
    BATCHES_DONE = "batches done"
    ACCEPTED = "accepted"
    CALLED = "called to evaluate"
    EVALUATION_STARTED = "evaluation started"
    SCORED = "scored"
    DISCARDED = "discarded"


S, O = DeviceState, DeviceOutcome  # noqa: E741

_BETWEEN_ROUNDS: frozenset[type[Message]] = frozenset({Slice, Admit, Evaluate, Accept, Discard})

TABLE = Table(
    name="device",
    initial=S.PREPARING,
    transitions={
        (S.PREPARING, O.PREPARED): S.WAITING,
        (S.WAITING, O.ADMITTED): S.ADMITTED,
        (S.WAITING, O.CALLED): S.CALLED,
        (S.WAITING, O.ACCEPTED): S.WAITING,
        (S.WAITING, O.DISCARDED): S.WAITING,
        (S.ADMITTED, O.ROUND_STARTED): S.TRAINING,
        (S.ADMITTED, O.DISCARDED): S.WAITING,
        (S.TRAINING, O.BATCHES_DONE): S.UPLOADING,
        (S.TRAINING, O.DISCARDED): S.WAITING,
        (S.UPLOADING, O.ACCEPTED): S.WAITING,
        (S.UPLOADING, O.ADMITTED): S.ADMITTED,
        (S.UPLOADING, O.CALLED): S.CALLED,
        (S.UPLOADING, O.DISCARDED): S.WAITING,
        (S.CALLED, O.EVALUATION_STARTED): S.PROBING,
        (S.CALLED, O.DISCARDED): S.WAITING,
        (S.PROBING, O.SCORED): S.WAITING,
        (S.PROBING, O.DISCARDED): S.WAITING,
    },
    messages={
        S.IDLE: frozenset(),
        S.PREPARING: frozenset(),
        S.WAITING: _BETWEEN_ROUNDS,
        # Admitted or called to evaluate, but the committed weights have not arrived yet.
        S.ADMITTED: frozenset({Slice, Discard}),
        S.CALLED: frozenset({Slice, Discard}),
        S.TRAINING: frozenset({Activation, Gradient, Discard}),
        S.UPLOADING: _BETWEEN_ROUNDS,
        S.PROBING: frozenset({Probe, Discard}),
    },
)
