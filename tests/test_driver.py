"""The driver over real brokers: foreign bytes, limits, cut connections, wrong passwords, doubles, sudden deaths."""

import asyncio
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from brokers import SecureBroker, serving
from cable import Cable
from driving import PATIENCE_S, NoJobs, Recorder, device_driver, driver_of, driving, new_topics, next_of, silent

from broker.address import BrokerAddress, parse_broker
from broker.connection import FRAME_BYTES, Refused, connect
from broker.driver import Driver
from broker.engines.engine import BrokerProcess
from broker.outbox import MAX_TOGETHER, MAX_TOGETHER_BYTES, Outbox
from broker.user_properties import UserProperties
from broker.worker import Worker
from mpsl import PROTOCOL
from mpsl.errors import BrokerError
from mpsl.machines.effects import CancelTimer, Effect, Publish, Run, SetTimer, Stop, Subscribe
from mpsl.machines.events import (
    Connected,
    Disconnected,
    Event,
    JobDone,
    StopRequested,
    TimerFired,
)
from mpsl.machines.interpreter import Performer
from mpsl.machines.jobs import Leave, Result
from mpsl.machines.machine import from_json
from mpsl.topics import LANES, Topics, client_id

GARBAGE = [
    b"", b"\0", b"\xff" * 100, b"MPSL", b"MPSL\x01\x01\xff\xff", b"MPSL\x01\x02\x00\x00", b"{", b"null", b"[]", b"5",
    b"{}", b'{"boot": 5}', b'{"boot": []}', b'{"state": "online"}', b'{"protocol": 999}',
    b'{"protocol": %d, "run": 5}' % PROTOCOL, b'{"protocol": %d, "devices": {"dev-1": 1}}' % PROTOCOL,
    b'{"protocol": %d, "seats": 5, "devices": []}' % PROTOCOL,
    os.urandom(1000), bytes(200_000),
]  # fmt: skip


def test_garbage_on_every_topic_disturbs_nobody(each_broker: BrokerProcess) -> None:
    """A device counts what it drops, stays online, and leaves when asked."""

    async def attack() -> None:
        address, topics = parse_broker(each_broker.url), new_topics()
        machine, driver = device_driver(address, topics)
        own = topics.participant("dev", "dev-1", "tele")
        targets = [topics.participant("dev", "dev-1", leaf) for leaf in ("status", "info", "tele", "cmd", "res")]
        targets += [topics.run("run-1", leaf) for leaf in ("plan", "state", "metrics")]
        targets += [topics.binary("run-1", to, lane, "orch") for to in ("dev-1", "1_0") for lane in LANES]
        targets += [f"{topics.root}/dev/dev-1/status/more", f"{topics.root}/other", f"{topics.root}/dev/d²/status"]
        async with connect(address, client_id("test", "watch", "0")) as watch, driving(driver) as task:
            await watch.subscribe((topics.participant("dev", "+", "tele"),))
            before = await next_of(watch, lambda topic, content: topic == own and "dropped" in content)
            for target in targets:
                for payload in GARBAGE:
                    await watch.publish(Publish(target, payload, 1))
            no_objects = sum(from_json(payload) is None for payload in GARBAGE if payload)
            after = await next_of(watch, lambda topic, content: content.get("dropped", 0) >= no_objects)
            assert (after["boot"], before["dropped"]) == (machine.boot, 0)
            assert not task.done()
            driver.request_stop()
            async with asyncio.timeout(PATIENCE_S):
                assert (await task).status == 0

    asyncio.run(attack())


