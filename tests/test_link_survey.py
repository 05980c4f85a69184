"""Links are measured before the plan: the figures are those of the links, the plan follows them, and nothing of it can
stop a run or outlive it.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from brokers import SecureBroker
from fleet import make_shards, run_fleet
from plans import plan as plan_of_all
from self_profiles import Surveyed, Told, WithoutCuts, ran
from simulated import TOPICS
from surveys import FAST, MBIT, assert_nothing_is_left, linked, said

from broker.address import BrokerAddress
from broker.slow_link import parse_link
from mpsl import facts
from mpsl.job import read_job
from mpsl.link.channel import Channel, Peer
from mpsl.link_messages import Linked
from mpsl.machines.census import Presence
from mpsl.machines.effects import Effect, EndSession, Publish, SetTimer, Subscribe, Unsubscribe
from mpsl.machines.events import Connected, Received, TimerFired
from mpsl.machines.hop import HopMachine
from mpsl.machines.link_check import COMMAND, QUIET_S, QUIET_TIMER, command, limits_of
from mpsl.machines.link_sample import MAX_MEASURED, filled, sample
from mpsl.machines.machine import as_json
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.link_survey import SURVEY_S, VISIT_S, LinkSurvey
from mpsl.machines.orchestrator.link_visit import LinkVisit
from mpsl.machines.orchestrator.run_state import RunState
from mpsl.machines.probe_burst import MAX_BYTES, START_BYTES, Direction
from mpsl.machines.session import LINK_TIMER
from mpsl.machines.session_id import SessionId
from mpsl.machines.survey import merge_nearly_equal
from mpsl.messages import End
from mpsl.names import ORCHESTRATOR
from mpsl.profile_questions import FIRST_TERM, NO_LIMIT_MBPS, LinkFigures, LinkQuestion
from mpsl.sim.faults import Faults
from mpsl.topics import Branch

# What is measured


def test_rates_and_latencies_are_those_of_the_cables(tmp_path: Path) -> None:
    speeds = {"dev-1": (1.0, 8.0, 30.0), "dev-2": (20.0, 3.0, 5.0), "node-1": (0.3, 50.0, 100.0), "node-2": FAST}
    outcome, plan = ran(linked(WithoutCuts(1), speeds), tmp_path)
    assert plan["links"].keys() == speeds.keys()
    for id, (up, down, ms) in speeds.items():
        found = plan["links"][id]
        assert found["up_mbps"] == pytest.approx(up, rel=0.1), id
        assert found["down_mbps"] == pytest.approx(down, rel=0.1), id
        assert found["latency_ms"] == pytest.approx(ms, rel=0.1), id
    (line,) = said(outcome, "links-measured")
    assert (line["measured"], line["slowest"], line["farthest"]) == (4, "node-1", "node-1")
    assert line["seconds"] < 4 * 3
    assert_nothing_is_left(outcome)


def test_a_link_without_a_limit_counts_as_one(tmp_path: Path) -> None:
    _, plan = ran(Surveyed(WithoutCuts(2)), tmp_path)
    assert plan["links"]["dev-1"] == {"up_mbps": NO_LIMIT_MBPS, "down_mbps": NO_LIMIT_MBPS, "latency_ms": 1.0}


@pytest.mark.parametrize("mbps", [0.05, 0.3, 1.0, 30.0, 1000.0])
def test_a_slow_link_takes_few_seconds_and_a_fast_one_is_still_seen(mbps: float) -> None:
    direction, seconds, sent = Direction(512 * 1024), 0.0, 0
    while not direction.done:
        took = direction.size / (mbps * MBIT)
        seconds, sent = seconds + took, sent + direction.size
        direction.took(direction.size, took)
    assert direction.bytes_per_s == pytest.approx(mbps * MBIT)
    assert seconds <= max(1.0, 2 * START_BYTES / (mbps * MBIT))
    assert seconds > 0.05 or direction.size == MAX_BYTES
    assert sent <= 3 * MAX_BYTES


def test_what_was_lost_and_came_seconds_later_does_not_count() -> None:
    direction = Direction(512 * 1024)
    for seconds in (2.0, 0.001, 0.002, 0.25):
        assert not direction.done
        size = direction.size
        direction.took(size, seconds)
    assert direction.done
    assert direction.bytes_per_s == pytest.approx(size / 0.25)


# What the plan makes of it


@pytest.mark.parametrize("slow", ["node-1", "node-2"])
def test_a_node_behind_a_slow_link_gets_the_part_with_the_small_edges(tmp_path: Path, slow: str) -> None:
    scenario = WithoutCuts(3, hidden=(64, 64, 4, 4, 4))
    _, plan = ran(linked(scenario, {slow: (0.5, 0.5, 1.0)}), tmp_path)
    nodes = [seat["node"] for seat in plan["seats"]]
    assert nodes[-1] == slow
    assert plan["cuts"][1] >= 3


def test_the_cut_moves_to_where_activations_are_small(tmp_path: Path) -> None:
    scenario = WithoutCuts(4, samples=(8,) * 6, tests=(3,) * 6, hidden=(4, 4, 64, 64, 4))
    slow = dict.fromkeys(scenario.nodes, (0.5, 0.5, 1.0))
    for speeds, cuts in (({}, [1, 3, 5]), (slow, [1, 2, 5])):
        outcome, plan = ran(linked(scenario, speeds), tmp_path / str(cuts[1]))
        assert plan["cuts"] == cuts
        assert_nothing_is_left(outcome)


def test_nodes_whose_links_are_nearly_the_same_are_one_kind() -> None:
    found = merge_nearly_equal({"a": 100.0, "b": 118.0, "c": 90.0, "d": 10.0, "e": 113.0, "f": 11.0})
    assert found == {"d": 10.5, "f": 10.5, "c": 95.0, "a": 95.0, "e": 115.5, "b": 115.5}


# Whom it asks


def member(id: str, host: str, hardware: str = "pi", branch: Branch = "dev") -> Presence:
    info = {"host": host, "hardware": hardware, "cores": 4, "threads": 1}
    return Presence(branch, id, status={"boot": f"boot of {id}"}, info=info)


def test_of_many_some_of_every_kind_and_machine_are_measured() -> None:
    crowd = [member(f"a-{number}", "one") for number in range(50)]
    alone = [member(f"b-{number}", f"host-{number}") for number in range(3)]
    rare = [member(f"c-{number}", f"rare-{number}", "jetson") for number in range(40)]
    nodes = [member(f"node-{number}", "one", branch="node") for number in range(2)]
    chosen = [each.id for each in sample([*nodes, *crowd, *alone, *rare])]
    assert chosen[:2] == ["node-0", "node-1"]
    assert len(chosen) == 2 + MAX_MEASURED
    assert {"a-0", "b-0", "b-1", "b-2"} < set(chosen), "one of every machine first"
    assert sum(id.startswith("c-") for id in chosen) == MAX_MEASURED - 4
    few = [*alone, *nodes]
    assert {each.id for each in sample(few)} == {each.id for each in few}, "of few all"


def test_the_others_count_as_those_of_their_kind_and_the_silent_as_fast() -> None:
    members = [member(f"a-{number}", "one") for number in range(5)]
    members += [member("b", "two"), member("c", "three", "jetson")]
    measured = {"a-0": LinkFigures(1, 10, 5), "a-1": LinkFigures(3, 30, 7), "b": LinkFigures(80, 80, 1)}
    found = filled([*members, member("d", "four")], measured, ["a-4"])
    assert found["a-2"] == found["a-3"] == LinkFigures(2, 20, 6)
    assert found["d"] == LinkFigures(3, 30, 5), "the median of its kind on any machine"
    assert found["b"] == measured["b"]
    assert "a-4" not in found
    assert found["c"] == LinkFigures(3, 30, 5), "nobody of its kind was measured: that of all devices"
    assert "e" not in filled([*members, member("e", "one", branch="node")], measured, []), "no node was measured"


def test_many_slow_links_leave_half_of_the_time_to_start(tmp_path: Path) -> None:
    scenario = WithoutCuts(5, samples=(4,) * 9, tests=(0,) * 9, start_timeout_s=60.0, rounds=1)
    outcome, plan = ran(linked(scenario, dict.fromkeys(scenario.devices, (0.05, 0.05, 5.0))), tmp_path)
    (line,) = said(outcome, "links-measured")
    assert line["measured"] < 11
    assert line["seconds"] <= 30
    assert plan["links"]["dev-9"]["up_mbps"] == pytest.approx(0.05, rel=0.1)
    assert_nothing_is_left(outcome)


# What goes wrong


def test_a_lossy_network_only_delays_it(tmp_path: Path) -> None:
    faults = Faults(lost=0.1, doubled=0.1, late=0.3, longest_delay_s=3.0)
    for seed in range(5):
        outcome, plan = ran(linked(WithoutCuts(seed, faults=faults)), tmp_path / str(seed))
        silent = [id for line in said(outcome, "links-not-measured") for id in line["ids"]]
        assert {*plan["links"], *silent} == {"dev-1", "dev-2", "node-1", "node-2"}
        assert "predicted" in plan
        assert_nothing_is_left(outcome)


# The participant alone


QUESTION = LinkQuestion("p-000000", "o", FIRST_TERM + 1, 4096)
MEASURING = SessionId("p-000000", FIRST_TERM + 1)


class Measured:
    """node-1 (boot a) and the orchestrator's end of its link; what it sends to itself comes back at once."""

    def __init__(self) -> None:
        self.machine = HopMachine("node-1", "a", TOPICS, {"memory_budget": None})
        self.machine.handle(Connected(), 0.0)
        self.channel = Channel(TOPICS, "p-000000", ORCHESTRATOR, "o", QUESTION.term, limits_of(4096))
        self.channel.set_peers({"node-1": Peer("a", "node-1")})
        self.effects: list[Effect] = []

    def handle(self, event: Any, now: float) -> list[Effect]:
        effects = self.machine.handle(event, now)
        for effect in list(effects):
            if isinstance(effect, Publish) and effect.topic.startswith(TOPICS.root + "/x/p-000000/node-1/"):
                effects += self.handle(Received(effect.topic, bytes(effect.payload)), now)
        return effects

    def command(self, question: LinkQuestion, now: float) -> list[Effect]:
        topic = TOPICS.participant("node", "node-1", "cmd")
        return self.handle(Received(topic, as_json(command("a", question))), now)


