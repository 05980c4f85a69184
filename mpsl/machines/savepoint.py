"""A savepoint: the sums of the open round after its first accepted updates, which follow the order of acceptance.

They are a consistent state of all parts, so a round can go on from there under any plan that can take them over. Plain
data; the sums themselves are in a file of the performer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpsl.machines.members import Passage
from mpsl.messages import Update
from mpsl.plan import Plan


@dataclass(frozen=True)
class Savepoint:
    """The state of round `round` after the updates in `accepted` (training samples by device, in order)."""

    round: int
    accepted: dict[str, int]
    terms: dict[str, int]
    """Under which term each of them was accepted."""
    updates: dict[str, dict[str, Any]]
    passages: dict[str, dict[str, Any]]
    elapsed_s: float
    """Since the round was opened."""
    cuts: list[int]
    replicas: dict[str, list[int]]
    """Which replica served each of the devices, by stage; empty where no stage has any."""
    boots: dict[str, str]
    """Of the devices, as the plan named them."""
    digests: dict[str, str] = field(default_factory=dict)
    """Of the seats' sums, by their addresses."""

    @property
    def number(self) -> int:
        """How many updates it holds."""
        return len(self.accepted)

    @property
    def contributions(self) -> dict[str, Update]:
        """The updates as they were taken."""
        return {id: Update(**said) for id, said in self.updates.items()}

    def passage(self, device: str) -> Passage:
        """When a device was in the round."""
        return Passage(**self.passages[device])

    def fits(self, plan: Plan) -> bool:
        """Whether a round under `plan` can go on from here.

        A chain may be cut in any way. Replicas add up their own devices, so they must be those that served them.
        """
        if not self.accepted.keys() <= plan.devices.keys():
            return False
        if not self.replicas and not plan.replicated:
            return True
        return list(plan.cuts) == self.cuts and replicas_of(plan, self.accepted) == self.replicas


def replicas_of(plan: Plan, accepted: Mapping[str, int]) -> dict[str, list[int]]:
    """Which replica serves each accepted device, by stage; empty where no stage has any."""
    return {id: list(plan.devices[id].replicas) for id in accepted} if plan.replicated else {}
