"""PLAN json: a plan as `mpsl plan --json` prints it and `mpsl train --plan` reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise

from mpsl import facts
from mpsl.errors import UsageError
from mpsl.names import check_id


@dataclass(frozen=True)
class PlannedSeat:
    """Replica `replica` (from 0) of stage `stage` (from 1), blocks [a, b), on `node`."""

    stage: int
    replica: int
    node: str
    blocks: tuple[int, int]


@dataclass(frozen=True)
class PlannedRun:
    """The part of a plan that a run needs: cuts, seats, the replicas of each device, and G."""

    cuts: tuple[int, ...]
    seats: tuple[PlannedSeat, ...]
    devices: dict[str, tuple[int, ...]]
    """The replica that serves each device, at each stage."""
    admit: int

    def __post_init__(self) -> None:
        parts = list(pairwise(self.cuts))
        if len(self.cuts) == 1 or any(left >= right for left, right in parts):
            raise ValueError(f"cuts = {list(self.cuts)} must rise strictly, N + 1 of them for N hops")
        replicas = [0] * len(parts)
        for seat in self.seats:
            if not 1 <= seat.stage <= len(parts) or seat.blocks != parts[seat.stage - 1]:
                raise ValueError(
                    f"seat {seat.stage}.{seat.replica} has blocks {list(seat.blocks)}, which are not between cuts"
                )
            if seat.replica != replicas[seat.stage - 1]:
                raise ValueError(f"seat {seat.stage}.{seat.replica} is out of order; replicas count from 0")
            replicas[seat.stage - 1] += 1
        if 0 in replicas:
            raise ValueError(f"stage {replicas.index(0) + 1} has no seat")
        self._check_ids()
        for device, chosen in self.devices.items():
            if len(chosen) != len(parts) or any(
                not 0 <= replica < count for replica, count in zip(chosen, replicas, strict=True)
            ):
                raise ValueError(f"device {device!r}: {list(chosen)} does not choose a replica at each stage")
        if not 1 <= self.admit <= max(1, len(self.devices)):
            raise ValueError(f"admit = {self.admit} must lie within 1 and the number of devices, {len(self.devices)}")

    def _check_ids(self) -> None:
        """Check that each id is valid and occurs once: a node has one seat, and no device is a node."""
        seen: set[str] = set()
        for id in [*(seat.node for seat in self.seats), *self.devices]:
            try:
                check_id(id, "id")
            except UsageError as error:
                raise ValueError(str(error)) from None
            if id in seen:
                raise ValueError(f"id {id!r} occurs twice; a node has one seat, and no device has the id of a node")
            seen.add(id)


@dataclass(frozen=True)
class Bottleneck:
    """The busiest resource: seat, node-link, broker, device or admission."""

    kind: str
    id: str


@dataclass(frozen=True)
class Predicted:
    """The objective's prediction for the plan with whole devices; `simulated_s` is the simulator's, if it was asked."""

    batch_s: float
    """One batch's latency through the empty system."""
    round_s: float
    bottleneck: Bottleneck
    bottleneck_s: float
    """Its busy seconds per batch update of all devices."""
    node_memory_bytes: dict[str, int]
    cost: float
    """Money per round."""
    rounding_loss: float
    """How much longer the round takes than with divisible devices, relative to that."""
    simulated_s: float | None = None


@dataclass(frozen=True)
class PlanFile(PlannedRun):
    """A whole plan: what a run needs, and how good it is."""

    predicted: Predicted
    lower_bound_s: float
    """No placement with fluid shares has a shorter round. If money was minimised, it is the round in which this
    placement would cost the proven minimum."""
    optimal: bool
    gap: float
    """The maximum improvement by another placement, relative to this one's time or money."""
    solver_ms: float | None = None


@dataclass(frozen=True)
class Choice:
    """A chosen plan, and the judge that chose it: the formula (the objective) or the simulator."""

    plan: PlanFile
    """The plan to take."""
    formula: PlanFile
    """The best plan by the formula; the same plan if the simulator agrees."""
    simulated: int
    """The number of simulated plans."""
    reason: str = ""
    """Why the simulator has not judged all plans; "" if it has."""

    @property
    def chosen_by(self) -> str:
        """`simulator`, `formula`, or `formula and simulator` if both prefer the plan to at least one other."""
        if (self.plan.cuts, self.plan.seats) != (self.formula.cuts, self.formula.seats):
            return "simulator"
        return "formula and simulator" if self.simulated > 1 else "formula"


UNUSED_BY_RUN = {field.name for field in fields(PlanFile)} - {field.name for field in fields(PlannedRun)} | {"compare"}
"""Keys of a plan about its quality or its comparison with others, which a run does not need."""


def planned_run(data: object, where: str) -> PlannedRun:
    """Read the part of a PLAN json that a run needs. Raises UsageError that names `where`, the key, and the problem."""
    if isinstance(data, Mapping):
        data = {key: value for key, value in data.items() if key not in UNUSED_BY_RUN}
    return facts.read(PlannedRun, data, where)
