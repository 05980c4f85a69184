"""A broker that takes its time and loses nothing: whole messages over links with a rate and a latency, and the CPU
that bytes cost at either end. What a message means it must never know; how large it is its properties say.

What stands for a tensor is a few bytes, so that a thousand devices fit; its `shape` is the bytes that it stands for.
Everything else weighs nothing and only takes the latencies: it slips in between, as chunks let it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mpsl.machines.effects import Publish
from mpsl.names import BROKER
from mpsl.sim.agenda import Agenda
from mpsl.sim.cores import Worker
from mpsl.sim.record import WIRE_CPU, Record
from mpsl.sim.retained import Retained
from mpsl.sim.subscriptions import Subscriptions
from mpsl.sim.wires import Wire

Deliver = Callable[[str, bytes], None]


@dataclass
class Client:
    """One process on its links; `worker` is the thread that sends and receives, at so many seconds a byte."""

    name: str
    up: Wire
    down: Wire
    worker: Worker
    s_per_byte: float
    deliver: Deliver
    sent: set[int] = field(default_factory=set)
    """What it has published of what has a weight: the link's repeats of it are none, for nothing is lost."""


class TimedNetwork:
    """All clients by name, and the broker between them, whose own work takes `s_per_byte`."""

    def __init__(self, agenda: Agenda, record: Record, worker: Worker, s_per_byte: float) -> None:
        self._agenda = agenda
        self._record = record
        self._worker = worker
        self._s_per_byte = s_per_byte
        self._clients: dict[str, Client] = {}
        self._subscriptions = Subscriptions()
        self._retained = Retained()

    def connect(self, client: Client) -> None:
        """Take a client in, for good."""
        self._clients[client.name] = client

    def subscribe(self, name: str, filters: Iterable[str]) -> None:
        """Subscribe; what is retained follows."""
        for filter in filters:
            self._subscriptions.add(name, filter)
            for publish in self._retained.matching(filter):
                self._later(0.0, self._clients[name], publish)

    def unsubscribe(self, name: str, filters: Iterable[str]) -> None:
        """Leave filters."""
        for filter in filters:
            self._subscriptions.remove(name, filter)

    def publish(self, name: str, publish: Publish) -> None:
        """Send a message on its way to everyone who has subscribed."""
        sender, publish = self._clients[name], publish.joined()
        size = weight(publish)
        if not size:
            if publish.retain:
                self._retained.keep(publish)
            for receiver in self._receivers(name, publish):
                self._later(sender.up.latency_s, receiver, publish)
            return
        known = hash((publish.topic, publish.payload))
        if known in sender.sent:
            return
        sender.sent.add(known)
        label = _label(publish)
        self._record.under_way(size, self._agenda.now)
        self._handled(sender, size, label, lambda: sender.up.send(size, label, lambda: self._at_broker(name, publish)))

    def _receivers(self, sender: str, publish: Publish) -> list[Client]:
        # Nobody has to hear what it says itself: two processes of one id do not come up here.
        return [self._clients[name] for name in self._subscriptions.of(publish.topic) if name != sender]

    def _later(self, seconds: float, receiver: Client, publish: Publish) -> None:
        at = self._agenda.now + seconds + receiver.down.latency_s
        self._agenda.at(at, receiver.deliver, publish.topic, bytes(publish.payload))

    def _handled(self, client: Client, size: int, label: tuple[str, str], then: Callable[[], None]) -> None:
        """The CPU that `size` bytes take at a client, where they take any."""
        if not client.s_per_byte:
            then()
            return

        def done(began: float) -> None:
            self._record.span(client.name, WIRE_CPU, label, began, self._agenda.now)
            then()

        client.worker.run(size * client.s_per_byte, done)

    def _at_broker(self, name: str, publish: Publish) -> None:
        size, label = weight(publish), _label(publish)

        def passed(began: float) -> None:
            self._record.span(BROKER, WIRE_CPU, label, began, self._agenda.now)
            for receiver in self._receivers(name, publish):
                receiver.down.send(size, label, lambda receiver=receiver: self._arrived(receiver, publish))  # type: ignore[misc]

        if self._s_per_byte:
            self._worker.run(size * self._s_per_byte, passed)
        else:
            passed(self._agenda.now)

    def _arrived(self, receiver: Client, publish: Publish) -> None:
        size, label = weight(publish), _label(publish)

        def deliver() -> None:
            self._record.under_way(-size, self._agenda.now)
            receiver.deliver(publish.topic, bytes(publish.payload))

        self._handled(receiver, size, label, deliver)


def weight(publish: Publish) -> int:
    """The bytes that a publish stands for."""
    for key, value in publish.properties:
        if key == "shape":
            return int(value)
    return 0


def _label(publish: Publish) -> tuple[str, str]:
    """What it is, and for which device."""
    known = dict(publish.properties)
    return known["kind"], known.get("device", "")