FILTER = (TOPICS.binary("p-000000", "node-1", "+", "+"),)


def test_a_repeated_command_is_recognised_while_it_is_measured_and_afterwards() -> None:
    measured = Measured()
    effects = measured.command(QUESTION, 1.0)
    assert Subscribe(FILTER) in effects
    assert measured.machine.run_filters() == [*FILTER], "a new connection subscribes to it again"
    (linked_at,) = [each for each in effects if isinstance(each, Publish) and each.topic.endswith("/orch/ctl/node-1")]
    topic = TOPICS.parse(linked_at.topic)
    assert measured.channel.receive(topic, bytes(linked_at.payload), 1.0)[0] == [Linked(0.0)]  # type: ignore[arg-type]
    assert measured.command(QUESTION, 2.0) == []
    for outbound in measured.channel.send("node-1", End("done", ""), 2.0):
        effects = measured.handle(Received(outbound.topic, bytes(outbound.payload)), 2.0)
    assert [each for each in effects if not isinstance(each, Publish | SetTimer)] == [
        Unsubscribe(FILTER), EndSession(MEASURING)
    ]  # fmt: skip
    assert any(isinstance(each, Publish) and each.topic.endswith("/orch/ack/node-1") for each in effects)
    assert measured.machine.run_filters() == []
    assert measured.command(QUESTION, 3.0) == [], "late"
    assert Subscribe(FILTER) in measured.command(replace(QUESTION, term=QUESTION.term + 1), 4.0), "asked anew"


