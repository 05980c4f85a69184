"""A plan and a comparison as text that a person reads."""

from collections.abc import Sequence

from mpsl.planning.compare import Row
from mpsl.planning.memory import GIB
from mpsl.planning.objective import Placement
from mpsl.planning.plan_file import PlanFile
from mpsl.planning.system import System
from mpsl.planning.terms import seat_terms

BAR = 20
"""Characters of a full bar."""


def chain_picture(system: System, found: PlanFile) -> str:
    """The chain from the devices through the stages and back; a bar shows how much of the round a seat computes."""
    placement = _placement(system, found)
    devices = count(len(system.devices), "device")
    if not placement.cuts:
        return f"{devices:<12} blocks [0, {system.blocks}), no hops"
    lines = [f"{devices:<12} blocks [0, {placement.cuts[0]})"]
    for stage, cut in enumerate(placement.cuts[:-1], start=1):
        lines.append(_crossing(system, cut))
        for seat in (seat for seat in found.seats if seat.stage == stage):
            node = next(node for node in system.nodes if node.id == seat.node)
            served = [
                device.batches for device in system.devices if found.devices[device.id][stage - 1] == seat.replica
            ]
            compute = seat_terms(system, node, *seat.blocks).resources[0]
            computed = compute.seconds(sum(served), len(served))
            busy = computed / found.predicted.round_s if computed else 0.0
            place = f"stage {stage}" if seat.replica == 0 else ""
            blocks = f"blocks [{seat.blocks[0]}, {seat.blocks[1]})" if seat.replica == 0 else ""
            memory = found.predicted.node_memory_bytes[seat.node] / GIB
            lines.append(
                f"{place:<12} {blocks:<16} {seat.node:<14} {bar(busy)} {busy:4.0%} busy  {memory:6.2f} GiB"
                f"  {len(served)} of {len(system.devices)} devices"
            )
    lines.append(_crossing(system, placement.cuts[-1]))
    lines.append(f"{devices:<12} blocks [{placement.cuts[-1]}, {system.blocks})")
    return "\n".join(lines)


def summary(found: PlanFile) -> str:
    """The prediction in a few lines."""
    predicted = found.predicted
    proof = "optimal, proven" if found.optimal else f"not proven optimal, at most {found.gap:.2%} from it"
    simulated = "" if predicted.simulated_s is None else f", simulated {duration(predicted.simulated_s)}"
    searched = "" if found.solver_ms is None else f", found in {found.solver_ms:.0f} ms"
    return "\n".join(
        [
            f"round       {duration(predicted.round_s)}{simulated}",
            f"one batch   {duration(predicted.batch_s)} through the empty system",
            f"bottleneck  {predicted.bottleneck.kind} {predicted.bottleneck.id}, "
            f"{duration(predicted.bottleneck_s)} a batch update",
            f"admit       {found.admit} of {len(found.devices)} devices at once",
            f"cost        {predicted.cost:.4g} a round",
            f"plan        {proof}{searched}; whole devices cost {predicted.rounding_loss:.2%} of the round",
        ]
    )


def comparison(rows: Sequence[Row]) -> str:
    """One line a way, with a bar for the round's time."""
    longest = max((row.round_s or 0.0 for row in rows), default=0.0)
    lines = [f"{'':<26} {'replicas':<16} {'round':>10} {'peak a node':>12} {'cost':>10}"]
    for row in rows:
        if row.round_s is None or row.peak_node_bytes is None or row.cost is None:
            lines.append(f"{row.name:<26} {(row.reason or '').split('; blocks')[0]}")
            continue
        lines.append(
            f"{row.name:<26} {_short(row.shape):<16} {duration(row.round_s):>10} "
            f"{row.peak_node_bytes / GIB:>8.2f} GiB {row.cost:>10.4g} {bar(row.round_s / longest if longest else 0.0)}"
        )
    return "\n".join(lines)


def _placement(system: System, found: PlanFile) -> Placement:
    index = {node.id: place for place, node in enumerate(system.nodes)}
    stages = [
        tuple(index[seat.node] for seat in found.seats if seat.stage == stage) for stage in range(1, len(found.cuts))
    ]
    return Placement(found.cuts, tuple(stages))


def _crossing(system: System, cut: int) -> str:
    return f"     │       ↓ {system.activation[cut] / 1e6:.3g} MB  ↑ {system.gradient[cut] / 1e6:.3g} MB"


def bar(share: float) -> str:
    """A share from 0 to 1 as BAR characters."""
    full = round(BAR * min(1.0, max(0.0, share)))
    return "█" * full + "░" * (BAR - full)


def count(number: int, what: str) -> str:
    """So many of what."""
    return f"{number} {what}{'s' if number != 1 else ''}"


def _short(shape: str) -> str:
    return shape if len(shape) <= 16 else f"{shape[:14]} …"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.2f} s" if seconds < 600 else f"{seconds / 60:.1f} min"
