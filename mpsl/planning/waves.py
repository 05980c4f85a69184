"""How many times a fleet's places must be given away in a round: what memory alone says of every pair of device cuts.

Where memory is tight, few devices fit a stage's nodes at a time, and stages with more nodes leave fewer for the others.
The cheap bounds of `bound.py` look at one stage at a time and do not see that. Never says too much.
"""

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.bound import any_number, exactly
from mpsl.planning.offers import SLACK
from mpsl.planning.stage_table import HOSTS, LOAD, WAVES, WEIGHTS, Array, StageTables

MAX_STEPS = 8
"""Numbers of waves that are tried, of all that stages need."""


def least_waves(
    tables: StageTables, first: NDArray[np.int64], last: NDArray[np.int64], below: float, hops: int | None
) -> Array:
    """For every pair of device cuts: the fewest waves with which the fleet may suffice for all of its stages.

    Only stages with a load less than `below` seconds a round count, and chains of `hops` stages where that is given;
    infinite where no number of waves is enough.
    """
    starts = range(int(first.min()), int(last.max()))
    stages = [tables.stages(start) for start in starts]
    figures = np.concatenate([each.figures for each in stages], axis=1)
    ends = np.concatenate([each.ends for each in stages])
    begins = np.repeat(np.array(starts), [len(each.ends) for each in stages])
    least = np.full(len(first), np.inf)
    steps = np.unique(figures[WAVES])
    if not len(steps):
        return least
    cuts = max(int(ends.max()), int(last.max())) + 1
    tried = np.unique(np.linspace(0, len(steps) - 1, MAX_STEPS).astype(int))
    for place, step in reversed(list(enumerate(tried))):
        counts = (figures[WAVES] <= steps[step]) & (figures[LOAD] < below)
        enough = np.ones(len(first), bool)
        for weight in figures[WEIGHTS:HOSTS, counts]:
            stage = np.full((cuts, cuts), np.inf)
            np.minimum.at(stage, (begins[counts], ends[counts]), weight)
            ways = any_number(stage) if hops is None else exactly(stage, hops)
            enough &= ways[first, last] <= 1 + SLACK
        # Fewer were not enough with the step tried before: only what comes right after that one can be.
        least[enough] = steps[tried[place - 1] + 1] if place else steps[0]
    return least