def test_an_orchestrator_that_falls_silent_is_forgotten() -> None:
    measured = Measured()
    measured.command(QUESTION, 1.0)
    assert Unsubscribe(FILTER) not in measured.handle(TimerFired(LINK_TIMER, MEASURING), 3.1)
    assert Unsubscribe(FILTER) in measured.handle(TimerFired(QUIET_TIMER, MEASURING), 1.0 + QUIET_S)
    assert measured.machine.handle(TimerFired(QUIET_TIMER, MEASURING), 30.0) == []


def test_what_is_on_its_way_to_the_orchestrator_is_given_its_time_before_it_counts_as_silent() -> None:
    measured = Measured()
    measured.command(QUESTION, 1.0)
    session = measured.machine._link_check._session
    assert session is not None
    session.channel.seconds_under_way = lambda to: 4.0 if to == "orch" else 99.0  # type: ignore[method-assign]
    silent_at = 1.0 + QUIET_S + 4.0
    assert measured.handle(TimerFired(QUIET_TIMER, MEASURING), 1.0 + QUIET_S) == [
        SetTimer(QUIET_TIMER, silent_at, MEASURING)
    ]
    assert Unsubscribe(FILTER) in measured.handle(TimerFired(QUIET_TIMER, MEASURING), silent_at)


