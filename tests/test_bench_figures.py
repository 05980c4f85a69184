"""What the benchmarks make of what they saw, and which settings they refuse; their runs are those of everyone."""

import asyncio
import json
import os
from typing import Any

import click
import pytest
from click.testing import CliRunner

from benchmarks import admission, link, memory, pipeline, predict, scaling, slowlink, throughput
from benchmarks.following import Followed
from benchmarks.pipeline import busy_shares
from benchmarks.scaling import RoundReadings
from mpsl.errors import RunFailed
from mpsl.nn.cost import block_costs
from orchestrator.locally import threads_each
from orchestrator.observed_system import Observed, Sample
from orchestrator.process_readings import CpuSeconds

TOLD = {"began_at": 2.0, "stepped_at": 12.0, "batches_busy_s": 9.0}


def test_a_node_counts_from_its_first_batch_to_its_last_step() -> None:
    assert busy_shares({"node-1": TOLD, "node-2": TOLD | {"batches_busy_s": 1.0}}) == {"node-1": 0.9, "node-2": 0.1}


def test_what_cannot_be_measured_is_left_out_unless_nothing_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def observe(setting: pipeline.PipelineSetting, devices: int) -> dict[str, dict[str, float]]:
        asked.append(devices)
        if devices == 2:
            raise RunFailed("node-1 is lost")
        return {"node-1": TOLD | {"batches_busy_s": 1.0 * len(asked)}}

    monkeypatch.setattr(pipeline, "_observe", observe)
    result = CliRunner().invoke(pipeline.command, ["--devices", "1", "--devices", "2", "--repeats", "3"])
    assert asked == [1, 2] * 3, "rows alternate"
    assert "2 devices: not measured: node-1 is lost" in result.output
    assert json.loads(result.output.splitlines()[-1])["rows"] == [
        {
            "devices": 1, "busiest": "node-1", "busy": 0.3, "nodes": {"node-1": 0.3},
            "spread": {"node-1": {"least": 0.1, "most": 0.5}}, "runs": 3,
        }
    ]  # fmt: skip
    nothing = CliRunner().invoke(pipeline.command, ["--devices", "2"])
    assert nothing.exit_code == 1
    assert "nothing could be measured" in nothing.output


def test_a_batch_costs_what_lies_between_the_rounds_that_count() -> None:
    def at(broker: float, nodes: float, orchestrator: float) -> dict[str, float]:
        return {"broker": broker, "nodes": nodes, "orchestrator": orchestrator}

    seen = RoundReadings(2, [(10.0, at(1, 5, 1)), (14.0, at(2, 9, 1.2)), (18.0, at(3, 13, 1.4)), (19.0, at(0, 0, 1.5))])
    row = seen.row(4, 8)
    assert (row["devices"], row["seconds_per_batch"]) == (4, 0.5)
    assert row["cpu_s_per_batch"] == pytest.approx(10.4 / 16)
    assert row["by_role"] == {"broker": 2 / 16, "nodes": 8 / 16, "orchestrator": pytest.approx(0.4 / 16)}
    assert row["orchestrator_share"] == pytest.approx(0.4 / 10.4)


def a_row(devices: int, seconds: float, cpu_s: float, share: float = 0.1) -> dict[str, Any]:
    by_role = {"nodes": cpu_s * (1 - share), "orchestrator": cpu_s * share}
    return {
        "devices": devices, "seconds_per_batch": seconds, "cpu_s_per_batch": cpu_s, "by_role": by_role,
        "orchestrator_share": share, "first_round_s": seconds, "memory_mb": [{"nodes": 300.0}],
    }  # fmt: skip


def test_rows_are_medians_and_compared_with_the_runs_of_eight_devices_around_them() -> None:
    two = [(a_row(2, 9.0, 1.0), (a_row(8, 1.0, 1.0),))] * 3
    many = [
        (a_row(32, 3.0, 1.0), (a_row(8, 1.0, 0.5), a_row(8, 3.0, 1.5))),
        (a_row(32, 5.0, 2.0), (a_row(8, 4.0, 4.0), a_row(8, 6.0, 4.0))),
        (a_row(32, 8.0, 6.0), (a_row(8, 4.0, 2.0), a_row(8, 4.0, 2.0))),
    ]
    eight = [(run, (run,)) for run in (a_row(8, 2.0, 1.0), a_row(8, 5.0, 4.0), a_row(8, 4.0, 2.0))]
    _, row, its = scaling.combined({2: two, 32: many, 8: eight})
    assert (row["devices"], row["seconds_per_batch"], row["cpu_s_per_batch"]) == (32, 5.0, 2.0)
    assert row["spread"]["seconds_per_batch"] == {"least": 3.0, "most": 8.0}
    assert row["by_role"] == {"nodes": 1.8, "orchestrator": 0.2}
    assert row["ratio_to"] == its["ratio_to"] == 8
    assert row["ratio"]["seconds_per_batch"] == {"median": 1.5, "least": 1.0, "most": 2.0}
    assert row["ratio"]["cpu_s_per_batch"] == {"median": 1.0, "least": 0.5, "most": 3.0}
    assert its["ratio"]["seconds_per_batch"] == {"median": 1.0, "least": 1.0, "most": 1.0}


@pytest.mark.parametrize(("counts", "reference"), [((4, 2), 4), ((2, 64, 16), 16), ((8,), 8)])
def test_without_eight_devices_the_next_more_are_compared_with_or_the_first(
    counts: tuple[int, ...], reference: int
) -> None:
    rows = scaling.combined({devices: [(a_row(devices, 1.0, 1.0), (a_row(9, 1.0, 1.0),))] for devices in counts})
    assert {row["ratio_to"] for row in rows} == {reference}


