"""Runs a job on the digits while processes are killed and stopped, and checks what is left and whether it is exact.

The processes and the broker are real. The reference is FedAvg of the unsplit model over the sets and in the order of
metrics.jsonl (benchmarks/oracle.py).
"""

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.cables import Cables, cabled
from benchmarks.oracle import oracle, setting_of, stages_of
from benchmarks.recovery import Batch, Disturbance, Watched, watching_batches
from benchmarks.supervisor import Service, Supervisor, marked, signal_all, supervising
from broker.address import own_broker
from broker.connection import connect
from broker.options import OWN_BROKER, NetworkOptions
from mpsl import strict_json
from mpsl.errors import RunFailed
from mpsl.machines.machine import from_json
from mpsl.topics import ParticipantTopic, Topics
from orchestrator.datasets import load
from orchestrator.shards import split, write

DEVICES, SEATS = 5, 2
"""Standbys come beside the seats; without one a node that was killed takes its seat again."""
WARM_ROUNDS = 3
"""Rounds without faults at the start; the first one does not count."""
LAST_ROUNDS = 2
"""Rounds after the orchestrator has been told that the run is to end."""
UNREACHED_ROUNDS = 1_000_000
STUCK_S = 180.0
"""The run has failed if no batch is observed for this long."""
RETAINED_S = 1.5
MARK = "MPSL_BENCH_CHAOS"
"""The environment variable that marks the processes of a run."""

JOB = """\
[run]
name = "chaos"
rounds = {rounds}
batch_size = 16

[model]
name = "digits-cnn"
cuts = [1, 4, 8]

[optimizer]
name = "sgd"
lr = 0.02
momentum = 0.9

[fleet]
devices = 5
nodes = 2
quorum = 3
"""


@dataclass(frozen=True)
class Planned:
    """A planned fault: seconds after the one before, and `stopped_s`, 0 for a kill.

    `is_cut`: the victim's cable is pulled for that time; it goes on by itself.
    """

    pause_s: float
    victim: str
    stopped_s: float = 0.0
    is_cut: bool = False


