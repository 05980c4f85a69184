"""The orchestrator's jobs alone: a round is on disk whole or not at all."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from orchestrator_rig import RUN, rig

from mpsl.errors import DiskError, RunFailed
from mpsl.machines.jobs import Export, Exported
from mpsl.machines.orchestrator_jobs import BuildModel, Checkpoint, LayOut, RecordRound
from mpsl.machines.unfinished import CommittedRound, Manifest
from mpsl.messages import Slice
from orchestrator.performer import OrchestratorPerformer

COMMIT = CommittedRound({"round": 1}, {})


def prepared(out: Path, value: float | None = None) -> tuple[OrchestratorPerformer, str]:
    """A performer to which a seat has sent its committed part, and the digest of that."""
    orchestrator = rig()
    orchestrator.join()
    plan = orchestrator.machine.run_state.need_plan()
    performer = OrchestratorPerformer(out, RUN)
    performer.perform(BuildModel(plan.job))
    state = orchestrator.machine.run_state
    performer.perform(LayOut(plan, Manifest(RUN, 1, state.job, plan, [], [])))
    exported = performer.perform(Export("global", 0, 0, 1))
    assert isinstance(exported, Exported)
    for each in exported.slices:
        performer.write("node-1", as_committed(each))
    part = performer._seat_parts["1_0"]
    if value is not None:
        part[0].reshape(-1)[0] = value
    digest = hashlib.blake2b(digest_size=16)
    for array in part:
        digest.update(np.ascontiguousarray(array).data.cast("B"))
    return performer, digest.hexdigest()


def as_committed(message: Slice) -> Slice:
    """The same slice as a seat sends it."""
    return replace(message, purpose="part", version=1)


def test_a_round_that_is_recorded_at_the_second_try_has_every_line_once(tmp_path: Path) -> None:
    performer, _ = prepared(tmp_path)
    job = RecordRound({"round": 1}, ({"round": 1, "device": "dev-1"},))
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(DiskError):
        performer.perform(job)
    (tmp_path / "metrics.jsonl").rmdir()
    performer.perform(job)
    for name in ("metrics.jsonl", "devices.jsonl"):
        assert len((tmp_path / name).read_text().splitlines()) == 1


def test_a_part_that_did_not_arrive_as_it_was_sent_is_not_written(tmp_path: Path) -> None:
    performer, digest = prepared(tmp_path)
    with pytest.raises(RunFailed, match="the part of seat 1_0 did not arrive as it was sent"):
        performer.perform(Checkpoint(1, {"1_0": "0" * len(digest)}, COMMIT))
    assert not (tmp_path / "model.safetensors").exists()
    performer.perform(Checkpoint(1, {"1_0": digest}, COMMIT))
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_not_finite_never_takes_the_place_of_the_last_one(tmp_path: Path, value: float) -> None:
    performer, digest = prepared(tmp_path, value)
    (tmp_path / "model.safetensors").write_bytes(b"the last good model")
    with pytest.raises(RunFailed, match="the model of round 1 is not finite"):
        performer.perform(Checkpoint(1, {"1_0": digest}, COMMIT))
    assert (tmp_path / "model.safetensors").read_bytes() == b"the last good model"
