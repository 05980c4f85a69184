"""The report: a plan, and a comparison of the ways in which the papers use the same nodes, as text for a person.

Nothing here decides anything; `compare` only asks the planner again with other shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mpsl.errors import UsageError
from mpsl.planning.feasibility import judge
from mpsl.planning.objective import Placement, Shape
from mpsl.planning.plan_file import Choice, PlanFile
from mpsl.planning.planner import plan
from mpsl.planning.seat_memory import GIB
from mpsl.planning.service_demand import seat_demand
from mpsl.planning.system import System

BAR_WIDTH = 20
"""Characters of a full bar."""
SIMILAR_SHARE = 0.01
"""Devices whose seconds differ by less than this share are shown together."""
MAX_KINDS = 8
"""The maximum number of lines for devices."""


@dataclass(frozen=True)
class ComparisonRow:
    """One way to use the nodes. If it is impossible, figures are None and `reason` says why."""

    name: str
    shape: str
    """Replicas of each stage, as in `2 × 3 × 1`."""
    round_s: float | None
    peak_node_bytes: int | None
    cost: float | None
    rounding_loss: float = 0.0
    reason: str | None = None


def compare(system: System, cheapest: bool = False, hops: int | None = None) -> list[ComparisonRow]:
    """Return a row each for one hop, one hop with every node as a replica, N hops, and the best of hops × replicas.

    N is `hops`, or as many as the nodes, the blocks and the job's max_hops allow.
    """
    room = (system.last_cut or system.blocks - 1) - (system.first_cut or 1)
    max_hops = hops or max(1, min(len(system.nodes), room, system.max_hops or room))
    shapes = [
        ("one hop", Shape(1)),
        (f"one hop, {len(system.nodes)} replicas", Shape(all_in_one=True)),
        (f"{max_hops} hops", Shape(max_hops)),
        ("best of hops × replicas", Shape()),
    ]
    rows = [_compared(system, name, shape, cheapest) for name, shape in shapes]
    if rows[-1].rounding_loss:
        # The best plan with divided devices may not be the best with whole ones: a chain without replicas may be it.
        chains = [_compared(system, rows[-1].name, Shape(number), cheapest) for number in range(1, max_hops + 1)]
        possible = [row for row in (rows[-1], *chains) if row.round_s is not None]
        rows[-1] = min(possible, key=lambda row: (row.cost if cheapest else row.round_s) or 0.0)
    return rows


def replicas_of(found: PlanFile) -> list[int]:
    """Return the number of replicas of each stage."""
    return [sum(seat.stage == stage for seat in found.seats) for stage in range(1, len(found.cuts))]


def _compared(system: System, name: str, shape: Shape, cheapest: bool) -> ComparisonRow:
    try:
        found = plan(system, shape, cheapest)
    except UsageError as error:
        return ComparisonRow(name, "-", None, None, None, reason=str(error))
    peak = max(found.predicted.node_memory_bytes.values(), default=0)
    shown = " × ".join(map(str, replicas_of(found)))
    return ComparisonRow(
        name, shown, found.predicted.round_s, peak, found.predicted.cost, found.predicted.rounding_loss
    )


def chain_picture(system: System, found: PlanFile) -> str:
    """Draw the chain from the devices through the stages and back; bars show each seat's share of computation."""
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
            compute = seat_demand(system, node, *seat.blocks).resources[0]
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


def stragglers(system: System, found: PlanFile) -> str:
    """Return a line for each group of similar devices, the slowest first, with a bar; "" if all are similar.

    The seconds are those of a round if the device were alone in the system.
    """
    seconds = judge(system, found, "the plan").device_s
    longest = max(seconds)
    if min(seconds) >= longest * (1 - SIMILAR_SHARE):
        return ""
    kinds: list[tuple[float, list[str]]] = []
    for device_s, id in sorted(
        zip(seconds, (device.id for device in system.devices), strict=True), key=lambda x: -x[0]
    ):
        if not kinds or device_s < kinds[-1][0] * (1 - SIMILAR_SHARE):
            kinds.append((device_s, []))
        kinds[-1][1].append(id)
    names = [f"{ids[0]} and {len(ids) - 1} alike" if len(ids) > 1 else ids[0] for _, ids in kinds[:MAX_KINDS]]
    width = max(map(len, names))
    lines = ["devices, the slowest first: their round if they were alone"]
    lines += [
        f"  {name:<{width}}  {bar(device_s / longest)}  {duration(device_s)}"
        for name, (device_s, _) in zip(names, kinds, strict=False)
    ]
    if hidden := sum(len(ids) for _, ids in kinds[MAX_KINDS:]):
        lines.append(f"  and {count(hidden, 'faster device')}")
    return "\n".join(lines)


def summary(choice: Choice) -> str:
    """Return the prediction in a few lines, and whether the formula or the simulator prefers the plan."""
    found, predicted = choice.plan, choice.plan.predicted
    rehearsed = "" if predicted.simulated_s is None else f", simulated {duration(predicted.simulated_s)}"
    return "\n".join(
        [
            f"round       {duration(predicted.round_s)}{rehearsed}",
            f"one batch   {duration(predicted.batch_s)} through the empty system",
            f"bottleneck  {predicted.bottleneck.kind} {predicted.bottleneck.id}, "
            f"{duration(predicted.bottleneck_s)} a batch update",
            f"admit       {found.admit} of {len(found.devices)} devices at once",
            f"cost        {predicted.cost:.4g} a round",
            *_verdicts(choice),
            f"rounding    whole devices cost {predicted.rounding_loss:.2%} of the round",
        ]
    )


def _verdicts(choice: Choice) -> list[str]:
    """Return the judgements of the formula and of the simulator."""
    found, formula = choice.plan, choice.formula
    searched = "" if found.solver_ms is None else f"; found in {found.solver_ms:.0f} ms"
    if found.optimal:
        lines = [f"formula     optimal, proven{searched}"]
    elif formula.optimal:
        lines = [f"formula     {found.gap:.2%} from its optimum at most{searched}"]
    else:
        lines = [f"formula     not proven optimal, at most {found.gap:.2%} from it{searched}"]
    instead, taken = formula.predicted, found.predicted
    if instead.simulated_s is None or taken.simulated_s is None:
        return [*lines, f"simulator   not asked, {choice.reason}"]
    if choice.chosen_by != "simulator":
        return [*lines, f"simulator   agrees, {count(choice.simulated, 'plan')} simulated"]
    shape = " × ".join(map(str, replicas_of(formula)))
    return [
        *lines,
        f"simulator   best of {count(choice.simulated, 'plan')} simulated; "
        f"the formula's best is cuts {list(formula.cuts)}, replicas {shape}: "
        f"{duration(instead.round_s)}, simulated {duration(instead.simulated_s)}",
    ]


def comparison(rows: Sequence[ComparisonRow]) -> str:
    """Return one line per row, with a bar for the round's time."""
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
    """Return a share from 0 to 1 as BAR_WIDTH characters."""
    full = round(BAR_WIDTH * min(1.0, max(0.0, share)))
    return "█" * full + "░" * (BAR_WIDTH - full)


def count(number: int, what: str) -> str:
    """Return a number with its noun, in singular or plural."""
    return f"{number} {what}{'s' if number != 1 else ''}"


def _short(shape: str) -> str:
    return shape if len(shape) <= 16 else f"{shape[:14]} …"


def duration(seconds: float) -> str:
    """Return seconds in a suitable unit."""
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds:.2f} s" if seconds < 600 else f"{seconds / 60:.1f} min"