@dataclass
class Outcome:
    """The result of a run with faults."""

    faults: list[Disturbance]
    batches: dict[Batch, float]
    summary: dict[str, Any]
    rounds: list[dict[str, Any]]
    began: float
    """When the second round began. Until the first fault, the run is undisturbed."""
    different: list[str]
    """Tensors that differ from the reference in any bit."""
    left: list[str] = field(default_factory=list)
    """Remains of the run, in words."""
    own_ends: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all promises were kept."""
        return self.summary["state"] == "done" and not (self.different or self.left or self.own_ends)


async def disturbed_run(
    folder: Path, plan: Sequence[Planned], engine: str, quiet: bool = False, standbys: int = 1
) -> Outcome:
    """Run with these faults, with files in `folder`. Raises RunFailed if the run gets stuck or does not end."""
    temporary = folder / "tmp"
    temporary.mkdir()
    token = f"{time.time_ns():x}"
    environment = {
        MARK: token, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPSL_BROKER": "",
        **OWN_BROKER, "TORCHINDUCTOR_CACHE_DIR": str(folder / "torch"),
    }  # fmt: skip
    shards = split(load("digits", 0, None), DEVICES, 0, None)
    write(shards, folder / "shards")
    job, port = folder / "job.toml", _free_port()
    job.write_text(JOB.format(rounds=UNREACHED_ROUNDS), encoding="utf-8")
    members = [f"node-{number}" for number in range(1, SEATS + standbys + 1)]
    members += [f"dev-{number}" for number in range(1, DEVICES + 1)]
    async with contextlib.AsyncExitStack() as stack:
        cables = None
        if any(planned.is_cut for planned in plan):
            cables = await stack.enter_async_context(cabled([*members, "orch"], token))
        host = "127.0.0.1" if cables is None else cables.broker_host
        address = replace(own_broker(f"mqtt://{host}:{port}"), insecure=True)
        network = NetworkOptions(address, Topics("main"), as_json=False, verbose=0)
        supervisor = await stack.enter_async_context(supervising(folder / "logs", environment))
        run = _DisturbedRun(supervisor, folder, job, quiet, members, cables)
        run.start(engine, port)
        async with watching_batches(network) as watched:
            began, faults = await run.disturb(watched, plan)
            faults.append(await run.finish(watched))
        participants = [name for name in supervisor.services if name not in ("orch", "broker")]
        await supervisor.stop(participants)
        left = await retained(network)
        await supervisor.stop(["broker"])
        left += [f"process {pid}" for pid in marked(MARK, token)]
        own_ends = supervisor.own_ends
    out = folder / "out"
    left += [f"file {path}" for path in (*temporary.rglob("*"), *out.glob(".*"))]
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    rounds = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    run.say("comparing with the reference")
    different = differences(summary, rounds, {id: (each.x, each.y) for id, each in shards.items()}, out)
    return Outcome(faults, watched.batches, summary, rounds, began, different, left, own_ends)


class _DisturbedRun:
    """The processes of one run, and the disturbances."""

    def __init__(
        self,
        supervisor: Supervisor,
        folder: Path,
        job: Path,
        quiet: bool,
        members: Sequence[str],
        cables: Cables | None,
    ) -> None:
        self._members = members
        self._cables = cables
        self._supervisor = supervisor
        self._folder = folder
        self._job = job
        self._quiet = quiet
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line of progress."""
        if not self._quiet:
            click.echo(f"{time.monotonic() - self._began:7.1f} s  {text}", err=True)

    def start(self, engine: str, port: int) -> None:
        """Start all processes."""
        host = "127.0.0.1" if self._cables is None else self._cables.broker_host
        shared = ["--broker", f"mqtt://{host}:{port}", "--insecure"]
        self._start("broker", "broker", ["broker", "--engine", engine, "--host", host, "--port", str(port)])
        for id in self._members:
            if id.startswith("node"):
                self._start(id, "node", ["node", "--id", id, "--threads", "1", *shared])
            else:
                data = str(self._folder / "shards" / f"{id}.npz")
                self._start(id, "device", ["device", "--id", id, "--data", data, "--threads", "1", *shared])
        self._start("orch", "orchestrator", ["train", str(self._job), "--out", str(self._folder / "out"), *shared])

    def _start(self, name: str, role: str, arguments: Sequence[str]) -> None:
        self._supervisor.start(name, role, arguments, () if self._cables is None else self._cables.command(name))

    async def disturb(self, watched: Watched, plan: Sequence[Planned]) -> tuple[float, list[Disturbance]]:
        """Warm up, then inject the planned faults. Returns when the second round began, and the faults."""
        await self._until(watched, lambda: self._recorded() >= 1)
        began = time.monotonic()
        await self._until(watched, lambda: self._recorded() >= WARM_ROUNDS)
        faults: list[Disturbance] = []
        going: list[asyncio.Task[None]] = []
        for planned in plan:
            service = self._supervisor.services[planned.victim]
            due = time.monotonic() + planned.pause_s
            await self._until(watched, partial(_is_due, service, due))
            role = "standby" if service.role == "node" and service.name not in watched.seated else service.role
            fault = Disturbance(role, service.name, time.monotonic(), planned.stopped_s, planned.is_cut)
            self.say(f"{len(faults) + 1}/{len(plan)}: {fault.kind} {fault.victim} in {watched.state.get('state')}, "
                     f"round {watched.state.get('round')}")  # fmt: skip
            going.append(asyncio.create_task(self._do(service, fault), name=f"fault-{service.name}"))
            faults.append(fault)
        for each in going:
            await self._until(watched, each.done)
            each.result()
        recorded = self._recorded()
        await self._until(watched, lambda: self._recorded() > recorded)
        return began, faults

    async def _do(self, service: Service, fault: Disturbance) -> None:
        """Inject one fault and wait until the process runs again."""
        if fault.is_cut:
            assert self._cables is not None
            await self._cables.pull(fault.victim)
            await asyncio.sleep(fault.seconds)
            await self._cables.plug(fault.victim)
            return
        if fault.seconds:
            stopped = service.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            signal_all(stopped, signal.SIGCONT)
            return
        service.spoke.clear()
        service.signal(signal.SIGKILL)
        await service.spoke.wait()
        fault.restarted_at = service.spoke_at

    async def finish(self, watched: Watched) -> Disturbance:
        """Kill the orchestrator again, so that it reads the last round, and wait for the end. Returns that fault."""
        orchestrator = self._supervisor.services["orch"]
        rounds = self._recorded() + 1 + LAST_ROUNDS
        self._job.write_text(JOB.format(rounds=rounds), encoding="utf-8")
        self.say(f"the last round is {rounds}")
        await self._until(watched, partial(_is_due, orchestrator, 0.0))
        fault = Disturbance(orchestrator.role, orchestrator.name, time.monotonic())
        await self._do(orchestrator, fault)
        await self._until(watched, orchestrator.succeeded.is_set)
        return fault

    def _recorded(self) -> int:
        """The number of recorded rounds."""
        path = self._folder / "out" / "metrics.jsonl"
        return path.read_text(encoding="utf-8").count("\n") if path.exists() else 0

    async def _until(self, watched: Watched, condition: Callable[[], bool]) -> None:
        """Wait. Raises RunFailed if no batch arrives for too long."""
        seen, since = len(watched.batches), time.monotonic()
        while not condition():
            await asyncio.sleep(0.05)
            if len(watched.batches) > seen:
                seen, since = len(watched.batches), time.monotonic()
            if time.monotonic() - since > STUCK_S:
                state = strict_json.dumps(watched.state)
                ends = "; ".join(self._supervisor.own_ends)
                raise RunFailed(f"no batch for {STUCK_S:g} s; the run's last state: {state}; ended: {ends or 'nobody'}")


