"""Follows a run through the topics of its nodes and its orchestrator until the last message."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from broker.connection import Connection
from broker.options import NetworkOptions
from broker.watch import watching
from mpsl.errors import MeasurementError
from mpsl.machines.machine import from_json
from mpsl.topics import ParticipantTopic, RunTopic, Topics
from mpsl.wire import Buffer

LEAVING_S = 30.0
"""How long nodes may take to leave once the run is over."""


@dataclass
class Followed:
    """The result: the last telemetry of each node in the run, the nodes that have left, and the highest G."""

    telemetry: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    admit: int = 0

    def hear(self, topic: ParticipantTopic | RunTopic, payload: Buffer) -> None:
        """Take one message."""
        content = from_json(payload) or {}
        match topic:
            case ParticipantTopic(_, node, "tele") if content.get("run") is not None:
                self.telemetry[node] = content
            case ParticipantTopic(_, node, "status") if content.get("state") in ("offline", "lost"):
                self.gone.add(node)
            case RunTopic(_, "state"):
                self.admit = max(self.admit, content.get("admit", 0))


@asynccontextmanager
async def following(network: NetworkOptions, nodes: Collection[str]) -> AsyncIterator[Followed]:
    """Follow the run of a `with` block, and then its nodes until all have left: they leave after a run (`--once`).

    Raises MeasurementError if a node has sent no telemetry of the run.
    """
    topics = network.topics
    filters = (*(topics.participant("node", "+", leaf) for leaf in ("tele", "status")), topics.run("+", "state"))
    followed = Followed()
    async with watching(network, "bench", filters) as connection:
        listening = asyncio.create_task(_listen(followed, connection, topics, nodes), name="following")
        try:
            yield followed
            await asyncio.wait([listening], timeout=LEAVING_S)
            if listening.done():
                listening.result()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    silent = sorted(set(nodes) - followed.telemetry.keys())
    if silent:
        raise MeasurementError(f"{', '.join(silent)}: sent no telemetry of the run")


async def _listen(followed: Followed, connection: Connection, topics: Topics, nodes: Collection[str]) -> None:
    async for name, payload, *_ in connection.messages():
        topic = topics.parse(name)
        if isinstance(topic, ParticipantTopic | RunTopic):
            followed.hear(topic, payload)
        if followed.gone >= set(nodes):
            return
