"""Chooses a plan, in the same way for `mpsl plan` and for a run without cuts.

The formula proves its best plan; the simulator chooses between that one and others that are nearly as good.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf

from mpsl.errors import OutOfTime, RunFailed, UsageError
from mpsl.machines.orchestrator_jobs import BetterPlan, FindBetterPlan
from mpsl.planning.alternatives import alternatives
from mpsl.planning.feasibility import judge
from mpsl.planning.fleet import Fleet
from mpsl.planning.objective import Shape
from mpsl.planning.plan_file import Choice, PlanFile
from mpsl.planning.planner import plan as find_plan
from mpsl.planning.profile_file import Profile
from mpsl.planning.system import system_of
from mpsl.sim.plan_choice import choose

MIN_GAIN = 0.05
"""By how much rounds must become shorter for a running chain to be cut again."""
MAX_CHOICE_S = 5.0
"""How long a run that plans itself looks for better plans than the formula's best one."""


def chosen_plan(
    profile: Profile,
    fleet: Fleet,
    shape: Shape,
    cheapest: bool = False,
    within_s: float = inf,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Return the plan that the simulator chooses of the best ones by the formula, with the search's time.

    `within_s` after the formula's search, the simulator chooses among the plans that it has judged. If these are fewer
    than two, or a rehearsal fails, the formula's best plan is taken, and the choice says why. Raises UsageError if no
    plan fits.
    """
    started, system = clock(), system_of(profile, fleet)
    best = find_plan(system, shape, cheapest)
    found_at = clock()

    def is_late() -> bool:
        return clock() - found_at > within_s

    try:
        others = alternatives(system, shape, best, cheapest, is_late)
        choice = choose(profile, fleet, best, others, cheapest, is_late)
    except OutOfTime:
        choice = Choice(best, best, 0, f"simulating the best plans takes longer than {within_s:g} s")
    except RunFailed as error:
        choice = Choice(best, best, 0, str(error))
    return replace(choice, plan=replace(choice.plan, solver_ms=(found_at - started) * 1e3))


def better_plan(job: FindBetterPlan) -> BetterPlan:
    """Return the best chain of any length by the formula, if its rounds are shorter than the present ones by MIN_GAIN.

    The simulator is not asked: a run is under way meanwhile. Raises UsageError if the present plan is not of the fleet.
    """
    system = system_of(job.profile, job.fleet)
    now_s = judge(system, job.now, "the present plan").round_s
    found: list[PlanFile] = []
    for hops in range(1, min(len(system.nodes), system.blocks - 2) + 1):
        with contextlib.suppress(UsageError):  # no chain of this length fits
            found.append(find_plan(system, Shape(hops)))
    best = min(found, key=lambda plan: plan.predicted.round_s, default=None)
    if best is None or best.predicted.round_s > (1 - MIN_GAIN) * now_s:
        return BetterPlan(None, now_s)
    return BetterPlan(Choice(best, best, 0, "a run is under way"), now_s)
