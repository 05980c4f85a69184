"""Which plans can go on from a savepoint, when one is due, and slices that no longer share the sum's memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hop_rounds import HopRounds, session_plan
from msgspec import structs
from orchestrator_rig import BATCHES, OrchestratorRig, rig

from compute_node.detached import detached
from compute_node.performer import HopPerformer
from mpsl.errors import RunFailed
from mpsl.machines.jobs import Export, Exported, Result
from mpsl.machines.orchestrator_jobs import CheckUpdate, TakeSums, WriteSavepoint
from mpsl.machines.savepoint import Savepoint
from mpsl.messages import Sent, Slice, TakeSavepoint, Tensor, Update
from mpsl.nn import weights
from mpsl.plan import DeviceEntry, Plan, Seat

UPDATE = structs.asdict(Update(1, 1, 2, 8, 1.0, 1.0))


def plan(cuts: tuple[int, ...], replicas: dict[str, tuple[int, ...]]) -> Plan:
    """A plan with as many seats as these replicas need."""
    base = rig()
    base.join()
    stages = range(1, len(cuts))
    counts = [1 + max(served[stage - 1] for served in replicas.values()) for stage in stages]
    seats = tuple(
        Seat(stage, replica, f"node-{stage}-{replica}", "b", (cuts[stage - 1], cuts[stage]))
        for stage, count in zip(stages, counts, strict=True)
        for replica in range(count)
    )
    devices = {id: DeviceEntry("b", served) for id, served in replicas.items()}
    return replace(base.machine.run_state.need_plan(), cuts=cuts, seats=seats, devices=devices)


def savepoint(cuts: list[int], replicas: dict[str, list[int]]) -> Savepoint:
    """The sums after dev-1 and dev-2."""
    ids = ("dev-1", "dev-2")
    return Savepoint(
        1, dict.fromkeys(ids, 8), dict.fromkeys(ids, 1), dict.fromkeys(ids, UPDATE), {id: {} for id in ids}, 1.0, cuts,
        replicas, dict.fromkeys(ids, "b"),
    )  # fmt: skip


CHAIN: dict[str, tuple[int, ...]] = {"dev-1": (0,), "dev-2": (0,), "dev-3": (0,)}
SHARED: dict[str, tuple[int, ...]] = {"dev-1": (0,), "dev-2": (1,), "dev-3": (0,)}
SWAPPED: dict[str, tuple[int, ...]] = {"dev-1": (1,), "dev-2": (0,), "dev-3": (0,)}


def test_a_chain_may_be_cut_in_any_way() -> None:
    found = savepoint([1, 2], {})
    assert found.fits(plan((1, 2), CHAIN))
    assert found.fits(plan((2, 3), CHAIN))
    assert found.fits(plan((1, 2, 3), dict.fromkeys(CHAIN, (0, 0))))


def test_replicas_must_be_those_that_served_the_devices() -> None:
    found = savepoint([1, 2], {"dev-1": [0], "dev-2": [1]})
    assert found.fits(plan((1, 2), SHARED))
    assert not found.fits(plan((1, 2), SWAPPED))
    assert not found.fits(plan((1, 2), CHAIN))
    assert not found.fits(plan((1, 3), SHARED))
    assert not savepoint([1, 2], {}).fits(plan((1, 2), SHARED))


def test_a_device_of_a_savepoint_must_be_in_the_plan() -> None:
    assert not savepoint([1, 2], {}).fits(plan((1, 2), {"dev-1": (0,)}))


def due(expected_failure_s: float = 1e-4) -> OrchestratorRig:
    """A run in which one of two devices is accepted."""
    found = rig(fleet__expected_failure_s=expected_failure_s)
    found.open()
    found.now += 1.0
    found.finish("dev-1")
    found.done(CheckUpdate)
    return found


def test_a_savepoint_is_asked_for_once_it_is_due() -> None:
    found = due()
    assert found.heard["1_0"][-1] == TakeSavepoint(1, 1, 1)
    assert [work.job for work in found.jobs(TakeSums)] == [TakeSums(1, 1)]


def test_none_is_asked_for_before() -> None:
    found = due(expected_failure_s=1e9)
    assert not found.jobs(TakeSums)


def test_none_is_asked_for_once_everyone_is_accepted() -> None:
    found = due(expected_failure_s=1e9)
    found.machine.run_state.job = replace(
        found.machine.run_state.job, fleet=replace(found.machine.run_state.job.fleet, expected_failure_s=1e-4)
    )
    found.finish("dev-2")
    found.done(CheckUpdate)
    assert not found.jobs(TakeSums)


def test_it_is_written_once_all_sums_are_here() -> None:
    found = due()
    found.say("node-1", Slice("savepoint", 1, 1, 1, 0, 0, TENSOR))
    found.say("node-1", Sent("savepoint", 1, "digest", 1))
    assert not found.jobs(WriteSavepoint)
    found.done(TakeSums)
    (work,) = found.jobs(WriteSavepoint)
    assert isinstance(work.job, WriteSavepoint)
    assert work.job.savepoint.digests == {"1_0": "digest"}
    assert list(work.job.savepoint.accepted) == ["dev-1"]
    assert found.machine.run_state.savepoint is None
    found.done(WriteSavepoint, Result())
    assert found.machine.run_state.savepoint is not None


@pytest.mark.parametrize("kind", [TakeSums, WriteSavepoint])
def test_one_that_fails_does_not_end_the_run(kind: type[TakeSums] | type[WriteSavepoint]) -> None:
    found = due()
    if kind is WriteSavepoint:
        found.say("node-1", Slice("savepoint", 1, 1, 1, 0, 0, TENSOR))
        found.say("node-1", Sent("savepoint", 1, "digest", 1))
        found.done(TakeSums)
    found.failed(kind, "no space left on device")
    assert found.state.value == "open"
    assert found.machine.run_state.savepoint is None
    for id in list(BATCHES)[1:]:
        found.finish(id)
        found.done(CheckUpdate)
    assert found.state.value == "closing"


def test_a_seat_that_cannot_take_its_sum_does_not_lose_its_seat() -> None:
    found = due()
    found.say("node-1", Sent("savepoint", 1, "", 1))
    assert found.state.value == "open"
    assert not found.machine.run_state.lost_nodes


TENSOR = Tensor("raw", "float32", (2,), (memoryview(bytes(8)),))


@pytest.mark.parametrize("in_file", [False, True])
def test_detached_slices_keep_what_the_sum_was(tmp_path: Path, in_file: bool) -> None:
    sums = [np.arange(5000, dtype=np.float32), np.arange(3, dtype=np.int64), np.empty(0, np.float32)]
    before = [array.copy() for array in sums]
    found = detached(weights.slices(sums, "savepoint", 1, 1, 1, 4096), tmp_path if in_file else None)
    for array in sums:
        array[...] = -1
    received = [np.empty_like(array) for array in sums]
    for each in found:
        weights.write(received, each)
    assert all(np.array_equal(one, other) for one, other in zip(received, before, strict=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("budget", [None, 1 << 30])
def test_a_fold_does_not_change_a_savepoint_that_is_being_sent(tmp_path: Path, budget: int | None) -> None:
    rounds = HopRounds(HopPerformer("node-1", budget=budget, scratch=tmp_path), session_plan())
    training = rounds.performer.sessions
    exported: list[Slice] = []
    before: list[bytes] = []
    for _ in rounds.steps():
        if not exported and len(rounds.results) > 3 and len(training[rounds.session].copies) == 1:
            result = rounds.perform(Export("savepoint", 1, 1))
            assert isinstance(result, Exported)
            exported = list(result.slices)
            before = [plane.tobytes() for each in exported for plane in each.tensor.planes]
    assert exported, "one device was folded, and the other was not"
    assert [plane.tobytes() for each in exported for plane in each.tensor.planes] == before


def test_a_missing_scratch_folder_is_named(tmp_path: Path) -> None:
    sums = [np.arange(10, dtype=np.float32)]
    with pytest.raises(RunFailed, match="--scratch"):
        detached(weights.slices(sums, "savepoint", 1, 1, 1, 4096), tmp_path / "gone")
