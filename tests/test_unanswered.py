"""A broker that drops publishes silently, by its rules or by their size: the error says who does not hear whom."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from links import Network, fault
from scenarios import Scenario
from simulated import Outcome, check_result, simulate

from mpsl.link.channel import UNANSWERED_S, Limits
from mpsl.machines.census import Presence
from mpsl.sim.network import SimulatedNetwork

TWO_HOPS = Scenario(5, hops=2, samples=(9, 7, 8), tests=(3, 3, 3), hidden=(4, 4, 4, 4), start_timeout_s=60.0)
WIDE = Scenario(5, hops=1, samples=(64, 64), hidden=(40, 40, 40), batch_size=64, chunk_bytes=16384, patience_s=200.0)

Drops = Callable[[str, str, int], bool]
"""Whether the broker drops a publish of (or for) a process, by its topic and size."""


def id_of(client: str) -> str:
    """The id of a device or node, or orch, in a client id."""
    found = re.search(r"(dev-\d+|node-\d+|orch)", client)
    assert found
    return found[1]


def broker_drops(patch: pytest.MonkeyPatch, written: Drops | None = None, read: Drops | None = None) -> None:
    publish, send_down = SimulatedNetwork.publish, SimulatedNetwork._send_down

    def published(self: SimulatedNetwork, name: str, number: int, message: Any) -> None:
        if written is None or not written(id_of(name), message.topic, len(message.payload)):
            publish(self, name, number, message)

    def sent_down(self: SimulatedNetwork, client: Any, message: Any, delay: float = 0.0) -> None:
        if read is None or not read(id_of(client.name), message.publish.topic, len(message.publish.payload)):
            send_down(self, client, message, delay)

    patch.setattr(SimulatedNetwork, "publish", published)
    patch.setattr(SimulatedNetwork, "_send_down", sent_down)


def failed(outcome: Outcome) -> str:
    assert outcome.summary["state"] == "failed", outcome.trace()
    return str(outcome.summary["reason"])


RULES: dict[str, tuple[Drops | None, Drops | None, list[str]]] = {
    "device-writes-seats": (
        lambda name, topic, _: name == "dev-2" and "/seat/" in topic,
        None,
        ["dev-2 has had no acknowledgement from node-1 (seat 1_0)", "/seat/sim-000000/1_0/fwd/dev-2"],
    ),
    "device-reads-its-topics": (
        None,
        lambda name, topic, _: name == "dev-2" and "/x/" in topic,
        ["orch has had no acknowledgement from dev-2", "/x/sim-000000/dev-2/", "/x/sim-000000/orch/ack/dev-2"],
    ),
    "device-writes-x": (
        lambda name, topic, _: name == "dev-2" and "/x/" in topic,
        None,
        ["dev-2 has had no acknowledgement from orch", "/x/sim-000000/orch/ctl/dev-2"],
    ),
    "device-reads-the-plan": (
        None,
        lambda name, topic, _: name == "dev-2" and topic.endswith("/plan"),
        ["alive, but without the plan: dev-2; ", "/run/sim-000000/plan"],
    ),
    "node-reads-its-seat": (
        None,
        lambda name, topic, _: name == "node-1" and "/seat/" in topic,
        ["orch has had no acknowledgement from node-1 (seat 1_0)", "/seat/sim-000000/1_0/weights/orch"],
    ),
    "node-writes-seats": (
        lambda name, topic, _: name == "node-1" and "/seat/" in topic,
        None,
        ["node-1 has had no acknowledgement from node-2 (seat 2_0)", "/seat/sim-000000/2_0/fwd/node-1"],
    ),
    "orchestrator-writes-seats": (
        lambda name, topic, _: name == "orch" and "/seat/" in topic,
        None,
        ["orch has had no acknowledgement from node-1 (seat 1_0)", "no acknowledgement from node-2 (seat 2_0)"],
    ),
    "orchestrator-reads-x": (
        None,
        lambda name, topic, _: name == "orch" and "/x/" in topic,
        ["node-1 has had no acknowledgement from orch", "and 2 more such links"],
    ),
    "orchestrator-writes-the-plan": (
        lambda name, topic, _: topic.endswith("/plan"),
        None,
        ["alive, but without the plan: node-1, node-2, dev-1, dev-2, dev-3; ", "orch write and them read"],
    ),
    "device-writes-info": (
        lambda name, topic, _: topic.endswith("dev-2/info"),
        None,
        ["waiting for: 1 more device; seen, but not free: dev-2 (its info has not come)"],
    ),
    "device-writes-telemetry": (
        lambda name, topic, _: topic.endswith("dev-2/tele"),
        None,
        ["seen, but not free: dev-2 (it sends no telemetry)"],
    ),
    "orchestrator-reads-devices": (
        None,
        lambda name, topic, _: name == "orch" and "/dev/" in topic,
        ["no device has been seen", "--net sim", "/dev/+/status"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_rules_that_forbid_a_topic_are_named_as_the_likely_cause(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, read, says = RULES[rule]
    broker_drops(monkeypatch, written, read)
    outcome = simulate(TWO_HOPS, tmp_path)
    said = failed(outcome)
    for part in says:
        assert part in said
    assert "access rules" in said or "seen, but not free" in said


def test_an_answer_that_is_lost_is_noticed_before_the_link_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker_drops(monkeypatch, written=lambda name, topic, _: name == "dev-2" and "/x/" in topic)
    said = failed(simulate(replace(TWO_HOPS, start_timeout_s=7.0), tmp_path))
    assert "have the plan, but no answer has come from: dev-2" in said
    assert "/x/sim-000000/orch/ctl/+" in said


@pytest.mark.parametrize("limit", [7000, 9000])
def test_a_limit_on_the_size_is_named_with_the_chunk_bytes_that_go_below_it(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker_drops(monkeypatch, written=lambda _, topic, size: size > limit and "/run/" not in topic)
    outcome = simulate(WIDE, tmp_path / "first")
    said = failed(outcome)
    found = re.search(r"publishes of ([\d,]+) bytes vanish, those of ([\d,]+) bytes arrive.*chunk_bytes = (\d+)", said)
    assert found, said
    vanish, arrive, chunk_bytes = (int(text.replace(",", "")) for text in found.groups())
    assert arrive <= chunk_bytes <= limit < vanish
    assert outcome.ending.seconds < 200.0, "not one device after the other"
    outcome = simulate(replace(WIDE, chunk_bytes=chunk_bytes), tmp_path / "second")
    assert outcome.summary["state"] == "done", outcome.trace()
    check_result(outcome)


def test_where_nothing_arrives_the_size_that_vanishes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broker_drops(monkeypatch, written=lambda _, topic, size: size > 2000 and "/run/" not in topic)
    said = failed(simulate(WIDE, tmp_path))
    found = re.search(r"publishes of ([\d,]+) bytes vanish", said)
    assert found, said
    assert 2000 < int(found[1].replace(",", "")) < WIDE.chunk_bytes, (
        "the chunk that was sent, not the largest there may be"
    )


def test_a_link_is_unanswered_until_everything_old_on_it_is_acknowledged() -> None:
    network = Network()
    limits = Limits(chunk_bytes=1256, window=10_000, paced=False)
    a, b = network.join("a", limits), network.join("b", limits)
    a.send("b", fault(1, 5000), 0.0)
    assert a.unanswered(UNANSWERED_S - 0.1) == []
    [found] = a.unanswered(UNANSWERED_S)
    assert (found.to, found.lane, found.seconds, found.bytes, found.arrived) == ("b", "ctl", UNANSWERED_S, 1256, 0)
    a.due(5.0)
    assert a.unanswered(UNANSWERED_S) == [found], "what is sent again is no younger"
    del b
    network.now = UNANSWERED_S
    network.publish(a.due(UNANSWERED_S))
    network.run()
    assert a.unanswered(1e9) == []


@pytest.mark.parametrize(
    "told",
    [None, 3, "x", [3], [{}], [{"to": "1_0"}], [{"to": 1, "lane": "fwd", "seconds": 30, "bytes": 1, "arrived": 0}],
     [{"to": "1_0", "lane": "?", "seconds": 30, "bytes": 1, "arrived": 0}],
     [{"to": "1_0", "lane": "fwd", "seconds": float("inf"), "bytes": 1, "arrived": 0}]],
)  # fmt: skip
def test_telemetry_that_is_malformed_says_nothing(told: Any) -> None:
    from mpsl.machines.orchestrator.unanswered import _told

    assert list(_told(Presence("dev", "dev-1", telemetry={"unanswered": told}))) == []