def test_scaling_measures_what_it_compares_with_around_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def observe(setting: scaling.ScalingSetting, devices: int, agents: int) -> RoundReadings:
        asked.append(devices)
        return RoundReadings(1, [(0.0, {"orchestrator": 0.0}), (8.0, {"orchestrator": 1.0})])

    monkeypatch.setattr(scaling, "_observe", observe)
    options = ["--repeats", "2", "--rounds", "1", "--batches", "4"]
    for count in (1, 8, 2):
        options += ["--devices", str(count)]
    result = CliRunner().invoke(scaling.command, options)
    assert asked == [8, 1, 8, 2, 8] * 2
    rows = json.loads(result.output.splitlines()[-1])["rows"]
    assert [row["seconds_per_batch"] for row in rows] == [2.0, 0.25, 1.0]
    assert [row["ratio"]["seconds_per_batch"]["median"] for row in rows] == [8.0, 1.0, 4.0]


def test_a_price_is_that_of_a_pair() -> None:
    runs = [{"seconds": few, "seconds_all_at_once": everyone} for few, everyone in ((2.0, 1.0), (3.0, 6.0), (5.0, 5.0))]
    assert admission.figures(runs) == {
        "seconds": 3.0,
        "seconds_all_at_once": 5.0,
        "spread": {"seconds": {"least": 2.0, "most": 5.0}, "seconds_all_at_once": {"least": 1.0, "most": 6.0}},
        "price": {"median": 1.0, "least": 0.5, "most": 2.0},
    }


def test_a_peak_between_two_looks_and_a_raised_g_are_seen() -> None:
    seen = memory.MemoryReadings(peaks={"node-1": 500, "node-2": 900, "devices-0": 7})
    telemetry = {
        node: {"most_copies": copies, "memory": {"base": 1, "resident": 800}}
        for node, copies in (("node-1", 3), ("node-2", 2))
    }
    seen.take(Followed(telemetry, admit=4))
    assert seen.peaks == {"node-1": 800, "node-2": 900, "devices-0": 7}
    assert seen.copies == {"node-1": 3, "node-2": 2}
    assert seen.holders["node-2"] == {"base": 1, "resident": 800}
    assert seen.admit_at_end == 4


def test_the_orchestrators_process_is_among_those_whose_time_is_told() -> None:
    def sample(at: float, *cpu: tuple[str, float, float]) -> Sample:
        return Sample(at, {name: CpuSeconds(loop, worker) for name, loop, worker in cpu}, {}, {"dev-1": at / 10})

    first = sample(0.0, ("broker", 1.0, 1.0), ("orchestrator", 1.0, 2.0), ("dev-1", 0.0, 0.0))
    end = sample(10.0, ("broker", 2.0, 2.0), ("orchestrator", 1.5, 2.25), ("dev-1", 1.0, 3.0))
    found = throughput._processes(Observed({}, [], {"orchestrator": 5_000_000}), first, end, 2.0)
    assert found["orchestrator"] == {
        "compute_s": 0.25, "encode_s": 0.0, "send_s": 0.5, "wait_s": 9.25, "cpu_s_per_batch": 0.75 / 20, "peak_mb": 5.0,
    }  # fmt: skip
    assert (found["dev-1"]["compute_s"], found["dev-1"]["encode_s"], found["dev-1"]["send_s"]) == (2.0, 1.0, 1.0)
    assert (found["broker"]["compute_s"], found["broker"]["send_s"]) == (0.0, 2.0)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (13, 1), (14, 2), (64, 9)])
def test_processes_share_the_cores_that_they_may_use(cores: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert threads_each(6) == threads


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (link.command, ["--sizes", "0"], "--sizes 0: whole float32 values, 4 bytes to"),
        (link.command, ["--sizes", "65536,abc"], "--sizes 'abc': write a size"),
        (link.command, ["--sizes", ""], "--sizes '': write a size"),
        (link.command, ["--sizes", "99999999999999"], "--sizes 99999999999999: whole float32 values"),
        (link.command, ["--sizes", "1GiB"], "--sizes 1073741824: whole float32 values, 4 bytes to 1073676288"),
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
        (slowlink.command, ["--link", "slow"], "slow"),
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


@pytest.mark.parametrize("part_bytes", [100_000, 1_000_000, 16_000_000])
def test_the_parts_of_a_device_behind_a_slow_link_weigh_what_is_asked_for(part_bytes: int) -> None:
    job = slowlink.SlowLinkSetting("1mbit/20ms", part_bytes).job
    assert job.model.cuts is not None
    sizes = [cost.parameter_bytes for cost in block_costs(job.model, job.run.batch_size)]
    first, last = job.model.cuts
    assert sum(sizes[:first]) + sum(sizes[last:]) == pytest.approx(part_bytes, rel=0.02)


def test_telemetry_is_late_by_what_it_was_longer_on_its_way_than_the_fastest() -> None:
    heard = slowlink.Heard()
    for uptime_s, at in ((1.0, 101.2), (3.0, 103.0), (5.0, 106.5)):
        heard.note(uptime_s, at)
    assert (heard.count, heard.longest_gap_s, heard.longest_delay_s) == (3, 3.5, 1.5)


def test_a_slow_device_that_is_left_out_fails_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    async def observe(setting: slowlink.SlowLinkSetting, engine: str) -> Any:
        raise RunFailed("1 devices are left, quorum is 2; left out: dev-2")

    monkeypatch.setattr(slowlink, "observe", observe)
    result = CliRunner().invoke(slowlink.command, ["--link", "1mbit/20ms"])
    assert isinstance(result.exception, RunFailed)
