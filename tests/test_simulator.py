"""The machines under every network: whatever is lost, doubled, late or out of order, the result is the reference's.

A failing seed prints how it went; `MPSL_SEEDS=from:to` chooses others (`make simulate SEEDS=from:to`).
"""

import os
from pathlib import Path

import pytest
from scenarios import random_faults, random_scenario
from simulated import run_and_check

FIRST, END = (int(bound) for bound in os.environ.get("MPSL_SEEDS", "0:120").split(":"))
QUICK = 12
"""So many seeds of each kind are quick."""
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] if seed >= FIRST + QUICK else []) for seed in range(FIRST, END)]


@pytest.mark.parametrize("seed", SEEDS)
def test_under_any_network_every_round_is_committed_with_the_reference_result(seed: int, tmp_path: Path) -> None:
    scenario = random_scenario(seed)
    outcome = run_and_check(scenario, tmp_path)
    assert outcome.summary["state"] == "done", outcome.trace()
    assert all(set(entry["devices"]) == set(scenario.devices) for entry in outcome.summary["rounds"]), outcome.trace()
    assert set(outcome.status.values()) == {0}


@pytest.mark.parametrize("seed", SEEDS)
def test_under_any_injected_fault_a_run_is_exact_or_fails_with_a_reason_and_never_hangs(
    seed: int, tmp_path: Path
) -> None:
    run_and_check(random_faults(seed), tmp_path)
