"""Devices whose training loss is far from that of the others: their update can be finite and still spoil the model.

This names them, so that a run that diverges afterwards points to its cause and not only to its victims. It must never
leave a device out: what a plausible loss is, nobody can know.
"""

from collections.abc import Mapping
from math import inf
from statistics import median

from mpsl.messages import Update

MAX_LOSS = float(2.0**128) / 2.0**40
"""Mean losses from here on count as infinite: they are near the end of float32, where nothing can be trained."""
OUTLIER_FACTOR = 1000.0
"""From how many times the median of the other devices' losses a loss is an outlier."""


def outliers(contributions: Mapping[str, Update]) -> dict[str, str]:
    """The devices of a committed round whose mean loss is an outlier, each with its loss and the median of the others.

    There are none among fewer than three devices: of two, nobody can tell which one is wrong.
    """
    losses = {id: update.loss / update.samples for id, update in contributions.items() if update.samples}
    if len(losses) < 3:
        return {}
    found = {}
    for id, loss in losses.items():
        usual = median(other for name, other in losses.items() if name != id)
        if loss > OUTLIER_FACTOR * usual and 0 < usual < inf:
            found[id] = f"training loss {loss:.3g}, {usual:.3g} in the median of the others"
    return found


def suspects(contributions: Mapping[str, Update], before: str) -> str:
    """What an error says of outliers if the run fails after this round; `before` is what it said until now.

    The first outliers stand while there are any: once they have spoiled the model, the losses of others jump as well.
    """
    found = outliers(contributions)
    if before and found:
        return before
    if not found:
        return ""
    number = next(iter(contributions.values())).round
    named = "; ".join(f"{id} ({figures})" for id, figures in found.items())
    return f"; far from the others in round {number}: {named}: check whether its samples are scaled as the others' are"
