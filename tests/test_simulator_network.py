"""The simulated broker behaves as MQTT specifies, and the simulation is repeatable."""

import math
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenarios import Scenario, random_faults
from simulated import simulate

from mpsl.machines.effects import Publish
from mpsl.machines.hop import HopMachine
from mpsl.machines.machine import Machine
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.faults import Faults, InjectedFault
from mpsl.sim.links import SimulatedLink
from mpsl.sim.network import NOTICE_S, SimulatedNetwork
from mpsl.sim.retained import Retained
from mpsl.sim.subscriptions import Subscriptions
from mpsl.sim.times import Times

WILL = Publish("will", b"gone", 1, True)


class Clients:
    """A network with clients that record what they receive."""

    def __init__(self, faults: Faults, seed: int = 0) -> None:
        self.queue = EventQueue()
        self.times = Times(self.queue)
        self.network = SimulatedNetwork(self.queue, random.Random(seed), faults, self.times)
        self.heard: dict[str, list[tuple[str, bytes]]] = {}
        self.numbers: dict[str, int] = {}

    def connect(self, name: str, *filters: str, will: Publish = WILL) -> None:
        heard = self.heard.setdefault(name, [])
        self.numbers[name] = self.network.connect(
            name, self.times.attachment(name), will, lambda topic, payload: heard.append((topic, payload))
        )
        self.network.subscribe(name, self.numbers[name], filters, lambda: None)
        self.settle()

    def publish(self, name: str, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        self.network.publish(name, self.numbers[name], Publish(topic, payload, qos, retain))  # type: ignore[arg-type]

    def settle(self, seconds: float = 10.0) -> None:
        until = self.queue.now + seconds
        while self.queue.step(until):
            pass


levels = st.lists(st.sampled_from("ab"), min_size=1, max_size=4)


@given(levels, st.lists(st.sampled_from(["a", "b", "+"]), min_size=1, max_size=4), st.booleans())
def test_filters_take_what_mqtt_says(topic: list[str], filter: list[str], rest: bool) -> None:
    pairs = list(zip(filter, topic, strict=False))
    fits = all(wanted in ("+", given) for wanted, given in pairs)
    expected = fits and (len(filter) <= len(topic) if rest else len(filter) == len(topic))
    wanted, name = "/".join(filter + ["#"] * rest), "/".join(topic)
    subscriptions = Subscriptions()
    subscriptions.add("me", wanted)
    assert (subscriptions.of(name) == ["me"]) == expected
    retained = Retained()
    retained.keep(Publish(name, b"x", 1, True))
    assert (len(retained.matching(wanted)) == 1) == expected
    subscriptions.remove("me", wanted)
    assert subscriptions.of(name) == []


def test_overlapping_filters_deliver_once_and_a_cleared_topic_is_not_retained() -> None:
    clients = Clients(Faults())
    clients.connect("a")
    clients.publish("a", "x/1", b"old", 1, retain=True)
    clients.publish("a", "x/2", b"gone", 1, retain=True)
    clients.publish("a", "x/2", b"", 1, retain=True)
    clients.settle()
    clients.connect("b", "x/+")
    assert clients.heard["b"] == [("x/1", b"old")]
    clients.connect("c", "x/#", "y")
    clients.publish("a", "x/1", b"new")
    clients.settle()
    assert clients.heard["c"] == [("x/1", b"old"), ("x/1", b"new")]


def test_a_will_comes_after_a_cut_and_at_a_takeover_but_not_after_a_clean_end() -> None:
    clients = Clients(Faults())
    clients.connect("watch", "will")
    for end in ("cut", "takeover", "leave"):
        clients.connect("a")
        if end == "cut":
            clients.network.cut("a")
        elif end == "takeover":
            clients.connect("a")
        else:
            clients.network.leave("a", clients.numbers["a"])
        clients.settle(2 * NOTICE_S)
        wills = len(clients.heard["watch"])
        assert wills == {"cut": 1, "takeover": 2, "leave": 3}[end]  # the third connect takes over, too
    assert clients.heard["watch"] == [("will", b"gone")] * 3


def test_qos_0_is_lost_and_reordered_qos_1_arrives_in_the_order_of_its_topic() -> None:
    clients = Clients(Faults(lost=0.3, doubled=0.3, late=0.5, longest_delay_s=1.0))
    clients.connect("a")
    clients.connect("b", "#")
    clients.heard["b"].clear()
    for number in range(200):
        clients.publish("a", "binary", bytes([number]))
        clients.publish("a", "json", bytes([number]), 1)
    clients.settle()
    binary = [payload[0] for topic, payload in clients.heard["b"] if topic == "binary"]
    json = [payload[0] for topic, payload in clients.heard["b"] if topic == "json"]
    assert 50 < len(set(binary)) < 190
    assert binary != sorted(binary)
    assert json == sorted(json)
    assert set(json) == set(range(200))
    assert len(json) > 210


def test_a_link_takes_its_time_and_keeps_order() -> None:
    queue, busy, arrivals = EventQueue(), [], []
    link = SimulatedLink(queue, 0.1, 1000, on_busy=lambda label, start, end: busy.append(end - start))
    for at, size in ((0.0, 500), (0.0, 500), (5.0, 1000)):
        queue.at(at, link.send, size, ("message", ""), lambda: arrivals.append(queue.now))
    while queue.step(math.inf):
        pass
    assert arrivals == pytest.approx([0.6, 1.1, 6.1])
    assert sum(busy) == pytest.approx(2.0)


def test_what_is_urgent_overtakes_what_is_not_begun_and_nothing_else() -> None:
    queue, arrivals = EventQueue(), []
    link = SimulatedLink(queue, 0.0, 1000)
    for name, urgent in (("a", False), ("b", False), ("first", True), ("second", True), ("c", False)):
        link.send(100, (name, ""), lambda name=name: arrivals.append((name, queue.now)), is_urgent=urgent)
    while queue.step(math.inf):
        pass
    assert [name for name, _ in arrivals] == ["a", "first", "second", "b", "c"]
    assert [at for _, at in arrivals] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_seed_repeats_a_simulation_event_for_event(tmp_path: Path) -> None:
    def trace(scenario: Scenario, out: str) -> str:
        text = simulate(scenario, tmp_path / out).simulation.trace.text()
        return re.sub(r'"memory":\{[^}]*\}', "", text)  # of this very process, which is not simulated

    first = trace(random_faults(3), "a")
    assert trace(random_faults(3), "b") == first
    assert trace(replace(random_faults(3), seed=4), "c") != first


def test_faults_check_themselves() -> None:
    with pytest.raises(ValueError, match="lost = 2 is not a probability"):
        Faults(lost=2)
    with pytest.raises(ValueError, match="below 0"):
        InjectedFault("cut", "dev-1", -1, 1.0)


def test_the_invariants_of_a_machine_are_checked_after_every_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "validating", False)  # of what the simulator does, not the machine itself
    checked: Counter[HopMachine] = Counter()
    monkeypatch.setattr(HopMachine, "validate", lambda self: checked.update([self]), raising=False)
    outcome = simulate(Scenario(seed=1), tmp_path)
    hop = outcome.simulation.processes["node-1"]
    assert isinstance(hop.machine, HopMachine)
    assert checked[hop.machine] == hop.handled > 10
