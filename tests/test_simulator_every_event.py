"""One fault at every event of a short run, for every kind of process and of fault.

`make test` hits some events of each; `make simulate` hits all (`MPSL_EVERY_EVENT=1`). One fault alone never ends a run
here, unless it is one that must: then the reason names what lacks.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from scenarios import Scenario
from simulated import Outcome, run_and_check, simulate

from mpsl.names import BROKER
from mpsl.sim.faults import FaultKind, Faults, InjectedFault

pytestmark = pytest.mark.slow
SHORT = Scenario(
    seed=3,
    hops=2,
    samples=(9, 6, 7),
    tests=(3, 0, 2),
    hidden=(4, 4, 4, 4),
    rounds=2,
    quorum=2,
    admit=2,
    standbys=1,
    expected_failure_s=0.01,
    slowest_job_s=0.1,
    once=False,
)
"""Two rounds over two nodes, with savepoints and a standby; any one device may be absent."""
STEP = 1 if os.environ.get("MPSL_EVERY_EVENT") else 149
"""Every so manieth event is hit."""
MAX_S = 600.0
"""Virtual seconds within which every run must be over: the sum of the deadlines that one fault can call for."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault, and how long it lasts. `reason`: what the run says if it may fail because of it."""

    fault: FaultKind
    process: str
    seconds: float
    reason: str = ""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.fault}-{self.process}-{self.seconds:g}"


ANYONE = [
    Kind(fault, process, seconds)
    for process in ("dev-2", "node-2", "orch")
    for fault, seconds in (
        ("crash", 1.0),
        ("cut", 2.0),
        ("partition", 35.0),
        ("mute", 15.0),
        ("mute", 35.0),
        ("deaf", 15.0),
        ("deaf", 45.0),
        ("freeze", 3.5),
        ("freeze", 50.0),
        ("suspend", 50.0),
        ("jump", 5.0),
        ("jump", 1000.0),
    )
]
"""What may befall every process."""
KINDS = [
    *ANYONE,
    Kind("crash", "dev-2", math.inf, "after start_timeout_s = 300 s; waiting for: 1 more device"),
    Kind("crash", "node-2", math.inf),
    Kind("crash", "orch", math.inf),
    Kind("error", "dev-2", 0.0),
    Kind("error", "node-2", 0.0, "node node-2 cannot take seat 2_0: RuntimeError: an injected error"),
    Kind("error", "orch", 0.0, "RuntimeError: an injected error"),
    Kind("disk", "orch", 5.0),
    Kind("disk", "orch", math.inf, "No space left on device"),
    Kind("outage", BROKER, 1.0),
    Kind("outage", BROKER, 30.0),
    Kind("restart", BROKER, 1.0),
    Kind("forget", BROKER, 0.0),
]


def events_of(process: str, out: Path) -> int:
    """How many events a process handles in the run without faults; `broker`: all processes together."""
    outcome = simulate(replace(SHORT, faults=Faults(injected=(InjectedFault("error", "dev-1", 10**9, 0.0),))), out)
    assert outcome.summary["state"] == "done", outcome.trace()
    if process == BROKER:
        return outcome.simulation.handled
    return outcome.simulation.processes[process].handled


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The events of each process."""
    out = tmp_path_factory.mktemp("whole")
    return {process: events_of(process, out / process) for process in ("dev-2", "node-2", "orch", BROKER)}


def hit(kind: Kind, counts: dict[str, int]) -> Iterator[InjectedFault]:
    """The faults of a kind: one at each event, or at some of them."""
    first = 1 + sum(kind.name.encode()) % STEP  # not the same events for all kinds
    for after in range(first, counts[kind.process] + 1, STEP):
        yield InjectedFault(kind.fault, kind.process, after, kind.seconds)


@pytest.mark.timeout(0 if STEP == 1 else 180)
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_a_fault_at_any_event_leaves_the_run_exact(kind: Kind, counts: dict[str, int], tmp_path: Path) -> None:
    for fault in hit(kind, counts):
        outcome = run_and_check(replace(SHORT, faults=Faults(injected=(fault,))), tmp_path / str(fault.after))
        check_end(outcome, kind)


def check_end(outcome: Outcome, kind: Kind) -> None:
    """Assert that one fault alone has ended no run that it must not end, and has held none up for too long."""
    summary = outcome.summary
    assert outcome.ending.seconds < MAX_S, f"{outcome.ending.seconds:.0f} s\n{outcome.trace()}"
    if summary["state"] == "failed" and "orch" in outcome.status:
        expected = kind.reason and kind.reason in summary["reason"]
        assert expected, f"{kind}: {summary['reason']}\n{outcome.trace()}"
