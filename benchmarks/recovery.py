"""The costs of faults in a run: seconds to the next batch that counts, lost batches, and the share of useful time.

A batch is observed on its device's topic, where the last gradient of its update arrives. It counts if its round was
committed under its term, with this attempt of its device. No process is asked about itself.
"""

import asyncio
import contextlib
import statistics
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from broker.connection import connect
from broker.options import NetworkOptions
from mpsl import wire
from mpsl.errors import BrokerError, WireError
from mpsl.link import chunk
from mpsl.machines.machine import from_json
from mpsl.topics import BinaryTopic, RunTopic
from mpsl.wire import Buffer

RECONNECT_S = 0.05


@dataclass(frozen=True, order=True)
class Batch:
    """One update of a device's copy."""

    term: int
    round: int
    device: str
    attempt: int
    epoch: int
    batch: int


@dataclass
class Watched:
    """The time at which each batch was first observed (monotonic seconds), and the last state of the run."""

    batches: dict[Batch, float] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    seated: set[str] = field(default_factory=set)
    """The nodes with seats in the last plan."""

    def see(self, topic: BinaryTopic | RunTopic, payload: Buffer, now: float) -> None:
        """Take one message."""
        if isinstance(topic, RunTopic) and topic.leaf == "plan":
            self.seated = {seat["node"] for seat in (from_json(payload) or {}).get("seats", ())} or self.seated
        elif isinstance(topic, RunTopic):
            self.state = from_json(payload) or self.state
        elif (batch := batch_of(payload)) is not None:
            self.batches.setdefault(batch, now)


def batch_of(payload: Buffer) -> Batch | None:
    """Return the batch whose last gradient begins in this chunk; None for anything else."""
    try:
        decoded = chunk.decode(payload)
        if isinstance(decoded, chunk.Ack) or decoded[0].index:
            return None
        header = wire.header_of(decoded[1])[0]
    except WireError:
        return None
    ticket = header.get("f", {}).get("ticket")
    if header.get("k") != "gradient" or ticket["micro"] != ticket["micros"] - 1:
        return None
    return Batch(*(ticket[name] for name in ("term", "round", "device", "attempt", "epoch", "batch")))


@contextlib.asynccontextmanager
async def watching_batches(network: NetworkOptions) -> AsyncIterator[Watched]:
    """Watch the run during the block, through all failures of its broker."""
    watched = Watched()
    topics = network.topics
    filters = (topics.binary("+", "+", "bwd", "+"), topics.run("+", "state"), topics.run("+", "plan"))

    async def listen() -> None:
        while True:
            with contextlib.suppress(BrokerError):
                async with connect(network.address, f"mpsl-bench-{time.monotonic_ns()}", patience_s=1.0) as connection:
                    await connection.subscribe(filters)
                    async for name, payload, *_ in connection.messages():
                        topic = topics.parse(name)
                        if isinstance(topic, BinaryTopic | RunTopic):
                            watched.see(topic, payload, time.monotonic())
            await asyncio.sleep(RECONNECT_S)

    task = asyncio.create_task(listen(), name="watching")
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass
class Disturbance:
    """One fault. `seconds`: how long the process was stopped (SIGSTOP); 0 if it was killed."""

    role: str
    victim: str
    at: float
    seconds: float = 0.0
    is_cut: bool = False
    """Whether its cable was pulled for that time instead."""
    restarted_at: float | None = None
    """When the new process wrote its first line."""

    @property
    def kind(self) -> str:
        """The kind of disturbance in the figures."""
        return "cut" if self.is_cut else "stopped" if self.seconds else "killed"


