"""Nodes that join in the middle of a run without cuts get seats where rounds become shorter, at the next boundary."""

from dataclasses import replace
from pathlib import Path

import pytest
from self_profiles import Surveyed, WithoutCuts
from simulated import Outcome, check

from mpsl.errors import UsageError
from mpsl.job import read_job
from mpsl.machines.jobs import WorkerJob

LONG = WithoutCuts(1, hops=1, samples=(9, 7, 8), tests=(0, 0, 0), rounds=30, quorum=3)
HEAVY_MS = 400.0
"""Of a block on a node: one that all blocks share is the bottleneck."""


class Slow(Surveyed):
    """Jobs that take long enough for a node to join in the middle."""

    def _takes(self, process: str, job: WorkerJob) -> float:
        return max(0.04, super()._takes(process, job))


def ran(out: Path, scenario: WithoutCuts, node_ms: float, **changes: object) -> Outcome:
    """A run of one node, which a second one joins while it is under way."""
    world = Slow(scenario, lambda id, number: node_ms if id.startswith("node") else 1.0)
    world.job_changes = changes
    world.add_orchestrator(out, 0.0)
    for id in scenario.devices:
        world.add_device(id, 0.5)
    world.add_node("node-1", 0.5)
    world.add_node("node-2", 12.0)
    ending = world.run()
    outcome = Outcome(scenario, world.simulation, ending, world.orchestrators["orch"].summary, out, world.most_copies)
    check(outcome)
    assert outcome.summary["state"] == "done", outcome.trace()
    return outcome


def test_a_node_that_joins_gets_a_seat_at_the_boundary_of_a_round(tmp_path: Path) -> None:
    terms = ran(tmp_path, LONG, HEAVY_MS).summary["terms"]
    assert [sorted(term["seats"].values()) for term in terms] == [["node-1"], ["node-1", "node-2"]]
    assert terms[1]["reason"].startswith("shorter rounds with node-2: ")
    assert terms[1]["round"] > 0


def test_no_round_is_lost_and_none_is_made_twice(tmp_path: Path) -> None:
    outcome = ran(tmp_path, LONG, HEAVY_MS)
    assert [entry["round"] for entry in outcome.summary["rounds"]] == list(range(1, 31))
    assert "round-undone" not in outcome.simulation.trace.text()


def test_a_node_that_would_gain_nothing_gets_no_seat(tmp_path: Path) -> None:
    assert len(ran(tmp_path, LONG, 0.001).summary["terms"]) == 1


def test_a_job_can_keep_its_chain(tmp_path: Path) -> None:
    assert len(ran(tmp_path, LONG, HEAVY_MS, elastic=False).summary["terms"]) == 1


@pytest.mark.parametrize("changes", [{"cuts": [1, 3]}, {}])
def test_only_a_chain_without_cuts_is_elastic(changes: dict[str, object]) -> None:
    content = LONG.job()
    content["model"] |= changes
    assert read_job(content, "job").is_elastic is not bool(changes)
    content["fleet"]["elastic"] = True
    if changes:
        with pytest.raises(UsageError, match="elastic = true needs a job without cuts"):
            read_job(content, "job")
    else:
        assert read_job(content, "job").is_elastic


def test_replicas_are_not_elastic() -> None:
    content = replace(LONG, replicas=2).job()
    assert not read_job(content, "job").is_elastic
