"""`mpsl tap`: every message of a net as one line, whatever bytes it has; and a quick, clean end."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from driving import PATIENCE_S
from hypothesis import given
from hypothesis import strategies as st

from broker.address import parse_broker
from broker.connection import Connection, connect
from broker.engines.engine import BrokerProcess
from broker.message_summary import Watcher
from broker.tap import json_line, printable, text_line
from mpsl import PROTOCOL, wire
from mpsl.link.chunk import Ack, ChunkHeader, encode_ack, encode_chunk
from mpsl.machines.effects import Publish
from mpsl.messages import Activation, Admit, Message, Slice, Tensor, Ticket
from mpsl.topics import Topics

KEYS = ["time", "topic", "bytes", "kind", "src", "dst", "round", "batch", "micro", "dtype", "shape"]
TOPICS = Topics("main")
TICKET = Ticket(1, 3, "dev-1", 2, 0, 7, 1, 2)
SEAT = TOPICS.binary("digits-0a1b2c", "1_0", "fwd", "dev-1")


def tensor(*shape: int) -> Tensor:
    return Tensor("fp32", "float32", shape, (memoryview(np.zeros(shape, np.float32)).cast("B"),))


def chunks(message: Message, body: int = 1 << 20, number: int = 0) -> list[bytes]:
    """What a link publishes for a message, `body` bytes of it at a time."""
    whole = b"".join(wire.encode(message))
    pieces = [whole[start : start + body] for start in range(0, len(whole), body)]
    return [
        bytes(
            encode_chunk(
                ChunkHeader("b0", 1, 1, number + i, number, i, len(pieces), i * body, len(whole), len(piece)), [piece]
            )
        )
        for i, piece in enumerate(pieces)
    ]


def seen(topic: str, payload: bytes) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(json_line(1.5, topic, len(payload), Watcher(TOPICS).see(topic, payload)))
    return line


def test_a_tensor_is_named_by_its_header() -> None:
    (payload,) = chunks(Activation(TICKET, tensor(4, 2)))
    assert seen(SEAT, payload) == {
        "time": 1.5, "topic": SEAT, "bytes": len(payload), "kind": "activation", "src": "dev-1", "dst": "1_0",
        "round": 3, "batch": 7, "micro": 1, "dtype": "float32", "shape": [4, 2],
    }  # fmt: skip


def test_later_chunks_are_named_after_the_first() -> None:
    first, *later = chunks(Slice("sum", 5, 0, 1, 0, 0, tensor(4096)), body=4096)
    watcher = Watcher(TOPICS)
    lone = Watcher(TOPICS).see(SEAT, later[0])
    assert (lone.kind, lone.round, lone.shape) == ("chunk", None, None)
    assert watcher.see(SEAT, first).kind == "slice"
    for number, payload in enumerate(later, start=2):
        named = watcher.see(SEAT, payload)
        assert (named.kind, named.round, named.shape) == ("slice", 5, (4096,))
        assert named.note == f"sum fp32 chunk {number} of {1 + len(later)}"
    other = watcher.see(TOPICS.binary("digits-0a1b2c", "1_0", "bwd", "dev-1"), later[0])
    assert other.kind == "chunk"


def test_control_acks_and_json() -> None:
    (admit,) = chunks(Admit(3, "dev-1", "b1", 2, 9))
    found = seen(TOPICS.binary("r", "dev-1", "ctl", "orch"), admit)
    assert [found[key] for key in KEYS[3:]] == ["admit", "orch", "dev-1", 3, None, None, None, None]
    ack = encode_ack(Ack("b0", 1, "b1", "fwd", 1, 4, 8, ((4, 6),)))
    found = seen(TOPICS.binary("r", "dev-1", "ack", "node-1"), ack)
    assert [found[key] for key in KEYS[3:6]] == ["ack", "node-1", "dev-1"]
    tele = json.dumps({"boot": "b0", "round": 2, "batch": 5}).encode()
    found = seen(TOPICS.participant("dev", "dev-1", "tele"), tele)
    assert [found[key] for key in KEYS[3:8]] == ["tele", "dev-1", None, 2, 5]
    assert seen(TOPICS.run("r", "plan"), b"")["kind"] == "plan"
    assert seen(TOPICS.participant("node", "node-1", "cmd"), b"{}")["dst"] == "node-1"


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (SEAT, b""),
        (SEAT, b"PNG" * 100),
        (SEAT, chunks(Activation(TICKET, tensor(4)))[0][:60]),
        (
            SEAT,
            chunks(Activation(TICKET, tensor(4)))[0].replace(
                b"MPSL" + bytes([PROTOCOL]), b"MPSL" + bytes([PROTOCOL + 1])
            ),
        ),
        (
            SEAT,
            bytes(
                encode_chunk(ChunkHeader("b", 1, 1, 0, 0, 0, 1, 0, 12, 12), [b"\x08\0\0\0\x82\xa1k\x91\x01\xa1f\x80"])
            ),
        ),
        (TOPICS.participant("dev", "dev-1", "status"), b"\xff\xfe"),
        (TOPICS.participant("dev", "dev-1", "status"), b"[1]"),
        (TOPICS.participant("dev", "dev-1", "status"), b"[" * 200_000),
        (TOPICS.participant("dev", "dev-1", "mood"), b"{}"),
        (TOPICS.root + "/what/is/this", b"{}"),
        ("else/where", b"{}"),
    ],
)
def test_what_is_none_of_ours_is_foreign(topic: str, payload: bytes) -> None:
    assert seen(topic, payload)["kind"] == "foreign"


@given(st.binary(max_size=300), st.sampled_from([SEAT, TOPICS.run("r", "state"), TOPICS.root + "/x/r/dev-1/ack/orch"]))
def test_no_bytes_stop_it(payload: bytes, topic: str) -> None:
    whole = chunks(Activation(TICKET, tensor(2)))[0]
    watcher = Watcher(TOPICS)
    for bytes_ in (payload, whole[:12] + payload, whole[: 72 - len(payload) % 60] + payload):
        summary = watcher.see(topic, bytes_)
        assert list(json.loads(json_line(0.0, topic, len(bytes_), summary))) == KEYS
        assert printable(text_line(0.0, topic, len(bytes_), summary)).isprintable()


# The command itself, over a real broker


@contextlib.contextmanager
def tapping(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """The running command; its stderr says when it watches."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from broker.command import main; main()", "tap", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_watching(process: "subprocess.Popen[str]") -> None:
    assert process.stderr is not None
    assert "event=watching" in process.stderr.readline()


