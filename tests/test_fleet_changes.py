"""A fleet that changes while its broker runs: who gets no connection, and what add, renew and revoke do at once."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cable import Cable
from cryptography import x509
from driving import PATIENCE_S, NoJobs, Recorder, driving, silent
from fleets import STATE, ServedFleet, connects, mpsl_fleet, served, until_takes

from broker.address import BrokerAddress
from broker.connection import PublishRefused, connect
from broker.driver import Driver
from broker.fleet.fleet_folder import FleetFolder, new_key
from mpsl.identity.authority import key_pem
from mpsl.machines.effects import Subscribe
from mpsl.machines.events import Connected, Disconnected, Subscribed
from mpsl.publish import Publish
from mpsl.topics import Topics

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    with served(tmp_path_factory.mktemp("changes") / "fleet") as running:
        yield running


def with_files(fleet: ServedFleet, folder: Path, member: str, ends: float) -> BrokerAddress:
    """A client of this fleet whose certificate ends then."""
    owner = FleetFolder(fleet.folder)
    key = new_key()
    pem = owner.authority().for_member(
        owner.register().member(member, "device"), key.public_key(), x509.random_serial_number(), ends
    )
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(key_pem(key))
    return replace(fleet.address("dev-1"), cert=str(folder / "cert.pem"), key=str(folder / "key.pem"))


def test_who_gets_no_connection(fleet: ServedFleet, tmp_path: Path) -> None:
    good = with_files(fleet, tmp_path, "dev-1", time.time() + 60)
    assert asyncio.run(connects(good)) == ""
    expired = asyncio.run(connects(with_files(fleet, tmp_path, "dev-1", time.time() - 60)))
    # Where the broker's reason is lost with the connection, we look at our certificate ourselves.
    assert "it has expired; `mpsl fleet renew ID`" in expired or "cert.pem was valid until" in expired
    none = asyncio.run(connects(replace(good, cert=None, key=None)))
    assert "client certificate" in none
    assert "--cert and --key" in none or "(--cert, --key)" in none
    (tmp_path / "other").mkdir()
    mpsl_fleet("init", "--dir", tmp_path / "other" / "fleet")
    mpsl_fleet("add", "dev-1", "--role", "device", "--dir", tmp_path / "other" / "fleet")
    client = tmp_path / "other" / "fleet" / "clients" / "dev-1"
    stranger = replace(good, cert=str(client / "cert.pem"), key=str(client / "key.pem"))
    reason = asyncio.run(connects(stranger))
    assert "another authority has signed it" in reason or "is not signed by this fleet's authority" in reason
    broker = fleet.folder / "broker"
    server = replace(good, cert=str(broker / "server.crt"), key=str(broker / "server.key"))
    assert asyncio.run(connects(server))


def test_a_member_cannot_pose_as_the_broker(fleet: ServedFleet, tmp_path: Path) -> None:
    """Its certificate is signed by the authority that everyone trusts, and is not for servers."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(fleet.client("node-1") / "cert.pem", fleet.client("node-1") / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                taken, _ = server.accept()
                with taken:
                    context.wrap_socket(taken, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        address = replace(fleet.address("dev-1"), port=server.getsockname()[1])
        reason = asyncio.run(connects(address))
        thread.join()
    assert "CERTIFICATE_VERIFY_FAILED" in reason


def test_add_and_revoke_take_effect_while_the_broker_runs(fleet: ServedFleet) -> None:
    mpsl_fleet("add", "dev-7", "--role", "device", "--dir", fleet.folder)
    address = fleet.address("dev-7")
    revoked = fleet.folder / "revoked"
    own = Topics("main").participant("dev", "dev-7", "status")

    async def scenario() -> None:
        async with connect(address, "dev-7-before") as before, connect(fleet.address("orch"), "changes-orch") as orch:
            await before.subscribe((STATE,))
            while True:  # the access list is read some moments after SIGHUP
                with contextlib.suppress(PublishRefused):
                    await before.publish(Publish(own, b"here", 1))
                    break
            await orch.publish(Publish(STATE, b"1", 1))
            assert (await anext(before.messages())).payload == b"1"
            await asyncio.to_thread(mpsl_fleet, "revoke", "dev-7", "--dir", fleet.folder)
            (folder,) = revoked.glob("dev-7-*")
            files = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
            reason = await until_takes(replace(address, **files), False)
            assert "it has been revoked" in reason or "our certificate may have been revoked" in reason
            # Who was connected stays so, and is mute and deaf.
            with pytest.raises(PublishRefused):
                await before.publish(Publish(own, b"still here", 1))
            await orch.publish(Publish(STATE, b"2", 1))
            heard = asyncio.ensure_future(anext(before.messages()))
            with pytest.raises(PublishRefused):  # an answer that comes behind whatever was delivered
                await before.publish(Publish(own, b"still here", 1))
            assert not heard.done()
            heard.cancel()

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_every_certificate_of_a_member_is_revoked(fleet: ServedFleet, tmp_path: Path) -> None:
    """Also the one before its renewal, which is still valid, and also where the id comes back."""
    mpsl_fleet("add", "dev-8", "--role", "device", "--dir", fleet.folder)
    for name in ("cert", "key"):
        (tmp_path / f"{name}.pem").write_bytes((fleet.client("dev-8") / f"{name}.pem").read_bytes())
    old = replace(fleet.address("dev-8"), cert=str(tmp_path / "cert.pem"), key=str(tmp_path / "key.pem"))

    async def scenario() -> None:
        await until_takes(old, True)
        mpsl_fleet("renew", "dev-8", "--dir", fleet.folder)
        assert (fleet.client("dev-8") / "cert.pem").read_bytes() != (tmp_path / "cert.pem").read_bytes()
        assert (fleet.client("dev-8") / "key.pem").read_bytes() == (tmp_path / "key.pem").read_bytes()
        for address in (old, fleet.address("dev-8")):
            await until_takes(address, True)
        mpsl_fleet("revoke", "dev-8", "--dir", fleet.folder)
        mpsl_fleet("add", "dev-8", "--role", "device", "--dir", fleet.folder)
        await until_takes(old, False)
        await until_takes(fleet.address("dev-8"), True)

    asyncio.run(scenario())


def test_changes_in_the_same_second_all_count(fleet: ServedFleet) -> None:
    """OpenSSL goes by the newest revocation list, and their times have seconds."""
    ids = [f"quick-{number}" for number in range(4)]
    mpsl_fleet("add", *ids, "--role", "device", "--dir", fleet.folder)
    for id in ids:
        mpsl_fleet("revoke", id, "--dir", fleet.folder)

    async def scenario() -> None:
        for id in ids:
            (folder,) = (fleet.folder / "revoked").glob(f"{id}-*")
            files = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
            await until_takes(replace(fleet.address("dev-1"), **files), False)
        await until_takes(fleet.address("dev-1"), True)

    asyncio.run(scenario())


def driver_to(recorder: Recorder, address: BrokerAddress) -> Driver:
    return Driver(recorder, NoJobs(), address, "renewed", silent)


def test_a_process_takes_its_renewed_files_when_it_reconnects(fleet: ServedFleet) -> None:
    """With a new key the old certificate is revoked at once, so the second connection needs the new files.

    In between the files do not go together, as when they are copied one after the other: it tries again.
    """
    mpsl_fleet("add", "dev-6", "--role", "device", "--dir", fleet.folder)
    client = fleet.client("dev-6")

    async def scenario() -> None:
        recorder = Recorder(Topics("main"), lambda e: [Subscribe((STATE,))] if isinstance(e, Connected) else [])
        cable = Cable()
        async with cable.to(fleet.address("dev-6")) as through, driving(driver_to(recorder, through)) as task:
            await recorder.until(lambda: recorder.of(Subscribed))
            old = (client / "key.pem").read_bytes()
            mpsl_fleet("renew", "dev-6", "--new-key", "--dir", fleet.folder)
            new = (client / "key.pem").read_bytes()
            assert new != old
            (client / "key.pem").write_bytes(old)
            cable.cut()
            await recorder.until(lambda: len(recorder.of(Disconnected)) >= 2)
            assert not task.done()
            (client / "key.pem").write_bytes(new)
            await recorder.until(lambda: len(recorder.of(Subscribed)) == 2)

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
