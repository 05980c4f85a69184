"""The table of a hop's session: from `Prepare` to the end of the run."""

import enum

from mpsl.machines.tables.table import Table
from mpsl.messages import (
    Accept,
    Activation,
    Admit,
    Close,
    Commit,
    Discard,
    Gradient,
    Keep,
    Probe,
    RestoreSum,
    Slice,
    TakeSavepoint,
)


class HopState(enum.Enum):
    """The states of a compute node in a run; IDLE is a process without a run."""

    IDLE = "idle"
    PREPARING = "preparing"
    LOADING = "loading"
    SERVING = "serving"


class HopOutcome(enum.Enum):
    """What changes a hop's state."""

    PREPARED = "prepared"
    LOADED = "loaded"


S, O = HopState, HopOutcome  # noqa: E741

TABLE = Table(
    name="hop",
    initial=S.PREPARING,
    transitions={
        (S.PREPARING, O.PREPARED): S.LOADING,
        (S.LOADING, O.LOADED): S.SERVING,
    },
    messages={
        S.IDLE: frozenset(),
        S.PREPARING: frozenset(),
        S.LOADING: frozenset({Slice, Keep}),
        S.SERVING: frozenset(
            {Slice, Admit, Activation, Gradient, Probe, Accept, Discard, Close, Commit, TakeSavepoint, RestoreSum}
        ),
    },
)
