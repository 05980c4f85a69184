"""Runs in virtual time with a device behind 1 or 2 Mbit/s whose parts weigh 16 MB: nobody at work is left out."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scenarios import Scenario
from simulated import Outcome, World, run_and_check
from surveys import MBIT, said

from mpsl.link.channel import CHUNK_BYTES
from mpsl.machines.census import STALE_S
from mpsl.machines.online import TELEMETRY_S
from mpsl.machines.participant_session import SILENCE_S
from mpsl.machines.session import LOST_GRACE_S
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.faults import InjectedFault
from mpsl.sim.links import SharedLink, SimulatedLink
from mpsl.sim.network import NOTICE_S
from mpsl.sim.process import Process
from mpsl.sim.times import Attachment, Times

pytestmark = pytest.mark.slow

WIDTH = 1990
PART_BYTES = 4 * (6 * WIDTH + WIDTH * (WIDTH + 1) + 16 * (WIDTH + 1) + 3 * 17)
"""Of the device's blocks: 5 → WIDTH → WIDTH → 16, and 16 → 3 behind the hop."""
SLOW = Scenario(
    seed=1, samples=(9, 7), tests=(4, 3), hidden=(WIDTH, WIDTH, 16, 16), first_cut=3, rounds=1,
    quorum=1, chunk_bytes=CHUNK_BYTES, slowest_job_s=0.01,
)  # fmt: skip


class SlowTimes(Times):
    """These processes are behind links of `mbit`, or behind one gateway of that rate together; others have no limit."""

    def __init__(self, queue: EventQueue, mbit: float, slow: tuple[str, ...], gateway: bool = False) -> None:
        super().__init__(queue)
        self._rate, self._slow = mbit * MBIT, slow
        self._gateway = [SharedLink(self._rate) if gateway else None for _ in range(2)]

    def attachment(self, process: str) -> Attachment:
        if process not in self._slow:
            return super().attachment(process)
        return Attachment(*(SimulatedLink(self.queue, 0.02, self._rate, shared) for shared in self._gateway))


def over(mbit: float, scenario: Scenario = SLOW, slow: tuple[str, ...] = ("dev-2",), gateway: bool = False) -> World:
    """A world in which these are behind links of that rate."""
    return World(scenario, times=lambda queue: SlowTimes(queue, mbit, slow, gateway))


def listening(monkeypatch: pytest.MonkeyPatch, hears: Callable[[Process, str], bool]) -> None:
    """What arrives at a process, by topic, is taken by it only where `hears` says so."""
    received = Process._received

    def filtered(self: Process, topic: str, payload: bytes) -> None:
        if hears(self, topic):
            received(self, topic, payload)

    monkeypatch.setattr(Process, "_received", filtered)


def left_out(outcome: Outcome) -> list[str]:
    return [str(facts["device"]) for facts in said(outcome, "left-out")]


def took_part(outcome: Outcome, mbit: float) -> None:
    """dev-2 was in the round, which took the time of its bytes: there, and back."""
    assert outcome.summary["state"] == "done", outcome.trace()
    assert left_out(outcome) == []
    (entry,) = outcome.summary["rounds"]
    assert sorted(entry["devices"]) == ["dev-1", "dev-2"]
    bytes_s = 2 * PART_BYTES / (mbit * MBIT)
    assert bytes_s <= entry["seconds"] <= 1.1 * bytes_s + 5.0
    assert entry["bytes"]["device_up"] <= 2 * 1.02 * PART_BYTES, "nothing was sent twice"


@pytest.mark.parametrize("mbit", [1.0, 2.0])
def test_a_device_whose_parts_take_minutes_takes_part_and_tells_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mbit: float
) -> None:
    assert PART_BYTES > 16_000_000
    heard: list[float] = []

    def note(process: Process, topic: str) -> bool:
        if process.id == "orch" and topic.endswith("dev/dev-2/tele"):
            heard.append(process.now())
        return True

    listening(monkeypatch, note)
    took_part(run_and_check(SLOW, tmp_path, world=over(mbit)), mbit)
    gaps = [after - before for before, after in itertools.pairwise(heard)]
    assert max(gaps) <= TELEMETRY_S + 0.6, "it waits for a chunk to end, which is half a second of the link at most"