def test_what_is_queued_at_a_stop_is_sent(each_broker: BrokerProcess) -> None:
    async def scenario() -> None:
        address, topics = parse_broker(each_broker.url), new_topics()
        goodbye: list[Effect] = [Publish(topics.run("r", "metrics"), b"%d" % n, n % 2) for n in range(200)]  # type: ignore[arg-type]
        machine = Recorder(topics, lambda event: goodbye if isinstance(event, StopRequested) else [])
        async with connect(address, client_id("test", "watch", "1")) as watch:
            await watch.subscribe((topics.run("r", "metrics"),))
            async with driving(driver_of(machine, address)) as task:
                await machine.until(lambda: machine.of(Connected))
            assert task.result() == Stop(0)
            arrived = set()
            async with asyncio.timeout(PATIENCE_S):
                async for _, payload, *_ in watch.messages():
                    arrived.add(int(payload))
                    if len(arrived) == 200:
                        break

    asyncio.run(scenario())


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_stop_while_there_is_no_broker_is_at_once(silent_port: int) -> None:
    async def scenario() -> None:
        machine = Recorder(new_topics())
        async with driving(driver_of(machine, BrokerAddress("127.0.0.1", silent_port))) as task:
            await machine.until(lambda: machine.of(Disconnected))
        assert task.result() == Stop(0)

    asyncio.run(scenario())


def test_no_broker_ends_with_host_port_and_cause(silent_port: int) -> None:
    async def scenario() -> None:
        machine = Recorder(new_topics())
        with pytest.raises(BrokerError) as caught:
            await driver_of(machine, BrokerAddress("127.0.0.1", silent_port), patience_s=0.3).run()
        text = str(caught.value)
        assert f"mqtt://127.0.0.1:{silent_port}" in text
        assert "refused" in text.lower()
        assert text.endswith("gave up after 0.3 s")

    asyncio.run(scenario())


