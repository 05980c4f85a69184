"""The orchestrator's knowledge about all devices and nodes of its net, from their JSON topics alone.

How long it believes in someone is the job's matter (`grace_s`, `silence_s`).
"""

import re
from dataclasses import dataclass, field
from typing import Any

from mpsl import PROTOCOL
from mpsl.job import FleetSection
from mpsl.machines.machine import from_json
from mpsl.machines.session import LOST_GRACE_S
from mpsl.topics import BRANCHES, Branch, ParticipantTopic
from mpsl.wire import Buffer

STALE_S = FleetSection.silence_s
"""The maximum age of the last sign of life, telemetry or anything on a link, unless the job says otherwise."""
UNANNOUNCED_S = 1.0
"""How long telemetry may arrive without the status and info of its boot before its sender is asked for both."""


@dataclass
class Presence:
    """One device or node: its last status and info, and when its current boot last sent something."""

    branch: Branch
    id: str
    status: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    telemetry: dict[str, Any] = field(default_factory=dict)
    heard_at: float | None = None
    lost_at: float | None = None
    """When its last will came; None if the orchestrator has lost its own connection since."""
    grace_s: float = LOST_GRACE_S
    silence_s: float = STALE_S

    @property
    def boot(self) -> str:
        """The boot in its status."""
        return str(self.status.get("boot", ""))

    @property
    def online(self) -> bool:
        """Whether its status says online."""
        return self.status.get("state") == "online"

    def expected_back(self, now: float) -> bool:
        """Whether it may still come back: a last will is provisional for `grace_s`."""
        is_lost = self.status.get("state") == "lost"
        return is_lost and (self.lost_at is None or now - self.lost_at < self.grace_s)

    def gone(self, now: float) -> bool:
        """Whether it has stopped, or is lost and not expected back."""
        return not self.online and not self.expected_back(now)

    def alive(self, now: float, allowance_s: float = 0.0) -> bool:
        """Whether it is online with a sign of life of this boot that is at most `silence_s` and the allowance old."""
        return self.online and self.heard_at is not None and now - self.heard_at <= self.silence_s + allowance_s

    @property
    def runs(self) -> list[str]:
        """The runs that it reports to be in."""
        one, several = self.info.get("run"), self.info.get("runs")
        runs = several if isinstance(several, list) else [one]
        return [run for run in runs if isinstance(run, str)]

    def free(self, now: float, own_run: str) -> bool:
        """Whether it is alive, described, of this protocol and available. A device must be in no run but `own_run`."""
        described = self.info.get("boot") == self.boot
        available = self.branch == "node" or all(run == own_run for run in self.runs)
        return self.alive(now) and described and available and self.status.get("protocol") == PROTOCOL

    def lacking(self, now: float, own_run: str) -> str:
        """Why it is not free although it seems to be there; empty if it is free, has stopped, or is lost."""
        if not self.status:
            return "its status has not come" if self.heard_at is not None else ""
        if self.free(now, own_run) or not self.online:
            return ""
        if self.info.get("boot") != self.boot:
            return "its info has not come"
        if not self.alive(now):
            return "it sends no telemetry"
        if self.status.get("protocol") != PROTOCOL:
            return f"it speaks protocol {self.status.get('protocol')}, not {PROTOCOL}"
        return f"it is in run {next(run for run in self.runs if run != own_run)}"


