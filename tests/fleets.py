"""Fleets for tests: `mpsl fleet` as a person calls it, and a real mosquitto from the files that it writes."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from brokers import serving

from broker.address import BrokerAddress, parse_broker
from broker.command import mpsl
from broker.connection import connect
from broker.engines.engine import BrokerProcess
from mpsl.errors import BrokerError

NUMBERS = itertools.count()
PATIENCE_S = 60.0
STATE = "mpsl/v1/main/run/changes-1/state"
"""A topic that every member may read."""


def mpsl_fleet(*arguments: str | Path) -> None:
    """Run `mpsl fleet ARGUMENTS` in this process; its errors are raised."""
    with contextlib.suppress(click.exceptions.Exit):
        mpsl.main(["fleet", *map(str, arguments)], "mpsl", standalone_mode=False)


@dataclass(frozen=True)
class ServedFleet:
    """The folder of a fleet, and the broker that serves it at another port than its files say."""

    folder: Path
    process: BrokerProcess

    def client(self, id: str) -> Path:
        """The folder of a member."""
        return self.folder / "clients" / id

    def address(self, id: str) -> BrokerAddress:
        """The broker, as this member connects to it."""
        files = {name: str(self.client(id) / f"{name}.pem") for name in ("ca", "cert", "key")}
        return parse_broker(f"mqtts://localhost:{self.process.port}", **files, environment={})


@contextlib.contextmanager
def served(folder: Path) -> Iterator[ServedFleet]:
    """A fleet of two devices, two nodes, an orchestrator and a viewer, its mosquitto running from its own files."""
    mpsl_fleet("init", "--dir", folder)
    mpsl_fleet("add", "dev", "--count", "2", "--role", "device", "--dir", folder)
    mpsl_fleet("add", "node-1", "node-2", "--role", "node", "--dir", folder)
    mpsl_fleet("add", "orch", "--role", "orchestrator", "--dir", folder)
    mpsl_fleet("add", "watch", "--role", "viewer", "--dir", folder)
    with serving("mosquitto", conf=folder / "broker" / "mosquitto.conf", host="127.0.0.1", port=0) as process:
        yield ServedFleet(folder, process)


async def connects(address: BrokerAddress) -> str:
    """Why the broker does not take a client; "" where it does. Over TLS 1.3 only the first answer tells."""
    try:
        async with connect(address, f"changes-{next(NUMBERS)}", patience_s=10.0) as connection:
            await connection.subscribe((STATE,))
    except BrokerError as error:
        return str(error)
    return ""


async def until_takes(address: BrokerAddress, wanted: bool) -> str:
    """Wait until the broker takes this client, or refuses it; it reads its files some moments after SIGHUP."""
    deadline = time.monotonic() + PATIENCE_S
    while ((reason := await connects(address)) == "") is not wanted:
        assert time.monotonic() < deadline, reason
    return reason