def test_a_port_where_nobody_answers_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something takes the connection and says nothing: an attempt ends by itself, and patience ends the process."""
    monkeypatch.setattr("broker.driver.LAST_ATTEMPT_S", 0.2)

    async def scenario() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerError, match=rf"mqtt://127.0.0.1:{port}.*gave up after 0.4 s"):
            await driver_of(Recorder(new_topics()), BrokerAddress("127.0.0.1", port), patience_s=0.4).run()
        server.close()

    asyncio.run(scenario())


def secure_address(
    secure: SecureBroker, user: str | None, password: str | None, port: int | None = None
) -> BrokerAddress:
    return BrokerAddress("127.0.0.1", port or secure.process.port, True, user, password, str(secure.ca))


@pytest.mark.parametrize(("user", "password"), [("dev-1", "wrong"), ("nobody", "secret of dev-1"), (None, None)])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_wrong_credentials_end_at_once(secure_mosquitto: SecureBroker, user: str, password: str, version: Any) -> None:
    """Also for a service that would else try for ever."""

    async def scenario() -> None:
        address = dataclasses.replace(secure_address(secure_mosquitto, user, password), version=version)
        machine = Recorder(new_topics())
        with pytest.raises(
            Refused, match=rf"mqtts://127.0.0.1:{address.port} refuses the connection: .*[Aa]uthori[sz]ed"
        ):
            await driver_of(machine, address).run()
        assert machine.events == []

    asyncio.run(scenario())


def test_small_publishes_do_not_wait_for_each_other(secure_mosquitto: SecureBroker, each_broker: BrokerProcess) -> None:
    """A tensor of 5 KiB right behind an acknowledgement took 42 ms where the system collects what is small."""

    async def collects(address: BrokerAddress) -> int:
        async with connect(address, client_id("test", "dev-1", "7")) as connection:
            raw: Any = connection._client._socket.raw
            return int(raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    assert asyncio.run(collects(parse_broker(each_broker.url)))
    assert asyncio.run(collects(secure_address(secure_mosquitto, "dev-1", "secret of dev-1")))


def test_a_broker_with_a_certificate_of_someone_else(secure_mosquitto: SecureBroker, tmp_path: Path) -> None:
    async def scenario() -> None:
        address = dataclasses.replace(secure_address(secure_mosquitto, "dev-1", "secret of dev-1"), ca=None)
        with pytest.raises(BrokerError, match="certificate verify failed"):
            await driver_of(Recorder(new_topics()), address, patience_s=0.1).run()

    asyncio.run(scenario())


def test_a_publish_over_the_brokers_limit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    """Sent, it would make the client library reconnect and send again for ever."""

    async def scenario(address: BrokerAddress) -> None:
        topics = new_topics()
        too_much = Publish(topics.run("r", "plan"), bytes(70_000), 1, True)
        machine = Recorder(topics, lambda event: [too_much] if isinstance(event, Connected) else [])
        refusal = rf"{too_much.topic}: a publish of 70,\d+ bytes, .* at most 65,536 .*max_packet_size"
        with pytest.raises(Refused, match=refusal):
            await driver_of(machine, address).run()
        assert [event.max_packet for event in machine.of(Connected)] == [65_536]
        # What fills the limit to the last byte gets through.
        async with connect(address, client_id("test", "t", "2")) as client:
            topic = topics.binary("run-1", "1_0", "fwd", "dev-1")
            await client.subscribe((topic,))
            fits = Publish(topic, b"", 1, False, (("kind", "activation"), ("shape", "1x2")))
            room = 65_536 - len(topic) - len(UserProperties(fits.properties).packed) - FRAME_BYTES
            await client.publish(msgspec.structs.replace(fits, payload=bytes(room)))
            async with asyncio.timeout(PATIENCE_S):
                assert len(await anext(payload async for _, payload, *_ in client.messages())) == room

    conf = tmp_path / "mosquitto.conf"
    conf.write_text("listener 1883 127.0.0.1\nallow_anonymous true\nmax_packet_size 65536\n")
    with serving("mosquitto", conf=conf, host="127.0.0.1", port=0) as process:
        asyncio.run(scenario(parse_broker(process.url)))


def test_a_job_takes_as_long_as_on_a_slower_processor(embedded: BrokerProcess) -> None:
    class Leaves(NoJobs):
        def perform(self, job: Any, session: Any = None) -> Any:
            return Result()

    class SlowWorker(Worker):
        async def perform(self, performer: Performer, work: Run) -> Result:
            result = await super().perform(performer, work)
            await asyncio.sleep(0.3)
            return result

    async def scenario(address: BrokerAddress) -> None:
        began = time.monotonic()
        machine = Recorder(new_topics(), lambda event: [Run(Leave())] if isinstance(event, Connected) else [])
        driver = Driver(machine, Leaves(), address, client_id("test", "t", "1"), silent, worker=SlowWorker())
        async with driving(driver):
            await machine.until(lambda: machine.of(JobDone))
        assert machine.now - began >= 0.3

    asyncio.run(scenario(parse_broker(embedded.url)))


def test_timers_fire_in_the_order_of_their_times_however_they_were_set(embedded: BrokerProcess) -> None:
    times: list[float] = []

    def react(event: Event) -> list[Effect]:
        now = asyncio.get_running_loop().time()
        if isinstance(event, TimerFired):
            times.append(now)
        if not isinstance(event, Connected):
            return []
        times.append(now)
        return [
            SetTimer("last", now + 0.3),
            SetTimer("first", now + 0.1),
            SetTimer("never", now + 0.15),
            *(SetTimer("put off", now + 0.05 + 0.15 * step / 1000) for step in range(1001)),
            CancelTimer("never"),
        ]

    async def scenario() -> None:
        machine = Recorder(new_topics(), react)
        driver = driver_of(machine, parse_broker(embedded.url))
        async with driving(driver):
            await machine.until(lambda: len(machine.of(TimerFired)) == 3)
        assert [event.name for event in machine.of(TimerFired)] == ["first", "put off", "last"]
        assert all(at - times[0] >= due for due, at in zip((0.0, 0.1, 0.2, 0.3), times, strict=True))

    asyncio.run(scenario())


def test_after_a_cut_a_device_is_online_again(each_broker: BrokerProcess) -> None:
    """Its will says `lost`; once connected again it subscribes again and says `online`."""

    async def scenario() -> None:
        address, topics, cable = parse_broker(each_broker.url), new_topics(), Cable()
        async with cable.to(address) as through, connect(address, client_id("test", "watch", "3")) as watch:
            machine, driver = device_driver(through, topics)
            await watch.subscribe((topics.participant("dev", "dev-1", "status"),))
            async with driving(driver) as task:
                states = []
                for state in ("online", "lost", "online"):
                    content = await next_of(watch, lambda topic, content, state=state: content.get("state") == state)
                    states.append((content["state"], content["boot"]))
                    if states == [("online", machine.boot)]:
                        cable.cut()
                assert states == [(state, machine.boot) for state in ("online", "lost", "online")]
                assert not task.done()
            goodbye = await next_of(watch, lambda topic, content: content.get("state") == "offline")
            assert goodbye["boot"] == machine.boot

    asyncio.run(scenario())


def start_device(url: str, topics: Topics, directory: Path, id: str = "dev-1") -> "subprocess.Popen[str]":
    """A device as a process of its own."""
    shard = directory / f"{id}.npz"
    np.savez(shard, x=np.zeros((4, 3), np.float32), y=np.zeros(4, np.int64))
    net = topics.root.split("/")[-1]
    command = [sys.executable, "-m", "device_agent", "--id", id, "--data", str(shard), "--broker", url, "--net", net]
    root = str(Path(__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=root)


def test_a_killed_process_is_lost(each_broker: BrokerProcess, tmp_path: Path) -> None:
    async def scenario() -> None:
        topics = new_topics()
        async with connect(parse_broker(each_broker.url), client_id("test", "watch", "4")) as watch:
            await watch.subscribe((topics.participant("dev", "dev-1", "status"),))
            process = start_device(each_broker.url, topics, tmp_path)
            try:
                online = await next_of(watch, lambda topic, content: content.get("state") == "online")
                process.send_signal(signal.SIGKILL)
                lost = await next_of(watch, lambda topic, content: content.get("state") == "lost")
                assert lost == online | {"state": "lost"}
            finally:
                process.kill()
                process.communicate()

    asyncio.run(scenario())


def test_of_two_processes_with_one_id_the_second_ends_and_names_both(
    each_broker: BrokerProcess, tmp_path: Path
) -> None:
    async def scenario() -> None:
        address, topics = parse_broker(each_broker.url), new_topics()
        machine, driver = device_driver(address, topics)
        async with connect(address, client_id("test", "watch", "5")) as watch, driving(driver) as task:
            await watch.subscribe((topics.participant("dev", "dev-1", "status"),))
            await next_of(watch, lambda topic, content: content.get("state") == "online")
            process = start_device(each_broker.url, topics, tmp_path)
            try:
                _, said = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
            finally:
                process.kill()
            assert process.returncode == 1
            [error] = [line for line in said.splitlines() if line.startswith("Error: ")]
            assert "two processes have the id dev-1" in error
            assert machine.boot in error
            assert "choose another --id" in error
            assert not task.done()
            driver.request_stop()
            offline = await next_of(watch, lambda topic, content: content.get("state") != "online")
            assert (offline["state"], offline["boot"]) == ("offline", machine.boot)

    asyncio.run(scenario())


def test_what_waits_goes_out_in_order_and_small_publishes_together() -> None:
    small, large = Publish("x", bytes(1000), 0), Publish("x", bytes(MAX_TOGETHER_BYTES), 0)
    told, subscribed = Publish("x", b"", 1), Subscribe(("x",))

    async def scenario() -> None:
        outbox = Outbox()
        waiting = [small, small, subscribed, large, small, told, *[small] * (MAX_TOGETHER + 1)]
        for effect in waiting:
            outbox.put(effect)
        batches = []
        while sum(batches) < len(waiting):
            together = await outbox.next()
            assert list(together) == waiting[sum(batches) :][: len(together)]
            batches.append(len(together))
            outbox.done(len(together))
        # A large one alone, as nothing else fits beside it; what is no publish at QoS 0 is never one of several.
        assert batches == [2, 1, 1, 1, 1, MAX_TOGETHER, 1]
        await asyncio.wait_for(outbox.empty(), PATIENCE_S)

    asyncio.run(scenario())