class Census:
    """All presences by branch and id, seen from the run `own_run`."""

    def __init__(self, own_run: str = "", grace_s: float = LOST_GRACE_S, silence_s: float = STALE_S) -> None:
        self._own_run = own_run
        self._grace_s = grace_s
        self._silence_s = silence_s
        self._presences: dict[tuple[Branch, str], Presence] = {}
        self._unannounced: dict[tuple[Branch, str], tuple[str, float]] = {}
        """Processes whose telemetry arrives without status or info: boot, and time of the first telemetry."""
        self._to_ask: dict[tuple[Branch, str], str] = {}

    def _stranger(self, topic: ParticipantTopic) -> Presence:
        return Presence(topic.branch, topic.id, grace_s=self._grace_s, silence_s=self._silence_s)

    def note(self, topic: ParticipantTopic, payload: Buffer, now: float) -> Presence | None:
        """Store a status, info or tele. Returns None, and changes nothing, if it is malformed or outdated."""
        content = from_json(payload)
        if content is None or not isinstance(content.get("boot"), str):
            return None
        if topic.leaf == "status" and content.get("state") not in ("online", "offline", "lost"):
            return None
        presence = self._presences.setdefault((topic.branch, topic.id), self._stranger(topic))
        if topic.leaf == "status":
            if content["state"] != "online" and presence.status and content["boot"] != presence.boot:
                return None  # the will of an earlier process does not concern its successor
            if content["boot"] not in (presence.boot, presence.telemetry.get("boot")):
                presence.heard_at = None
            if content["state"] != "lost":
                presence.lost_at = None
            elif presence.lost_at is None:
                presence.lost_at = now
            presence.status = content
        elif topic.leaf == "info":
            presence.info = content
        elif topic.leaf == "tele":
            self._note_unannounced(presence, content["boot"], now)
            if presence.status and content["boot"] != presence.boot:
                return None
            presence.heard_at = now
            # A node sends telemetry for each of its runs.
            if not self._own_run or content.get("run") == self._own_run or not presence.telemetry:
                presence.telemetry = content
        return presence

    def heard(self, id: str, boot: str, now: float) -> None:
        """Note a sign of life: a chunk or an acknowledgement of this boot has arrived."""
        for branch in BRANCHES:
            presence = self._presences.get((branch, id))
            if presence is not None and presence.boot == boot:
                presence.heard_at = now

    def _note_unannounced(self, presence: Presence, boot: str, now: float) -> None:
        who = (presence.branch, presence.id)
        if presence.boot == boot == presence.info.get("boot"):
            self._unannounced.pop(who, None)
            return
        known, since = self._unannounced.get(who, ("", now))
        if known != boot:
            self._unannounced[who] = (boot, now)
        elif now - since >= UNANNOUNCED_S:
            self._to_ask[who] = boot
            del self._unannounced[who]

    def unannounced(self) -> list[tuple[Branch, str, str]]:
        """Branch, id and boot of processes that send telemetry, but whose status or info has not arrived.

        Some brokers keep no retained messages, or send none to subscriptions with wildcards (RabbitMQ). Each process is
        returned once, and again if its status or info is still missing UNANNOUNCED_S later.
        """
        found = []
        for who, boot in self._to_ask.items():
            presence = self._presences[who]
            if not presence.boot == boot == presence.info.get("boot"):
                found.append((presence.branch, presence.id, boot))
        self._to_ask.clear()
        return found

    def connection_lost(self) -> None:
        """The orchestrator has lost its own connection: the time of earlier wills no longer counts."""
        for presence in self._presences.values():
            presence.lost_at = None

    def excuse(self, seconds: float) -> None:
        """Extend all deadlines by the seconds that this process was itself away or suspended."""
        for presence in self._presences.values():
            if presence.heard_at is not None:
                presence.heard_at += seconds
            if presence.lost_at is not None:
                presence.lost_at += seconds

    def get(self, branch: Branch, id: str) -> Presence | None:
        """Return what is known about one device or node."""
        return self._presences.get((branch, id))

    def free(self, branch: Branch, now: float) -> list[Presence]:
        """Return those that could join the run now, in natural order of their ids."""
        found = [p for p in self._presences.values() if p.branch == branch and p.free(now, self._own_run)]
        return sorted(found, key=lambda presence: natural(presence.id))

    def count_free(self, branch: Branch, now: float) -> int:
        """Return the number of those that could join the run now."""
        mine = self._own_run
        return sum(presence.free(now, mine) for presence in self._presences.values() if presence.branch == branch)

    def lacking(self, branch: Branch, now: float) -> dict[str, str]:
        """By id, why devices or nodes that seem to be there cannot join the run now."""
        found = (p for p in self._presences.values() if p.branch == branch)
        return {p.id: why for p in found if (why := p.lacking(now, self._own_run))}

    def has_seen(self, branch: Branch) -> bool:
        """Whether anything of any device or node has arrived."""
        return any(presence.branch == branch for presence in self._presences.values())

    def of_other_protocol(self, now: float) -> Presence | None:
        """Return a participant that is alive with another protocol version, if any.

        A retained status alone is no sign of life: the broker keeps that of a process that died with the broker.
        """
        for presence in self._presences.values():
            if presence.alive(now) and presence.status.get("protocol") != PROTOCOL:
                return presence
        return None


def natural(id: str) -> list[tuple[int, str]]:
    """Sort key that puts dev-2 before dev-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", id)]
