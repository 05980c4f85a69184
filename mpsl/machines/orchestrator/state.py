"""Where a run is. What each state allows is the machine's TABLE."""

import enum


class OrchestratorState(enum.Enum):
    """The phases of a run, in their order; OPEN to REPORTING repeat every round."""

    GATHERING = "gathering"
    PROFILING = "profiling"
    JOINING = "joining"
    LOADING = "loading"
    OPEN = "open"
    CLOSING = "closing"
    SAVING = "saving"
    COMMITTING = "committing"
    EVALUATING = "evaluating"
    REPORTING = "reporting"
    ENDING = "ending"
