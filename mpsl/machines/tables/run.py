"""The table of a run at its orchestrator: the phases in their order; OPEN to REPORTING repeat every round.

A lost seat leads back to JOINING, under a higher term. The parts of a closed round come in, and are written, from
CLOSING until the next CLOSING (`orchestrator/durability.py`).
"""

import enum

from mpsl.machines.tables.table import Table
from mpsl.messages import (
    Closed,
    Committed,
    CopyFailed,
    Counters,
    Discarded,
    Fault,
    Finished,
    Joined,
    Loaded,
    Message,
    Restored,
    Score,
    Sent,
    Slice,
    Update,
)


class OrchestratorState(enum.Enum):
    """The phases of a run."""

    GATHERING = "gathering"
    PROFILING = "profiling"
    JOINING = "joining"
    LOADING = "loading"
    OPEN = "open"
    CLOSING = "closing"
    AVERAGING = "averaging"
    COMMITTING = "committing"
    EVALUATING = "evaluating"
    REPORTING = "reporting"
    RESEATING = "reseating"
    ENDING = "ending"


class RunOutcome(enum.Enum):
    """What ends a phase."""

    PROFILE_WANTED = "profile wanted"
    FLEET_CHANGED = "fleet changed"
    SEATED = "seated"
    RESUMED = "resumed"
    SEAT_LOST = "seat lost"
    MEMBER_TAKEN = "member taken by another run"
    ALL_JOINED = "all joined"
    ALL_LOADED = "all loaded"
    ALL_DECIDED = "all accepted or out"
    ALL_CLOSED = "all closed"
    AVERAGED = "averaged"
    EVALUATION_DUE = "evaluation due"
    ALL_COMMITTED = "all committed"
    ALL_SCORED = "all scored or out"
    REPORTED = "reported"
    NODES_JOINED = "nodes joined"
    LAST_REPORTED = "last round reported"
    FAILED = "failed"


S, O = OrchestratorState, RunOutcome  # noqa: E741

SEATED_STATES = (S.JOINING, S.LOADING, S.OPEN, S.CLOSING, S.COMMITTING, S.EVALUATING, S.REPORTING)
"""Where the run needs its seats."""

_MESSAGES: dict[OrchestratorState, frozenset[type[Message]]] = {
    S.LOADING: frozenset({Loaded, Restored}),
    S.OPEN: frozenset({Slice, Sent, Update, Finished}),
    S.CLOSING: frozenset({Slice, Sent, Closed}),
    S.AVERAGING: frozenset({Slice, Sent}),
    S.COMMITTING: frozenset({Slice, Sent, Committed, Loaded}),
    S.EVALUATING: frozenset({Slice, Sent, Score}),
    S.REPORTING: frozenset({Slice, Sent}),
}

TABLE = Table(
    name="run",
    initial=S.GATHERING,
    transitions={
        (S.GATHERING, O.PROFILE_WANTED): S.PROFILING,
        (S.GATHERING, O.SEATED): S.JOINING,
        (S.GATHERING, O.RESUMED): S.RESEATING,
        (S.PROFILING, O.FLEET_CHANGED): S.GATHERING,
        (S.PROFILING, O.SEATED): S.JOINING,
        (S.JOINING, O.MEMBER_TAKEN): S.GATHERING,
        (S.JOINING, O.ALL_JOINED): S.LOADING,
        (S.LOADING, O.ALL_LOADED): S.OPEN,
        # A round that was committed under the term before is evaluated and reported first.
        (S.LOADING, O.EVALUATION_DUE): S.EVALUATING,
        (S.LOADING, O.ALL_COMMITTED): S.REPORTING,
        (S.OPEN, O.ALL_DECIDED): S.CLOSING,
        (S.CLOSING, O.ALL_CLOSED): S.AVERAGING,
        (S.AVERAGING, O.AVERAGED): S.COMMITTING,
        (S.COMMITTING, O.EVALUATION_DUE): S.EVALUATING,
        (S.COMMITTING, O.ALL_COMMITTED): S.REPORTING,
        (S.EVALUATING, O.ALL_SCORED): S.REPORTING,
        (S.REPORTING, O.REPORTED): S.OPEN,
        (S.REPORTING, O.NODES_JOINED): S.JOINING,
        (S.REPORTING, O.LAST_REPORTED): S.ENDING,
        **{(state, O.SEAT_LOST): S.RESEATING for state in SEATED_STATES},
        (S.RESEATING, O.SEATED): S.JOINING,
        **{(state, O.FAILED): S.ENDING for state in S if state is not S.ENDING},
    },
    messages={state: _MESSAGES.get(state, frozenset()) for state in S},
    always=frozenset({Joined, Fault, CopyFailed, Discarded, Counters}),
)
