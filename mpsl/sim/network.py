"""A simulated broker and its network: filters, retained messages, last wills, faults from a seed, and links with times.

It must never know what a payload means; the `size_of` of its `Times` says how many bytes a message counts for.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mpsl.machines.effects import Publish
from mpsl.sim.event_queue import Action, EventQueue
from mpsl.sim.faults import Faults
from mpsl.sim.links import Label
from mpsl.sim.retained import Retained
from mpsl.sim.subscriptions import Subscriptions
from mpsl.sim.times import Attachment, Times, after_processing

NOTICE_S = 30.0
"""The maximum seconds until the broker notices a dead connection: 1.5 times the keep-alive of 20 s (MQTT 3.1.2.10)."""

CONTROL: Label = ("control", "")
"""Label of subscriptions and disconnects."""

Deliver = Callable[[str, bytes], None]


@dataclass(eq=False)
class _Client:
    """A connection; whatever is in transit when it ends is lost."""

    name: str
    attachment: Attachment
    will: Publish
    deliver: Deliver
    number: int
    alive: bool = True
    """Whether the process at the other end still listens."""
    connected: bool = True
    """Whether the broker still keeps the connection."""
    not_before: dict[str, float] = field(default_factory=dict)
    """Arrival time of each topic's last QoS 1 message, which the next one does not overtake."""
    sent: set[int] = field(default_factory=set)
    """Hashes of the messages sent so far; kept only in a lossless network."""
    mute_until: float = 0.0
    """Until then nothing that the process sends arrives: QoS 0 is lost, all else comes after that."""
    deaf_until: float = 0.0
    """The same of what the broker sends."""


class _PublishInTransit(NamedTuple):
    """A publish in transit; with `size` None it takes only the latencies."""

    publish: Publish
    size: int | None
    label: Label


