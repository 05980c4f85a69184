"""A part in a file is the same part, of which only what is in use is resident; and the report says what there is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compute_node import memory_usage, performer
from compute_node.memory_usage import resident_bytes
from compute_node.performer import HopPerformer
from compute_node.storage import Storage
from mpsl.errors import RunFailed
from mpsl.job import read_job
from mpsl.machines.jobs import (
    Backward,
    CommitPart,
    CopyPart,
    DropCopy,
    Export,
    Exported,
    Fold,
    Forward,
    ForwardProbe,
    Leave,
    Prepare,
    Result,
)
from mpsl.messages import Ticket
from mpsl.nn import weights
from mpsl.nn.part import meta_part
from mpsl.nn.tensors import encode
from mpsl.plan import Plan, Seat

MODEL = {"name": "digits-cnn", "args": {"dropout": 0.2}, "cuts": [1, 8]}


def a_plan(batch_size: int = 16, **seat: bool) -> Plan:
    job = read_job(
        {
            "run": {"name": "memory", "rounds": 1, "batch_size": batch_size},
            "model": MODEL,
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
            "fleet": {"devices": 2, "nodes": 1},
        },
        "job",
    )
    return Plan(
        "memory-0a1b2c", 1, "boot", job, 9, (1, 8), (Seat(1, 0, "node-1", "boot", (1, 8), **seat),), {}, 2, 1 << 30
    )


class Driven:
    """A node's performer through two rounds with two devices, everything from a fixed seed."""

    def __init__(self, plan: Plan, scratch: Path, trim_eagerly: bool = True) -> None:
        self.performer = HopPerformer("node-1", scratch, trim_eagerly=trim_eagerly)
        self.results: list[Result] = []
        self._do(Prepare(plan))
        chance = torch.Generator().manual_seed(5)
        source = meta_part(plan.job.model, (1, 8)).to_empty(device="cpu")
        for _, tensor in source.state_dict().items():
            tensor.copy_(torch.rand(tensor.shape, generator=chance) if tensor.is_floating_point() else torch.tensor(0))
        for each in weights.slices(weights.arrays_of(source.state_dict().items()), "global", 0, 0, 1, 4096):
            self.performer.write("orch", each)
        for round in (1, 2):
            for device in ("dev-1", "dev-2"):
                self._do(CopyPart(device, 1, round))
            for batch in range(2):
                tickets = [Ticket(1, round, device, 1, 0, batch, 0, 1) for device in ("dev-1", "dev-2")]
                for ticket in tickets:
                    self._do(Forward(ticket, encode(torch.rand(16, 16, 8, 8, generator=chance), "fp32")))
                for ticket in tickets:
                    self._do(Backward(ticket, encode(torch.rand(16, 64, generator=chance), "fp32")))
            for device in ("dev-1", "dev-2"):
                self._do(Fold(device, 1, 10))
            self._do(Export("sum", round))
            self._do(CommitPart(round, 20, False))
        self._do(ForwardProbe("dev-1", 1, 0, 2, encode(torch.rand(5, 16, 8, 8, generator=chance), "fp32")))

    def _do(self, job: Any) -> None:
        self.results.append(self.performer.perform(job))

    def bytes_out(self) -> list[bytes]:
        """Everything that a job answered with, as bytes."""
        planes = [r.tensor.planes[0].tobytes() for r in self.results if hasattr(r, "tensor")]
        return planes + [r.digest.encode() for r in self.results if isinstance(r, Exported)]


@pytest.mark.parametrize(
    "seat", [{"on_disk": True}, {"recompute": True}, {"on_disk": True, "recompute": True}], ids=str
)
def test_a_short_budget_changes_no_bit(tmp_path: Path, seat: dict[str, bool]) -> None:
    torch.set_num_threads(1)
    plain, short = Driven(a_plan(), tmp_path), Driven(a_plan(**seat), tmp_path)
    assert len(plain.bytes_out()) == 16 + 2 + 1
    assert short.bytes_out() == plain.bytes_out()
    assert list(tmp_path.iterdir()) == [], "a file without a name leaves none behind"


@pytest.mark.parametrize("trim_eagerly", [True, False])
def test_a_node_with_a_budget_gives_back_after_each_device_and_one_without_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trim_eagerly: bool
) -> None:
    given: list[str] = []
    monkeypatch.setattr(performer, "trim_heap", lambda: given.append("back"))
    driven = Driven(a_plan(), tmp_path, trim_eagerly)
    driven.performer.perform(DropCopy("dev-1", 2))
    assert len(given) == (2 * 2 + 1 if trim_eagerly else 0), "two rounds of two devices, and one left out"
    driven.performer.perform(Leave())
    assert given[-1:] == ["back"]


def test_the_report_says_what_there_is(tmp_path: Path) -> None:
    part = meta_part(a_plan().job.model, (1, 8))
    state = sum(tensor.nbytes for tensor in part.state_dict().values())
    parameters = [parameter.nbytes for parameter in part.parameters()]
    memory = Driven(a_plan(), tmp_path).results[-1].memory
    assert memory is not None
    assert (memory["global"], memory["accumulator"], memory["copies"]) == (state, state, 2 * state)
    assert memory["optimizer"] == 2 * sum(parameters)
    assert memory["gradients"] == max(parameters)
    assert memory["resident"] >= memory["base"] > 0
    short = Driven(a_plan(on_disk=True, recompute=True), tmp_path).results[-1].memory
    assert short is not None
    assert short["global"] == short["accumulator"] == 0
    assert short["activations"] == 2 * 16 * 16 * 8 * 8 * 4 < memory["activations"]


def test_the_most_resident_is_never_less_than_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_usage, "resident_bytes", lambda: 5_000_000)
    counted = memory_usage.MemoryPeaks()
    for most in (4_900_000, 6_000_000):
        monkeypatch.setattr(memory_usage, "peak_resident_bytes", lambda most=most: most)
        assert counted.report() == {"base": 5_000_000, "resident": max(most, 5_000_000)}


def test_leaving_forgets_everything(tmp_path: Path) -> None:
    driven = Driven(a_plan(on_disk=True), tmp_path)
    driven.performer.perform(CopyPart("dev-1", 2, 3))
    driven.performer.perform(Leave())
    assert driven.performer.copies_alive == 0
    with pytest.raises(RuntimeError, match="no run is prepared"):
        driven.performer.perform(CopyPart("dev-1", 3, 3))


def test_what_lies_in_a_file_is_not_resident_when_let_go(tmp_path: Path) -> None:
    size = 64 * 2**20
    storage = Storage(nn.Linear(size // 4 // 1024, 1024, bias=False, device="meta"), tmp_path)
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
    storage = Storage(part, tmp_path / directory if directory else None)
    tensors = storage.tensors()
    assert {n: (t.shape, t.dtype) for n, t in tensors.items()} == {
        n: (t.shape, t.dtype) for n, t in part.state_dict().items()
    }
    assert all(array.ctypes.data % 64 == 0 and array.flags.writeable for array in storage.arrays)
    tensors["1.num_batches_tracked"].fill_(7)
    assert storage.arrays[-1][0] == 7


def test_no_room_for_the_file_is_told_with_the_number(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"needs 1,048,576 bytes in a file of .*nowhere.*--scratch"):
        Storage(nn.Linear(512, 512, bias=False, device="meta"), tmp_path / "nowhere")
