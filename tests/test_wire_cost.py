"""What a byte costs is made of the ends' CPU and the broker's, of nobody else's."""

from typing import Any

import pytest

from mpsl.job import ModelSection
from mpsl.nn.block_sizes import profile_of_sizes
from orchestrator import wire_cost as module
from orchestrator.bench.readings import Reading
from orchestrator.bench.system import ORCHESTRATOR, Observed, Sample
from orchestrator.measuring import Task


def test_the_process_that_runs_the_orchestrator_and_watches_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = profile_of_sizes(ModelSection("digits-cnn"), 32)

    def cost_with(orchestrator_s: float) -> module.WireCost | None:
        async def observe(*_: Any) -> Observed:
            def sample(at: float, factor: float) -> Sample:
                readings = {
                    "broker": Reading(factor, 0.0), "node-1": Reading(2 * factor, 9.0), "dev-1": Reading(factor, 9.0),
                    ORCHESTRATOR: Reading(orchestrator_s * factor, 0.0),
                }  # fmt: skip
                return Sample(at, readings, {"node-1": (int(2 + at), at)}, {})

            return Observed({"state": "done"}, [sample(0.0, 1.0), sample(10.0, 3.0)])

        monkeypatch.setattr(module, "observe", observe)
        return module.wire_cost(sizes, "auto", Task(ModelSection("digits-cnn"), 32, "sgd", 1, 1.0), 1, 1.0)

    idle, busy = cost_with(0.0), cost_with(50.0)
    assert idle is not None
    assert idle == busy
    # 6 s of all ends, of which each byte has two; 2 s of the broker.
    assert idle.end == pytest.approx(idle.broker * 3 / 2)
