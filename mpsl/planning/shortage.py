"""Says what is missing where nothing fits: which part on which machine, and how many bytes over."""

import dataclasses

from mpsl.planning.admission import seat_admission
from mpsl.planning.memory import GIB
from mpsl.planning.objective import Placement, fluid_loads, stages_of
from mpsl.planning.shape import Shape
from mpsl.planning.solver import fitting
from mpsl.planning.system import System
from mpsl.planning.terms import DeviceTerms, device_terms, seat_terms, whole_model_terms

PRECISION = 2**20
"""Bytes to which the least missing memory is found."""


def shortage(system: System, shape: Shape) -> str:
    """The reason why no placement of `shape` fits `system`, in a sentence with a way out."""
    if shape.hops == 0:
        return _short_device(system, [(system.blocks, system.blocks)])
    roomy = _with_more(system, 2**60)
    if fitting(roomy, shape) is None:
        firsts = [system.first_cut] if system.first_cut else range(1, system.blocks - 1)
        lasts = [system.last_cut] if system.last_cut else range(2, system.blocks)
        pairs = [(first, last) for first in firsts for last in lasts if last - first >= (shape.hops or 1)]
        return _short_device(system, pairs)
    low, high = 0, PRECISION
    while fitting(_with_more(system, high), shape) is None:
        low, high = high, 2 * high
    while high - low > PRECISION:
        middle = (low + high) // 2
        low, high = (low, middle) if fitting(_with_more(system, middle), shape) else (middle, high)
    nearest = fitting(_with_more(system, high), shape)
    return _short_nodes(system, nearest) if nearest else "no placement fits"


def _with_more(system: System, extra: int) -> System:
    nodes = tuple(dataclasses.replace(node, memory=node.memory + extra) for node in system.nodes)
    return dataclasses.replace(system, nodes=nodes)


def _short_nodes(system: System, placement: Placement) -> str:
    admit, devices = system.admit or 1, len(system.devices)
    over = []
    for ((start, end), stage), loads in zip(stages_of(placement), fluid_loads(system, placement), strict=True):
        for node, load in zip(stage, loads, strict=True):
            figures, terms = system.nodes[node], seat_terms(system, system.nodes[node], start, end)
            copies = max(1, seat_admission(admit, load.devices / devices))
            needed = int(terms.fixed_bytes + copies * terms.copy_bytes)
            if needed > figures.memory:
                over.append(
                    f"blocks [{start}, {end}) with {copies} device{'s' * (copies > 1)} admitted need {needed} bytes on "
                    f"node {figures.id!r}, {int(needed - figures.memory)} over its {int(figures.memory)}"
                )
    return (
        f"no placement fits the nodes' memory; what comes nearest: {'; '.join(over)}. "
        "Give the nodes more memory, add nodes, cut into more hops, or leave more blocks to the devices"
    )


def _short_device(system: System, pairs: list[tuple[int, int]]) -> str:
    shortest: tuple[float, str] = (float("inf"), "")
    for first, last in pairs:
        worst: tuple[float, str] = (0.0, "")
        for device in system.devices:
            whole = first == system.blocks
            terms: DeviceTerms = (
                whole_model_terms(system, device) if whole else device_terms(system, device, first, last)
            )
            kept = "the whole model" if whole else f"blocks [0, {first}) and [{last}, {system.blocks})"
            worst = max(
                worst,
                (
                    terms.memory_bytes - device.memory,
                    f"{kept} need {terms.memory_bytes} bytes on device {device.id!r}, "
                    f"{int(max(0, terms.memory_bytes - device.memory))} over its {device.memory / GIB:g} GiB",
                )
                if terms.memory_bytes > device.memory
                else worst,
            )
        shortest = min(shortest, worst)
    return f"no placement fits the devices' memory; what comes nearest: {shortest[1]}. Leave the devices fewer blocks"
