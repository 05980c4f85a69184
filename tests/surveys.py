"""Runs whose links are measured first, over cables of given speeds."""

import os
from collections.abc import Callable
from typing import Any

from scenarios import Scenario
from simulated import Outcome
from test_self_profile import Surveyed

from mpsl.machines.link_check import TIMER
from mpsl.machines.participant import Participant
from mpsl.sim.cables import Cable

MBIT = 1e6 / 8
"""Bytes a second."""


FAST = (1000.0, 1000.0, 0.2)


Speeds = dict[str, tuple[float, float, float]]
"""Mbit/s up, Mbit/s down, ms of one way; everyone else has FAST."""


def seeds() -> range:
    """Of random mishaps; `MPSL_SEEDS=from:to` asks for others."""
    first, _, end = os.environ.get("MPSL_SEEDS", "0:12").partition(":")
    return range(int(first), int(end))


def cables(speeds: Speeds) -> Callable[[str], tuple[Cable, Cable]]:
    """The orchestrator's own link has no limit."""

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
    facts = [note[3] for note in outcome.simulation.trace._notes]
    return [fact[1] for fact in facts if isinstance(fact, tuple) and fact[0] == event]


def assert_nothing_is_left(outcome: Outcome) -> None:
    """No participant has a link, a subscription or a timer for it."""
    seen = 0
    for process in outcome.simulation.processes.values():
        if isinstance(process.machine, Participant):
            seen += 1
            check = process.machine._link_check
            assert (check.run, check._channel, check.filters()) == (None, None, [])
            assert TIMER not in process._timers
    assert seen == len(outcome.scenario.devices) + len(outcome.scenario.nodes)
