"""Turns what the participants report about themselves into the profile and the fleet that a plan is made from.

Devices keep the first and the last block, so they measure those; nodes measure the rest. Processes of the same kind on
the same machine share their figures. As many of them measure at once as the machine has cores for. Nothing is sent from
here.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

from mpsl import facts
from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.machines.census import Presence
from mpsl.machines.orchestrator_jobs import ModelBuilt
from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetHost, FleetJob, FleetNode
from mpsl.planning.profile_file import BlockProfile, HardwareTimes, Profile
from mpsl.planning.seat_memory import GIB
from mpsl.profile_questions import NO_LIMIT_MBPS, Answer, BlockSeconds, LinkFigures, Question, optimizer_kind, question
from mpsl.topics import Branch

NO_LIMIT_GIB = 1e6
"""The memory of a node without a budget."""
DEFAULT_CORES = 1
MAX_RATE_RATIO = 1.25
"""Nodes whose link rates differ by at most this factor count as equally fast.

No two measurements agree, and the search for a plan is faster with fewer kinds of nodes.
"""


@dataclass(frozen=True)
class HostDescription:
    """The machine that a process runs on, from its `info`. Times are filed under its `kind`."""

    host: str
    kind: str
    cores: int
    threads: int


def machine_of(presence: Presence) -> HostDescription | None:
    """Return the machine of a process. Returns None if the process does not report it, so it cannot be asked."""
    info = presence.info
    hardware, host, cores, threads = (info.get(key) for key in ("hardware", "host", "cores", "threads"))
    if not (isinstance(hardware, str) and isinstance(host, str)):
        return None
    cores = cores if isinstance(cores, int) and cores > 0 else DEFAULT_CORES
    threads = min(threads, cores) if isinstance(threads, int) and threads > 0 else DEFAULT_CORES
    return HostDescription(host, f"{presence.branch} {hardware} {threads}", cores, threads)


def questions(job: Job, blocks: int) -> dict[Branch, Question]:
    """Return the question for devices and the one for nodes."""
    return {"dev": question(job, ((0, 1), (blocks - 1, blocks))), "node": question(job, ((1, blocks - 1),))}


def representatives(members: Iterable[Presence]) -> list[Presence]:
    """Return the members that measure: of each kind and machine, as many as compute there at once."""
    asked: dict[tuple[str, str], int] = {}
    chosen = []
    for member in members:
        machine = machine_of(member)
        if machine is None:
            continue
        place = (machine.host, machine.kind)
        if asked.setdefault(place, 0) < max(1, machine.cores // machine.threads):
            asked[place] += 1
            chosen.append(member)
    return chosen


def may_ask(member: Presence, busy: Iterable[Presence]) -> bool:
    """Whether the member's machine has cores left beside the processes that measure there."""
    machine = machine_of(member)
    assert machine is not None
    beside = [other for other in map(machine_of, busy) if other is not None and other.host == machine.host]
    return not beside or sum(other.threads for other in beside) + machine.threads <= machine.cores


def answer_of(member: Presence, asked: Question) -> Answer | None:
    """Return the answer in the member's `info`, or None while there is no answer to this question."""
    content = member.info.get("profile")
    if not isinstance(content, Mapping) or content.get("question") != asked.digest:
        return None
    try:
        answer = facts.read(Answer, content, f"{member.branch}/{member.id}/info: profile")
    except UsageError as error:
        return Answer(asked.digest, error=str(error))
    due = sum(end - first for first, end in asked.blocks)
    if answer.times is not None and len(answer.times.forward_ms) != due:
        return Answer(asked.digest, error=f"{len(answer.times.forward_ms)} times for {due} blocks")
    return answer


