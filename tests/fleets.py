"""Fleets for tests: `mpsl fleet` as a person calls it, and a real mosquitto from the files that it writes."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
from brokers import serving

from broker.address import BrokerAddress, parse_broker
from broker.command import mpsl
from broker.engines.engine import BrokerProcess


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
