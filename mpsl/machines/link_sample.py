"""Chooses whose links are measured in a large fleet, and estimates those of the others. It sends nothing."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from mpsl.machines.census import Presence
from mpsl.machines.survey import machine_of
from mpsl.profile_questions import LinkFigures

MAX_MEASURED = 32
"""Maximum number of measured devices, and of nodes. One after the other, they take a minute at most."""


def sample(members: Sequence[Presence]) -> list[Presence]:
    """Return at most MAX_MEASURED members of each branch, spread evenly over machines and kinds."""
    chosen: list[Presence] = []
    for branch in ("node", "dev"):
        of_branch = [member for member in members if member.branch == branch]
        on_machine: Counter[tuple[str, str]] = Counter()
        of_kind: Counter[tuple[str, int]] = Counter()
        ranked = []
        for number, member in enumerate(of_branch):
            host, kind = _place(member)
            nth = on_machine[kind, host]
            on_machine[kind, host] += 1
            ranked.append((nth, of_kind[kind, nth], number))
            of_kind[kind, nth] += 1
        chosen += [of_branch[number] for *_, number in sorted(ranked)[:MAX_MEASURED]]
    return chosen


def filled(
    members: Sequence[Presence], measured: Mapping[str, LinkFigures], silent: Sequence[str]
) -> dict[str, LinkFigures]:
    """Return the figures of all. A member that was not asked gets the median of those like it; a silent one none."""
    groups: dict[tuple[str, ...], list[LinkFigures]] = {}
    for member in members:
        if member.id in measured:
            for group in _groups(member):
                groups.setdefault(group, []).append(measured[member.id])
    found = {}
    for member in members:
        alike = next((groups[group] for group in _groups(member) if group in groups), [])
        if member.id in measured:
            found[member.id] = measured[member.id]
        elif alike and member.id not in silent:
            found[member.id] = LinkFigures(
                *(
                    statistics.median(getattr(each, name) for each in alike)
                    for name in ("up_mbps", "down_mbps", "latency_ms")
                )
            )
    return found


def _groups(member: Presence) -> tuple[tuple[str, ...], ...]:
    """Return the groups of a member, closest first: its kind on its machine, its kind, all devices or all nodes."""
    host, kind = _place(member)
    return (member.branch, kind, host), (member.branch, kind), (member.branch,)


def _place(member: Presence) -> tuple[str, str]:
    """The machine that a member runs on, and its kind."""
    machine = machine_of(member)
    return (machine.host, machine.kind) if machine else ("", member.branch)
