"""The pretended broker does what MQTT says, and the simulation is repeatable."""

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenarios import Scenario, random_mishaps
from simulated import simulate

from mpsl.machines.effects import Publish
from mpsl.sim.agenda import Agenda
from mpsl.sim.cables import Cable
from mpsl.sim.faults import Faults, Mishap
from mpsl.sim.network import NOTICE_S, Network
from mpsl.sim.retained import Retained
from mpsl.sim.subscriptions import Subscriptions

WILL = Publish("will", b"gone", 1, True)


class Desk:
    """A network with clients that note what they receive."""

    def __init__(self, faults: Faults, seed: int = 0) -> None:
        self.agenda = Agenda()
        self.network = Network(self.agenda, random.Random(seed), faults)
        self.heard: dict[str, list[tuple[str, bytes]]] = {}
        self.numbers: dict[str, int] = {}

    def connect(self, name: str, *filters: str, will: Publish = WILL) -> None:
        heard = self.heard.setdefault(name, [])
        cables = (Cable(0.001), Cable(0.001))
        self.numbers[name] = self.network.connect(
            name, cables, will, lambda topic, payload: heard.append((topic, payload))
        )
        self.network.subscribe(name, self.numbers[name], filters, lambda: None)
        self.settle()

    def publish(self, name: str, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        self.network.publish(name, self.numbers[name], Publish(topic, payload, qos, retain))  # type: ignore[arg-type]

    def settle(self, seconds: float = 10.0) -> None:
        until = self.agenda.now + seconds
        while self.agenda.step(until):
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
    desk = Desk(Faults())
    desk.connect("a")
    desk.publish("a", "x/1", b"old", 1, retain=True)
    desk.publish("a", "x/2", b"gone", 1, retain=True)
    desk.publish("a", "x/2", b"", 1, retain=True)
    desk.settle()
    desk.connect("b", "x/+")
    assert desk.heard["b"] == [("x/1", b"old")]
    desk.connect("c", "x/#", "y")
    desk.publish("a", "x/1", b"new")
    desk.settle()
    assert desk.heard["c"] == [("x/1", b"old"), ("x/1", b"new")]


def test_a_will_comes_after_a_cut_and_at_a_takeover_but_not_after_a_clean_end() -> None:
    desk = Desk(Faults())
    desk.connect("watch", "will")
    for end in ("cut", "takeover", "leave"):
        desk.connect("a")
        if end == "cut":
            desk.network.cut("a")
        elif end == "takeover":
            desk.connect("a")
        else:
            desk.network.leave("a", desk.numbers["a"])
        desk.settle(2 * NOTICE_S)
        wills = len(desk.heard["watch"])
        assert wills == {"cut": 1, "takeover": 2, "leave": 3}[end]  # the third connect takes over, too
    assert desk.heard["watch"] == [("will", b"gone")] * 3


def test_qos_0_is_lost_and_reordered_qos_1_arrives_in_the_order_of_its_topic() -> None:
    desk = Desk(Faults(lost=0.3, doubled=0.3, late=0.5, longest_delay_s=1.0))
    desk.connect("a")
    desk.connect("b", "#")
    desk.heard["b"].clear()
    for number in range(200):
        desk.publish("a", "binary", bytes([number]))
        desk.publish("a", "json", bytes([number]), 1)
    desk.settle()
    binary = [payload[0] for topic, payload in desk.heard["b"] if topic == "binary"]
    json = [payload[0] for topic, payload in desk.heard["b"] if topic == "json"]
    assert 50 < len(set(binary)) < 190
    assert binary != sorted(binary)
    assert json == sorted(json)
    assert set(json) == set(range(200))
    assert len(json) > 210


def test_a_cable_takes_its_time_and_keeps_order() -> None:
    cable = Cable(latency_s=0.1, bytes_per_s=1000)
    assert cable.arrival(0.0, 500) == pytest.approx(0.6)
    assert cable.arrival(0.0, 500) == pytest.approx(1.1)
    assert cable.arrival(5.0, 1000) == pytest.approx(6.1)
    assert cable.busy_s == pytest.approx(2.0)


def test_a_seed_repeats_a_simulation_event_for_event(tmp_path: Path) -> None:
    def trace(scenario: Scenario, out: str) -> str:
        text = simulate(scenario, tmp_path / out).simulation.trace.text()
        return re.sub(r'"memory":\{[^}]*\}', "", text)  # of this very process, which is not simulated

    first = trace(random_mishaps(3), "a")
    assert trace(random_mishaps(3), "b") == first
    assert trace(replace(random_mishaps(3), seed=4), "c") != first


def test_faults_check_themselves() -> None:
    with pytest.raises(ValueError, match="lost = 2 is no probability"):
        Faults(lost=2)
    with pytest.raises(ValueError, match="below 0"):
        Mishap("cut", "dev-1", -1, 1.0)
