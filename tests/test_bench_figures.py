"""What the benchmarks of pipeline and scaling make of what they saw; their runs are those of everyone."""

import pytest

from orchestrator.bench.pipeline import busy_shares
from orchestrator.bench.scaling import Seen


def test_a_node_counts_from_its_first_batch_to_its_last() -> None:
    idle, last = (0, 0.0, 0.0), (9, 60.0, 11.0)
    looks = [idle, (0, 1.0, 0.5), (1, 2.0, 1.5), (4, 7.0, 6.0), (8, 12.0, 10.5), (9, 13.0, 11.0), last]
    assert busy_shares({"node-1": looks, "node-2": [idle, last]}) == {"node-1": pytest.approx(0.9)}


def test_a_batch_costs_what_lies_between_the_rounds_that_count() -> None:
    def at(broker: float, nodes: float, orchestrator: float) -> dict[str, float]:
        return {"broker": broker, "nodes": nodes, "orchestrator": orchestrator}

    seen = Seen(2, [(10.0, at(1, 5, 1)), (14.0, at(2, 9, 1.2)), (18.0, at(3, 13, 1.4)), (19.0, at(0, 0, 1.5))])
    row = seen.row(4, 8)
    assert (row["devices"], row["seconds_per_batch"]) == (4, 0.5)
    assert row["cpu_s_per_batch"] == pytest.approx(10.4 / 16)
    assert row["by_role"] == {"broker": 2 / 16, "nodes": 8 / 16, "orchestrator": pytest.approx(0.4 / 16)}
    assert row["orchestrator_share"] == pytest.approx(0.4 / 10.4)
