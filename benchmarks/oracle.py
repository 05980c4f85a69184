"""The reference: FedAvg of the unsplit model as a plain loop, in one process, written from docs/exactness.md alone.

It shares only the definition of the model with the stages. The tests and `mpsl bench chaos` compare bits with it.
"""

import math
from binascii import crc32
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from mpsl.nn.models import build


@dataclass(frozen=True)
class OracleSetting:
    """The parameters of a run that the oracle needs."""

    model: str
    args: dict[str, Any]
    optimizer: str
    lr: float
    rounds: int
    batch_size: int
    local_epochs: int = 1
    micro_batches: int = 1
    momentum: float = 0.0
    weight_decay: float = 0.0
    seed: int = 0
    shuffle: bool = True
    dtype: str = "float32"
    blocks: tuple[str, ...] = ()
    """The module at whose call each block begins; empty: the items of an `nn.Sequential`."""
    nesterov: bool = False
    dampening: float = 0.0
    schedule: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    strict: bool = True
    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    owners: Mapping[str, int] = field(default_factory=dict)
    """The block that each parameter and buffer belongs to; empty: the number with which its name begins."""


@dataclass(frozen=True)
class Stage:
    """Blocks [first, end) of the model, the replica that serves each device, and the number of replicas."""

    first: int
    end: int
    serving: dict[str, int]
    replicas: int


def stages_of(entry: dict[str, Any]) -> list[Stage]:
    """Return the stages of a round from its line of the metrics."""
    return [
        Stage(
            first,
            end,
            {id: group for group, devices in enumerate(groups) for id in devices},
            len(groups),
        )
        for (first, end), groups in zip(pairwise(entry["cuts"]), entry.get("additions", {}).values(), strict=False)
    ]


