"""Brokers that retain nothing, or send nothing retained to wildcards: who is heard is asked for its status and info."""

import json
from typing import Any

import pytest
from orchestrator_rig import BOOTS, OrchestratorRig, rig
from participant_rig import Rig, device, hop

from broker.ls import Listing
from mpsl import PROTOCOL
from mpsl.machines.census import UNANNOUNCED_S, Census
from mpsl.machines.effects import Publish
from mpsl.machines.events import Connected, Received, Subscribed
from mpsl.machines.machine import as_json, from_json
from mpsl.topics import ParticipantTopic, Topics


def published(effects: list[Any], topic: str) -> list[dict[str, Any]]:
    return [from_json(e.payload) or {} for e in effects if isinstance(e, Publish) and e.topic == topic]


def asked(found: OrchestratorRig, id: str, seconds: float = 0.0) -> list[dict[str, Any]]:
    """The commands that a look around sends to this id."""
    branch = "node" if id.startswith("node") else "dev"
    return published(found.watch(seconds), found.machine.topics.participant(branch, id, "cmd"))


def test_who_goes_on_being_heard_is_asked_until_it_has_said_what_it_is() -> None:
    found = rig()
    found.handle(Connected())
    found.handle(Subscribed())
    found.tell("node", "node-1", "tele", run=None)
    assert asked(found, "node-1", UNANNOUNCED_S) == [], "its status may be on the way"
    for _ in range(2):
        found.tell("node", "node-1", "tele", run=None)
        assert asked(found, "node-1") == [{"do": "announce", "boot": BOOTS["node-1"]}]
        assert asked(found, "node-1") == []
        found.tell("node", "node-1", "tele", run=None)
        found.now += UNANNOUNCED_S
    found.be_online("node-1")
    assert asked(found, "node-1", UNANNOUNCED_S) == []
    found.tell("node", "node-1", "tele", run=None)
    assert asked(found, "node-1", UNANNOUNCED_S) == []
    assert "1 more node" not in found.machine.waiting_for(), "telemetry before the status counts"


def test_a_new_process_behind_the_status_of_the_former_one_is_asked() -> None:
    found = rig()
    found.handle(Connected())
    found.be_online("dev-1")
    topic = found.machine.topics.participant("dev", "dev-1", "tele")
    for _ in range(2):
        found.handle(Received(topic, as_json({"boot": "d9", "run": None})))
        found.now += UNANNOUNCED_S
    assert asked(found, "dev-1") == [{"do": "announce", "boot": "d9"}]


@pytest.mark.parametrize("status_first", [True, False])
def test_telemetry_counts_whether_it_comes_before_or_after_the_status(status_first: bool) -> None:
    census = Census()
    contents = {"status": {"state": "online", "protocol": PROTOCOL}, "info": {"run": None}, "tele": {"run": None}}
    for leaf in ("status", "info", "tele") if status_first else ("tele", "status", "info"):
        census.note(ParticipantTopic("dev", "dev-1", leaf), as_json({"boot": "b1", **contents[leaf]}), 1.0)
    assert census.count_free("dev", 1.0) == 1


@pytest.mark.parametrize("joined", [device, hop], ids=["device", "node"])
def test_status_and_info_are_said_again_on_command_also_in_a_run(joined: Any) -> None:
    found: Rig = joined()
    machine = found.machine
    own = {leaf: machine.topics.participant(machine.branch, machine.id, leaf) for leaf in ("cmd", "status", "info")}

    def command(boot: str) -> list[Any]:
        return found.handle(Received(own["cmd"], as_json({"do": "announce", "boot": boot})))

    assert command("another") == []
    effects = command(machine.boot)
    assert all(isinstance(effect, Publish) and effect.retain for effect in effects)
    assert [said["state"] for said in published(effects, own["status"])] == ["online"]
    assert [said["run"] for said in published(effects, own["info"])] == machine.run_names
    assert machine.dropped.total() == 0


def test_ls_subscribes_by_name_to_who_is_heard_and_to_its_run() -> None:
    topics = Topics("main")
    listing = Listing(topics)

    def tell(leaf: str, **content: Any) -> None:
        listing.note(topics.participant("dev", "dev-1", leaf), json.dumps({"boot": "b1", **content}).encode(), 1.0)

    assert listing.missing_topics() == ()
    tell("tele", run="digits-0a1b2c")
    names = (topics.participant("dev", "dev-1", "status"), topics.participant("dev", "dev-1", "info"))
    assert listing.missing_topics() == (*names, topics.run("digits-0a1b2c", "state"))
    tell("tele", run="digits-0a1b2c")
    assert listing.missing_topics() == (), "each once"
    tell("status", state="online")
    assert [row["state"] for row in listing.rows()["devices"]] == ["online"]
    assert not listing.complete, "others may be there that have not been heard yet"


def test_ls_subscribes_to_nothing_that_a_foreign_message_invents() -> None:
    topics = Topics("main")
    listing = Listing(topics)
    for run in ("#", "a/b", "+", 5, None):
        listing.note(topics.participant("dev", "dev-1", "tele"), as_json({"boot": "b1", "run": run}), 1.0)
    assert len(listing.missing_topics()) == 2
