"""What the benchmarks make of what they saw, and which settings they refuse; their runs are those of everyone."""

import asyncio

import click
import pytest
from click.testing import CliRunner

from orchestrator.bench import admission, link, memory, pipeline, predict, scaling, throughput
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


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (link.command, ["--sizes", "0"], "--sizes 0: whole float32 values, 4 bytes to"),
        (link.command, ["--sizes", "65536,abc"], "--sizes 'abc': write a size"),
        (link.command, ["--sizes", ""], "--sizes '': write a size"),
        (link.command, ["--sizes", "99999999999999"], "--sizes 99999999999999: whole float32 values"),
        (pipeline.command, ["--link=-8mbit/5ms"], "-8mbit/5ms"),
        (pipeline.command, ["--hops", "50"], "50 hops need at least 52 blocks"),
        (scaling.command, ["--hops", "99"], "99 hops need at least 101 blocks"),
        (scaling.command, ["--model", "resnet81"], "resnet81"),
        (memory.command, ["--memory-budget", "5parsecs"], "--memory-budget '5parsecs': write a size"),
        (memory.command, ["--cuts", "5,99"], "cuts lie within 1 and"),
        (admission.command, ["--hops", "60"], "60 hops need at least"),
        (throughput.command, ["--wire", "zip"], "zip"),
        (throughput.command, ["--cuts", "5,2,9"], "cuts must rise"),
        (throughput.command, ["--cuts", "2,5"], "2 cuts, but --hops 2 needs 3"),
        (throughput.command, ["--hops", "20"], "20 hops need at least 22 blocks"),
        (predict.command, ["--hops", "40"], "40 hops need at least"),
        (predict.command, ["--out", "/nonexistent/p.json"], "--out /nonexistent/p.json: there is no directory"),
        (predict.command, ["--link", "slow"], "slow"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(
    command: click.Command, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("it has started")

    monkeypatch.setattr(asyncio, "run", started)
    for module in (predict, throughput):
        monkeypatch.setattr(module, "measured", started)
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code != 0
    assert says in f"{result.output} {result.exception}"
