"""Runs whose links are measured first, over links of given speeds."""

import os
from collections.abc import Callable
from typing import Any

from scenarios import Scenario
from self_profiles import Surveyed
from simulated import Outcome

from mpsl.machines.link_check import QUIET_TIMER
from mpsl.machines.participant import Participant
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.links import SimulatedLink
from mpsl.sim.times import Attachment, Times

MBIT = 1e6 / 8
"""Bytes a second."""


FAST = (1000.0, 1000.0, 0.2)


Speeds = dict[str, tuple[float, float, float]]
"""Mbit/s up, Mbit/s down, ms of one way; everyone else has FAST."""


def seeds() -> range:
    """Of random faults; `MPSL_SEEDS=from:to` asks for others."""
    first, _, end = os.environ.get("MPSL_SEEDS", "0:12").partition(":")
    return range(int(first), int(end))


class LinkTimes(Times):
    """Links of these speeds; the orchestrator's own link has no limit."""

    def __init__(self, queue: EventQueue, speeds: Speeds) -> None:
        super().__init__(queue)
        self._speeds = speeds

    def attachment(self, process: str) -> Attachment:
        if process == "orch":
            return super().attachment(process)
        up, down, ms = self._speeds.get(process, FAST)
        return Attachment(*(SimulatedLink(self.queue, ms / 1e3, rate * MBIT) for rate in (up, down)))


def link_times(speeds: Speeds) -> Callable[[EventQueue], Times]:
    """Makes the times of a simulation with these links."""
    return lambda queue: LinkTimes(queue, speeds)


def linked(scenario: Scenario, speeds: Speeds | None = None, **options: Any) -> Surveyed:
    """Everyone on a machine of its own, behind links of these speeds."""
    return Surveyed(scenario, times=link_times(speeds or {}), **options)


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
            assert (check.run, check._session, check.filters()) == (None, None, [])
            assert QUIET_TIMER not in {name for _, name in process.timers}
    assert seen == len(outcome.scenario.devices) + len(outcome.scenario.nodes)
