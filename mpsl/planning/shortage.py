"""Says what is missing where nothing fits: which part on which machine, and how many bytes over."""

import dataclasses
from collections.abc import Sequence
from math import ceil

from mpsl.planning.admission import seat_admission
from mpsl.planning.memory import GIB
from mpsl.planning.objective import Load, Placement, fluid_loads, stages_of
from mpsl.planning.shape import Shape
from mpsl.planning.solver import fitting
from mpsl.planning.system import Device, System
from mpsl.planning.terms import device_terms, seat_terms, whole_model_terms

PRECISION = 2**10
"""Bytes to which the least missing memory is found."""
ENOUGH = 2.0**200
"""Bytes that hold anything."""

WAYS_OUT = "Give the nodes more memory, add nodes, cut into more hops, or leave more blocks to the devices"


def shortage(system: System, shape: Shape) -> str:
    """The reason why no placement of `shape` fits `system`, in a sentence with a way out."""
    if shape.hops == 0:
        return _short_device(system, [()])
    if fitting(_with_more(system, ENOUGH), shape) is None:
        firsts = [system.first_cut] if system.first_cut else range(1, system.blocks - 1)
        lasts = [system.last_cut] if system.last_cut else range(2, system.blocks)
        return _short_device(
            system, [(first, last) for first in firsts for last in lasts if last - first >= (shape.hops or 1)]
        )
    low, high = 0, PRECISION
    while fitting(_with_more(system, high), shape) is None:
        low, high = high, 2 * high
    while high - low > PRECISION:
        middle = (low + high) // 2
        low, high = (low, middle) if fitting(_with_more(system, middle), shape) else (middle, high)
    nearest = fitting(_with_more(system, high), shape)
    over = seats_over(system, nearest, fluid_loads(system, nearest)) if nearest else []
    if not over:
        return "no placement was found that fits the nodes' memory; with so many kinds of nodes not all are tried"
    return f"no placement fits the nodes' memory; what comes nearest: {'; '.join(over)}. {WAYS_OUT}"


def seats_over(system: System, placement: Placement, loads: Sequence[Sequence[Load]]) -> list[str]:
    """Of every seat whose memory is too small for what `loads` gives it: its blocks, its node, the bytes over."""
    admit, devices = system.admit or 1, len(system.devices)
    over = []
    for ((start, end), stage), of_stage in zip(stages_of(placement), loads, strict=True):
        for node, load in zip(stage, of_stage, strict=True):
            figures, terms = system.nodes[node], seat_terms(system, system.nodes[node], start, end)
            copies = max(1, seat_admission(admit, load.devices / devices))
            needed = int(terms.fixed_bytes + copies * terms.copy_bytes)
            if needed > figures.memory:
                over.append(
                    f"blocks [{start}, {end}) with {copies} device{'s' * (copies > 1)} admitted need {needed} bytes on "
                    f"node {figures.id!r}, {ceil(needed - figures.memory)} over its {int(figures.memory)}"
                )
    return over


def devices_over(system: System, cuts: Sequence[int]) -> list[str]:
    """The device that misses most memory for its parts, if any does: the parts, and the bytes over."""
    over, device = _most_missing(system, cuts)
    if over <= 0:
        return []
    kept = f"blocks [0, {cuts[0]}) and [{cuts[-1]}, {system.blocks})" if cuts else "the whole model"
    return [
        f"{kept} need {round(device.memory + over)} bytes on device {device.id!r}, {ceil(over)} over its "
        f"{device.memory / GIB:g} GiB"
    ]


def _with_more(system: System, extra: float) -> System:
    nodes = tuple(dataclasses.replace(node, memory=node.memory + extra) for node in system.nodes)
    return dataclasses.replace(system, nodes=nodes)


def _short_device(system: System, cuts: Sequence[tuple[int, ...]]) -> str:
    """Of the device cuts in question, those with which the device that misses most misses least."""
    nearest = min(cuts, key=lambda each: _most_missing(system, each)[0])
    over = "; ".join(devices_over(system, nearest))
    return f"no placement fits the devices' memory; what comes nearest: {over}. Leave the devices fewer blocks"


def _most_missing(system: System, cuts: Sequence[int]) -> tuple[float, Device]:
    """Bytes, less than 0 where there is room."""
    terms = [
        device_terms(system, device, cuts[0], cuts[-1]) if cuts else whole_model_terms(system, device)
        for device in system.devices
    ]
    missing = [(each.memory_bytes - device.memory, device) for each, device in zip(terms, system.devices, strict=True)]
    return max(missing, key=lambda each: each[0])
