"""The best placement of a system, with its proof: the search's front door."""

from dataclasses import dataclass

from mpsl.planning.objective import Placement
from mpsl.planning.search import Search
from mpsl.planning.shape import Shape, check_shape
from mpsl.planning.system import System


@dataclass(frozen=True)
class Solution:
    """The best placement found, its value with fluid shares, and a proven lower bound of any placement's value.

    A value is seconds of a round, or money and a trace of seconds (`TIE`) where cost is minimised.
    """

    placement: Placement
    value: float
    bound: float

    @property
    def optimal(self) -> bool:
        """Whether no placement is better."""
        return self.bound >= self.value * (1 - 1e-9)

    @property
    def gap(self) -> float:
        """How much better another placement could be at most, as a share of this one's value."""
        return 0.0 if self.optimal or self.value == 0 else 1 - self.bound / self.value


def solve(system: System, shape: Shape, cheapest: bool = False) -> Solution | None:
    """The placement with the shortest round, or with `cheapest` the least money a round; None where nothing fits.

    Raises UsageError where the shape asks for more nodes or blocks than there are.
    """
    check_shape(system, shape)
    search = Search(system, shape, cheapest)
    search.run()
    if search.best is None:
        return None
    return Solution(search.best, search.value, min(search.value, search.dropped))


def fitting(system: System, shape: Shape) -> Placement | None:
    """Any placement that fits, not a good one; None where there is none. Raises UsageError as `solve` does."""
    check_shape(system, shape)
    search = Search(system, shape, cheapest=False)
    search.run(until_found=True)
    return search.best
