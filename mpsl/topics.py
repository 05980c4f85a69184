"""Builds and parses the names of all topics. It must never know what a payload means.

The rules are in docs/topics.md: at most eight levels, destination before source, source last, so that one access rule
binds a writer to its own name.
"""

import functools
import re
from dataclasses import dataclass
from typing import Literal

from mpsl.names import ORCHESTRATOR

Lane = Literal["fwd", "bwd", "weights", "ctl", "ack"]
LANES: tuple[Lane, ...] = ("fwd", "bwd", "weights", "ctl", "ack")

Branch = Literal["dev", "node"]
BRANCHES: tuple[Branch, ...] = ("dev", "node")

_OF_PARTICIPANTS = ("status", "info", "tele", "cmd", "res")
LEAVES = {"dev": _OF_PARTICIPANTS, "node": _OF_PARTICIPANTS, "run": ("plan", "state", "metrics")}
"""The JSON topics of each branch."""

_ID = re.compile(r"[a-z0-9-]{1,32}\Z")
_SEAT = re.compile(r"[1-9][0-9]{0,3}_[0-9]{1,4}\Z")

Address = str
"""The destination of a binary message: a seat 'k_r' (stage from 1, replica from 0), the id of a device, or 'orch'."""


def seat_address(stage: int, replica: int) -> Address:
    """The address of a seat; an id never contains '_', so the two kinds of address cannot collide.

    It has no '.' either, because RabbitMQ takes that for a level separator and would not route the topic.
    """
    return f"{stage}_{replica}"


def _ids(*texts: str) -> bool:
    return all(_ID.match(text) for text in texts)


@dataclass(frozen=True)
class BinaryTopic:
    """A parsed topic of the branches `seat` and `x`."""

    run: str
    to: Address
    lane: Lane
    source: str


@dataclass(frozen=True)
class ParticipantTopic:
    """A parsed topic of the branches `dev` and `node`; leaf is status, info, tele, cmd or res."""

    branch: Branch
    id: str
    leaf: str


@dataclass(frozen=True)
class RunTopic:
    """A parsed topic of the branch `run`; leaf is plan, state or metrics."""

    run: str
    leaf: str


class Topics:
    """All topics of one net."""

    def __init__(self, net: str) -> None:
        self.net = net
        self.root = f"mpsl/v1/{net}"

    def participant(self, branch: Branch, id: str, leaf: str) -> str:
        """A JSON topic of a device or node; `id` may be '+'."""
        return f"{self.root}/{branch}/{id}/{leaf}"

    def run(self, run: str, leaf: str) -> str:
        """A JSON topic of a run; `run` may be '+'."""
        return f"{self.root}/run/{run}/{leaf}"

    def binary(self, run: str, to: Address, lane: str, source: str) -> str:
        """A binary topic into a seat, a device or the orchestrator; lane and source may be '+'."""
        return f"{self.root}/{'seat' if '_' in to else 'x'}/{run}/{to}/{lane}/{source}"

    def parse(self, topic: str) -> BinaryTopic | ParticipantTopic | RunTopic | None:
        """Parse a topic; None if it is not of this net or not one of ours, including its ids and leaves."""
        return _parse(self.root, topic)


@functools.lru_cache(4096)
def _parse(root: str, topic: str) -> BinaryTopic | ParticipantTopic | RunTopic | None:
    # Cached: a process subscribes to few topics, and each message repeats one of them.
    if not topic.startswith(root + "/"):
        return None
    match topic[len(root) + 1 :].split("/"):
        case [("seat" | "x") as branch, run, to, lane, source] if lane in LANES and _ids(run, source):
            return BinaryTopic(run, to, lane, source) if (_SEAT if branch == "seat" else _ID).match(to) else None
        case [("dev" | "node") as branch, id, leaf] if leaf in LEAVES[branch] and _ids(id):
            return ParticipantTopic(branch, id, leaf)
        case ["run", run, leaf] if leaf in LEAVES["run"] and _ids(run):
            return RunTopic(run, leaf)
    return None


def client_id(role: str, id: str, boot: str) -> str:
    """The MQTT client id of a process; because of `boot`, two processes with one id do not disconnect each other."""
    return f"mpsl-{role}-{id}-{boot}" if id != ORCHESTRATOR else f"mpsl-{role}-{boot}"