@contextlib.asynccontextmanager
async def publishing(url: str) -> AsyncIterator[Connection]:
    async with connect(parse_broker(url), f"mpsl-test-{os.getpid()}-{time.monotonic_ns()}") as connection:
        yield connection


async def publish(url: str, *messages: tuple[str, bytes]) -> None:
    async with publishing(url) as connection:
        for topic, payload in messages:
            await connection.publish(Publish(topic, payload, 1))


def test_the_command_shows_what_goes_by(each_broker: BrokerProcess) -> None:
    (payload,) = chunks(Activation(TICKET, tensor(4, 2)))
    status = json.dumps({"state": "online", "boot": "b0"}).encode()
    with tapping("--json", "--net", "shown", "--broker", each_broker.url) as process:
        wait_until_watching(process)
        topics = Topics("shown")
        sent = [
            (topics.participant("dev", "dev-1", "status"), status),
            (topics.binary("r", "1_0", "fwd", "dev-1"), b"\0garbage"),
            (topics.binary("r", "1_0", "fwd", "dev-1"), payload),
        ]
        asyncio.run(publish(each_broker.url, *sent))
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in sent]
        assert [line["kind"] for line in lines] == ["status", "foreign", "activation"]
        assert [list(line) for line in lines] == [KEYS] * 3
        assert abs(lines[0]["time"] - time.time()) < 60
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert "Traceback" not in process.communicate()[1]


def test_it_ends_cleanly_when_interrupted_and_when_nobody_reads(mosquitto: BrokerProcess) -> None:
    arguments = ("--net", "ends", "--broker", mosquitto.url)
    with tapping(*arguments) as process:
        wait_until_watching(process)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE_S)[1] == ""
        assert process.returncode == 0
    with tapping(*arguments) as process:
        wait_until_watching(process)
        assert process.stdout is not None
        process.stdout.close()
        asyncio.run(publish(mosquitto.url, *[(Topics("ends").participant("dev", "a", "tele"), b"{}")] * 3))
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_it_gives_up_on_a_broker_that_is_not_there() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        begun = time.monotonic()
        with tapping("--broker", f"mqtt://127.0.0.1:{port}") as process:
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert f"127.0.0.1:{port}" in errors
        assert "refused" in errors.lower()
        assert "gave up after 10 s" in errors
        assert time.monotonic() - begun > 8
