"""Runs a whole system on this machine: broker, nodes and devices as processes, the orchestrator in this process."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from broker.address import BrokerAddress, own_broker
from broker.engines.engine import running_broker
from broker.hardware import usable_cores
from broker.options import CONFIG, OWN_BROKER, NetworkOptions
from mpsl.allowed_models import options_for
from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.names import check_id
from mpsl.planning.plan_file import PlannedRun
from orchestrator.commands.train import orchestrate
from orchestrator.processes import children
from orchestrator.records import Records, circumstances


@dataclass(frozen=True)
class LocalFleet:
    """The shards of the devices, the ids of the nodes, and the memory of each node."""

    shards: dict[str, Path]
    nodes: list[str]
    memory_budget: str | None = None

    @property
    def threads(self) -> int:
        """Threads of torch for each process."""
        return threads_each(len(self.nodes) + len(self.shards))


def threads_each(processes: int) -> int:
    """Threads of torch for each of `processes` beside a broker, so that together they use all cores and no more."""
    return max(1, usable_cores() // (processes + 1))


def shards_in(directory: Path) -> dict[str, Path]:
    """Return the shards DIR/*.npz by id, which is the file's stem. Raises UsageError for a stem that is not an id."""
    if not directory.is_dir():
        raise UsageError(f"--data {directory}: no such directory")
    found = {check_id(path.stem, str(path)): path for path in sorted(directory.glob("*.npz"))}
    if not found:
        raise UsageError(f"--data {directory}: holds no .npz file; `mpsl data` makes shards")
    return found


def node_ids(count: int) -> list[str]:
    """Return the ids of nodes without a plan: node-1, node-2 and so on."""
    return [f"node-{number}" for number in range(1, count + 1)]


def check_shards(fleet: LocalFleet, planned: PlannedRun, where: str) -> None:
    """Raise UsageError, naming the directory `where`, unless the shards are exactly those of the plan's devices."""
    missing = sorted(planned.devices.keys() - fleet.shards.keys())
    if missing:
        raise UsageError(
            f"--data {where}: holds no shard of {_few(missing)}, which the plan names; add ID.npz, or plan again"
        )
    strangers = sorted(fleet.shards.keys() - planned.devices.keys())
    if strangers:
        raise UsageError(f"--data {where}: not in the plan: {_few(strangers)}; move their shards away, or plan again")


def _few(ids: list[str], most: int = 6) -> str:
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more


def job_for(job: Job, fleet: LocalFleet, where: str) -> Job:
    """Return the job for exactly these devices. Raises UsageError if it asks for more."""
    if job.fleet.devices > len(fleet.shards):
        raise UsageError(f"{where}: fleet.devices = {job.fleet.devices}, but there are {len(fleet.shards)} shards")
    devices = len(fleet.shards)
    quorum = job.fleet.quorum or job.fleet.devices
    return replace(job, fleet=replace(job.fleet, devices=devices, quorum=min(quorum, devices)))


async def run_locally(
    network: NetworkOptions, job: Job, fleet: LocalFleet, out: Path, engine: str, planned: PlannedRun | None = None
) -> dict[str, Any]:
    """Run a job and return its summary. No process is left at the end, not even after Ctrl-C.

    The broker is the one that --broker names, or else one of `engine`, started here.
    """
    environment = {"OMP_NUM_THREADS": str(fleet.threads), "MKL_NUM_THREADS": str(fleet.threads), CONFIG: ""}
    interrupted = _interruption()
    async with _broker(network, engine) as (address, died), children(out / "logs") as group:
        here = replace(network, address=address)
        shared = [*address.options, "--net", network.topics.net, "--threads", str(fleet.threads), "--once"]
        shared += options_for(job.model.name)
        if not network.named:
            environment |= OWN_BROKER
        budget = ["--memory-budget", fleet.memory_budget] if fleet.memory_budget else []
        for id in fleet.nodes:
            await group.start(id, ["node", "--id", id, *shared, *budget], environment)
        for id, path in fleet.shards.items():
            await group.start(id, ["device", "--id", id, "--data", str(path), *shared], environment)
        running = asyncio.create_task(orchestrate(here, job, out, planned), name="orchestrate")
        failing = asyncio.create_task(group.first_failure(), name="children")
        dying = asyncio.ensure_future(died)
        stopping = asyncio.create_task(interrupted.wait(), name="interrupted")
        try:
            await asyncio.wait([running, failing, dying, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                # The orchestrator may learn of it from a last will; it gets the time to report it.
                await asyncio.wait([running], timeout=0.1 if stopping.done() else 15.0)
            if running.done():
                return running.result()
            reason = failing.result() if failing.done() else dying.result() if dying.done() else "interrupted"
            return _unfinished(job, out, reason)
        finally:
            for task in (running, failing, dying, stopping):
                task.cancel()
            await asyncio.gather(running, failing, dying, stopping, return_exceptions=True)


def _unfinished(job: Job, out: Path, reason: str) -> dict[str, Any]:
    """Write and return the summary of a run whose orchestrator could not write one."""
    unknown: dict[str, Any] = {"rounds": [], "accuracy": None, "loss": None, "seconds": 0.0}
    summary = {"run": job.run.name, "state": "failed", "reason": reason, **unknown, **circumstances(job)}
    return Records(out).save_summary(summary)


@contextlib.asynccontextmanager
async def _broker(network: NetworkOptions, engine: str) -> AsyncIterator[tuple[BrokerAddress, Awaitable[str]]]:
    """Yield the broker's address, and an awaitable that returns why it ended: never, for an external broker."""
    if network.named:
        yield network.address, asyncio.get_running_loop().create_future()
        return
    version = network.address.version
    async with running_broker(engine, protocol=version) as broker:
        print(f"watch it with: mpsl tap --broker {broker.url}", file=sys.stderr)
        yield own_broker(broker.url, version), broker.died()


def _interruption() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set until the orchestrator handles these signals."""
    event = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event
