"""Connecting: every address of a name gets its turn, and whatever fails says what failed, with a guess what helps."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from brokers import SecureBroker, serving, write_certificates

from broker import connection, dialing, watch
from broker.address import BrokerAddress, parse_broker
from broker.connect_errors import explained
from broker.connection import PublishRefused, Refused, connect
from broker.dialing import SocketAddress, dial
from broker.direct_client import DirectClient
from broker.engines.engine import BrokerProcess
from broker.mqtt_client import MqttClient
from broker.options import NetworkOptions
from mpsl.errors import BrokerError
from mpsl.publish import Publish
from mpsl.topics import Topics

KINDS = pytest.mark.parametrize("kind", [DirectClient, MqttClient])
"""The client that is used where paho is as verified, and the one that is used elsewhere."""

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[MqttClient]], None]:
    """Connect with this client."""
    return lambda kind: monkeypatch.setattr(connection, "client_class", lambda: kind)


def local(port: int) -> SocketAddress:
    return SocketAddress(socket.AF_INET, socket.SOCK_STREAM, 0, ("127.0.0.1", port))


@contextlib.asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[int]:
    """A port where everybody is answered so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await answer(reader, writer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


@contextlib.contextmanager
def dead_port() -> Any:
    """A port that answers no connection: its queue is full and nobody takes one out of it."""
    with socket.socket() as listening, contextlib.ExitStack() as callers:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
        yield port


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


def refusing(connack: bytes) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(connack)
        await writer.drain()

    return answer


def test_a_dead_first_address_costs_a_head_start_and_no_more() -> None:
    async def scenario() -> None:
        async with server(silence) as port:
            with dead_port() as dead:
                raw, reached = await asyncio.wait_for(dial([local(dead), local(port)]), 10)
                raw.close()
        assert reached == local(port)

    asyncio.run(scenario())


def test_when_all_addresses_fail_each_is_named() -> None:
    async def scenario() -> None:
        with socket.socket() as one, socket.socket() as other:
            ports = []
            for taken in (one, other):
                taken.bind(("127.0.0.1", 0))
                ports.append(taken.getsockname()[1])
            with pytest.raises(ConnectionRefusedError) as caught:
                await dial([local(port) for port in ports])
            assert all(f"127.0.0.1:{port}" in str(caught.value) for port in ports)

    asyncio.run(scenario())


def test_an_address_that_answers_and_is_no_broker_does_not_keep_us_from_the_next(
    monkeypatch: pytest.MonkeyPatch, mosquitto: BrokerProcess, use: Callable[[type[MqttClient]], None]
) -> None:
    use(DirectClient)

    async def scenario(answer: Answer) -> None:
        async with server(answer) as port:

            async def resolve(host: str, _: int) -> list[SocketAddress]:
                return [local(port), local(mosquitto.port)]

            monkeypatch.setattr(connection, "resolve", resolve)
            async with connect(BrokerAddress("two.example", 1), "t-two", patience_s=2) as open_:
                await open_.subscribe(("t/two",))

    for answer in (closing, silence, http):
        asyncio.run(scenario(answer))


def test_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    found = [(six, 1, 6, "", ("::1", 1, 0, 0)), (six, 1, 6, "", ("::2", 1, 0, 0)), (four, 1, 6, "", ("1.1.1.1", 1))]

    async def scenario() -> list[Any]:
        async def getaddrinfo(*_: Any, **__: Any) -> Any:
            return found

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        return [each.address[0] for each in await dialing.resolve("name", 1)]

    assert asyncio.run(scenario()) == ["::1", "1.1.1.1", "::2"]


async def failure(address: BrokerAddress, patience_s: float = 0.5) -> BrokerError:
    try:
        async with asyncio.timeout(20), connect(address, "t-fails", patience_s=patience_s):
            raise AssertionError("connected")
    except BrokerError as error:
        return error


@KINDS
@pytest.mark.parametrize(
    ("answer", "version", "words"),
    [
        (silence, "5", ["mqtts://", "--mqtt 3.1.1"]),
        (closing, "5", ["mqtts://", "--mqtt 3.1.1", "full"]),
        (closing, "3.1.1", ["mqtts://", "--mqtt 5", "full"]),
        (http, "5", ["not an MQTT broker"]),
        (refusing(b"\x20\x03\x00\x97\x00"), "5", ["Quota exceeded", "151"]),
        (refusing(b"\x20\x03\x00\x89\x00"), "5", ["Server busy", "busy or full"]),
        (refusing(b"\x20\x02\x00\x01"), "5", ["Unsupported protocol version", "--mqtt 3.1.1"]),
        (refusing(b"\x20\x0b\x00\x87\x08\x1f\x00\x05sorry"), "5", ["Not authorized", "'sorry'", "_PASSWORD_FILE"]),
        (refusing(b"\x20\x02\x00\x05"), "3.1.1", ["Not authorized", "$MPSL_PASSWORD_FILE"]),
    ],
)  # fmt: skip
def test_what_the_other_end_does_is_said_in_words(
    answer: Answer, version: Any, words: list[str], kind: type[MqttClient], use: Callable[[type[MqttClient]], None]
) -> None:
    use(kind)

    async def scenario() -> str:
        async with server(answer) as port:
            return str(await failure(BrokerAddress("127.0.0.1", port, version=version)))

    text = asyncio.run(scenario())
    assert "mqtt://127.0.0.1:" in text
    assert ": ;" not in text
    assert not text.rstrip().endswith(":")
    for word in words:
        assert word in text


@pytest.mark.parametrize("answer", [silence, closing])
def test_whoever_watches_gets_the_guess_as_well(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PATIENCE_S", 1.2)
    monkeypatch.setattr(watch, "LAST_ATTEMPT_S", 0.1)

    async def scenario() -> str:
        async with server(answer) as port:
            network = NetworkOptions(BrokerAddress("127.0.0.1", port), Topics("t"), 0, False, True)
            with pytest.raises(BrokerError) as caught:
                async with asyncio.timeout(20), watch.watching(network, "tap", ("t/#",)):
                    pass
            return str(caught.value)

    text = asyncio.run(scenario())
    assert "mqtts://" in text
    assert text.endswith("gave up after 1.2 s")


@pytest.mark.parametrize(
    ("code", "says"), [(10, "set the clock of this machine"), (9, "set the clock"), (20, "--ca"), (62, "--ca")]
)
def test_a_certificate_that_is_not_accepted_says_what_would_help(code: int, says: str) -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.reason, error.verify_code = "CERTIFICATE_VERIFY_FAILED", code
    assert says in explained(error, BrokerAddress("127.0.0.1", 8883, tls=True), 1.0, True)


@KINDS
def test_names_ports_and_hosts_that_do_not_answer(
    kind: type[MqttClient], use: Callable[[type[MqttClient]], None]
) -> None:
    use(kind)
    assert "check the host" in str(asyncio.run(failure(BrokerAddress("no-such-host.invalid", 1883), 5)))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        text = str(asyncio.run(failure(BrokerAddress("127.0.0.1", taken.getsockname()[1]))))
        assert "refused" in text
        assert "no broker listens there" in text
    with dead_port() as dead:
        assert "is the host up" in str(asyncio.run(failure(BrokerAddress("127.0.0.1", dead))))


@KINDS
@pytest.mark.slow
def test_tls_where_there_is_none_and_none_where_there_is(
    secure_mosquitto: SecureBroker, mosquitto: BrokerProcess, kind: type[MqttClient],
    use: Callable[[type[MqttClient]], None],
) -> None:  # fmt: skip
    use(kind)
    there = BrokerAddress("127.0.0.1", secure_mosquitto.process.port)
    assert "mqtts://" in str(asyncio.run(failure(there, 3)))
    plain = BrokerAddress("127.0.0.1", mosquitto.port, tls=True, ca=str(secure_mosquitto.ca))
    assert "TLS" in str(asyncio.run(failure(plain, 3)))
    untrusted = replace(there, tls=True)
    assert "--ca" in str(asyncio.run(failure(untrusted, 3)))


@KINDS
@pytest.mark.slow
@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_a_missing_client_certificate_is_guessed(
    tmp_path: Path, kind: type[MqttClient], use: Callable[[type[MqttClient]], None], version: str
) -> None:
    use(kind)
    ca = write_certificates(tmp_path)
    conf = tmp_path / "mosquitto.conf"
    files = f"cafile {ca}\ncertfile {tmp_path / 'server.crt'}\nkeyfile {tmp_path / 'server.key'}\n"
    tls = f"require_certificate true\ntls_version {version}\n"
    conf.write_text(f"listener 8883 127.0.0.1\nallow_anonymous true\nuser root\n{files}{tls}")
    with serving("mosquitto", conf=conf, host="127.0.0.1", port=0) as process:
        address = BrokerAddress("127.0.0.1", process.port, tls=True, ca=str(ca))
        text = str(asyncio.run(failure(address, 3)))
    assert "--cert" in text
    assert "no connection to broker mqtts://127.0.0.1:" in text


@KINDS
@pytest.mark.slow
def test_a_full_broker_says_or_gets_a_guess(
    tmp_path: Path, kind: type[MqttClient], use: Callable[[type[MqttClient]], None]
) -> None:
    use(kind)
    conf = tmp_path / "mosquitto.conf"
    conf.write_text("listener 1883 127.0.0.1\nallow_anonymous true\nuser root\nmax_connections 1\n")
    with serving("mosquitto", conf=conf, host="127.0.0.1", port=0) as process:
        address = parse_broker(process.url)

        async def scenario() -> str:
            async with contextlib.AsyncExitStack() as stack:
                for number in range(5):  # mosquitto 2.0.11 takes one more than it is told
                    with contextlib.suppress(BrokerError):
                        await stack.enter_async_context(connect(address, f"t-{number}", patience_s=2))
                return str(await failure(address, 2))

        assert "full" in asyncio.run(scenario())


@KINDS
@pytest.mark.slow
def test_refused_publishes_and_subscriptions_raise_and_the_connection_goes_on(
    secure_mosquitto: SecureBroker, kind: type[MqttClient], use: Callable[[type[MqttClient]], None]
) -> None:
    use(kind)
    address = BrokerAddress(
        "127.0.0.1", secure_mosquitto.process.port, True, "dev-1", "secret of dev-1", str(secure_mosquitto.ca)
    )

    async def scenario() -> None:
        async with connect(address, "t-refused") as open_:
            with pytest.raises(PublishRefused, match=r"Not authorized.*access rules") as caught:
                await open_.publish(Publish("mpsl/v1/main/dev/dev-2/status", b"{}", 1, True))
            assert caught.value.topic == "mpsl/v1/main/dev/dev-2/status"
            assert caught.value.code == 135
            await open_.publish(Publish("mpsl/v1/main/dev/dev-1/tele", b"{}", 1))

    asyncio.run(scenario())


@KINDS
def test_a_subscription_that_is_refused_names_the_filter_and_the_reason(
    kind: type[MqttClient], use: Callable[[type[MqttClient]], None]
) -> None:
    use(kind)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x20\x03\x00\x00\x00")
        subscribe = await reader.read(1000)
        writer.write(b"\x90\x05" + subscribe[2:4] + b"\x00\x01\x87")
        unsubscribe = await reader.read(1000)
        writer.write(b"\xb0\x04" + unsubscribe[2:4] + b"\x00\x87")
        await reader.read(100)
        writer.write(b"\xe0\x02\x8b\x00")  # DISCONNECT: server shutting down
        await reader.read()

    async def scenario() -> None:
        async with server(answer) as port, connect(BrokerAddress("127.0.0.1", port), "t-answers") as open_:
            with pytest.raises(Refused, match=r"subscription t/two \(Not authorized \(code 135\)\)"):
                await open_.subscribe(("t/one", "t/two"))
            with pytest.raises(BrokerError, match="end the subscription t/one: Not authorized"):
                await open_.unsubscribe(("t/one",))
            with pytest.raises(BrokerError, match="the broker ended the connection: Server shutting down"):
                await open_.publish(Publish("t", b"x", 1))
            with pytest.raises(BrokerError, match="Server shutting down"):
                await anext(open_.messages())

    asyncio.run(asyncio.wait_for(scenario(), 20))


@KINDS
def test_a_connection_that_is_cut_tells_everybody_and_nothing_is_raised_into_the_loop(
    kind: type[MqttClient], use: Callable[[type[MqttClient]], None]
) -> None:
    """A writer was registered for a socket that was closed meanwhile: `add_writer(-1)`."""
    use(kind)
    raised: list[Any] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x20\x03\x00\x00\x00")
        await writer.drain()
        await reader.readexactly(10)
        writer.transport.abort()

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        async with server(answer) as port, connect(BrokerAddress("127.0.0.1", port), "t-cut") as open_:
            large = [asyncio.create_task(open_.publish(Publish("t", bytes(8 << 20)))) for _ in range(2)]
            small = [asyncio.create_task(open_.publish(Publish("t", b"{}", 1))) for _ in range(3)]
            for task in large + small:
                with pytest.raises(BrokerError) as caught:
                    await task
                assert str(caught.value)
            with pytest.raises(BrokerError):
                await open_.publish(Publish("t", b"late", 1))
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert raised == []


def test_garbage_of_a_broker_ends_the_connection_in_words() -> None:
    async def scenario(garbage: bytes) -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"\x20\x03\x00\x00\x00" + garbage)
            await reader.read()

        async with server(answer) as port, connect(BrokerAddress("127.0.0.1", port), "t-garbage") as open_:
            with pytest.raises(BrokerError) as caught:
                await anext(open_.messages())
            return str(caught.value)

    for garbage in (
        b"\x30\x01a",
        b"\xf0\x00",
        b"\x30\xff\xff\xff\xff\x01",
        b"\x90\x01\x00",
        b"\x40\x04\x00\x01\x01\xff",
    ):
        text = asyncio.run(asyncio.wait_for(scenario(garbage), 20))
        assert "not MQTT" in text, garbage


def test_an_unknown_release_of_paho_is_used_through_its_public_calls_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "unverified", lambda: "paho-mqtt 9.9 drives its socket differently")
    connection.client_class.cache_clear()
    try:
        assert connection.client_class() is MqttClient
        assert connection.client_class() is MqttClient
    finally:
        connection.client_class.cache_clear()
    assert capsys.readouterr().err.count("mqtt-client-slower") == 1
