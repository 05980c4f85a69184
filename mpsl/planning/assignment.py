"""Whole devices for the replicas of each stage, longest first: what the fluid shares of the search become in a run."""

from dataclasses import dataclass

from mpsl.planning.admission import seat_admission
from mpsl.planning.objective import Load, Placement, stages_of
from mpsl.planning.system import System
from mpsl.planning.terms import SeatTerms, seat_terms


@dataclass(frozen=True)
class Assignment:
    """replicas[k][d]: the replica of stage k that serves device d (an index); loads[k][r]: what each then serves."""

    replicas: tuple[tuple[int, ...], ...]
    loads: tuple[tuple[Load, ...], ...]


def assign(system: System, placement: Placement) -> Assignment:
    """Give each stage's devices, those with most batches first, to the replica that is then done soonest.

    Where the job fixes how many devices are admitted, a replica gets no more than its memory then allows, unless all
    replicas are full.
    """
    replicas, loads = [], []
    for part, stage in stages_of(placement):
        seats = [seat_terms(system, system.nodes[node], *part) for node in stage]
        most = [_most_devices(system, node, seat) for node, seat in zip(stage, seats, strict=True)]
        chosen, load = _longest_first([device.batches for device in system.devices], seats, most)
        replicas.append(tuple(chosen))
        loads.append(tuple(load))
    return Assignment(tuple(replicas), tuple(loads))


def _most_devices(system: System, node: int, seat: SeatTerms) -> int:
    devices = len(system.devices)
    if system.admit is None:
        return devices
    copies = int((system.nodes[node].memory - seat.fixed_bytes) / max(seat.copy_bytes, 1))
    served = range(devices, 0, -1)
    return next((count for count in served if seat_admission(system.admit, count / devices) <= copies), 0)


def _longest_first(batches: list[int], seats: list[SeatTerms], most: list[int]) -> tuple[list[int], list[Load]]:
    loads = [Load(0.0, 0.0) for _ in seats]
    chosen = [0] * len(batches)
    for device in sorted(range(len(batches)), key=lambda device: -batches[device]):
        more = [Load(load.batches + batches[device], load.devices + 1) for load in loads]
        done = [seat.full_load(load.batches, load.devices) for seat, load in zip(seats, more, strict=True)]
        best = min(
            range(len(seats)),
            key=lambda seat: (loads[seat].devices >= most[seat], done[seat], more[seat].devices),
        )
        chosen[device], loads[best] = best, more[best]
    return chosen, loads
