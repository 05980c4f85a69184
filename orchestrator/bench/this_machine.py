"""This machine as a fleet: what a model costs here, measured once, and everyone of a system as its processes."""

import os
from dataclasses import dataclass, replace
from typing import Any

from broker.slow_link import parse_link
from mpsl.job import ModelSection
from mpsl.nn.block_sizes import profile_of_sizes
from mpsl.nn.models import arguments
from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetHost, FleetJob, FleetNode
from mpsl.planning.plan_file import PlanFile
from mpsl.planning.planner import plan
from mpsl.planning.profile import Profile
from mpsl.planning.shape import Shape
from mpsl.planning.system import system_of
from orchestrator.commands.profile import times
from orchestrator.measuring import Task, measure
from orchestrator.wire_cost import WireCost, tensor_bytes, wire_cost

CIFAR = {"num_classes": 10, "in_channels": 3, "image_size": 32}
HERE = "here"
FAST_MBPS = 1e6
"""A link within one machine: its price is the CPU of its bytes, which the profile has."""
ALONE, BESIDE = "alone", "beside"
"""The two kinds of this machine's cores: one process computes, or as many as there are cores."""
AS_GOOD = 0.03
"""How much longer a round may take for devices to hold less."""


@dataclass(frozen=True)
class Model:
    """A model to measure, with what it is given and the samples of a batch."""

    name: str
    batch_size: int
    head: str | None = None

    @property
    def args(self) -> dict[str, Any]:
        """10 classes and 32×32 images where the model has them."""
        found = {key: value for key, value in CIFAR.items() if key in arguments(self.name)}
        return found | ({"head": self.head} if self.head else {})


@dataclass(frozen=True)
class Known:
    """What was measured of a model once, before any prediction."""

    model: Model
    profile: Profile
    cost: WireCost


def measured(model: Model) -> Known:
    """Profile a model on this machine, alone and as many at once as there are cores, and what a byte costs."""
    cores = os.cpu_count() or 1
    section = ModelSection(model.name, model.args)
    profile = profile_of_sizes(section, model.batch_size)
    task = Task(section, model.batch_size, "momentum", 1, 20.0)
    cost = wire_cost(tensor_bytes(profile), "auto")
    kinds = {ALONE: 1, BESIDE: cores}
    hardware = {kind: times(measure(task, copies), cost.end, cores, 1) for kind, copies in kinds.items()}
    return Known(model, replace(profile, hardware=hardware), cost)


def fleet_of(known: Known, hops: int, devices: int, batches: int, link: str = "none", first_cut: int = 1) -> Fleet:
    """Everyone of a system as processes of this machine, with data for so many batches; `link` as --link has it."""
    speed = None if link == "none" else parse_link(link)
    mbps = FAST_MBPS if speed is None else speed.bytes_per_s * 8 / 1e6
    latency = 0.0 if speed is None else speed.latency_s * 1e3
    kind = ALONE if hops == 1 else BESIDE
    samples = batches * known.model.batch_size
    return Fleet(
        devices=(FleetDevice("dev", BESIDE, samples, devices, mbps, mbps, latency, host=HERE),),
        nodes=(FleetNode("node", kind, 64.0, 0.0, hops, FAST_MBPS, HERE),),
        broker=FleetBroker(FAST_MBPS, 0.0, 1e3 / known.cost.broker, HERE),
        hosts=(FleetHost(HERE, os.cpu_count() or 1),),
        job=FleetJob(first_cut=first_cut, last_cut=len(known.profile.blocks) - 1, optimizer="momentum"),
    )


def least_on_devices(known: Known, hops: int, devices: int, batches: int) -> PlanFile:
    """The plan with the fewest blocks on the devices whose round is within AS_GOOD of the best such plan's.

    Devices that hold the first block alone leave blocks of unequal times to few nodes, and one of them then waits.
    """
    cuts = range(1, len(known.profile.blocks) - hops)
    found = [
        plan(system_of(known.profile, fleet_of(known, hops, devices, batches, first_cut=first)), Shape(hops))
        for first in cuts
    ]
    best = min(each.predicted.round_s for each in found)
    return next(each for each in found if each.predicted.round_s <= (1 + AS_GOOD) * best)
