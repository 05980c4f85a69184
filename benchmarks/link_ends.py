"""The two ends of the link benchmark, each run as a process: `python -m benchmarks.link_ends ROLE …`.

They use the real link with the real driver, or paho alone with pieces of a fixed size. Each prints its times. The first
tensor does not count, because in a run, too, memory and code are warm from the second batch on.
"""

import argparse
import asyncio
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from broker.address import own_broker
from broker.driver import Driver
from broker.log import stderr_logger
from broker.worker import Worker
from mpsl import strict_json
from mpsl.codecs import parse
from mpsl.link.channel import WINDOW, Channel, Limits, Peer
from mpsl.machines.effects import Effect, Publish, SetTimer, Stop, Subscribe
from mpsl.machines.events import Connected, Event, Received, Subscribed, TimerFired
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.session_id import SessionId
from mpsl.messages import Activation, Slice, Tensor, Ticket
from mpsl.nn.allocation import keep_for_reuse
from mpsl.topics import BinaryTopic, Topics

TOPICS = Topics("bench")
BOOTS = {"a": "aaaa", "b": "bbbb"}
EPOCH = 1000
"""Batches of an epoch, because tickets are numbered as in a run."""
AHEAD_BYTES, AHEAD_PIECES = 8 << 20, 500
"""The window of paho alone, in bytes and in pieces. mosquitto drops publishes beyond 1000 that wait for a receiver."""


