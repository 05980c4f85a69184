"""`mpsl ls`: who is online, lost, offline or silent, and which runs go on."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from driving import PATIENCE_S

from broker.address import parse_broker
from broker.connection import connect
from broker.engines.engine import BrokerProcess
from broker.ls import Listing, table
from broker.tap import printable
from mpsl.machines.effects import Publish
from mpsl.topics import Branch, Topics

TOPICS = Topics("main")
NOON = 1_700_000_000.0
MPSL = [sys.executable, "-c", "from broker.command import main; main()"]


def tell(listing: Listing, branch: Branch, id: str, leaf: str, content: dict[str, Any], at: float = NOON) -> None:
    listing.note(TOPICS.participant(branch, id, leaf), json.dumps(content).encode(), at)


def status(state: str, boot: str = "b1", role: str = "device") -> dict[str, Any]:
    return {"state": state, "role": role, "boot": boot, "protocol": 1, "version": "0.1.0"}


def states(listing: Listing) -> dict[str, str]:
    found = listing.rows()
    return {row["id"]: row["state"] for row in found["devices"] + found["nodes"]}


def test_who_says_online_must_be_heard() -> None:
    listing = Listing(TOPICS)
    for id, state in (("dev-1", "online"), ("dev-2", "online"), ("dev-3", "offline"), ("dev-4", "lost")):
        tell(listing, "dev", id, "status", status(state))
    assert not listing.complete
    tell(listing, "dev", "dev-1", "tele", {"boot": "b1", "uptime_s": 90.0, "state": "training"})
    tell(listing, "dev", "dev-2", "tele", {"boot": "another", "uptime_s": 90.0})
    assert states(listing) == {"dev-1": "online", "dev-2": "silent", "dev-3": "offline", "dev-4": "lost"}
    tell(listing, "dev", "dev-2", "tele", {"boot": "b1", "uptime_s": 1})
    assert listing.complete
    row = listing.rows()["devices"][0]
    assert (row["since"], row["last_seen"]) == ("2023-11-14T22:11:50+00:00", "2023-11-14T22:13:20+00:00")
    assert row["doing"] == "training"


def test_the_run_is_that_of_the_living_process() -> None:
    listing = Listing(TOPICS)
    tell(listing, "node", "node-1", "status", status("online", "b2", "node"))
    tell(listing, "node", "node-1", "info", {"boot": "b1", "run": "old-0a1b2c"})
    tell(listing, "node", "node-1", "tele", {"boot": "b2", "uptime_s": 1.0})
    assert listing.rows()["nodes"][0]["run"] is None
    tell(listing, "node", "node-1", "info", {"boot": "b2", "run": "new-0a1b2c"})
    assert listing.rows()["nodes"][0]["run"] == "new-0a1b2c"
    tell(listing, "node", "node-1", "status", status("lost", "b1", "node"))  # the will of the former process
    assert states(listing) == {"node-1": "online"}
    tell(listing, "node", "node-1", "status", status("offline", "b2", "node"))
    row = listing.rows()["nodes"][0]
    assert (row["state"], row["run"], row["since"]) == ("offline", None, None)


def test_runs_come_and_are_cleared() -> None:
    listing = Listing(TOPICS)
    state = {"state": "open", "round": 2, "rounds": 5, "loss": 0.25, "accuracy": None, "waiting_for": ["dev-10"]}
    listing.note(TOPICS.run("a-0a1b2c", "state"), json.dumps(state).encode(), NOON)
    listing.note(TOPICS.run("b-0a1b2c", "state"), b'{"state":"lost","boot":"b9"}', NOON)
    assert [(run["run"], run["state"], run["round"]) for run in listing.rows()["runs"]] == [
        ("a-0a1b2c", "open", 2),
        ("b-0a1b2c", "lost", None),
    ]
    shown = "\n".join(table(listing.rows()))
    assert "2/5" in shown
    assert "dev-10" in shown
    listing.note(TOPICS.run("a-0a1b2c", "state"), b"", NOON)
    listing.note(TOPICS.run("b-0a1b2c", "state"), b"", NOON)
    assert table(listing.rows()) == ["no devices and no nodes", "", "no runs"]


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"state":"online"}', b'{"boot":1,"state":"online"}', b"\xff"])
def test_what_is_malformed_says_nothing(payload: bytes) -> None:
    listing = Listing(TOPICS)
    for leaf in ("status", "info", "tele", "unknown"):
        listing.note(TOPICS.participant("dev", "dev-1", leaf), payload, NOON)
    listing.note(TOPICS.run("a", "state"), payload, NOON)
    listing.note("elsewhere", payload, NOON)
    assert listing.rows()["devices"] == listing.rows()["nodes"] == []
    assert all(line.isprintable() for line in table(listing.rows()))


def test_odd_numbers_do_not_stop_it() -> None:
    listing = Listing(TOPICS)
    tell(listing, "dev", "dev-1", "status", status("online"))
    for uptime in (float("nan"), float("inf"), 1e300, -5, "long", None):
        tell(listing, "dev", "dev-1", "tele", {"boot": "b1", "uptime_s": uptime})
        assert listing.rows()["devices"][0]["since"] is None
        assert table(listing.rows())


GARBAGE: list[Any] = [
    float("nan"), float("inf"), -1e308, 10**400, "\x1b[31mred\x07\n", "\ud800", "x" * 10_000, [], {}, [[]] * 3, True,
    {"a": {"b": [float("nan")]}}, ["\x1b[2J", 5, None], None,
]  # fmt: skip


def test_foreign_values_of_any_kind_are_shown_without_harm() -> None:
    """In any field: the table holds nothing that a terminal obeys, and the JSON is strict."""
    for number, value in enumerate(GARBAGE):
        listing = Listing(TOPICS)
        named = dict.fromkeys(("role", "version", "protocol", "run", "round", "rounds", "batches"), value)
        named |= dict.fromkeys(("batches_in_round", "loss", "accuracy", "waiting_for", "uptime_s"), value)
        tell(listing, "dev", "dev-1", "status", status("online") | named)
        for leaf in ("info", "tele"):
            tell(listing, "dev", "dev-1", leaf, named | {"boot": "b1", "state": value})
        listing.note(TOPICS.run("a-0a1b2c", "state"), json.dumps(named | {"state": value}).encode(), NOON)
        found = listing.rows()
        assert json.loads(json.dumps(found, allow_nan=False)), number
        for line in table(found):
            assert line.isprintable(), (value, line)
            assert len(line) < 400


def test_control_characters_are_escaped_not_swallowed() -> None:
    listing = Listing(TOPICS)
    tell(listing, "dev", "dev-1", "status", status("online", role="\x1b[31mred"))
    assert "\\x1b[31mred" in "\n".join(table(listing.rows()))
    assert printable("a\tb\u202e\ud800ü") == "a\\tb\\u202e\\ud800ü"


# The command itself, over a real broker


def ls(url: str, net: str) -> dict[str, Any]:
    done = subprocess.run(
        [*MPSL, "ls", "--json", "--net", net, "--broker", url],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


async def leave(url: str, *retained: tuple[str, dict[str, Any]]) -> None:
    async with connect(parse_broker(url), f"mpsl-test-{os.getpid()}-{time.monotonic_ns()}") as connection:
        for topic, content in retained:
            await connection.publish(Publish(topic, json.dumps(content).encode(), 1, True))


def wait_for_line(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stderr is not None
    while line := process.stderr.readline():
        if text in line:
            return
    raise AssertionError(f"{text!r} never came")


def test_a_process_comes_and_is_killed(each_broker: BrokerProcess) -> None:
    net = "ls-kill"
    topics = Topics(net)
    asyncio.run(
        leave(
            each_broker.url,
            (topics.participant("dev", "dev-2", "status"), status("online")),
            (topics.participant("dev", "dev-10", "status"), status("offline")),
            (topics.run("digits-0a1b2c", "state"), {"state": "open", "round": 1, "rounds": 2}),
        )
    )
    command = [*MPSL, "node", "--id", "node-1", "--net", net, "--broker", each_broker.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as node:
        try:
            wait_for_line(node, "event=online")
            found = ls(each_broker.url, net)
        finally:
            node.send_signal(signal.SIGKILL)
    assert [(row["id"], row["state"]) for row in found["devices"]] == [("dev-2", "silent"), ("dev-10", "offline")]
    (row,) = found["nodes"]
    assert (row["id"], row["role"], row["state"], row["run"]) == ("node-1", "node", "online", None)
    assert row["since"] <= row["last_seen"]
    assert [(run["run"], run["round"]) for run in found["runs"]] == [("digits-0a1b2c", 1)]
    assert [row["state"] for row in ls(each_broker.url, net)["nodes"]] == ["lost"]


@pytest.mark.slow
def test_it_gives_up_on_a_broker_that_does_not_answer() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"mqtt://127.0.0.1:{mute.getsockname()[1]}"
        begun = time.monotonic()
        done = subprocess.run(
            [*MPSL, "ls", "--broker", url], capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert url in done.stderr
    assert "Traceback" not in done.stderr
    assert 8 < time.monotonic() - begun < 30


def test_wrong_credentials_end_it_at_once(secure_mosquitto: Any) -> None:
    begun = time.monotonic()
    url = secure_mosquitto.process.url.replace("mqtt://", "mqtts://").replace("://", "://nobody@")
    done = subprocess.run(
        [*MPSL, "ls", "--broker", url, "--ca", str(secure_mosquitto.ca)],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "refuses the connection" in done.stderr
    assert time.monotonic() - begun < 9
