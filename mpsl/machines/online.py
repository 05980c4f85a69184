"""Being online under one id: announces itself once its subscriptions are granted, tells how it is, ends where another
live process has its id. What the role does, and in which run, it must never know.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from mpsl import PROTOCOL, VERSION
from mpsl.machines.effects import Publish, SetTimer, Stop, Subscribe
from mpsl.machines.events import Connected, Disconnected, StopRequested, Subscribed
from mpsl.machines.machine import Machine, as_json, from_json
from mpsl.topics import Branch, Topics
from mpsl.wire import Buffer

ANNOUNCE_AFTER_S = 0.3
"""How long after the subscription a process looks for another one of its id before it announces itself."""
RIVAL_S = 6.0
"""How long a status `online` of another boot is believed without its telemetry."""
TELEMETRY_S = 2.0


class Online(Machine):
    """Base of whoever has an id; `info` is what it tells about itself beside its run."""

    branch: ClassVar[Branch]
    role: ClassVar[str]

    def __init__(self, id: str, boot: str, topics: Topics, info: Mapping[str, Any]) -> None:
        super().__init__()
        self.id = id
        self.boot = boot
        self.topics = topics
        self._info = dict(info)
        self._online = False
        self._announced = False
        self._rival: str | None = None
        self._max_packet: int | None = None
        self._started = 0.0

    # What being in a run adds

    @property
    def run_name(self) -> str | None:
        """The run that we are in."""
        raise NotImplementedError

    def run_filters(self) -> list[str]:
        """The subscriptions that the run needs."""
        raise NotImplementedError

    def telemetry(self) -> dict[str, Any]:
        """What the telemetry says beside who and where we are."""
        raise NotImplementedError

    def info(self) -> dict[str, Any]:
        """What `info` says beside what it said at the start."""
        raise NotImplementedError

    def back_online(self) -> None:
        """We are connected, subscribed and announced: for the first time, or again."""
        raise NotImplementedError

    # Being online

    @property
    def will(self) -> Publish:
        """The last will: what the broker publishes when this process vanishes."""
        return Publish(self._own("status"), as_json(self._status("lost")), 1, True)

    def _own(self, leaf: str) -> str:
        return self.topics.participant(self.branch, self.id, leaf)

    def _status(self, state: str) -> dict[str, Any]:
        return {"state": state, "role": self.role, "boot": self.boot, "protocol": PROTOCOL, "version": VERSION}

    def _connected(self, event: Connected) -> None:
        self._max_packet = event.max_packet
        filters = [self._own("status"), self._own("tele"), self._own("cmd"), self.topics.run("+", "plan")]
        self._do(Subscribe((*filters, *self.run_filters())))

    def _disconnected(self, event: Disconnected) -> None:
        self._online = False
        self._log("warning", "disconnected", reason=event.reason)

    def _subscribed(self, event: Subscribed) -> None:
        if self._announced:
            self._go_online()
        else:
            self._do(SetTimer("announce", self.now + ANNOUNCE_AFTER_S))

    def _announce(self) -> None:
        if self._rival is not None:
            # It said `online`, perhaps long ago: if it lives, its telemetry is due.
            self._do(SetTimer("rival", self.now + RIVAL_S))
            return
        self._announced = True
        self._started = self.now
        self._log("info", "online", id=self.id, boot=self.boot)
        self._go_online()

    def _go_online(self) -> None:
        self._online = True
        self._publish(self._own("status"), self._status("online"), retain=True)
        self._publish_info()
        self._telemetry()
        self.back_online()

    def _publish_info(self) -> None:
        self._publish(
            self._own("info"), {"boot": self.boot, "run": self.run_name, **self._info, **self.info()}, retain=True
        )

    def _telemetry(self) -> None:
        if self._online:
            content = {"boot": self.boot, "run": self.run_name, "uptime_s": round(self.now - self._started, 1)}
            self._publish(self._own("tele"), content | self.telemetry())
            self._do(SetTimer("telemetry", self.now + TELEMETRY_S))

    def _stop_requested(self, event: StopRequested) -> None:
        self._quit(0, "asked to stop")

    def _quit(self, status: int, reason: str) -> None:
        if self._announced:
            self._publish(self._own("status"), self._status("offline"), retain=True)
        self._do(Stop(status, reason))
        self.stopped = True

    def _online_timer(self, name: str) -> None:
        match name:
            case "announce":
                self._announce()
            case "rival":
                self._rival = None
                self._announce()
            case "telemetry":
                self._telemetry()

    def _seen_own_id(self, leaf: str, payload: Buffer) -> None:
        """Something on our own topics: ours come back to us, another boot's means another process of our id."""
        content = from_json(payload)
        other = content.get("boot") if content else None
        if content is None or not isinstance(other, str) or other == self.boot:
            return
        if leaf == "tele" or (leaf == "status" and content.get("state") == "online" and self._announced):
            # Both announced at once: the smaller boot gives way, so that one stays.
            if not self._announced or self.boot < other:
                self._announced = False
                self._quit(
                    1,
                    f"two processes have the id {self.id}: this one (boot {self.boot}) and another (boot {other}) "
                    "that is online; stop the other or choose another --id",
                )
        elif leaf == "status":
            self._rival = other if content.get("state") == "online" else None
            if self._online:
                # The last will of our former process came late and is retained now: say again that we are here.
                self._publish(self._own("status"), self._status("online"), retain=True)