class EndMachine:
    """Sends a first tensor of `size` bytes from a to b and then, once it has arrived, `count` more; or receives them.

    Tensors go to the link one by one as its window has room. paho's sender hands over its pieces in the same way.
    """

    def __init__(self, me: str, size: int, count: int, chunk_bytes: int) -> None:
        self.me = me
        self.channel = Channel(TOPICS, "r", me, BOOTS[me], 1, Limits(chunk_bytes))
        other = "b" if me == "a" else "a"
        self.channel.set_peers({other: Peer(BOOTS[other], other)})
        self.will = Publish(f"{TOPICS.root}/x/r/will", b"", 0)
        self.started = self.ended = 0.0
        self.cpu_started = 0.0
        self._left = 1 + count
        self._count = count
        self._sent = 0
        self._room = max(0, WINDOW - min(size, chunk_bytes))
        """Bytes in flight up to which the window has room for the start of a tensor."""
        encoded = parse("fp32").encode(np.zeros(size // 4, dtype=np.float32))
        self._tensor = Tensor(encoded.codec, encoded.dtype, encoded.shape, encoded.planes)
        self._sending = False

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Handle one event."""
        effects: list[Effect] = []
        match event:
            case Connected():
                effects.append(Subscribe((TOPICS.binary("r", self.me, "+", "+"), f"{TOPICS.root}/go")))
            case Subscribed():
                effects.append(Publish(f"{TOPICS.root}/ready/{self.me}", b"1", 1, retain=True))
            case Received(topic) if topic.endswith("/go"):
                if self.me == "a":
                    self._sending = True
                    effects += self._send(now)
            case Received(topic, payload):
                parsed = TOPICS.parse(topic)
                assert isinstance(parsed, BinaryTopic)
                messages, outbound = self.channel.receive(parsed, payload, now)
                effects += self._out(outbound)
                for message in messages:
                    assert isinstance(message, Activation)
                    self._left -= 1
                    if self._left == self._count:
                        self._start(now)
            case TimerFired():
                effects += self._out(self.channel.due(now))
        if self._sending and not self.started and self.channel.idle:
            self._start(now)
        while self.started and self.me == "a" and self._takes_more():
            effects += self._send(now)
        due = self.channel.next_due()
        if due is not None:
            effects.append(SetTimer("link", due))
        done = self._left == 0 if self.me == "b" else self._sent > self._count and self.channel.idle
        if done and not self.ended:
            self.ended = now
            effects += [*self._out(self.channel.due(float("inf"))), Stop(0)]
        return effects

    def _takes_more(self) -> bool:
        return self._sent <= self._count and self.channel.in_flight_bytes <= self._room

    def _start(self, now: float) -> None:
        self.started, self.cpu_started = now, _cpu()

    def _send(self, now: float) -> list[Effect]:
        epoch, batch = divmod(self._sent, EPOCH)
        message = Activation(Ticket(1, 1, "a", 1, epoch, batch, 0, 1), self._tensor)
        self._sent += 1
        return self._out(self.channel.send("b", message, now))

    def _out(self, outbound: Any) -> list[Effect]:
        return [Publish(each.topic, each.payload, 0, False, each.properties) for each in outbound]


class NoJobs:
    """A performer without jobs: this benchmark computes nothing."""

    def perform(self, job: WorkerJob, session: SessionId | None) -> Result:
        """Never called."""
        raise NotImplementedError

    def write(self, source: str, message: Slice, session: SessionId | None) -> None:
        """Never called."""


def window_of(chunk: int) -> int:
    """Return how many pieces of `chunk` bytes paho alone may be ahead of its receiver."""
    return min(AHEAD_PIECES, max(4, AHEAD_BYTES // chunk))


def piece_bytes(number: int, size: int, chunk: int) -> int:
    """Return the bytes of piece `number` in a stream of tensors of `size` bytes: a `chunk`, or the rest of a tensor."""
    return min(chunk, size - number % -(-size // chunk) * chunk)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _link(arguments: argparse.Namespace) -> dict[str, float]:
    machine = EndMachine(arguments.role, arguments.size, arguments.count, arguments.chunk)
    driver = Driver(
        machine,
        NoJobs(),
        own_broker(arguments.broker),
        f"bench-{arguments.role}",
        stderr_logger("error"),
        worker=Worker(ThreadPoolExecutor(1)),
    )
    await driver.run()
    return {"seconds": machine.ended - machine.started, "cpu_s": _cpu() - machine.cpu_started}


def _bare(arguments: argparse.Namespace) -> dict[str, float]:
    """Run paho alone: tensors in pieces of `chunk` bytes at QoS 0, with a window.

    The receiver acknowledges every quarter of the window.
    """
    address = own_broker(arguments.broker)
    sending = arguments.role == "a"
    state: dict[str, Any] = {"got": 0, "acked": 0, "started": 0.0, "cpu": 0.0, "done": False, "go": False}
    ahead = -(-arguments.size // arguments.chunk)
    pieces = (1 + arguments.count) * ahead
    window = window_of(arguments.chunk)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, f"bare-{arguments.role}", protocol=mqtt.MQTTv5)

    def start() -> None:
        state.update(started=time.perf_counter(), cpu=_cpu())

    def on_message(_: Any, __: Any, message: mqtt.MQTTMessage) -> None:
        if message.topic == "bare/go":
            state["go"] = True
        elif message.topic == "bare/ack":
            state["acked"] = int(message.payload)
        else:
            state["got"] += 1
            if state["got"] == ahead:
                start()
            if state["got"] % (window // 4) == 0 or state["got"] in (ahead, pieces):
                client.publish("bare/ack", str(state["got"]))
            state["done"] = state["got"] == pieces

    client.on_message = on_message
    client.connect(address.host, address.port)
    client.subscribe([("bare/go", 1), ("bare/ack" if sending else "bare/data", 0)])
    client.publish(f"{TOPICS.root}/ready/{arguments.role}", b"1", 1, retain=True)
    data = bytes(arguments.chunk)
    sent = 0
    while not state["done"]:
        if sending and state["go"]:
            if not state["started"] and state["acked"] == ahead:
                start()
            allowed = pieces if state["started"] else ahead
            while sent < allowed and sent - state["acked"] < window:
                client.publish("bare/data", data[: piece_bytes(sent, arguments.size, arguments.chunk)])
                sent += 1
            state["done"] = state["acked"] == pieces
        if client.loop(1.0) != MQTTErrorCode.MQTT_ERR_SUCCESS:
            sys.exit("the connection has ended")
    result = {"seconds": time.perf_counter() - state["started"], "cpu_s": _cpu() - state["cpu"]}
    for _ in range(10):
        client.loop(0.01)
    return result


def main() -> None:
    """Run one end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["a", "b"])
    parser.add_argument("--broker", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--chunk", type=int, required=True)
    parser.add_argument("--bare", action="store_true")
    arguments = parser.parse_args(sys.argv[1:])
    keep_for_reuse()  # as a node does
    print(strict_json.dumps(_bare(arguments) if arguments.bare else asyncio.run(_link(arguments))))


if __name__ == "__main__":
    main()
