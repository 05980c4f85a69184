"""`mpsl tap`: prints every message on the topics of a net, one line each.

Garbage must not stop it: every message is summarised, and terminal control characters are escaped.
"""

import asyncio
import contextlib
import io
import os
import signal
import sys
import time
from collections.abc import Iterator

import click

from broker.message_summary import MessageSummary, Watcher
from broker.options import NetworkOptions, looking_options
from broker.watch import watching
from mpsl import strict_json
from mpsl.errors import BrokerError


@click.command()
@looking_options
def tap(*, network: NetworkOptions) -> None:
    """Show every message: one line each, tensor headers decoded, no bodies. With --json, one object per line."""
    with printing():
        asyncio.run(_until_stopped(network))


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Let stdout accept any text, whatever its encoding. If its reader goes away, the block ends without an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Buffered output must not raise again at Python's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _until_stopped(network: NetworkOptions) -> None:
    watching_task = asyncio.create_task(_watch(network), name="tap")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, watching_task.cancel)
    await asyncio.wait([watching_task])
    if not watching_task.cancelled():
        watching_task.result()


async def _watch(network: NetworkOptions) -> None:
    log = network.logger(role="tap")
    watcher = Watcher(network.topics)
    line = json_line if network.as_json else text_line
    while True:
        async with watching(network, "tap", (f"{network.topics.root}/#",)) as connection:
            log("info", "watching", {"broker": network.address.shown, "topics": f"{network.topics.root}/#"})
            try:
                async for topic, payload, *_ in connection.messages():
                    shown = line(time.time(), topic, len(payload), watcher.see(topic, payload))
                    print(printable(shown), flush=True)
            except BrokerError as error:
                log("warning", "disconnected", {"reason": str(error)})


def json_line(at: float, topic: str, size: int, seen: MessageSummary) -> str:
    """Return one JSON object; `time` in seconds since 1970, `bytes` of the payload."""
    return strict_json.dumps(
        {
            "time": round(at, 3),
            "topic": topic,
            "bytes": size,
            "kind": seen.kind,
            "src": seen.src,
            "dst": seen.dst,
            "round": seen.round,
            "batch": seen.batch,
            "micro": seen.micro,
            "dtype": seen.dtype,
            "shape": seen.shape,
        }
    )


def text_line(at: float, topic: str, size: int, seen: MessageSummary) -> str:
    """Return time, bytes, kind, from -> to, round.batch.micro, dtype and shape, the note, and the topic."""
    clock = time.strftime("%H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03}"
    way = f"{seen.src or '-'} -> {seen.dst or '-'}"
    place = ".".join(str(number) for number in (seen.round, seen.batch, seen.micro) if number is not None)
    tensor = "" if seen.shape is None else f"{seen.dtype} {'x'.join(map(str, seen.shape))}"
    return f"{clock} {size:>8} {seen.kind:<10} {way:<18} {place:<9} {tensor:<22} {seen.note:<28} {topic}"


def printable(text: str) -> str:
    """Escape control characters: topics, headers and names are written by other processes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
