"""Presence under one id: announces the process once its subscriptions are granted, and publishes its telemetry.

A process ends if another live process has its id, in either role, or if the broker does not echo its own status. This
file must never know what the role does, nor in which run.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from mpsl import PROTOCOL, VERSION
from mpsl.machines.effects import CancelTimer, Publish, SetTimer, Stop, Subscribe
from mpsl.machines.events import Connected, Disconnected
from mpsl.machines.machine import Machine, as_json, from_json
from mpsl.machines.participant_session import Identity
from mpsl.topics import Branch, Topics
from mpsl.wire import Buffer

ANNOUNCE_AFTER_S = 0.3
"""How long after the subscription a process listens for another one with its id before it announces itself."""
RIVAL_S = 6.0
"""How long a status `online` of another boot is trusted without its telemetry."""
TELEMETRY_S = 2.0
ECHO_S = 10.0
"""How long a process waits for the echo of its own status before it publishes it again."""
MAX_ECHO_WAITS = 3
"""After this many waits the process ends, because nobody would see it."""

ANNOUNCE = "announce"
"""The value of `do` in a command that asks for status and info once more."""

OTHER_BRANCH: dict[Branch, Branch] = {"dev": "node", "node": "dev"}


class Online(Machine):
    """Base of all processes with an id; `described` is the fixed content of `info`."""

    branch: ClassVar[Branch]
    role: ClassVar[str]

    def __init__(self, id: str, boot: str, topics: Topics, described: Mapping[str, Any]) -> None:
        super().__init__()
        self.id = id
        self.boot = boot
        self.topics = topics
        self.identity = Identity(id, boot, topics)
        self.described = dict(described)
        self.max_packet: int | None = None
        self.is_private = True
        """Whether the connection is; see `Connected`."""
        self._warning = ""
        self._online = False
        self._announced = False
        self._rivals: dict[Branch, str] = {}
        """Boots under our id whose status says online, by branch."""
        self._echo_waits = 0
        self._started = 0.0

    # What the runs add

    @property
    @abstractmethod
    def run_names(self) -> list[str]:
        """The runs of the process, the oldest first."""

    @abstractmethod
    def run_filters(self) -> list[str]:
        """The subscriptions that the runs need."""

    @abstractmethod
    def telemetry(self) -> list[dict[str, Any]]:
        """Return the telemetry: one entry for each run, or a single one outside of runs."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Return the changing content of `info`."""

    @abstractmethod
    def back_online(self) -> None:
        """The process is connected, subscribed and announced, for the first time or again."""

    # Being online

    @property
    def will(self) -> Publish:
        """The last will, which the broker publishes when this process vanishes."""
        return Publish(self._own("status"), as_json(self._status("lost")), 1, True)

    def _own(self, leaf: str) -> str:
        return self.topics.participant(self.branch, self.id, leaf)

    def _status(self, state: str) -> dict[str, Any]:
        said = {"state": state, "role": self.role, "boot": self.boot, "protocol": PROTOCOL, "version": VERSION}
        return {**said, "warning": self._warning} if self._warning and state == "online" else said

    def _connected(self, event: Connected) -> None:
        self.max_packet, self.is_private = event.max_packet, event.is_private
        twin = OTHER_BRANCH[self.branch]
        filters = [self._own("status"), self._own("tele"), self._own("cmd"), self.topics.run("+", "plan")]
        filters += [self.topics.participant(twin, self.id, leaf) for leaf in ("status", "tele")]
        self.emit(Subscribe((*filters, *self.run_filters())))

    def _disconnected(self, event: Disconnected) -> None:
        if self._online:  # further attempts that fail are in the log of whoever makes them
            self.log("warning", "disconnected", reason=event.reason)
        self._online = False
        # Whoever has no connection announces nothing, and nobody can return its status: that begins again with one.
        self._rivals.clear()
        self.emit(CancelTimer("echo"), CancelTimer("announce"), CancelTimer("rival"))

    def _subscribed(self) -> None:
        if self._announced:
            self._go_online()
        else:
            self.emit(SetTimer("announce", self.now + ANNOUNCE_AFTER_S))

    def _announce(self) -> None:
        if self._rivals:
            # Its status `online` may be old. If it is alive, its telemetry arrives soon.
            self.emit(SetTimer("rival", self.now + RIVAL_S))
            return
        self._announced = True
        self._started = self.now
        self.log("info", "online", id=self.id, boot=self.boot)
        self._go_online()

    def _go_online(self) -> None:
        if not self._online:
            self._echo_waits = 0
            self.emit(SetTimer("echo", self.now + ECHO_S))
        self._online = True
        self._publish_presence()
        self.publish_telemetry()
        self.back_online()

    def _publish_status(self, state: str) -> None:
        self.publish_json(self._own("status"), self._status(state), retain=True, subject="")

    def _warned(self, text: str) -> None:
        self._warning = text
        if self._online:
            self._publish_status("online")

    def _publish_presence(self) -> None:
        if self._online:
            self._publish_status("online")
            self.publish_info()

    def commanded_to_announce(self, content: Mapping[str, Any]) -> None:
        """Publish status and info again, for a reader that did not get the retained ones."""
        if content.get("boot") == self.boot:
            self._publish_presence()

    def publish_info(self) -> None:
        """Publish `info`, retained. Without a connection, the next announcement does it."""
        if self._online:
            runs = self.run_names
            said = {"boot": self.boot, "run": runs[0] if runs else None, **self.described, **self.info()}
            if len(runs) > 1:
                said["runs"] = runs
            self.publish_json(self._own("info"), said, retain=True, subject="")

    def publish_telemetry(self) -> None:
        """Publish a sign of life."""
        if self._online:
            for facts in self.telemetry():
                said = {"boot": self.boot, "run": facts["run"], "uptime_s": round(self.now - self._started, 1)}
                self.publish_json(self._own("tele"), said | facts, subject=facts["run"] or "")
            self.emit(SetTimer("telemetry", self.now + TELEMETRY_S))

    def quit(self, status: int, reason: str) -> None:
        """End the process."""
        if self._announced:
            self._publish_status("offline")
        self.emit(Stop(status, reason))
        self.stopped = True

    def _online_timer(self, name: str) -> None:
        match name:
            case "announce":
                self._announce()
            case "rival":
                self._rivals.clear()
                self._announce()
            case "telemetry":
                self.publish_telemetry()
            case "echo":
                self._echo_missing()

    def _echo_missing(self) -> None:
        """The process has not received its own status, so perhaps nobody else has either."""
        self._echo_waits += 1
        topic = self._own("status")
        if self._echo_waits >= MAX_ECHO_WAITS:
            self.quit(
                1,
                f"{topic}: the broker has not returned our own status for {self._echo_waits * ECHO_S:.0f} s, so "
                f"nobody sees this process; do its access rules let {self.id} write and read this topic?",
            )
            return
        self.log("warning", "status-not-seen", topic=topic, seconds=self._echo_waits * ECHO_S)
        self._publish_status("online")
        self.emit(SetTimer("echo", self.now + ECHO_S))

    def _seen_own_id(self, branch: Branch, leaf: str, payload: Buffer) -> None:
        """Take a status or telemetry under our id: our own echo, or that of another process with the same id."""
        content = from_json(payload)
        other = content.get("boot") if content else None
        if content is None or not isinstance(other, str):
            return
        if other == self.boot:
            if leaf == "status" and branch == self.branch:
                self.emit(CancelTimer("echo"))
            return
        if leaf == "tele" or (leaf == "status" and content.get("state") == "online" and self._announced):
            # Both have announced themselves at once: the smaller boot gives way, so that one of them stays.
            if not self._announced or self.boot < other:
                self._announced = False
                their_role = "node" if branch == "node" else "device"
                self.quit(
                    1,
                    f"two processes have the id {self.id}: this {self.role} (boot {self.boot}) and a {their_role} "
                    f"(boot {other}) that is online; stop the other or choose another --id",
                )
        elif leaf == "status":
            if content.get("state") == "online":
                self._rivals[branch] = other
            else:
                self._rivals.pop(branch, None)
            if self._online and branch == self.branch:
                # The last will of an earlier process came late and is now retained: announce this process again.
                self._publish_status("online")