def _is_due(service: Service, due: float) -> bool:
    """Whether the time has come, and a process is running."""
    return time.monotonic() >= due and service.pid != 0


async def retained(network: NetworkOptions) -> list[str]:
    """Return the retained topics that should be gone: all except status and info of processes that have left."""
    found = []
    async with connect(network.address, f"mpsl-bench-{time.monotonic_ns()}") as connection:
        await connection.subscribe((f"{network.topics.root}/#",))
        try:
            async with asyncio.timeout(RETAINED_S):
                async for name, payload, *_ in connection.messages():
                    content = from_json(payload) or {}
                    match network.topics.parse(name):
                        case ParticipantTopic(_, _, "status") if content.get("state") == "offline":
                            pass
                        case ParticipantTopic(_, _, "info") if content.get("run") is None:
                            pass
                        case _:
                            found.append(f"topic {name} {strict_json.dumps(content)}")
        except TimeoutError:
            pass
    return found


def differences(
    summary: Mapping[str, Any], rounds: Sequence[dict[str, Any]], shards: Mapping[str, Any], out: Path
) -> list[str]:
    """Return the tensors that differ from the reference in any bit, or a text if rounds are missing."""
    import torch
    from safetensors.torch import load_file

    if [entry["round"] for entry in rounds] != list(range(1, summary["job"]["run"]["rounds"] + 1)):
        return ["rounds are missing in metrics.jsonl"]
    torch.set_num_threads(1)
    accepted = [entry["devices"] for entry in rounds]
    job = {**summary["job"], "model": {"args": {}, **summary["job"]["model"]}}
    expected, _ = oracle(setting_of(job), dict(shards), accepted, [stages_of(entry) for entry in rounds])
    actual = load_file(out / "model.safetensors")
    names = sorted(actual.keys() | expected.keys())
    return [name for name in names if name not in actual or not torch.equal(actual[name], expected[name])]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
