"""G bounds everything: copies at a seat and bytes on an edge, whatever the number of devices; and cost stays flat."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scenarios import Scenario
from simulated import TOPICS, World, run_and_check

from mpsl.machines.effects import Publish
from mpsl.sim.faults import Faults
from mpsl.topics import BinaryTopic

SIXTEEN = Scenario(
    seed=16,
    hops=2,
    samples=(6, 4, 8, 3) * 4,
    tests=(2,) * 16,
    hidden=(24, 16, 24, 16),
    rounds=2,
    batch_size=4,
    admit=3,
)


class Edges:
    """Counts the bytes of tensors in transit on each edge: to a seat, or to all devices together."""

    def __init__(self, world: World) -> None:
        self.most: Counter[tuple[str, str]] = Counter()
        self.largest: Counter[tuple[str, str]] = Counter()
        self._now: Counter[tuple[str, str]] = Counter()
        network = world.simulation.network
        publish, received = network.publish, network._received

        def counted_publish(name: str, number: int, message: Publish) -> None:
            self._count(message, +1)
            publish(name, number, message)

        def counted_received(client: Any, message: Any) -> None:
            self._count(message.publish, -1)
            received(client, message)

        network.publish = counted_publish  # type: ignore[method-assign]
        network._received = counted_received  # type: ignore[method-assign]

    def _count(self, message: Publish, sign: int) -> None:
        topic = TOPICS.parse(message.topic)
        if not isinstance(topic, BinaryTopic) or topic.lane not in ("fwd", "bwd"):
            return
        if dict(message.properties).get("kind") == "probe":
            return
        edge = (topic.to if "_" in topic.to else "devices", topic.lane)
        self._now[edge] += sign * len(message.payload)
        self.most[edge] = max(self.most[edge], self._now[edge])
        self.largest[edge] = max(self.largest[edge], len(message.payload))


def largest_payloads(scenario: Scenario, out: Path) -> Counter[tuple[str, str]]:
    """The largest payload of each edge, from a run of one device at a time."""
    world = World(replace(scenario, admit=1, rounds=1))
    edges = Edges(world)
    run_and_check(world.scenario, out, world=world)
    return edges.largest


@pytest.mark.parametrize("latency", ["same for all", "random"])
def test_sixteen_devices_never_take_more_than_three_have(tmp_path: Path, latency: str) -> None:
    faults = Faults() if latency == "same for all" else Faults(late=0.5, longest_delay_s=0.5)
    world = World(replace(SIXTEEN, faults=faults))
    edges = Edges(world)
    outcome = run_and_check(world.scenario, tmp_path, world=world)
    assert outcome.summary["state"] == "done"
    assert all(len(entry["devices"]) == 16 for entry in outcome.summary["rounds"])
    assert outcome.most_copies == {"node-1": 3, "node-2": 3}
    if latency == "same for all":  # otherwise a chunk that is only late is sent again as well
        largest = largest_payloads(SIXTEEN, tmp_path / "one")
        assert set(edges.most) == {(to, lane) for to in ("1_0", "2_0", "devices") for lane in ("fwd", "bwd")}
        for edge, most in edges.most.items():
            assert 0 < most <= 3 * largest[edge], (
                f"{edge}: {most} bytes at once, the largest payload has {largest[edge]}"
            )


def test_what_a_seat_holds_does_not_grow_with_the_devices(tmp_path: Path) -> None:
    """The same G for 4 and for 16 devices: the same number of copies, and no device is remembered after its round."""
    found: dict[int, Any] = {}
    for devices in (4, 16):
        few = replace(SIXTEEN, samples=SIXTEEN.samples[:devices], tests=SIXTEEN.tests[:devices])
        found[devices] = run_and_check(few, tmp_path / str(devices)).most_copies
    assert found[4] == found[16]