def counting(batches: Mapping[Batch, float], rounds: Sequence[Mapping[str, Any]]) -> dict[Batch, float]:
    """Return the batches in committed rounds, which metrics.jsonl lists."""
    last: dict[tuple[int, int, str], int] = {}
    for batch in batches:
        key = (batch.term, batch.round, batch.device)
        last[key] = max(last.get(key, 0), batch.attempt)
    committed = {
        (entry.get("accepted_under", {}).get(device, entry["term"]), entry["round"], device)
        for entry in rounds
        for device in entry["devices"]
    }
    found = {}
    for batch, at in batches.items():
        key = (batch.term, batch.round, batch.device)
        if key in committed and batch.attempt == last[key]:
            found[batch] = at
    return found


def cost_of(fault: Disturbance, counted: Sequence[float], own: Sequence[float]) -> dict[str, Any]:
    """Return the cost of one fault. `counted` are the sorted times of all batches that count, `own` the victim's."""

    def next_after(times: Sequence[float]) -> float | None:
        place = bisect_right(times, fault.at)
        return times[place] - fault.at if place < len(times) else None

    seconds = next_after(counted)
    restarted = None if fault.restarted_at is None else fault.restarted_at - fault.at
    found = {
        "role": fault.role, "victim": fault.victim, "kind": fault.kind, "stopped_s": fault.seconds,
        "restarted_s": restarted, "next_batch_s": seconds,
    }  # fmt: skip
    if seconds is not None:
        found["beyond_s"] = max(0.0, seconds - (fault.seconds or restarted or 0.0))
    if own:
        found["own_next_batch_s"] = next_after(own)
    return found


def costs(
    faults: Sequence[Disturbance], batches: Mapping[Batch, float], rounds: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the cost of each fault, in order. A lost batch is charged to the fault not yet overcome, else to the next.

    A fault is overcome at the next batch that counts, once the process is no longer stopped. If the next fault comes
    earlier, both are `overlapped`.
    """
    counts = counting(batches, rounds)
    times = sorted(counts.values())
    found = []
    for fault in faults:
        own = sorted(at for batch, at in counts.items() if batch.device == fault.victim)
        row = cost_of(fault, times, own)
        found.append({**row, "at_s": fault.at - faults[0].at, "overlapped": False, "batches_lost": 0})
    for before, row in pairwise(found):
        seconds = before["next_batch_s"]
        if seconds is None or row["at_s"] < before["at_s"] + max(seconds, before["stopped_s"]):
            before["overlapped"] = row["overlapped"] = True
    for batch, at in batches.items():
        if batch not in counts:
            found[_charged(faults, found, at)]["batches_lost"] += 1
    return found


def _charged(faults: Sequence[Disturbance], found: Sequence[Mapping[str, Any]], at: float) -> int:
    """Return the fault that a lost batch is charged to: the last one if it is not overcome, else the next."""
    before = bisect_right([fault.at for fault in faults], at) - 1
    if before >= 0:
        seconds = found[before]["next_batch_s"]
        if seconds is None or at < faults[before].at + seconds or before == len(faults) - 1:
            return before
    return before + 1


FIGURES = ("next_batch_s", "beyond_s", "own_next_batch_s", "batches_lost")


def by_role(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the median and the worst of each figure by role and kind, without overlapped faults."""
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted({f"{row['role']} {row['kind']}" for row in found}):
        all_of_it = [row for row in found if f"{row['role']} {row['kind']}" == name]
        alone = [row for row in all_of_it if not row["overlapped"]]
        rows[name] = {"faults": len(all_of_it), "overlapped": len(all_of_it) - len(alone)}
        for figure in FIGURES:
            values = [row[figure] for row in alone if row.get(figure) is not None]
            if values:
                rows[name][figure] = {"median": statistics.median(values), "worst": max(values)}
    return rows


def useful_share(faults: Sequence[Disturbance], counted: Sequence[float], began: float) -> float:
    """Return the rate of batches that count from first to last fault, relative to that from `began` to the first."""
    first, last = faults[0].at, faults[-1].at
    undisturbed = sum(began <= at < first for at in counted) / (first - began)
    disturbed = sum(first <= at < last for at in counted) / (last - first)
    return disturbed / undisturbed
