"""Who is there, from JSON topics that may be old, foreign or out of order."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpsl import PROTOCOL
from mpsl.machines.census import STALE_S, Census, natural
from mpsl.machines.session import LOST_GRACE_S
from mpsl.topics import Branch, ParticipantTopic


def note(
    census: Census, leaf: str, id: str = "dev-1", now: float = 0.0, branch: Branch = "dev", **content: Any
) -> bool:
    """Whether the census took it in."""
    payload = json.dumps({"boot": "b1", **content}).encode()
    return census.note(ParticipantTopic(branch, id, leaf), payload, now) is not None


def arrive(census: Census, id: str = "dev-1", boot: str = "b1", now: float = 0.0, branch: Branch = "dev") -> None:
    """Everything that a process says when it goes online."""
    note(census, "status", id, now, branch, boot=boot, state="online", protocol=PROTOCOL)
    note(census, "info", id, now, branch, boot=boot, run=None)
    note(census, "tele", id, now, branch, boot=boot)


def free(census: Census, now: float = 0.0, branch: Branch = "dev") -> list[str]:
    return [presence.id for presence in census.free(branch, now)]


def test_free_is_online_described_heard_of_and_in_no_run() -> None:
    census = Census()
    assert note(census, "status", state="online", protocol=PROTOCOL)
    assert free(census) == []
    assert note(census, "info", run=None)
    assert free(census) == []
    assert note(census, "tele")
    assert free(census) == ["dev-1"]
    note(census, "info", run="run-1")
    assert free(census) == []


def test_a_silent_process_is_not_alive() -> None:
    census = Census()
    arrive(census, now=100.0)
    assert free(census, now=100.0 + STALE_S) == ["dev-1"]
    assert free(census, now=100.1 + STALE_S) == []
    note(census, "tele", now=200.0)
    assert free(census, now=200.0) == ["dev-1"]


@pytest.mark.parametrize("state", ["offline", "lost"])
def test_who_goes_is_gone(state: str) -> None:
    census = Census()
    arrive(census)
    assert note(census, "status", state=state, protocol=PROTOCOL)
    assert free(census) == []


@pytest.mark.parametrize("state", ["offline", "lost"])
def test_the_will_of_a_former_process_does_not_kill_its_successor(state: str) -> None:
    census = Census()
    arrive(census, boot="old")
    arrive(census, boot="new")
    assert not note(census, "status", boot="old", state=state, protocol=PROTOCOL)
    assert free(census) == ["dev-1"]


def test_a_successor_is_not_alive_by_the_word_of_its_predecessor() -> None:
    census = Census()
    arrive(census, boot="old")
    note(census, "status", boot="new", state="online", protocol=PROTOCOL)
    assert free(census) == [], "neither telemetry nor info of this boot"
    assert not note(census, "tele", boot="old")
    note(census, "info", boot="old", run=None)
    note(census, "tele", boot="new")
    assert free(census) == [], "the info is the predecessor's"
    note(census, "info", boot="new", run=None)
    assert free(census) == ["dev-1"]


def test_another_protocol_is_never_free_and_is_named() -> None:
    census = Census()
    arrive(census)
    assert census.of_other_protocol(0.0) is None
    note(census, "status", state="online", protocol=PROTOCOL + 1)
    assert free(census) == []
    other = census.of_other_protocol(0.0)
    assert other is not None
    assert other.id == "dev-1"
    note(census, "status", state="offline", protocol=PROTOCOL + 1)
    assert census.of_other_protocol(0.0) is None


def test_a_retained_status_of_another_protocol_is_no_participant() -> None:
    census = Census()
    note(census, "status", state="online", protocol=PROTOCOL - 1)
    note(census, "info", run=None)
    assert census.of_other_protocol(0.0) is None
    assert census.lacking("dev", 0.0) == {"dev-1": "it sends no telemetry"}
    note(census, "tele")
    assert census.of_other_protocol(0.0) is not None
    assert census.lacking("dev", 0.0) == {"dev-1": f"it speaks protocol {PROTOCOL - 1}, not {PROTOCOL}"}
    assert census.of_other_protocol(STALE_S + 1.0) is None


def test_why_someone_is_not_free() -> None:
    census = Census("mine")
    assert census.lacking("dev", 0.0) == {}
    note(census, "tele")
    assert census.lacking("dev", 0.0) == {"dev-1": "its status has not come"}
    note(census, "status", state="online", protocol=PROTOCOL)
    assert census.lacking("dev", 0.0) == {"dev-1": "its info has not come"}
    note(census, "info", run="another")
    assert census.lacking("dev", 0.0) == {"dev-1": "it is in run another"}
    note(census, "info", run="mine")
    assert census.lacking("dev", 0.0) == {}
    note(census, "info", run=None)
    assert census.lacking("dev", STALE_S + 1.0) == {"dev-1": "it sends no telemetry"}
    note(census, "status", state="lost", protocol=PROTOCOL)
    assert census.lacking("dev", STALE_S + 1.0) == {}


def test_devices_and_nodes_of_one_name_are_two() -> None:
    census = Census()
    arrive(census, "a", branch="dev")
    assert free(census, branch="node") == []
    assert census.get("node", "a") is None
    arrive(census, "a", branch="node")
    assert free(census, branch="node") == ["a"]


def test_the_order_is_natural() -> None:
    census = Census()
    for id in ("dev-10", "a", "dev-2", "dev-1b", "9", "dev", "10"):
        arrive(census, id)
    assert free(census) == ["9", "10", "a", "dev", "dev-1b", "dev-2", "dev-10"]


@given(st.lists(st.text(max_size=32)))
@example(["²", "٣", "dev-2"])
def test_any_ids_can_be_sorted(ids: list[str]) -> None:
    assert sorted(sorted(ids, key=natural, reverse=True), key=natural) == sorted(ids, key=natural)


FOREIGN = [b"", b"null", b"5", b"[]", b"{", b"\xff\xfe", b'{"boot": 5}', b"{}", b'{"boot": null, "state": "online"}']


@pytest.mark.parametrize("payload", FOREIGN)
@pytest.mark.parametrize("leaf", ["status", "info", "tele"])
def test_malformed_content_changes_nothing(payload: bytes, leaf: str) -> None:
    census = Census()
    arrive(census)
    assert census.note(ParticipantTopic("dev", "dev-1", leaf), payload, 50.0) is None
    assert census.note(ParticipantTopic("dev", "dev-2", leaf), payload, 50.0) is None
    assert free(census) == ["dev-1"]
    assert census.get("dev", "dev-2") is None


@pytest.mark.parametrize("state", ["", "gone", None, 5, ["online"], {"a": 1}])
def test_an_unknown_state_changes_nothing(state: object) -> None:
    census = Census()
    arrive(census)
    assert not note(census, "status", state=state)
    assert free(census) == ["dev-1"]


def test_a_last_will_is_provisional_for_its_grace_time_and_void_when_our_own_connection_drops() -> None:
    census = Census()
    arrive(census)
    note(census, "status", now=10.0, state="lost")
    presence = census.get("dev", "dev-1")
    assert presence is not None
    assert not presence.gone(10.0 + LOST_GRACE_S - 0.1)
    assert presence.gone(10.0 + LOST_GRACE_S)
    census.connection_lost()
    assert not presence.gone(1000.0), "it may have come with the broker's end"
    note(census, "status", now=1000.0, state="lost")  # retained: it comes again when we are back
    assert not presence.gone(1000.0 + LOST_GRACE_S - 0.1)
    assert presence.gone(1000.0 + LOST_GRACE_S)
    note(census, "status", now=1020.0, state="online", protocol=PROTOCOL)
    note(census, "status", now=2000.0, state="lost")
    assert not presence.gone(2001.0), "another will, another grace time"


def test_who_has_stopped_is_gone_at_once() -> None:
    census = Census()
    arrive(census)
    note(census, "status", now=10.0, state="offline")
    presence = census.get("dev", "dev-1")
    assert presence is not None
    assert presence.gone(10.0)


def test_the_job_says_how_long_someone_is_believed_in() -> None:
    census = Census(grace_s=1.0, silence_s=2.0)
    note(census, "status", now=0.0, boot="b", state="online", protocol=PROTOCOL)
    note(census, "info", now=0.0, boot="b", run=None)
    note(census, "tele", now=0.0, boot="b")
    presence = census.get("dev", "dev-1")
    assert presence is not None
    assert presence.alive(2.0)
    assert not presence.alive(2.1)
    note(census, "status", now=3.0, boot="b", state="lost")
    assert not presence.gone(3.9)
    assert presence.gone(4.0)
