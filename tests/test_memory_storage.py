"""A part in a file is the same part, of which only what is in use is resident; and the report says what there is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hop_rounds import BLOCKS, HopRounds, session_plan
from torch import nn

from compute_node import memory_usage, seat_training
from compute_node.memory_usage import resident_bytes
from compute_node.performer import HopPerformer
from compute_node.storage import Storage
from mpsl.errors import RunFailed
from mpsl.machines.jobs import CopyPart, DropCopy, Leave
from mpsl.nn import held_sessions
from mpsl.nn.block_model import block_model
from mpsl.nn.part import trained_tensors


def driven(scratch: Path, budget: int | None = None, **seat: bool) -> HopRounds:
    """Two rounds of a seat, done."""
    return HopRounds(HopPerformer("node-1", scratch, budget=budget), session_plan(**seat)).run()


@pytest.mark.parametrize(
    "seat", [{"on_disk": True}, {"recompute": True}, {"on_disk": True, "recompute": True}], ids=str
)
def test_a_short_budget_changes_no_bit(tmp_path: Path, seat: dict[str, bool]) -> None:
    torch.set_num_threads(1)
    plain, short = driven(tmp_path), driven(tmp_path, **seat)
    assert len(plain.bytes_out()) == 16 + 2 + 1
    assert short.bytes_out() == plain.bytes_out()
    assert list(tmp_path.iterdir()) == [], "a file without a name leaves none behind"


@pytest.mark.parametrize("budget", [1 << 40, None])
def test_a_node_with_a_budget_gives_back_after_each_device_and_one_without_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int | None
) -> None:
    given: list[str] = []
    for module in (seat_training, held_sessions):
        monkeypatch.setattr(module, "trim_heap", lambda: given.append("back"))
    rounds = driven(tmp_path, budget)
    rounds.perform(DropCopy("dev-1", 2))
    during = 2 * 2 + 1 if budget else 0
    assert len(given) == during, "two rounds of two devices, and one left out"
    rounds.performer.perform(Leave(), rounds.session)
    assert len(given) == during + 1


def test_the_report_says_what_there_is(tmp_path: Path) -> None:
    part = block_model(session_plan().job.model).part(*BLOCKS)
    state = sum(tensor.nbytes for tensor in part.state_dict().values())
    parameters = [parameter.nbytes for parameter in part.parameters()]
    memory = driven(tmp_path).results[-1].memory
    assert memory is not None
    assert (memory["global"], memory["accumulator"], memory["copies"]) == (state, state, 2 * state)
    assert memory["optimizer"] == 2 * sum(parameters)
    assert memory["gradients"] == max(parameters)
    assert memory["resident"] >= memory["base"] > 0
    short = driven(tmp_path, on_disk=True, recompute=True).results[-1].memory
    assert short is not None
    assert short["global"] == short["accumulator"] == 0
    assert short["activations"] == 2 * 16 * 16 * 8 * 8 * 4 < memory["activations"]


def test_the_most_resident_is_never_less_than_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = memory_usage.MemoryPeaks(5_000_000)
    for most in (4_900_000, 6_000_000):
        monkeypatch.setattr(memory_usage, "peak_resident_bytes", lambda most=most: most)
        assert counted.report() == {"base": 5_000_000, "resident": max(most, 5_000_000)}


def test_leaving_forgets_everything(tmp_path: Path) -> None:
    rounds = driven(tmp_path, on_disk=True)
    rounds.perform(CopyPart("dev-1", 2, 3))
    rounds.performer.perform(Leave(), rounds.session)
    assert rounds.performer.copies_alive == 0
    assert not rounds.performer.sessions
    with pytest.raises(RuntimeError, match="holds no session memory-0a1b2c@1"):
        rounds.perform(CopyPart("dev-1", 3, 3))


def test_what_lies_in_a_file_is_not_resident_when_let_go(tmp_path: Path) -> None:
    size = 64 * 2**20
    storage = Storage(trained_tensors(nn.Linear(size // 4 // 1024, 1024, bias=False, device="meta")), tmp_path)
    before = resident_bytes()
    storage.arrays[0][...] = np.arange(storage.arrays[0].size, dtype=np.float32)
    used = resident_bytes()
    storage.evict_pages()
    after = resident_bytes()
    assert used - before > 0.9 * size
    assert used - after > 0.9 * size
    assert storage.resident_bytes == 0
    assert storage.nbytes == size
    assert np.array_equal(storage.arrays[0][-5:], np.arange(size // 4 - 5, size // 4, dtype=np.float32))


@pytest.mark.parametrize("directory", [None, "."])
def test_storage_has_the_names_shapes_and_types_of_the_part(tmp_path: Path, directory: str | None) -> None:
    part = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)).to("meta")
    storage = Storage(trained_tensors(part), tmp_path / directory if directory else None)
    tensors = storage.tensors()
    assert {n: (t.shape, t.dtype) for n, t in tensors.items()} == {
        n: (t.shape, t.dtype) for n, t in part.state_dict().items()
    }
    assert all(array.ctypes.data % 64 == 0 and array.flags.writeable for array in storage.arrays)
    tensors["1.num_batches_tracked"].fill_(7)
    assert storage.arrays[-1][0] == 7


def test_no_room_for_the_file_is_told_with_the_number(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"needs 1,048,576 bytes in a file of .*nowhere.*--scratch"):
        Storage(trained_tensors(nn.Linear(512, 512, bias=False, device="meta")), tmp_path / "nowhere")