def oracle(
    setting: OracleSetting,
    shards: dict[str, tuple[np.ndarray, np.ndarray]],
    accepted: list[list[str]],
    stages: list[list[Stage]] | None = None,
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Return the committed state and the rounds' losses, given the order of acceptance in each round.

    With `stages` (of each round) every replica adds up the devices that it serves, in that order; then the replicas'
    sums are added.
    """
    torch.manual_seed(setting.seed)
    model = build(setting.model, **setting.args)
    if setting.weights is not None:
        model.load_state_dict(load_file(setting.weights), strict=setting.strict)
    frozen = freeze(model, setting)
    seeds = BlockSeeds(model, setting.blocks or [name for name, _ in model.named_children()])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = []
    for number, devices in enumerate(accepted, start=1):
        sums: dict[tuple[str, int], torch.Tensor] = {}
        weight = 0
        loss_sum = sample_sum = 0.0
        for device in devices:
            x, y = shards[device]
            model.load_state_dict(state)
            loss = train(model, seeds, setting, device, number, x, y)
            loss_sum += loss
            sample_sum += len(x) * setting.local_epochs
            weight += len(x)
            for name, tensor in model.state_dict().items():
                if name in frozen:
                    continue
                key = (name, replica_of(name, device, stages[number - 1] if stages else [], setting.owners))
                sums[key] = added(sums.get(key), len(x) * tensor if tensor.is_floating_point() else tensor)
        total: dict[str, torch.Tensor] = {}
        for (name, _), each in sorted(sums.items(), key=lambda entry: entry[0][1]):
            total[name] = added(total.get(name), each)
        state |= {n: t / weight if t.is_floating_point() else t for n, t in total.items()}
        losses.append(loss_sum / sample_sum)
    return state, losses


def freeze(model: torch.nn.Module, setting: OracleSetting) -> set[str]:
    """Freeze what the job freezes. Returns the names of all parameters that do not train; nobody averages them."""
    for name, parameter in model.named_parameters():
        trains = not setting.train or any(fnmatchcase(name, pattern) for pattern in setting.train)
        if not trains or any(fnmatchcase(name, pattern) for pattern in setting.freeze):
            parameter.requires_grad_(False)
    return {name for name, each in model.named_parameters(remove_duplicate=False) if not each.requires_grad}


def replica_of(name: str, device: str, stages: list[Stage], owners: Mapping[str, int]) -> int:
    """Which replica holds the tensor `name` of a device's copy; the device's own parts have one sum.

    `owners`: the block of each tensor; without one the name begins with it.
    """
    if not stages:
        return 0
    block = owners[name] if owners else int(name.split(".", maxsplit=1)[0])
    return next((stage.serving[device] for stage in stages if stage.first <= block < stage.end), 0)


def added(total: torch.Tensor | None, more: torch.Tensor) -> torch.Tensor:
    """Return a sum with one more term; for integers the maximum."""
    if not more.is_floating_point():
        return (more if total is None else torch.maximum(total, more)).clone()
    return (torch.zeros_like(more) if total is None else total) + more


class BlockSeeds:
    """Seeds torch's generator where a block begins: where its module is called for the first time in a forward.

    The first block begins with the forward itself. `words` are those of the seed, but for the block's number.
    """

    def __init__(self, model: torch.nn.Module, blocks: Sequence[str]) -> None:
        self.words: list[int] = []
        self._begun = -1
        for index, name in enumerate(blocks[1:], start=1):
            model.get_submodule(name).register_forward_pre_hook(partial(self._called, index))

    def begin(self, words: list[int]) -> None:
        """A forward begins."""
        self.words, self._begun = words, -1
        self._begin_block(0)

    def _called(self, index: int, module: torch.nn.Module, inputs: object) -> None:
        if index > self._begun:
            self._begin_block(index)

    def _begin_block(self, index: int) -> None:
        self._begun = index
        seed = np.random.SeedSequence([*self.words, index]).generate_state(1, np.uint64)[0]
        torch.default_generator.manual_seed(int(seed))


def train(
    model: torch.nn.Module,
    seeds: BlockSeeds,
    setting: OracleSetting,
    device: str,
    number: int,
    x: np.ndarray,
    y: np.ndarray,
) -> float:
    """Run one device's round on the whole model. Returns Σ batch loss × batch samples."""
    model.train()
    optimizer = optimizer_of(setting, model)
    loss_sum = 0.0
    for epoch in range(setting.local_epochs):
        order = np.arange(len(x))
        if setting.shuffle:
            order = np.random.default_rng([setting.seed, number, epoch, crc32(device.encode())]).permutation(len(x))
        for batch, start in enumerate(range(0, len(x), setting.batch_size)):
            chosen = torch.from_numpy(order[start : start + setting.batch_size])
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                batches = -(-len(x) // setting.batch_size)
                place = (epoch * batches + batch) / (setting.local_epochs * batches)
                group["lr"] = rate(setting, number, place, 1 / (setting.local_epochs * batches))
            micros = [part for part in torch.tensor_split(chosen, setting.micro_batches) if len(part)]
            for micro, part in enumerate(micros):
                samples = torch.from_numpy(x[part.numpy()]).to(getattr(torch, setting.dtype))
                seeds.begin([setting.seed, number, epoch, crc32(device.encode()), batch, micro])
                output = model(samples)
                output = getattr(output, "logits", output)
                mean = functional.cross_entropy(output, torch.from_numpy(y[part.numpy()]))
                loss_sum += mean.item() * len(part)
                loss = mean if len(part) == len(chosen) else mean * len(part) / len(chosen)
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return loss_sum


def optimizer_of(setting: OracleSetting, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return torch's own optimizer of that name."""
    lr, momentum, decay = setting.lr, setting.momentum, setting.weight_decay
    match setting.optimizer:
        case "adam":
            return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=decay)
        case "adamw":
            return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(model.parameters(), lr=lr, momentum=momentum, weight_decay=decay)
    return torch.optim.SGD(
        model.parameters(), lr, momentum, setting.dampening, weight_decay=decay, nesterov=setting.nesterov
    )


def rate(setting: OracleSetting, number: int, place: float, step: float) -> float:
    """Return the learning rate in round `number` from 1, at `place` of the round; a batch is `step` of it."""
    plan: dict[str, Any] = {"name": "constant", "by": "round", "warmup_rounds": 0.0, "end": 0.0}
    plan |= {"step_rounds": 10, "gamma": 0.1, **setting.schedule}
    done, step = (number - 1 + place, step) if plan["by"] == "batch" else (float(number - 1), 1.0)
    warm = plan["warmup_rounds"]
    if done + step <= warm:
        return float(setting.lr * ((done + step) / warm))
    passed = min(1.0, max(0.0, done - warm) / max(setting.rounds - warm, step))
    falling = {
        "constant": 1.0,
        "step": plan["gamma"] ** math.floor((done - warm) / plan["step_rounds"] + 1e-9),
        "linear": plan["end"] + (1 - plan["end"]) * (1 - passed),
        "cosine": plan["end"] + (1 - plan["end"]) * ((1 + math.cos(math.pi * passed)) / 2),
    }
    return float(setting.lr * falling[plan["name"]])


def setting_of(job: dict[str, Any]) -> OracleSetting:
    """Return the oracle's parameters of a job."""
    run, optimizer = job["run"], job["optimizer"]
    return OracleSetting(
        job["model"]["name"], job["model"]["args"], optimizer["name"], optimizer["lr"],
        run["rounds"], run["batch_size"],
        run.get("local_epochs", 1), run.get("micro_batches", 1), optimizer.get("momentum", 0.0),
        optimizer.get("weight_decay", 0.0), run.get("seed", 0), run.get("shuffle", True),
        (job["model"].get("input") or {}).get("dtype", "float32"), weights=job["model"].get("weights"),
        strict=job["model"].get("strict", True), train=tuple(job["model"].get("train", ())),
        freeze=tuple(job["model"].get("freeze", ())), nesterov=optimizer.get("nesterov", False),
        dampening=optimizer.get("dampening", 0.0), schedule=job.get("schedule", {}),
    )  # fmt: skip