class SimulatedNetwork:
    """All clients by name (their client ids); a new connection of a name takes over from the old one, as in MQTT."""

    def __init__(self, queue: EventQueue, chance: random.Random, faults: Faults, times: Times) -> None:
        self.lost = self.doubled = self.late = self.delivered = 0
        self.is_up = True
        self._queue = queue
        self._chance = chance
        self._faults = faults
        self._times = times
        self._clients: dict[str, _Client] = {}
        self._subscriptions = Subscriptions()
        self._retained = Retained()
        self._connections = 0

    # Connections

    def connect(self, name: str, attachment: Attachment, will: Publish, deliver: Deliver) -> int:
        """Connect with a clean start and return the connection's number.

        Messages that arrive are passed to `deliver(topic, payload)`.
        """
        self._end(name, with_will=True)
        self._connections += 1
        self._clients[name] = _Client(name, attachment, will, deliver, self._connections)
        return self._connections

    def leave(self, name: str, number: int) -> None:
        """Disconnect cleanly, after everything published so far: no last will."""
        client = self._clients.get(name)
        if client is not None and client.number == number and not self._is_held_up(self.leave, client, number):
            client.attachment.up.send(0, CONTROL, self._end_connection, client, False)

    def expel(self, name: str, number: int) -> None:
        """The broker ends a connection after a missed keep-alive."""
        client = self._clients.get(name)
        if client is not None and client.number == number:
            self._end(name, with_will=True)

    def mute(self, name: str, until: float) -> None:
        """Nothing that a process sends arrives before `until`. What is on its way still does."""
        if (client := self._clients.get(name)) is not None:
            client.mute_until = max(client.mute_until, until)

    def deafen(self, name: str, until: float) -> None:
        """A process receives nothing before `until`."""
        if (client := self._clients.get(name)) is not None:
            client.deaf_until = max(client.deaf_until, until)

    def _is_held_up(self, again: Action, client: _Client, *arguments: object) -> bool:
        """Whether the client is mute; then `again` is called with its name and `arguments` once it is not."""
        held_up = self._queue.now < client.mute_until
        if held_up:
            self._queue.at(client.mute_until, again, client.name, *arguments)
        return held_up

    def cut(self, name: str) -> None:
        """Cut off a process from now on. The broker notices at once, or after a missed keep-alive."""
        client = self._clients.get(name)
        if client is not None:
            client.alive = False
            at_once = self._chance.random() < 0.5
            notice = self._queue.now + (0.0 if at_once else self._chance.uniform(0, NOTICE_S))
            self._queue.at(notice, self._end_connection, client, True)

    def break_down(self, forgets: bool = True) -> list[Publish]:
        """Stop the broker, and return the last wills, which it does not publish now. It may forget what is retained."""
        self.is_up = False
        wills = [client.will for client in self._clients.values()]
        for name in list(self._clients):
            self._end(name, with_will=False)
        if forgets:
            self.forget()
        return wills

    def come_up(self, wills: Iterable[Publish] = ()) -> None:
        """Start the broker again; a persistent one may publish the last wills of those who were connected."""
        self.is_up = True
        for will in wills:
            self._route(self._message(will))

    def forget(self) -> None:
        """All retained messages are lost."""
        self._retained = Retained()

    def retained(self, filter: str) -> list[Publish]:
        """Return the retained messages of matching topics."""
        return self._retained.matching(filter)

    def _end_connection(self, client: _Client, with_will: bool) -> None:
        if client.connected:
            self._end(client.name, with_will)

    def _end(self, name: str, with_will: bool) -> None:
        client = self._clients.pop(name, None)
        if client is not None:
            client.connected = False
            self._subscriptions.forget(name)
            if with_will:
                self._route(self._message(client.will))

    # From clients to the broker

    def subscribe(self, name: str, number: int, filters: Iterable[str], granted: Callable[[], None]) -> None:
        """Subscribe, receive the retained messages, and call `granted` when the acknowledgement has arrived."""
        client = self._client(name, number)
        if client is not None and not self._is_held_up(self.subscribe, client, number, filters, granted):
            client.attachment.up.send(0, CONTROL, self._subscribed, client, tuple(filters), granted)

    def unsubscribe(self, name: str, number: int, filters: Iterable[str]) -> None:
        """Remove subscriptions."""
        client = self._client(name, number)
        if client is not None and not self._is_held_up(self.unsubscribe, client, number, filters):
            client.attachment.up.send(0, CONTROL, self._unsubscribed, client, tuple(filters))

    def publish(self, name: str, number: int, publish: Publish) -> None:
        """Send to the broker; without a connection the message is lost."""
        client = self._client(name, number)
        if client is None:
            return
        if self._queue.now < client.mute_until:
            if publish.qos:
                self._queue.at(client.mute_until, self.publish, name, number, publish)
            return
        message = self._message(publish.joined())
        if message.size is None:
            latency = client.attachment.up.latency_s
            if self._times.is_lossless:
                self._route(message, latency)
            else:
                self._queue.at(self._queue.now + latency, self._arrived, client, message)
            return
        if self._times.is_lossless:
            known = hash((publish.topic, message.publish.payload))
            if known in client.sent:
                return
            client.sent.add(known)
        self._times.in_transit(message.size)
        after_processing(client.attachment.processor, message.size, message.label, self._send_up, client, message)

    def _message(self, publish: Publish) -> _PublishInTransit:
        size = self._times.size_of(publish)
        return _PublishInTransit(publish, size, CONTROL if size is None else _label(publish))

    def _client(self, name: str, number: int) -> _Client | None:
        client = self._clients.get(name)
        return client if client is not None and client.number == number and client.alive else None

    def _subscribed(self, client: _Client, filters: tuple[str, ...], granted: Callable[[], None]) -> None:
        if not _is_open(client):
            return
        for filter in filters:
            self._subscriptions.add(client.name, filter)
            for publish in self._retained.matching(filter):
                message = self._message(publish)
                self._times.in_transit(message.size or 0)
                self._send_down(client, message)
        client.attachment.down.send(0, CONTROL, self._granted, client, granted)

    def _granted(self, client: _Client, granted: Callable[[], None]) -> None:
        if self._queue.now < client.deaf_until:
            self._queue.at(client.deaf_until, self._granted, client, granted)
        elif _is_open(client):
            granted()

    def _unsubscribed(self, client: _Client, filters: tuple[str, ...]) -> None:
        if _is_open(client):
            for filter in filters:
                self._subscriptions.remove(client.name, filter)

    def _send_up(self, client: _Client, message: _PublishInTransit) -> None:
        # As in a real process, JSON overtakes binary publishes that are not partly sent. In the broker it does not.
        urgent = message.publish.qos == 1
        client.attachment.up.send(message.size or 0, message.label, self._arrived, client, message, is_urgent=urgent)

    # At the broker

    def _arrived(self, client: _Client, message: _PublishInTransit) -> None:
        if _is_open(client):
            after_processing(self._times.broker, message.size, message.label, self._route, message)
        else:
            self._gone(message)

    def _route(self, message: _PublishInTransit, delay: float = 0.0) -> None:
        """Send to the subscribers; `delay` is the remaining latency of a message without a size."""
        publish = message.publish
        if publish.retain:
            self._retained.keep(publish)
        receivers = self._subscriptions.of(publish.topic)
        if message.size and len(receivers) != 1:
            self._times.in_transit(message.size * (len(receivers) - 1))
        for name in receivers:
            self._send_down(self._clients[name], message, delay)

    # From the broker to a subscriber

    def _send_down(self, client: _Client, message: _PublishInTransit, delay: float = 0.0) -> None:
        down, then = client.attachment.down, self._process if self._faults.quiet else self._suffer_faults
        if message.size is None:
            self._queue.at(self._queue.now + delay + down.latency_s, then, client, message)
        else:
            down.send(message.size, message.label, then, client, message)

    def _suffer_faults(self, client: _Client, message: _PublishInTransit) -> None:
        """Lose, double or delay a message that has passed the link."""
        faults, chance, publish = self._faults, self._chance, message.publish
        if publish.qos == 0 and chance.random() < faults.lost:
            self.lost += 1
            self._gone(message)
            return
        copies = 1
        if chance.random() < faults.doubled:
            self.doubled += 1
            self._times.in_transit(message.size or 0)
            copies = 2
        for _ in range(copies):
            at = self._queue.now
            if faults.late and chance.random() < faults.late:
                self.late += 1
                at += chance.uniform(0, faults.longest_delay_s)
            if publish.qos:
                at = max(at, client.not_before.get(publish.topic, 0.0))
                client.not_before[publish.topic] = at
            self._queue.at(at, self._process, client, message)

    def _process(self, client: _Client, message: _PublishInTransit) -> None:
        after_processing(client.attachment.processor, message.size, message.label, self._received, client, message)

    def _received(self, client: _Client, message: _PublishInTransit) -> None:
        if self._queue.now < client.deaf_until and message.publish.qos:
            self._queue.at(client.deaf_until, self._received, client, message)
            return
        self._gone(message)
        if self._queue.now < client.deaf_until:
            return
        if _is_open(client):
            self.delivered += 1
            client.deliver(message.publish.topic, bytes(message.publish.payload))

    def _gone(self, message: _PublishInTransit) -> None:
        """The message is no longer in transit."""
        if message.size:
            self._times.in_transit(-message.size)


def _is_open(client: _Client) -> bool:
    return client.alive and client.connected


def _label(publish: Publish) -> Label:
    """Return the kind of a message, and its device."""
    known = dict(publish.properties)
    return known.get("kind", ""), known.get("device", "")
