"""How many devices are admitted at once (G): the rule that the planner, the run's plan and its seats share.

Pure arithmetic. It must never know of machines, messages or the planner.
"""

from math import ceil

CYCLE_MARGIN = 1.5
"""The admitted devices cover a cycle this many times, so that the slowest hop has work in spite of jitter."""

ROUNDING_SLACK = 1e-9
"""Tolerance of comparisons with whole numbers, so that a sum of thirds counts as one."""


def starting_admission(devices: int, cycle: float, slowest: float) -> int:
    """Return a good G for `devices` ≥ 1 devices: it covers the cycle, and the last wave of a round is nearly full.

    `cycle` is the time of a device's whole batch update in an empty system, `slowest` the time that the slowest hop
    needs for it, in the same unit. If no hop costs anything, all devices are admitted.
    """
    if slowest <= 0:
        return devices
    least = max(1, ceil(min(devices, CYCLE_MARGIN * cycle / slowest) - ROUNDING_SLACK))
    return ceil(devices / max(1, devices // least))


def admission_waves(devices: int, admit: int) -> int:
    """Return the number of waves: how often G = `admit` devices start until all have had their turn."""
    return ceil(devices / admit)


def seat_admission(admit: int, share: float) -> int:
    """Return how many of `admit` devices are at one seat at once if it serves `share` (0 to 1) of all devices."""
    return max(1, ceil(admit * share - ROUNDING_SLACK)) if share > 0 else 0


def largest_admission(copies: int, share: float, devices: int) -> int:
    """Return the largest G up to `devices` for which `seat_admission` is at most `copies` ≥ 1."""
    if share <= 0:
        return devices
    return max(1, min(devices, int((copies + ROUNDING_SLACK) / share)))
