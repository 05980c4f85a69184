"""Chooses a plan, in the same way for `mpsl plan` and for a run without cuts.

The formula proves its best plan; the simulator chooses between that one and others that are nearly as good.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from math import inf

from mpsl.errors import OutOfTime, RunFailed
from mpsl.planning.alternatives import alternatives
from mpsl.planning.fleet import Fleet
from mpsl.planning.objective import Shape
from mpsl.planning.plan_file import Choice
from mpsl.planning.planner import plan as find_plan
from mpsl.planning.profile_file import Profile
from mpsl.planning.system import system_of
from mpsl.sim.plan_choice import choose

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