@pytest.mark.parametrize("mbit", [1.0, 2.0])
def test_chunks_and_acknowledgements_are_life_and_progress_where_no_telemetry_gets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mbit: float
) -> None:
    def hears(process: Process, topic: str) -> bool:
        begun = process.id == "orch" and process.machine.run_state.round > 0
        return not (begun and topic.endswith("dev/dev-2/tele"))

    listening(monkeypatch, hears)
    took_part(run_and_check(SLOW, tmp_path, world=over(mbit)), mbit)


def test_chunks_are_a_word_of_the_orchestrator_where_its_state_does_not_get_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PART_BYTES / MBIT > 2 * SILENCE_S
    listening(monkeypatch, lambda process, topic: not (process.id == "dev-2" and topic.endswith("/state")))
    took_part(run_and_check(SLOW, tmp_path, world=over(1.0)), 1.0)


def left_after(outcome: Outcome, since: float) -> float:
    """How long after that time dev-2 was left out, and nobody else."""
    assert outcome.summary["state"] == "done", outcome.trace()
    assert left_out(outcome) == ["dev-2"]
    notes = list(outcome.simulation.trace._notes)
    (at,) = [note[0] for note in notes if isinstance(note[3], tuple) and note[3][0] == "left-out"]
    return at - since


@pytest.mark.parametrize("after", [200, 800])
def test_one_that_dies_over_a_slow_link_is_noticed_as_soon_as_over_a_fast_one(tmp_path: Path, after: int) -> None:
    """It has handled so many events: it downloads, it uploads."""
    scenario = replace(SLOW, faults=replace(SLOW.faults, injected=(InjectedFault("crash", "dev-2", after, math.inf),)))
    outcome = run_and_check(scenario, tmp_path, world=over(1.0, scenario))
    (died_at,) = [note[0] for note in outcome.simulation.trace._notes if note[1:3] == ("dev-2", "crashed")]
    # The broker misses its keep-alive at the latest, and its will is believed after its grace time.
    assert left_after(outcome, died_at) <= NOTICE_S + LOST_GRACE_S + 1.5


@pytest.mark.parametrize("until", [60.0, 200.0])
def test_one_that_falls_silent_over_a_slow_link_is_noticed_as_soon_as_over_a_fast_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: float
) -> None:
    """The broker notices nothing, only that nothing comes tells it: the device downloads until 134 s, then uploads."""
    heard: list[float] = []

    def hears(process: Process, topic: str) -> bool:
        if process.id != "orch" or not ("/dev-2/" in topic or topic.endswith("/dev-2")):
            return True
        if process.now() < until:
            heard.append(process.now())
        return process.now() < until

    listening(monkeypatch, hears)
    outcome = run_and_check(SLOW, tmp_path, world=over(1.0))
    # It is given what was in flight, two seconds of its link; the orchestrator looks around once a second.
    assert STALE_S < left_after(outcome, heard[-1]) <= STALE_S + 3.0


@pytest.mark.parametrize("gateway", [False, True])
def test_everyone_may_be_behind_a_slow_link(tmp_path: Path, gateway: bool) -> None:
    """Eight devices, a node, and the orchestrator, which sends to all: each has 1 Mbit/s, or all have that together."""
    many = replace(
        SLOW, hidden=(300, 300, 300, 16), first_cut=2, samples=(9, 7) * 4, tests=(3, 0) * 4, rounds=2, admit=8
    )
    slow = ("orch", "node-1", *many.devices)
    outcome = run_and_check(many, tmp_path, world=over(1.0, many, slow, gateway))
    assert outcome.summary["state"] == "done", outcome.trace()
    assert left_out(outcome) == []
    assert [sorted(entry["devices"]) for entry in outcome.summary["rounds"]] == [many.devices] * 2
    print(
        [entry["seconds"] for entry in outcome.summary["rounds"]],
        [entry["bytes"] for entry in outcome.summary["rounds"]],
    )