def profile_of(job: Job, model: ModelBuilt, members: Sequence[Presence]) -> Profile:
    """Return the medians of the answers by kind of machine. Raises UsageError for a kind without an answer."""
    count = len(model.block_costs)
    asked = questions(job, count)
    answers: dict[str, list[BlockSeconds]] = {}
    machines: dict[str, HostDescription] = {}
    for member in members:
        machine, answer = machine_of(member), answer_of(member, asked[member.branch])
        if machine is None:
            raise UsageError(f"{member.id} does not say what machine it runs on")
        machines[machine.kind] = machine
        if answer is not None and answer.times is not None:
            answers.setdefault(machine.kind, []).append(answer.times)
    missing = sorted(machines.keys() - answers.keys())
    if missing:
        raise UsageError(f"no participant of the kind {missing[0]!r} has measured")
    hardware = {}
    for kind, found in answers.items():
        places = [n for first, end in asked[_branch(kind)].blocks for n in range(first, end)]
        forward, backward, step = (
            _spread([getattr(each, key) for each in found], places, count)
            for key in ("forward_ms", "backward_ms", "step_ms")
        )
        copied = statistics.median(each.copy_gb_per_s for each in found)
        machine = machines[kind]
        hardware[kind] = HardwareTimes(
            forward, backward, step, copy_gb_per_s=copied, cores=machine.cores, threads=machine.threads
        )
    blocks = tuple(
        BlockProfile(str(number), *sizes)
        for number, sizes in enumerate(
            zip(
                model.state_bytes,
                model.output_bytes,
                model.stored_bytes,
                model.exact_bytes or (0,) * count,
                model.gradient_bytes or (None,) * count,
                model.frozen_bytes or (0,) * count,
                strict=True,
            )
        )
    )
    return Profile(job.model.name, job.run.batch_size, _input_bytes(job, model), blocks, hardware, job.model.args)


def fleet_of(job: Job, model: ModelBuilt, members: Sequence[Presence], links: Mapping[str, LinkFigures]) -> Fleet:
    """Return the members as a fleet to plan with. A link that is not in `links` counts as fast.

    Raises UsageError if a figure is impossible.
    """
    hosts: dict[str, int] = {}
    devices, nodes = [], []
    of_nodes = {member.id: links.get(member.id, LinkFigures()) for member in members if member.branch == "node"}
    rates = merge_nearly_equal({id: min(link.up_mbps, link.down_mbps) for id, link in of_nodes.items()})
    latency_ms = statistics.median([link.latency_ms for link in of_nodes.values()] or [0.0])
    for member in members:
        machine = machine_of(member)
        if machine is None:
            raise UsageError(f"{member.id} does not say what machine it runs on")
        hosts[machine.host] = max(machine.cores, hosts.get(machine.host, 0))
        if member.branch == "dev":
            samples, link = _number(member.info.get("samples"), 1), links.get(member.id, LinkFigures())
            devices.append(
                FleetDevice(
                    member.id, machine.kind, int(samples), up_mbps=link.up_mbps, down_mbps=link.down_mbps,
                    latency_ms=link.latency_ms, host=machine.host,
                )
            )  # fmt: skip
        else:
            budget = _number(member.info.get("memory_budget"), inf)
            memory = min(NO_LIMIT_GIB, budget / GIB)
            nodes.append(FleetNode(member.id, machine.kind, memory, 0.0, link_mbps=rates[member.id], host=machine.host))
    planned = FleetJob(
        local_epochs=job.run.local_epochs,
        first_cut=1,
        last_cut=len(model.block_costs) - 1,
        micro_batches=job.run.micro_batches,
        optimizer=optimizer_kind(job.optimizer),
        activations=job.wire.activations,
        gradients=job.wire.gradients,
        admit=job.fleet.admit,
    )
    try:
        return Fleet(
            tuple(devices),
            tuple(nodes),
            FleetBroker(NO_LIMIT_MBPS, latency_ms),
            tuple(FleetHost(name, cores) for name, cores in hosts.items()),
            planned,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def merge_nearly_equal(rates: Mapping[str, float]) -> dict[str, float]:
    """Replace rates that are nearly equal by their median. Groups are formed from the slowest rate on."""
    levels: list[list[str]] = []
    for id in sorted(rates, key=lambda id: rates[id]):
        if levels and rates[id] <= MAX_RATE_RATIO * rates[levels[-1][0]]:
            levels[-1].append(id)
        else:
            levels.append([id])
    return {id: statistics.median(rates[other] for other in level) for level in levels for id in level}


def _branch(kind: str) -> Branch:
    return "dev" if kind.startswith("dev ") else "node"


def _spread(rows: list[tuple[float, ...]], places: list[int], count: int) -> tuple[float, ...]:
    """Return the medians of several rows at their blocks, and 0 at blocks that this kind never computes."""
    values = dict(zip(places, map(statistics.median, zip(*rows, strict=True)), strict=True))
    return tuple(values.get(number, 0.0) for number in range(count))


def _input_bytes(job: Job, model: ModelBuilt) -> int:
    return model.input_bytes or 4 * job.run.batch_size * prod(model.input_shape)


def _number(value: Any, otherwise: float) -> float:
    return value if isinstance(value, int | float) and value > 0 else otherwise
