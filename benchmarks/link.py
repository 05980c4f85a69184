"""`mpsl bench link`: tensors between two processes through the broker, and by paho alone at its best chunk size."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import click

from benchmarks.link_ends import TOPICS
from benchmarks.measurers import Printed, measuring, results
from benchmarks.spread import extremes, medians, spread
from broker.address import own_broker
from broker.connection import connect
from broker.engines.engine import BrokerProcess, running_broker
from broker.engines.engine_option import engine_option
from broker.sizes import parse_bytes
from mpsl import strict_json
from mpsl.errors import MeasurementError, UsageError
from mpsl.link.channel import CHUNK_BYTES
from mpsl.machines.effects import Publish
from orchestrator.process_readings import CpuSeconds, read_process

CHUNKS = (256 * 1024, 512 * 1024, 1024 * 1024)
SMALLEST, LARGEST = 4, 2**30 - 64 * 1024
"""Bytes of a tensor. A message of the link has at most 2³⁰ bytes, including its header."""
MAX_TENSORS = 32 * 1024
"""Maximum number of tensors in a run: enough for two seconds of small ones."""
ENDS = {"b": "the receiver", "a": "the sender"}
"""The ends by role, in the order in which they start."""
READY_S = 60.0
END_S = 300.0


def _sizes(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    sizes = tuple(parse_bytes(part, "--sizes") for part in text.split(","))
    for size in sizes:
        if not SMALLEST <= size <= LARGEST or size % SMALLEST:
            raise UsageError(f"--sizes {size}: whole float32 values, {SMALLEST} bytes to {LARGEST}")
    return sizes


@click.command()
@click.option(
    "--sizes",
    default="65536,1048576,16777216,67108864",
    show_default=True,
    callback=_sizes,
    help="Bytes of a tensor; several, separated by commas.",
)
@click.option("--total", type=click.IntRange(1 << 20), default=2 << 30, show_default=True, help="Bytes of each run.")
@engine_option()
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
def command(sizes: tuple[int, ...], total: int, engine: str, repeats: int) -> None:
    """Measure MB/s and CPU seconds per GB on both sides. Prints one JSON object last."""
    rows = []
    for size in sizes:
        count = max(4, min(MAX_TENSORS, total // size))
        # The best chunk of the bare client is found once, with as many tensors as in the counted runs.
        chunks = [chunk for chunk in CHUNKS if chunk <= size] or [size]
        best = max(chunks, key=lambda chunk: asyncio.run(pair(engine, True, size, count, chunk))["mb_per_s"])
        link, bare = [], []
        for _ in range(repeats):
            link.append(asyncio.run(pair(engine, False, size, count, CHUNK_BYTES)))
            bare.append(asyncio.run(pair(engine, True, size, count, best)))
        ratios = [mine["mb_per_s"] / theirs["mb_per_s"] for mine, theirs in zip(link, bare, strict=True)]
        row: dict[str, Any] = {
            "bytes": size, "count": count, "link": medians(link), "bare": medians(bare), "bare_chunk": best,
            "ratio": spread(ratios), "link_spread": extremes(link), "bare_spread": extremes(bare),
        }  # fmt: skip
        rows.append(row)
        click.echo(
            f"{size / 1e6:8.2f} MB: link {row['link']['mb_per_s']:6.0f} MB/s, {row['link']['send_cpu_s_per_gb']:.2f} + "
            f"{row['link']['receive_cpu_s_per_gb']:.2f} CPU s/GB; bare {row['bare']['mb_per_s']:6.0f} MB/s, "
            f"{row['bare']['send_cpu_s_per_gb']:.2f} + {row['bare']['receive_cpu_s_per_gb']:.2f} CPU s/GB; "
            f"ratio {row['ratio']['median']:.2f} ({row['ratio']['least']:.2f} to {row['ratio']['most']:.2f})",
            err=True,
        )
    click.echo(strict_json.dumps({"benchmark": "link", "engine": engine, "repeats": repeats, "rows": rows}))


async def pair(engine: str, bare: bool, size: int, count: int, chunk: int) -> dict[str, float]:
    """Do one run: both ends are processes and start together once both are ready. Raises MeasurementError."""
    async with running_broker(engine) as broker:
        arguments = ["--broker", broker.url, "--size", str(size), "--count", str(count), "--chunk", str(chunk)]
        arguments += ["--bare"] if bare else []
        commands = {name: ["benchmarks.link_ends", role, *arguments] for role, name in ENDS.items()}
        async with measuring(commands) as ends:
            before = await _begun(broker, ends, "bare/go" if bare else f"{TOPICS.root}/go")
            receiver, sender = await results(ends, END_S)
            passing = read_process(broker.pid) - before
    gigabytes: Any = size * count / 1e9
    return {
        "mb_per_s": gigabytes * 1e3 / receiver["seconds"],
        "send_cpu_s_per_gb": sender["cpu_s"] / gigabytes,
        "receive_cpu_s_per_gb": receiver["cpu_s"] / gigabytes,
        "broker_cpu_s_per_gb": passing.total_s / gigabytes,
    }


async def _begun(broker: BrokerProcess, ends: Sequence[Printed], go: str) -> CpuSeconds:
    """Start both ends once both are ready. Returns the CPU time of the broker up to then."""
    ready: set[str] = set()

    async def begin() -> CpuSeconds:
        async with connect(own_broker(broker.url), f"bench-{time.monotonic_ns()}") as start:
            await start.subscribe((f"{TOPICS.root}/ready/+",))
            async for topic, *_ in start.messages():
                ready.add(topic.rpartition("/")[2])
                if ready == ENDS.keys():
                    break
            before = read_process(broker.pid)
            await start.publish(Publish(go, b"1", 1))
        return before

    beginning = asyncio.create_task(begin(), name="beginning")
    try:
        everyone: list[asyncio.Task[Any]] = [beginning, *ends]
        await asyncio.wait(everyone, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            if end.done():
                end.result()
        missing = [name for role, name in ENDS.items() if role not in ready]
        if missing and not beginning.done():
            raise MeasurementError(f"{' and '.join(missing)}: not ready after {READY_S:g} s")
        return await beginning
    finally:
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)
