"""Topics: eight levels, the destination before the source, the source last; taking apart is the inverse of building."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsl.names import ORCHESTRATOR
from mpsl.topics import (
    LANES,
    LEAVES,
    BinaryTopic,
    Branch,
    ParticipantTopic,
    RunTopic,
    Topics,
    client_id,
    seat_address,
)

TOPICS = Topics("main")
ids = st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True)
seats = st.builds(seat_address, st.integers(1, 999), st.integers(0, 999))
participants: list[tuple[Branch, str]] = [(branch, leaf) for branch in ("dev", "node") for leaf in LEAVES[branch]]


@given(ids, ids | seats | st.just(ORCHESTRATOR), st.sampled_from(LANES), ids)
def test_binary_topics_come_back(run: str, to: str, lane: str, source: str) -> None:
    topic = TOPICS.binary(run, to, lane, source)
    assert TOPICS.parse(topic) == BinaryTopic(run, to, lane, source)  # type: ignore[arg-type]
    levels = topic.split("/")
    assert len(levels) == 8
    assert levels[-1] == source, "the source is last, so that one access rule binds a writer to its own name"
    assert levels.index("seat" if "_" in to else "x") == 3


@given(ids, st.sampled_from(participants))
def test_participants_topics_come_back(id: str, kind: tuple[Branch, str]) -> None:
    branch, leaf = kind
    topic = TOPICS.participant(branch, id, leaf)
    assert TOPICS.parse(topic) == ParticipantTopic(branch, id, leaf)
    assert topic.count("/") <= 7


@given(ids, st.sampled_from(LEAVES["run"]))
def test_run_topics_come_back(run: str, leaf: str) -> None:
    topic = TOPICS.run(run, leaf)
    assert TOPICS.parse(topic) == RunTopic(run, leaf)
    assert topic.count("/") <= 7


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "mpsl",
        "mpsl/v1/main",
        "mpsl/v1/main/",
        "mpsl/v1/mainx/dev/dev-1/status",
        "mpsl/v2/main/dev/dev-1/status",
        "other/v1/main/dev/dev-1/status",
        "mpsl/v1/main/dev/dev-1",
        "mpsl/v1/main/dev/dev-1/status/more",
        "mpsl/v1/main/dev/dev-1/other",
        "mpsl/v1/main/dev//status",
        "mpsl/v1/main/dev/Dev/status",
        "mpsl/v1/main/dev/dev²/status",
        "mpsl/v1/main/dev/٣/status",
        "mpsl/v1/main/dev/dev-1\n/status",
        "mpsl/v1/main/dev/+/status",
        f"mpsl/v1/main/dev/{'d' * 33}/status",
        "mpsl/v1/main/run/a.b/plan",
        "mpsl/v1/main/run/run-1/status",
        "mpsl/v1/main/x/run-1/1_0/fwd/dev-1",
        "mpsl/v1/main/seat/run-1/dev-1/fwd/dev-1",
        "mpsl/v1/main/seat/run-1/0_0/fwd/dev-1",
        "mpsl/v1/main/seat/run-1/1_0_0/fwd/dev-1",
        "mpsl/v1/main/seat/run-1/1./fwd/dev-1",
        "mpsl/v1/main/seat/run-1/99999.0/fwd/dev-1",
        "mpsl/v1/main/x/run-1/dev-1/other/dev-2",
        "mpsl/v1/main/x/run-1/dev-1/fwd/dev 2",
        "mpsl/v1/main/x/run-1/dev-1/fwd/dev-2/more",
    ],
)
def test_foreign_topics_are_none_of_ours(topic: str) -> None:
    assert TOPICS.parse(topic) is None


@given(st.text())
def test_any_text_is_taken(topic: str) -> None:
    TOPICS.parse(topic)
    TOPICS.parse(f"mpsl/v1/main/{topic}")
    TOPICS.parse(f"mpsl/v1/main/dev/{topic}/status")


def test_nets_do_not_mix() -> None:
    assert TOPICS.parse(Topics("other").participant("dev", "dev-1", "status")) is None


def test_wildcards_make_filters() -> None:
    assert TOPICS.binary("run-1", "1_0", "+", "+") == "mpsl/v1/main/seat/run-1/1_0/+/+"
    assert TOPICS.binary("run-1", "orch", "+", "+") == "mpsl/v1/main/x/run-1/orch/+/+"
    assert TOPICS.participant("dev", "+", "status") == "mpsl/v1/main/dev/+/status"
    assert TOPICS.run("+", "plan") == "mpsl/v1/main/run/+/plan"


def test_access_rules_name_the_writer_last() -> None:
    """docs/acl.example binds writing to one's own name, last or where a participant's own topics have it."""
    rules = (Path(__file__).parent.parent / "docs" / "acl.example").read_text()
    writing = re.findall(r"^pattern (?:write|readwrite) (\S+)", rules, re.MULTILINE)
    assert writing
    for pattern in writing:
        levels = pattern.split("/")
        assert "%u" in (levels[-1], levels[4]), pattern
        assert len(levels) <= 8
    # Devices and nodes alike, also before a plan: to themselves, and from and to the orchestrator.
    assert "pattern read mpsl/v1/+/x/+/%u/#" in rules.splitlines()
    assert "pattern write mpsl/v1/+/x/+/+/+/%u" in rules.splitlines()


def test_client_ids_tell_boots_apart() -> None:
    assert client_id("device", "dev-1", "0a1b") == "mpsl-device-dev-1-0a1b"
    assert client_id("orch", ORCHESTRATOR, "0a1b") == "mpsl-orch-0a1b"
