"""What a benchmark hears of a run, and that it hears the nodes out."""

import asyncio

import pytest
from driving import PATIENCE_S

from benchmarks.following import Followed, following
from broker.address import parse_broker
from broker.connection import connect
from broker.engines.engine import running_broker
from broker.options import NetworkOptions
from mpsl.errors import MeasurementError
from mpsl.machines.effects import Publish
from mpsl.machines.machine import as_json
from mpsl.topics import ParticipantTopic, RunTopic, Topics

TOPICS = Topics("main")


def tele(node: str, run: str, steps: int) -> Publish:
    return Publish(TOPICS.participant("node", node, "tele"), as_json({"run": run, "steps": steps}), 1)


def status(node: str, state: str) -> Publish:
    return Publish(TOPICS.participant("node", node, "status"), as_json({"state": state}), 1, True)


def test_the_last_telemetry_within_the_run_and_the_highest_g_are_kept() -> None:
    followed = Followed()
    topic = ParticipantTopic("node", "node-1", "tele")
    for run, steps in ((None, 0), ("r-1", 1), ("r-1", 2), (None, 0)):
        followed.hear(topic, as_json({"run": run, "steps": steps}))
    assert followed.telemetry == {"node-1": {"run": "r-1", "steps": 2}}
    for content in (*map(as_json, ({"admit": 2}, {"admit": 4}, {"admit": 2}, {"state": "lost"})), b""):
        followed.hear(RunTopic("r-1", "state"), content)
    assert followed.admit == 4
    for node, state in (("node-1", "online"), ("node-2", "offline"), ("node-3", "lost")):
        followed.hear(ParticipantTopic("node", node, "status"), as_json({"state": state}))
    assert followed.gone == {"node-2", "node-3"}


@pytest.mark.slow
def test_what_nodes_say_after_the_run_until_they_leave_is_heard() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_S), running_broker("auto") as broker:
            address = parse_broker(broker.url)
            network = NetworkOptions(address, TOPICS, as_json=False, verbose=0)
            async with connect(address, "nodes") as nodes:

                async def leave() -> None:
                    for publish in (tele("node-1", "r-1", 7), status("node-1", "offline"), tele("node-2", "r-1", 8)):
                        await nodes.publish(publish)
                    await nodes.publish(status("node-2", "lost"))

                async with following(network, ["node-1", "node-2"]) as followed:
                    await nodes.publish(tele("node-1", "r-1", 1))
                    leaving = asyncio.create_task(leave())
                await leaving
                assert {node: said["steps"] for node, said in followed.telemetry.items()} == {"node-1": 7, "node-2": 8}
                with pytest.raises(MeasurementError, match="node-3: sent no telemetry of the run"):
                    async with following(network, ["node-1", "node-3"]):
                        await nodes.publish(status("node-3", "offline"))

    asyncio.run(scenario())
