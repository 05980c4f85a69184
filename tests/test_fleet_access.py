"""What the broker of a fleet enforces: each row of the table in docs/security.md, by members with valid certificates.

The members that try are not those whose topics they try; an orchestrator is not called `orch` either.
"""

import asyncio
import posixpath
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from driving import NoJobs, Recorder, driving, silent
from fleets import ServedFleet, mpsl_fleet, served

from broker.connection import Connection, PublishRefused, connect
from broker.driver import Driver
from mpsl.access_rules import allows, rules_of
from mpsl.errors import BrokerError
from mpsl.identity.fleet_member import ROLES, FleetMember, Role
from mpsl.machines.effects import Subscribe
from mpsl.machines.events import Connected, Disconnected, Received, Subscribed
from mpsl.publish import Publish
from mpsl.topics import Topics, client_id

pytestmark = pytest.mark.slow

INTRUDERS: dict[Role, str] = {"device": "dev-9", "node": "node-9", "orchestrator": "boss-9", "viewer": "watch-9"}
OWNERS = [
    FleetMember("main", "device", "dev-1"),
    FleetMember("main", "node", "node-1"),
    FleetMember("main", "orchestrator", "orch"),
]
"""Those who may publish what the intruders would like to read."""
ROW = re.compile(r"(?m)^\| (.+) \| (read|write) \| `(\S+)` \| (yes|no) \| (yes|no) \| (yes|no) \| (yes|no) \|$")
PATIENCE_S = 20.0
NOT_AUTHORISED = 135
"""MQTT 5's reason code."""


def rows() -> list[tuple[str, str, str, dict[str, bool]]]:
    """Attempt, how, topic, and who may: by role."""
    text = (Path(__file__).parent.parent / "docs" / "security.md").read_text()
    found = [match.groups() for match in ROW.finditer(text)]
    columns = ("device", "node", "viewer", "orchestrator")
    return [
        (attempt, how, topic, dict(zip(columns, (a == "yes" for a in may), strict=True)))
        for attempt, how, topic, *may in found
    ]


CASES = [
    pytest.param(how, topic, role, may[role], id=f"{role}-{how}-{attempt}".replace(" ", "-"))
    for attempt, how, topic, may in rows()
    for role in ROLES
]


def topic_of(text: str, id: str) -> str:
    return posixpath.normpath(f"/mpsl/v1/main/{text.replace('{id}', id)}")[1:]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    with served(tmp_path_factory.mktemp("access") / "fleet") as running:
        for role, id in INTRUDERS.items():
            mpsl_fleet("add", id, "--role", role, "--dir", running.folder)
        yield running


@asynccontextmanager
async def as_member(fleet: ServedFleet, id: str) -> AsyncIterator[Connection]:
    async with connect(fleet.address(id), f"test-{id}-{asyncio.get_running_loop().time()}") as connection:
        yield connection


def test_the_table_is_complete() -> None:
    assert len(rows()) >= 35
    assert {how for _, how, _, _ in rows()} == {"read", "write"}
    tried = {topic.split("/")[-1] for _, how, topic, _ in rows() if how == "write"}
    assert tried >= {"status", "info", "tele", "cmd", "plan", "state", "metrics"}


@pytest.mark.parametrize(("how", "text", "role", "may"), CASES)
def test_a_row(fleet: ServedFleet, how: str, text: str, role: Role, may: bool) -> None:
    topic = topic_of(text, INTRUDERS[role])
    attempt = writes if how == "write" else reads
    assert asyncio.run(attempt(fleet, INTRUDERS[role], topic)) is may


async def writes(fleet: ServedFleet, id: str, topic: str) -> bool:
    """Whether the broker takes a retained publish of this member."""
    async with asyncio.timeout(PATIENCE_S), as_member(fleet, id) as connection:
        try:
            await connection.publish(Publish(topic, b"forged", 1, True))
        except PublishRefused as error:
            if error.code != NOT_AUTHORISED:
                raise
            return False
        await connection.publish(Publish(topic, b"", 1, True))
        return True


async def reads(fleet: ServedFleet, id: str, topic: str) -> bool:
    """Whether a member that subscribes to everything gets what the topic's owner publishes, then or retained."""
    owner = next((each for each in OWNERS if allows(rules_of(each), "write", topic)), None)
    async with asyncio.timeout(PATIENCE_S), as_member(fleet, id) as intruder:
        await intruder.subscribe(("#", "mpsl/#", topic))
        if owner is not None:
            async with as_member(fleet, owner.id) as connection:
                await connection.publish(Publish(topic, b"secret", 1, True))
        await intruder.subscribe((topic,))  # what is retained now
        heard = await until_sentinel(fleet, intruder)
        if owner is not None:
            async with as_member(fleet, owner.id) as connection:
                await connection.publish(Publish(topic, b"", 1, True))
        return topic in heard


async def until_sentinel(fleet: ServedFleet, intruder: Connection) -> set[str]:
    """The topics of everything that comes before a message that everyone may read."""
    sentinel = "mpsl/v1/main/run/sentinel-1/state"
    async with as_member(fleet, "orch") as orchestrator:
        await orchestrator.publish(Publish(sentinel, b"{}", 1))
    heard = set()
    async for arrived in intruder.messages():
        if arrived.topic == sentinel:
            return heard
        heard.add(arrived.topic)
    raise AssertionError("the connection ended")


def test_nobody_disconnects_another_by_its_client_id(fleet: ServedFleet) -> None:
    """mosquitto lets any user take over a client id, so a driver's has a part that is published nowhere."""
    published = client_id("device", "dev-1", "0a1b2c3d")

    async def takes_over() -> None:
        with pytest.raises(BrokerError):
            async with (
                connect(fleet.address("dev-1"), published) as victim,
                connect(fleet.address("node-9"), published),
            ):
                await anext(victim.messages())

    async def cannot() -> None:
        topics = Topics("main")
        state = topics.run("sentinel-2", "state")
        recorder = Recorder(topics, lambda event: [Subscribe((state,))] if isinstance(event, Connected) else [])
        driver = Driver(recorder, NoJobs(), fleet.address("dev-1"), published, silent)
        async with driving(driver), as_member(fleet, "orch") as orchestrator:
            await recorder.until(lambda: recorder.of(Subscribed))
            async with connect(fleet.address("node-9"), published):
                await orchestrator.publish(Publish(state, b"{}", 1))
                await recorder.until(lambda: recorder.of(Received))
            assert recorder.of(Disconnected) == []

    for scenario in (takes_over, cannot):
        asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
