"""Seconds of forward, backward and step for any run of blocks on each kind of hardware, summed from a profile."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from mpsl.planning.profile import HardwareTimes, Profile


@dataclass(frozen=True)
class Phases:
    """Prefix sums over the blocks: `forward[b]` is the time of blocks 0 … b-1 for one whole batch, in seconds."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    step: tuple[float, ...]

    def of(self, blocks: tuple[int, int]) -> tuple[float, float, float]:
        """Forward, backward and step of blocks [a, b)."""
        first, end = blocks
        forward, backward, step = (sums[end] - sums[first] for sums in (self.forward, self.backward, self.step))
        return forward, backward, step


def phases_of(profile: Profile) -> dict[str, Phases]:
    """By the name of the hardware."""
    return {name: _sums(times, len(profile.blocks)) for name, times in profile.hardware.items()}


def _sums(times: HardwareTimes, blocks: int) -> Phases:
    return Phases(
        _prefixes(times.forward_ms), _prefixes(times.backward_ms), _prefixes(times.step_ms or (0.0,) * blocks)
    )


def _prefixes(milliseconds: Sequence[float]) -> tuple[float, ...]:
    return (0.0, *itertools.accumulate(value / 1e3 for value in milliseconds))