@pytest.mark.parametrize(("under_way", "given_up_after"), [(0.0, 0.0), (3.0, 3.0), (1e6, VISIT_S)])
def test_a_link_is_measured_until_what_is_on_its_way_should_have_been_there(
    under_way: float, given_up_after: float
) -> None:
    """Over a slow link the last train is not thrown away for a second."""
    context = RunContext(RunState(read_job(WithoutCuts(1).job(), "job"), "p-000000", "o"), TOPICS, lambda effect: None)
    survey = LinkSurvey(context)
    visit = LinkVisit(TOPICS, QUESTION, "node", "node-1", "a", 20.0, context.emit)
    visit.session.channel.seconds_under_way = lambda to: under_way if to == "node-1" else 99.0  # type: ignore[method-assign]
    survey._visit, survey._until, visit._latency_s = visit, 1e9, 0.1
    context.now = 20.0 + given_up_after - 0.1
    survey.timer_fired(None)
    assert not survey.done
    context.now += 0.2
    survey.timer_fired(None)
    assert survey.done


def test_a_plan_that_names_it_ends_the_measuring() -> None:
    measured = Measured()
    measured.command(QUESTION, 1.0)
    plan = replace(plan_of_all(), run="p-000000")
    effects = measured.handle(Received(TOPICS.run("p-000000", "plan"), as_json(facts.plain(plan))), 2.0)
    assert effects.index(Unsubscribe(FILTER)) < next(
        number for number, each in enumerate(effects) if isinstance(each, Subscribe)
    )
    assert EndSession(MEASURING) in effects
    assert (measured.machine._link_check.run, measured.machine.run_names) == (None, ["p-000000"])
    before = measured.machine.dropped.total()
    measured.command(replace(QUESTION, term=QUESTION.term + 1), 3.0)
    assert measured.machine.dropped.total() == before + 1, "in a run nothing is measured"


def test_what_is_no_question_is_refused() -> None:
    measured = Measured()
    good = command("a", QUESTION)
    wrong: list[dict[str, Any]] = [
        good | {"boot": "b"}, good | {"link": None}, {"do": COMMAND, "boot": "a"},
        good | {"link": good["link"] | {"run": "a/+"}}, good | {"link": good["link"] | {"term": 1}},
        good | {"link": good["link"] | {"chunk_bytes": 0}}, good | {"link": good["link"] | {"more": 1}},
    ]  # fmt: skip
    for number, content in enumerate(wrong, start=1):
        effects = measured.handle(Received(TOPICS.participant("node", "node-1", "cmd"), as_json(content)), 1.0)
        assert not any(isinstance(each, Subscribe | Publish | SetTimer) for each in effects), content
        assert measured.machine.dropped["command is malformed"] == number


# For real


def test_over_a_broker_with_access_rules_and_a_slow_link(secure_mosquitto: SecureBroker, tmp_path: Path) -> None:
    process = secure_mosquitto.process
    plain = BrokerAddress(process.host, process.port, True, ca=str(secure_mosquitto.ca))

    def address(id: str) -> BrokerAddress:
        link = parse_link("2mbit/20ms") if id == "node-2" else None
        return replace(plain, user=id, password=secure_mosquitto.passwords[id], link=link)

    job = WithoutCuts(1).job() | {"wire": {}}
    shards = make_shards([9, 7], (5,), 3, test=3)
    info = {"host": "here", "hardware": "any", "cores": 2, "threads": 1}
    outcome = run_fleet(address, job, shards, tmp_path, nodes=2, info=info, profiler=Told(lambda number: 1.0, []))
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    links = json.loads((tmp_path / "plan.json").read_text())["links"]
    assert links.keys() == {"dev-1", "dev-2", "node-1", "node-2"}
    slow = links.pop("node-2")
    # Never faster than the emulated link; how much slower depends on what else this machine does.
    assert 0.5 < slow["up_mbps"] < 2.1
    assert 0.5 < slow["down_mbps"] < 2.1
    assert 19.9 < slow["latency_ms"] < 200
    assert all(min(link["up_mbps"], link["down_mbps"]) > 2.1 for link in links.values())
    assert next(facts["seconds"] for _, event, facts in outcome.log if event == "links-measured") < SURVEY_S
