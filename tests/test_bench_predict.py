"""What `mpsl bench predict` writes down and what it makes of the rounds; its runs are those of everyone."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.predict import MODELS, PredictionSetting, RoundPrediction, compared, line, predict, summary
from benchmarks.this_machine import ALONE, BESIDE, Known, best_cuts, chain, fleet_of, rehearsed, slowed
from mpsl.planning.plan_file import PlanFile
from mpsl.planning.profile_file import BlockProfile, HardwareTimes, Profile
from orchestrator.wire_cost import WireCost


@pytest.fixture
def known() -> Known:
    blocks = tuple(BlockProfile(f"b{n}", 1_000_000, 2_000_000, 4_000_000) for n in range(6))
    times = HardwareTimes((10.0,) * 6, (20.0,) * 6, (1.0,) * 6, 1.0, 4.0, 2, 1)
    return Known(MODELS[0], Profile("any", 32, 100_000, blocks, {ALONE: times, BESIDE: times}), WireCost(1.0, 0.5), 0.2)


def prediction(**seconds: float) -> RoundPrediction:
    return RoundPrediction("m", PredictionSetting(2, 4, "none"), 5, (1, 2, 3), **seconds)


def test_a_setting_is_one_machine_and_its_slow_links_are_the_devices(known: Known) -> None:
    fleet = fleet_of(known, 2, 4, 7, "100mbit/10ms")
    device, node = fleet.expanded_devices()[0], fleet.expanded_nodes()[1]
    assert (len(fleet.expanded_devices()), device.samples) == (4, 7 * 32)
    assert (device.up_mbps, device.down_mbps, device.latency_ms) == (100.0, 100.0, 10.0)
    assert (node.link_mbps, node.hardware, device.hardware) == (1e6, BESIDE, BESIDE)
    assert {device.host, node.host, fleet.broker.host} == {fleet.hosts[0].name}
    assert fleet.broker.max_mb_per_s == 2000
    assert (fleet.job.first_cut, fleet.job.last_cut) == (1, 5)


def test_one_node_computes_alone(known: Known) -> None:
    assert fleet_of(known, 1, 4, 7).expanded_nodes()[0].hardware == ALONE


@pytest.mark.parametrize(
    "setting",
    [PredictionSetting(1, 4, "none"), PredictionSetting(3, 2, "none"), PredictionSetting(2, 4, "100mbit/10ms")],
)
def test_a_round_is_as_long_as_asked_for_and_the_plan_has_the_hops(known: Known, setting: PredictionSetting) -> None:
    found, said = predict(known, setting, 5.0)
    assert isinstance(found, PlanFile)
    assert len(found.seats) == setting.hops
    assert found.cuts == said.cuts
    assert 5.0 <= said.simulated_s < 7.0
    assert 0.5 < said.objective_s / said.simulated_s < 1.5


def test_the_rounds_are_compared_by_their_median() -> None:
    row = compared(prediction(simulated_s=9.0, objective_s=10.0, closed_form_s=12.0), [9.0, 10.0, 12.0], 1.05, 9.5)
    assert row["measured_s"] == 10.0
    assert row["spread"] == pytest.approx(0.3)
    assert row["error"] == {
        "simulated": -0.1, "objective": 0.0, "closed_form": 0.2, "simulated_at_that_speed": -0.05,
    }  # fmt: skip
    assert "predicted 9.00 s, measured 10.00 s (spread 30.0%, machine 1.050 times as long): simulated -10.0%" in line(
        row
    )


def test_errors_count_whatever_their_sign() -> None:
    def row(error: float) -> dict[str, Any]:
        errors = {"simulated": error, "objective": 0.1, "closed_form": 0.2, "simulated_at_that_speed": 0.01}
        return {"error": errors, "spread": 0.02}

    said = summary([row(-0.04), row(0.02)])
    assert said["mean_error"] == {
        "simulated": pytest.approx(0.03), "objective": 0.1, "closed_form": 0.2, "simulated_at_that_speed": 0.01,
    }  # fmt: skip
    assert said["worst_error"]["simulated"] == 0.04
    assert said["mean_spread"] == pytest.approx(0.02)


def test_devices_hold_no_more_than_helps(known: Known) -> None:
    def cuts(*forward_ms: float) -> tuple[int, ...]:
        times = replace(known.profile.hardware[BESIDE], forward_ms=forward_ms, backward_ms=forward_ms)
        profile = replace(known.profile, hardware={ALONE: times, BESIDE: times})
        return best_cuts(replace(known, profile=profile), 2, 4, 8)

    assert cuts(1.0, 20.0, 20.0, 20.0, 20.0, 1.0) == (1, 3, 5)
    # Three equal blocks for two hops: one would wait for the other, so the devices take one of them.
    assert cuts(1.0, 40.0, 40.0, 40.0, 1.0, 1.0)[0] == 2


def test_a_slower_machine_makes_a_round_that_computes_longer_in_proportion(known: Known) -> None:
    fleet = fleet_of(known, 2, 4, 8)
    planned = chain((1, 3, 5), 4)
    before, after = (rehearsed(slowed(known.profile, factor), fleet, planned, 2) for factor in (1.0, 1.5))
    assert after / before == pytest.approx(1.5, rel=0.02)
