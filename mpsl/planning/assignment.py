"""Whole devices for the replicas of each stage, longest first: what the fluid shares of the search become in a run."""

from dataclasses import dataclass

from mpsl.planning.objective import Load, Placement, stages_of
from mpsl.planning.system import System
from mpsl.planning.terms import SeatTerms, seat_terms


@dataclass(frozen=True)
class Assignment:
    """replicas[k][d]: the replica of stage k that serves device d (an index); loads[k][r]: what each then serves."""

    replicas: tuple[tuple[int, ...], ...]
    loads: tuple[tuple[Load, ...], ...]


def assign(system: System, placement: Placement) -> Assignment:
    """Give each stage's devices, those with most batches first, to the replica that is then done soonest."""
    replicas, loads = [], []
    for part, stage in stages_of(placement):
        seats = [seat_terms(system, system.nodes[node], *part) for node in stage]
        chosen, load = _longest_first([device.batches for device in system.devices], seats)
        replicas.append(tuple(chosen))
        loads.append(tuple(load))
    return Assignment(tuple(replicas), tuple(loads))


def _longest_first(batches: list[int], seats: list[SeatTerms]) -> tuple[list[int], list[Load]]:
    loads = [Load(0.0, 0.0) for _ in seats]
    chosen = [0] * len(batches)
    for device in sorted(range(len(batches)), key=lambda device: -batches[device]):
        more = [Load(load.batches + batches[device], load.devices + 1) for load in loads]
        done = [seat.full_load(load.batches, load.devices) for seat, load in zip(seats, more, strict=True)]
        best = min(range(len(seats)), key=lambda seat: (done[seat], more[seat].devices))
        chosen[device], loads[best] = best, more[best]
    return chosen, loads
