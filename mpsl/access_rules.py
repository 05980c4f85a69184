"""Which topics a member of a fleet may write and read, from its role: docs/topics.md as rules for a broker.

A broker's access list is made from these, and `mpsl doctor` tries them. Nothing else decides who may do what there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mpsl.identity.fleet_member import FleetMember
from mpsl.names import ORCHESTRATOR
from mpsl.topics import BRANCHES, LEAVES, Branch, Topics

Access = Literal["write", "read"]
_OWN_LEAVES = ("status", "info", "tele", "res")
"""What a device or a node says of itself; `cmd` is said to it."""


@dataclass(frozen=True)
class AccessRule:
    """A topic filter that may be written, or read. What no rule allows is forbidden."""

    access: Access
    filter: str


def rules_of(member: FleetMember) -> list[AccessRule]:
    """All rules of a member, those of frequent messages first: a broker looks for the first that fits."""
    match member.role:
        case "device":
            return _device(Topics(member.net), member.id)
        case "node":
            return _node(Topics(member.net), member.id)
        case "orchestrator":
            return _orchestrator(Topics(member.net))
        case "viewer":
            return _reading(_json_topics(Topics(member.net)))


def _device(topics: Topics, id: str) -> list[AccessRule]:
    """It writes to seats, to the orchestrator, and to itself while its link is measured."""
    to = [f"{topics.root}/seat/+/+/+/{id}", *(topics.binary("+", address, "+", id) for address in (ORCHESTRATOR, id))]
    return _writing(to) + _reading([topics.binary("+", id, "+", "+")]) + _participant(topics, "dev", id)


def _node(topics: Topics, id: str) -> list[AccessRule]:
    """It writes to seats, devices and the orchestrator. It reads all seats: which one it has, only the plan says."""
    writes = [f"{topics.root}/seat/+/+/+/{id}", topics.binary("+", "+", "+", id)]
    reads = [f"{topics.root}/seat/#", topics.binary("+", id, "+", "+")]
    return _writing(writes) + _reading(reads) + _participant(topics, "node", id)


def _participant(topics: Topics, branch: Branch, id: str) -> list[AccessRule]:
    """Its own topics, the twin's under the same id in the other role, plans and states."""
    writes = [topics.participant(branch, id, leaf) for leaf in _OWN_LEAVES]
    reads = [topics.participant(branch, id, leaf) for leaf in LEAVES[branch]]
    reads += [topics.participant(twin, id, leaf) for twin in BRANCHES if twin != branch for leaf in ("status", "tele")]
    return _writing(writes) + _reading([*reads, topics.run("+", "plan"), topics.run("+", "state")])


def _orchestrator(topics: Topics) -> list[AccessRule]:
    """It writes plans, states and metrics, commands, and messages as `orch`; of the binary ones it reads its own."""
    writes = [f"{topics.root}/seat/+/+/+/{ORCHESTRATOR}", topics.binary("+", "+", "+", ORCHESTRATOR)]
    writes += [topics.run("+", leaf) for leaf in LEAVES["run"]]
    writes += [topics.participant(branch, "+", "cmd") for branch in BRANCHES]
    return _writing(writes) + _reading([topics.binary("+", ORCHESTRATOR, "+", "+"), *_json_topics(topics)])


def _json_topics(topics: Topics) -> list[str]:
    found = [topics.participant(branch, "+", leaf) for branch in BRANCHES for leaf in LEAVES[branch]]
    return found + [topics.run("+", leaf) for leaf in LEAVES["run"]]


def _writing(filters: Iterable[str]) -> list[AccessRule]:
    return [AccessRule("write", filter) for filter in filters]


def _reading(filters: Iterable[str]) -> list[AccessRule]:
    return [AccessRule("read", filter) for filter in filters]


def allows(rules: Iterable[AccessRule], access: Access, topic: str) -> bool:
    """Whether one of the rules allows it."""
    return any(rule.access == access and matches(rule.filter, topic) for rule in rules)


def matches(filter: str, topic: str) -> bool:
    """Whether a topic fits a filter with `+` and `#`."""
    wanted, levels = filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted, levels = wanted[:-1], levels[: len(wanted) - 1]
    return len(wanted) == len(levels) and all(w in ("+", level) for w, level in zip(wanted, levels, strict=True))
