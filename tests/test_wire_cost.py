"""What a byte costs is made of the ends' CPU and the broker's, of nobody else's."""

from typing import Any

import pytest

from mpsl.errors import MeasurementError
from mpsl.job import Job, ModelSection
from mpsl.nn.block_sizes import profile_of_sizes
from orchestrator import wire_cost as module
from orchestrator.measuring import MeasuringTask
from orchestrator.observed_system import ORCHESTRATOR, Observed, Sample
from orchestrator.process_readings import CpuSeconds


def test_the_process_that_runs_the_orchestrator_and_watches_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = profile_of_sizes(ModelSection("digits-cnn"), 32)

    def cost_with(orchestrator_s: float) -> module.WireCost | None:
        async def observe(*_: Any) -> Observed:
            def sample(at: float, factor: float) -> Sample:
                readings = {
                    "broker": CpuSeconds(factor, 0.0), "node-1": CpuSeconds(2 * factor, 9.0),
                    "dev-1": CpuSeconds(factor, 9.0), ORCHESTRATOR: CpuSeconds(orchestrator_s * factor, 0.0),
                }  # fmt: skip
                return Sample(at, readings, {"node-1": (int(2 + at), at)}, {})

            return Observed({"state": "done"}, [sample(0.0, 1.0), sample(10.0, 3.0)])

        monkeypatch.setattr(module, "observe", observe)
        return module.wire_cost(sizes, "auto", MeasuringTask(ModelSection("digits-cnn"), 32, "sgd", 1, 1.0), 1, 1.0)

    idle, busy = cost_with(0.0), cost_with(50.0)
    assert idle is not None
    assert idle == busy
    # 6 s of all ends, of which each byte has two; 2 s of the broker.
    assert idle.end == pytest.approx(idle.broker * 3 / 2)


@pytest.mark.parametrize(
    ("seen_s", "lengths"),
    [
        ([10.0], [1.0]),
        ([2.0, 9.0], [1.0, 4.0]),
        ([None, None, 5.0], [1.0, 4.0, 16.0]),
        ([None, 2.9, 2.9], None),
    ],
)
def test_a_run_that_was_too_short_is_made_again_and_longer(
    seen_s: list[float | None], lengths: list[float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`seen_s`: the steady seconds of each run; `lengths`: batches of each, as parts of the first."""
    sizes = profile_of_sizes(ModelSection("digits-cnn"), 32)
    epochs: list[int] = []

    async def observe(job: Job, *_: Any) -> Observed:
        seconds = seen_s[len(epochs)]
        assert job.run.local_epochs is not None
        epochs.append(job.run.local_epochs)
        steps = 2 * job.run.local_epochs

        def sample(at: float, step: int) -> Sample:
            readings = dict.fromkeys(("broker", "node-1", "dev-1", ORCHESTRATOR), CpuSeconds(at, 0.0))
            return Sample(at, readings, {"node-1": (step, at)}, {})

        return Observed({"state": "done"}, [sample(0.0, 2)] + ([sample(seconds, steps - 2)] if seconds else []))

    monkeypatch.setattr(module, "observe", observe)

    def cost() -> module.WireCost | None:
        return module.wire_cost(sizes, "auto", MeasuringTask(ModelSection("digits-cnn"), 32, "sgd", 1, 1.0), 1, 0.001)

    if lengths is None:
        with pytest.raises(MeasurementError, match="too short to see a steady state; --no-wire"):
            cost()
    else:
        assert cost() is not None
        assert [count / epochs[0] for count in epochs] == pytest.approx(lengths, rel=0.01)
    assert len(epochs) == len(seen_s)
