"""A broker and its network, pretended: filters, retained messages, last wills, and a seeded hand that loses, doubles,
delays and reorders. What a payload means it must never know.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mpsl.machines.effects import Publish
from mpsl.sim.agenda import Agenda
from mpsl.sim.cables import Cable, Weigh, payload_bytes
from mpsl.sim.faults import Faults
from mpsl.sim.retained import Retained
from mpsl.sim.subscriptions import Subscriptions

NOTICE_S = 30.0
"""How long the broker may take to notice that a connection is dead: 1.5 times the keep-alive of 20 s."""

Deliver = Callable[[str, bytes], None]


@dataclass
class _Client:
    """A connection; whatever is under way when it ends is lost."""

    up: Cable
    down: Cable
    will: Publish
    deliver: Deliver
    number: int
    alive: bool = True
    """Whether the process at the other end still hears."""
    not_before: dict[str, float] = field(default_factory=dict)
    """When the last QoS 1 message of a topic arrives: the next one does not overtake it."""


class Network:
    """All clients by name (their client ids); a name's next connection takes over from its last, as MQTT says."""

    def __init__(
        self,
        agenda: Agenda,
        chance: random.Random,
        faults: Faults,
        weigh: Weigh = payload_bytes,
    ) -> None:
        self.lost = self.doubled = self.late = self.delivered = 0
        self.is_up = True
        self._agenda = agenda
        self._chance = chance
        self._faults = faults
        self._weigh = weigh
        self._clients: dict[str, _Client] = {}
        self._subscriptions = Subscriptions()
        self._retained = Retained()
        self._connections = 0

    # Connections

    def connect(self, name: str, cables: tuple[Cable, Cable], will: Publish, deliver: Deliver) -> int:
        """Connect with a clean start over `cables` (to and from the broker); returns the connection's number.

        What arrives goes to `deliver(topic, payload)`.
        """
        self._end(name, with_will=True)
        self._connections += 1
        self._clients[name] = _Client(*cables, will, deliver, self._connections)
        return self._connections

    def leave(self, name: str, number: int) -> None:
        """Disconnect cleanly, behind all that was published: no last will."""
        client = self._clients.get(name)
        if client is not None and client.number == number:
            self._agenda.at(client.up.arrival(self._agenda.now, 0), self._left, name, number)

    def expel(self, name: str) -> None:
        """The broker misses the keep-alive of a client."""
        self._end(name, with_will=True)

    def cut(self, name: str) -> None:
        """The process hears nothing from now on; the broker notices when it misses the keep-alive, or at once."""
        client = self._clients.get(name)
        if client is not None:
            client.alive = False
            at_once = self._chance.random() < 0.5
            notice = self._agenda.now + (0.0 if at_once else self._chance.uniform(0, NOTICE_S))
            self._agenda.at(notice, self._noticed, name, client.number)

    def break_down(self) -> None:
        """The broker is gone, without wills; what was retained is forgotten."""
        self.is_up = False
        for name in list(self._clients):
            self._end(name, with_will=False)
        self._retained = Retained()

    def _left(self, name: str, number: int) -> None:
        if name in self._clients and self._clients[name].number == number:
            self._end(name, with_will=False)

    def _noticed(self, name: str, number: int) -> None:
        if name in self._clients and self._clients[name].number == number:
            self._end(name, with_will=True)

    def _end(self, name: str, with_will: bool) -> None:
        client = self._clients.pop(name, None)
        if client is not None:
            self._subscriptions.forget(name)
            if with_will:
                self._route(client.will)

    # What clients do

    def subscribe(self, name: str, number: int, filters: Iterable[str], granted: Callable[[], None]) -> None:
        """Subscribe, get what is retained, and hear that it is granted."""
        client = self._mine(name, number)
        if client is not None:
            self._agenda.at(
                client.up.arrival(self._agenda.now, 0), self._subscribed, name, number, tuple(filters), granted
            )

    def unsubscribe(self, name: str, number: int, filters: Iterable[str]) -> None:
        """Leave filters."""
        client = self._mine(name, number)
        if client is not None:
            self._agenda.at(client.up.arrival(self._agenda.now, 0), self._unsubscribed, name, number, tuple(filters))

    def publish(self, name: str, number: int, publish: Publish) -> None:
        """Send to the broker; without a connection it is lost."""
        client, publish = self._mine(name, number), publish.joined()
        if client is not None:
            self._agenda.at(
                client.up.arrival(self._agenda.now, self._weigh(publish)), self._arrived, name, number, publish
            )

    def _mine(self, name: str, number: int) -> _Client | None:
        client = self._clients.get(name)
        return client if client is not None and client.number == number and client.alive else None

    def _subscribed(self, name: str, number: int, filters: tuple[str, ...], granted: Callable[[], None]) -> None:
        client = self._mine(name, number)
        if client is None:
            return
        for filter in filters:
            self._subscriptions.add(name, filter)
            for publish in self._retained.matching(filter):
                self._deliver(name, client, publish)
        self._agenda.at(client.down.arrival(self._agenda.now, 0), self._if_connected, name, number, granted)

    def _if_connected(self, name: str, number: int, action: Callable[[], None]) -> None:
        if self._mine(name, number):
            action()

    def _unsubscribed(self, name: str, number: int, filters: tuple[str, ...]) -> None:
        if self._mine(name, number):
            for filter in filters:
                self._subscriptions.remove(name, filter)

    def _arrived(self, name: str, number: int, publish: Publish) -> None:
        if self._mine(name, number):
            self._route(publish)

    def _route(self, publish: Publish) -> None:
        if publish.retain:
            self._retained.keep(publish)
        for name in self._subscriptions.of(publish.topic):
            self._deliver(name, self._clients[name], publish)

    # The way to a subscriber

    def _deliver(self, name: str, client: _Client, publish: Publish) -> None:
        arrival = client.down.arrival(self._agenda.now, self._weigh(publish))
        copies = 1
        faults, chance = self._faults, self._chance
        if not faults.quiet:
            if publish.qos == 0 and chance.random() < faults.lost:
                self.lost += 1
                return
            if chance.random() < faults.doubled:
                self.doubled += 1
                copies = 2
        for _ in range(copies):
            at = arrival
            if faults.late and chance.random() < faults.late:
                self.late += 1
                at += chance.uniform(0, faults.longest_delay_s)
            if publish.qos:
                at = max(at, client.not_before.get(publish.topic, 0.0))
                client.not_before[publish.topic] = at
            self._agenda.at(at, self._reached, name, client.number, publish)

    def _reached(self, name: str, number: int, publish: Publish) -> None:
        client = self._mine(name, number)
        if client is not None:
            self.delivered += 1
            client.deliver(publish.topic, bytes(publish.payload))
