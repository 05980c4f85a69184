"""How many devices are in their round at once (G): the rule that the planner, the run's plan and its seats share.

Pure arithmetic. It must never know of machines, messages or the planner.
"""

from math import ceil

MARGIN = 1.5
"""How far the admitted devices over-cover a cycle, so that the slowest hop has work in spite of jitter."""

ROUNDING = 1e-9
"""Slack of whole numbers, so that a sum of thirds counts as one."""


def starting_admission(devices: int, cycle: float, slowest: float) -> int:
    """A good G for `devices` ≥ 1 devices: it covers the cycle, and the last wave of a round is not much smaller.

    `cycle` is a device's whole batch update in an empty system, `slowest` the time that the slowest hop needs for one;
    both in the same unit. Where no hop costs anything, all devices are admitted.
    """
    if slowest <= 0:
        return devices
    least = max(1, ceil(min(devices, MARGIN * cycle / slowest) - ROUNDING))
    return ceil(devices / max(1, devices // least))


def admission_waves(devices: int, admit: int) -> int:
    """How many times G = `admit` devices start one after another until all have had their turn."""
    return ceil(devices / admit)


def seat_admission(admit: int, share: float) -> int:
    """How many of `admit` devices sit at one seat at once when it serves `share` (0 to 1) of all devices."""
    return max(1, ceil(admit * share - ROUNDING)) if share > 0 else 0


def largest_admission(copies: int, share: float, devices: int) -> int:
    """The largest G up to `devices` for which `seat_admission` asks for no more than `copies` ≥ 1 copies."""
    if share <= 0:
        return devices
    return max(1, min(devices, int((copies + ROUNDING) / share)))
