"""PROFILE.json: the costs of a model, block by block, on each kind of hardware. Planning knows no more of a model.

Times are measured elsewhere (`mpsl profile`). Nothing here may measure, or convert units for the objective.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mpsl import facts
from mpsl.errors import UsageError


@dataclass(frozen=True)
class BlockProfile:
    """One block: bytes of its parameters, of its output for one batch, and of what autograd keeps of one batch.

    The output is everything that crosses a cut after the block. `exact_bytes` of it are never coded (integers, masks);
    `gradient_bytes` come back, all of them where it is left out. `frozen_bytes` are those of further parameters, which
    do not train.
    """

    name: str
    parameter_bytes: int
    output_bytes: int
    stored_bytes: int
    exact_bytes: int = 0
    gradient_bytes: int | None = None
    frozen_bytes: int = 0

    def __post_init__(self) -> None:
        for key in ("parameter_bytes", "output_bytes", "stored_bytes", "exact_bytes", "gradient_bytes", "frozen_bytes"):
            if (getattr(self, key) or 0) < 0:
                raise ValueError(f"block {self.name!r}: {key} is {getattr(self, key)}; bytes are not negative")
        if self.exact_bytes > self.output_bytes:
            raise ValueError(f"block {self.name!r}: exact_bytes is more than output_bytes, of which they are a part")


_OPTIONAL = ("exact_bytes", "gradient_bytes", "frozen_bytes")
"""Figures of a block that are left out of the file where they say nothing."""


@dataclass(frozen=True)
class HardwareTimes:
    """Milliseconds of one batch per block, and what moving bytes costs.

    `wire_cpu_s_per_gb` is CPU seconds per 10⁹ bytes sent or received; `copy_gb_per_s` how fast a part is copied and
    folded (free when left out); `threads` is what one process computes with, `cores` what the machine has.
    """

    forward_ms: tuple[float, ...]
    backward_ms: tuple[float, ...]
    step_ms: tuple[float, ...] = ()
    wire_cpu_s_per_gb: float = 0.0
    copy_gb_per_s: float | None = None
    cores: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        for key in ("forward_ms", "backward_ms", "step_ms"):
            if any(not 0 <= value < float("inf") for value in getattr(self, key)):
                raise ValueError(f"{key} has a value that is negative or not finite; measure again")
        if not 0 <= self.wire_cpu_s_per_gb < float("inf"):
            raise ValueError(f"wire_cpu_s_per_gb is {self.wire_cpu_s_per_gb}; it must be at least 0")
        if self.copy_gb_per_s is not None and not self.copy_gb_per_s > 0:
            raise ValueError(f"copy_gb_per_s is {self.copy_gb_per_s}; it must be more than 0, or left out")
        if self.threads < 1 or (self.cores is not None and self.cores < self.threads):
            raise ValueError(f"threads is {self.threads} on {self.cores} cores; it must be from 1 to the cores")


@dataclass(frozen=True)
class Profile:
    """A model's chain of blocks at one batch size, with times on every kind of hardware that was measured."""

    model: str
    batch_size: int
    input_bytes: int
    blocks: tuple[BlockProfile, ...]
    hardware: dict[str, HardwareTimes]
    args: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.input_bytes < 0:
            raise ValueError(f"input_bytes is {self.input_bytes}; bytes are not negative")
        if not self.blocks:
            raise ValueError("blocks is empty; a model has at least one")
        for name, times in self.hardware.items():
            for key in ("forward_ms", "backward_ms", "step_ms"):
                values = getattr(times, key)
                if len(values) != len(self.blocks) and (values or key != "step_ms"):
                    raise ValueError(f"hardware {name!r}: {key} has {len(values)} values for {len(self.blocks)} blocks")


def merged(profile: Profile, other: Profile, where: str) -> Profile:
    """Return `profile` with the hardware of `other`, which `where` names. If both have a hardware, `profile` wins.

    Raises UsageError unless both are of one model and one batch size.
    """
    for key in ("model", "args", "batch_size", "input_bytes"):
        mine, theirs = getattr(profile, key), getattr(other, key)
        if mine != theirs:
            raise UsageError(f"{where}: {key} is {theirs!r}, here it is {mine!r}; only profiles of one model merge")
    if len(profile.blocks) != len(other.blocks):
        raise UsageError(
            f"{where}: {len(other.blocks)} blocks, here the model has {len(profile.blocks)}; measure it again"
        )
    for number, (mine, theirs) in enumerate(zip(profile.blocks, other.blocks, strict=True)):
        if mine != theirs:
            raise UsageError(f"{where}: block {number} is {theirs}, here it is {mine}; measure it again")
    return replace(profile, hardware={**other.hardware, **profile.hardware})


def profile_data(profile: Profile) -> dict[str, Any]:
    """Return the content of PROFILE.json, without unknown figures."""
    data = facts.plain(profile)
    hardware = {
        name: {key: value for key, value in times.items() if value not in (None, [])}
        for name, times in data["hardware"].items()
    }
    blocks = [{key: value for key, value in block.items() if key not in _OPTIONAL or value} for block in data["blocks"]]
    return {"model": data["model"], "args": data["args"], **data, "blocks": blocks, "hardware": hardware}


@dataclass(frozen=True)
class PhaseTimes:
    """Seconds of one batch as prefix sums over the blocks: `forward[b]` is the time of blocks 0 … b-1."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    step: tuple[float, ...]

    def of(self, blocks: tuple[int, int]) -> tuple[float, float, float]:
        """Return the seconds of forward, backward and step of blocks [a, b)."""
        first, end = blocks
        forward, backward, step = (sums[end] - sums[first] for sums in (self.forward, self.backward, self.step))
        return forward, backward, step


def phase_times(profile: Profile) -> dict[str, PhaseTimes]:
    """Return the prefix sums of each kind of hardware, by its name."""
    return {name: _sums(times, len(profile.blocks)) for name, times in profile.hardware.items()}


def _sums(times: HardwareTimes, blocks: int) -> PhaseTimes:
    return PhaseTimes(
        _prefixes(times.forward_ms), _prefixes(times.backward_ms), _prefixes(times.step_ms or (0.0,) * blocks)
    )


def _prefixes(milliseconds: Sequence[float]) -> tuple[float, ...]:
    return (0.0, *itertools.accumulate(value / 1e3 for value in milliseconds))
