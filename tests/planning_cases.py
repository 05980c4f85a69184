"""Random profiles and fleets for the planner and for what rehearses its plans."""

import random
from dataclasses import replace
from typing import TypeVar

from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetHost, FleetJob, FleetNode
from mpsl.planning.profile_file import BlockProfile, HardwareTimes, Profile
from mpsl.planning.seat_memory import GIB, SLACK_BYTES, WINDOW_BYTES

Figure = TypeVar("Figure")


def repeating(draw: random.Random, profile: Profile, fleet: Fleet) -> tuple[Profile, Fleet]:
    """The same with blocks that repeat, and cuts where one likes: moving both then often changes nothing."""
    period = draw.randint(1, 2)

    def again(figures: tuple[Figure, ...]) -> tuple[Figure, ...]:
        return tuple(figures[number % period] for number in range(len(figures)))

    hardware = {
        name: replace(
            times,
            forward_ms=again(times.forward_ms),
            backward_ms=again(times.backward_ms),
            step_ms=again(times.step_ms),
        )
        for name, times in profile.hardware.items()
    }
    free = replace(fleet, job=replace(fleet.job, first_cut=None, last_cut=None))
    return replace(profile, blocks=again(profile.blocks), hardware=hardware), free


def random_case(draw: random.Random) -> tuple[Profile, Fleet]:
    """A small case of every colour: slow and fast links, tight and ample memory, hosts, equal and unequal members."""
    blocks = draw.randint(3, 6)
    scale = draw.choice([1e3, 1e5, 1e6, 2e7])
    busy_nodes = draw.random() < 0.6  # devices and links so fast that the nodes set the pace

    def times(slowness: float) -> HardwareTimes:
        cores = draw.choice([None, None, 1, 2, 4])
        return HardwareTimes(
            tuple(slowness * draw.choice([0.0, 1.0, draw.uniform(0.1, 10)]) for _ in range(blocks)),
            tuple(slowness * draw.uniform(0.1, 20) for _ in range(blocks)),
            tuple(slowness * draw.uniform(0, 2) for _ in range(blocks)) if draw.random() < 0.5 else (),
            wire_cpu_s_per_gb=draw.choice([0.0, 1.0, 4.0]),
            copy_gb_per_s=draw.choice([None, 0.5, 5.0]),
            cores=cores,
            threads=draw.randint(1, cores or 2),
        )

    profile = Profile(
        "some",
        draw.choice([1, 32]),
        int(scale * draw.uniform(0.1, 2)),
        tuple(
            BlockProfile(
                f"block-{number}",
                int(scale * draw.choice([0, draw.uniform(0.1, 10)])),
                int(scale * draw.uniform(0.05, 3)),
                int(scale * draw.uniform(0, 5)),
            )
            for number in range(blocks)
        ),
        {"slow": times(draw.choice([1.0, 5.0])), "fast": times(0.7), "odd": times(1.0), "instant": times(0.001)},
    )
    hosts = draw.random() < 0.3
    kinds = ["slow", "fast", "odd"]

    def tight(most: float) -> float:
        """GiB for a part or two, and for the windows of some devices."""
        amount = draw.uniform(10, most)
        return (SLACK_BYTES + amount * (scale + 2 * WINDOW_BYTES / 30)) / GIB

    memory = [8.0 if draw.random() < 0.5 else tight(150) for _ in range(3)]
    if draw.random() < 0.4:
        memory = [tight(80) for _ in range(3)]

    def host() -> str | None:
        return draw.choice([None, "here", "there"]) if hosts else None

    nodes, left = [], draw.choice([2, 3, 4, 4])
    while left:
        count = draw.randint(1, left)
        left -= count
        nodes.append(
            FleetNode(
                f"node{left}", draw.choice(kinds), draw.choice(memory), draw.choice([0.0, 1.0, draw.uniform(0.1, 3)]),
                count, draw.choice([10.0, 100.0, 10_000.0]) * (100 if busy_nodes else 1), host(),
            )
        )  # fmt: skip
    devices = tuple(
        FleetDevice(
            f"device{number}", "instant" if busy_nodes else draw.choice(kinds), draw.randint(1, 200),
            draw.randint(2, 9) if busy_nodes else draw.randint(1, 4),
            draw.choice([5.0, 100.0, 1000.0]) * (1e5 if busy_nodes else 1),
            draw.choice([20.0, 1000.0]) * (1e5 if busy_nodes else 1),
            draw.choice([0.0, 1.0, 30.0]) * (0.01 if busy_nodes else 1),
            draw.choice([None, None, scale * 40 / GIB]), host(),
        )
        for number in range(draw.randint(1, 3))
    )  # fmt: skip
    broker = FleetBroker(
        draw.choice([20.0, 1000.0, 10_000.0]) * (1e5 if busy_nodes else 1),
        draw.choice([0.0, 0.5]),
        None if busy_nodes else draw.choice([None, 5.0, 500.0]),
        host(),
    )
    first = draw.choice([None, 1, draw.randint(1, blocks - 2)])
    job = FleetJob(
        local_epochs=draw.randint(1, 2),
        batches_per_epoch=draw.choice([None, 1, 3]),
        first_cut=first,
        last_cut=draw.choice([None, blocks - 1, draw.randint((first or 1) + 1, blocks - 1)]),
        max_hops=draw.choice([None, None, 1, 2]),
        micro_batches=draw.choice([1, 1, 4]),
        optimizer=draw.choice(["sgd", "momentum", "adam"]),
        activations=draw.choice(["fp32", "fp16", "int8"]),
        gradients=draw.choice(["fp32", "topk:0.05"]),
        admit=draw.choice([None, None, None, 1, 3]),
    )
    shared = (FleetHost("here", 2), FleetHost("there", 8)) if hosts else ()
    return profile, Fleet(devices, tuple(nodes), broker, shared, job)
