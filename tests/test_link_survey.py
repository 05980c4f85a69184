"""Links are measured before the plan: the figures are the cables', the plan follows them, and nothing can stop the run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulated import TOPICS, Outcome, Scenario, simulate
from test_self_profile import Surveyed, WithoutCuts, ran

from mpsl.machines.census import Presence
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import CancelTimer, Effect, Publish, SetTimer, Subscribe, Unsubscribe
from mpsl.machines.events import Connected, Received, Subscribed, TimerFired
from mpsl.machines.hop import HopMachine
from mpsl.machines.link_check import COMMAND, QUIET_S, TIMER, command
from mpsl.machines.link_sample import MOST_MEASURED, filled, sample
from mpsl.machines.machine import as_json
from mpsl.machines.orchestrator.link_survey import PATIENCE_S, SURVEY_S
from mpsl.machines.participant import Participant
from mpsl.machines.survey import levelled
from mpsl.profiling import FIRST_TERM, NO_LIMIT_MBPS, LinkFigures, LinkQuestion
from mpsl.sim.cables import Cable
from mpsl.sim.faults import Faults, Mishap

MBIT = 1e6 / 8
"""Bytes a second."""
FAST = (1000.0, 1000.0, 0.2)
Speeds = dict[str, tuple[float, float, float]]
"""Mbit/s up, Mbit/s down, ms of one way; of everyone else FAST."""


def cables(speeds: Speeds) -> Callable[[str], tuple[Cable, Cable]]:
    """The orchestrator's link is not measured: it is short and has no limit."""

    def of(id: str) -> tuple[Cable, Cable]:
        if id == "orch":
            return Cable(0.001), Cable(0.001)
        up, down, ms = speeds.get(id, FAST)
        return Cable(ms / 1e3, up * MBIT), Cable(ms / 1e3, down * MBIT)

    return of


def linked(scenario: Scenario, speeds: Speeds | None = None, **options: Any) -> Surveyed:
    """Everyone on a machine of its own, behind cables of these speeds."""
    return Surveyed(scenario, cables=cables(speeds or {}), **options)


def said(outcome: Outcome, event: str) -> list[dict[str, Any]]:
    """The facts of each line of the log so called."""
    lines = [entry[3] for entry in outcome.simulation.trace.entries if isinstance(entry[3], tuple)]
    return [facts for name, facts in lines if name == event]


def assert_nothing_is_left(outcome: Outcome) -> None:
    """No participant has a channel, a subscription or a timer of it."""
    seen = 0
    for process in outcome.simulation.processes.values():
        if isinstance(process.machine, Participant):
            seen += 1
            check = process.machine._link_check
            assert (check.run, check._channel, check.filters()) == (None, None, [])
            assert TIMER not in process._timers
    assert seen == len(outcome.scenario.devices) + len(outcome.scenario.nodes)
