"""Lets the simulator choose among the best plans by the formula, because the formula knows nothing of waiting.

The planner proves which plan is best by its objective. The simulator runs the machines of a real run, and may find that
another plan is faster, for instance if a few slow devices are admitted with fast ones. The choice must never hide the
judge: it holds both figures of the plan that is best by the formula.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from mpsl.errors import OutOfTime
from mpsl.planning.fleet import Fleet
from mpsl.planning.plan_file import Choice, PlanFile
from mpsl.planning.planner import value
from mpsl.planning.profile_file import Profile
from mpsl.planning.system import system_of
from mpsl.sim.rehearsal import messages, simulated_seconds

MAX_MESSAGES = 10_000
"""A round with more messages between parts is simulated with fewer batches; see `simulated_seconds`."""

MAX_ALL_MESSAGES = 30_000
"""The maximum number of messages simulated for one choice, over all plans; some seconds."""

MAX_FORMULA_EXCESS = 0.05
"""A plan whose time by the formula exceeds the best simulated time by this share is not simulated."""

MIN_PLANS = 2
"""The minimum number of simulated plans for a choice."""

MIN_GAIN = 0.02
"""A smaller gain in the simulator does not replace the best plan by the formula, because it may take more nodes."""


def choose(
    profile: Profile,
    fleet: Fleet,
    best: PlanFile,
    others: Sequence[PlanFile],
    cheapest: bool,
    is_late: Callable[[], bool] = lambda: False,
) -> Choice:
    """Return the plan with the best simulated round, or with `cheapest` the least money for it.

    `best` is the best plan by the formula, `others` are alternatives, best first. Every plan that is simulated gets its
    `simulated_s`. If the best one has too many messages to be simulated at all, it is the choice.
    Raises RunFailed if a rehearsal fails, and OutOfTime if `is_late` returns true before there is a choice.
    """
    system, sent = system_of(profile, fleet), 0
    known: list[PlanFile] = []
    late = ""
    for found in (best, *others):
        if known:
            limit = min(_simulated_value(each, cheapest) for each in known) * (1 + MAX_FORMULA_EXCESS)
            if value(found, cheapest) > limit or sent >= MAX_ALL_MESSAGES:
                break
        try:
            simulated_s = simulated_seconds(profile, fleet, found, MAX_MESSAGES, is_late)
        except OutOfTime:
            if len(known) < MIN_PLANS:
                raise
            late = f"the time was over after {len(known)} plans"
            break
        if simulated_s is None:
            break
        known.append(replace(found, predicted=replace(found.predicted, simulated_s=simulated_s)))
        sent += min(MAX_MESSAGES, messages(system, found))
    if not known:
        return Choice(best, best, 0, "the round has too many messages")
    formula = known[0]
    chosen = min(known, key=lambda found: _simulated_value(found, cheapest))
    if _simulated_value(chosen, cheapest) >= _simulated_value(formula, cheapest) * (1 - MIN_GAIN):
        chosen = formula
    return Choice(chosen, formula, len(known), late)


def _simulated_value(found: PlanFile, cheapest: bool) -> float:
    """Return the minimised value, with the simulated round instead of the predicted one."""
    predicted = found.predicted
    if predicted.simulated_s is None:
        raise ValueError("the plan was not simulated")
    if not cheapest:
        return predicted.simulated_s
    return predicted.cost * predicted.simulated_s / predicted.round_s if predicted.round_s else 0.0
