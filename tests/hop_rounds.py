"""Two rounds of a seat with two devices as a sequence of jobs, everything from a fixed seed; a performer does them."""

from collections.abc import Iterator
from typing import Any

import torch

from compute_node.performer import HopPerformer
from mpsl.job import read_job
from mpsl.machines.jobs import (
    Backward,
    CommitPart,
    CopyPart,
    Export,
    Exported,
    Fold,
    Forward,
    ForwardProbe,
    Prepare,
    Result,
    WorkerJob,
)
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice, Ticket
from mpsl.nn import weights
from mpsl.nn.block_model import block_model
from mpsl.nn.part import allocated
from mpsl.nn.tensors import encode
from mpsl.plan import DeviceEntry, Plan, Seat

DEVICES = ("dev-1", "dev-2")
BLOCKS = (1, 8)


def session_plan(
    run: str = "memory-0a1b2c", term: int = 1, batch_size: int = 16, seed: int = 0, admit_most: int = 0, **seat: bool
) -> Plan:
    """One seat on node-1 in the middle of the digits model, with dropout and BatchNorm, and two devices."""
    job = read_job(
        {
            "run": {"name": "memory", "rounds": 1, "batch_size": batch_size, "seed": seed},
            "model": {"name": "digits-cnn", "args": {"dropout": 0.2}, "cuts": list(BLOCKS)},
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
            "fleet": {"devices": 2, "nodes": 1},
        },
        "job",
    )
    seats = (Seat(1, 0, "node-1", "boot", BLOCKS, **seat),)
    devices = {id: DeviceEntry("boot", (0,)) for id in DEVICES}
    return Plan(run, term, "boot", job, 9, BLOCKS, seats, devices, 2, 1 << 30, admit_most=admit_most)


def session_of(plan: Plan) -> SessionId:
    """The session that serves the plan."""
    return SessionId(plan.run, plan.term)


class HopRounds:
    """The jobs of one session on a performer, and their results so far."""

    def __init__(self, performer: HopPerformer, plan: Plan, chance: int = 5) -> None:
        self.performer = performer
        self.session = session_of(plan)
        self.results: list[Result] = []
        self._plan = plan
        self._chance = torch.Generator().manual_seed(chance)

    def run(self) -> "HopRounds":
        """All of them."""
        for _ in self.steps():
            pass
        return self

    def steps(self) -> Iterator[None]:
        """One job, or slice of weights, between two items."""
        for each in self._jobs():
            if isinstance(each, Slice):
                self.performer.write("orch", each, self.session)
            else:
                self.perform(each)
            yield

    def perform(self, job: WorkerJob) -> Result:
        """One more job of the session."""
        result = self.performer.perform(job, self.session)
        self.results.append(result)
        return result

    def bytes_out(self) -> list[bytes]:
        """Everything that a job answered with, as bytes."""
        planes = [r.tensor.planes[0].tobytes() for r in self.results if hasattr(r, "tensor")]
        return planes + [r.digest.encode() for r in self.results if isinstance(r, Exported)]

    def _jobs(self) -> Iterator[WorkerJob | Slice]:
        yield Prepare(self._plan)
        source = allocated(block_model(self._plan.job.model).part(*BLOCKS))
        for tensor in source.state_dict().values():
            drawn = torch.rand(tensor.shape, generator=self._chance) if tensor.is_floating_point() else torch.tensor(0)
            tensor.copy_(drawn)
        yield from weights.slices(weights.arrays_of(source.state_dict().items()), "global", 0, 0, 1, 4096)
        for round in (1, 2):
            for device in DEVICES:
                yield CopyPart(device, 1, round)
            for batch in range(2):
                tickets = [Ticket(1, round, device, 1, 0, batch, 0, 1) for device in DEVICES]
                for ticket in tickets:
                    yield Forward(ticket, self._tensor(16, 16, 8, 8))
                for ticket in tickets:
                    yield Backward(ticket, self._tensor(16, 64))
            for device in DEVICES:
                yield Fold(device, 1, 10)
            yield Export("sum", round)
            yield CommitPart(round, 20, False)
        yield ForwardProbe(DEVICES[0], 1, 0, 2, self._tensor(5, 16, 8, 8))

    def _tensor(self, *shape: int) -> Any:
        return encode(torch.rand(*shape, generator=self._chance), "fp32")
