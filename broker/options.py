"""The options shared by all commands that talk to a broker, and --config, which reads the same names from a file."""

import os
import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from broker.address import DEFAULT_URL, BrokerAddress, MqttVersion, parse_brokers
from broker.log import Logger, stderr_logger
from mpsl.errors import UsageError
from mpsl.names import MAX_ID, check_id, nearest
from mpsl.text_file import read_toml
from mpsl.topics import Topics

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class NetworkOptions:
    """The parsed options: broker, net and verbosity."""

    address: BrokerAddress
    topics: Topics
    as_json: bool
    verbose: int
    named: bool = False
    """Whether --broker was given. If not, commands that can start their own broker do so."""

    def logger(self, **always: object) -> Logger:
        """Return a logger at the level that -v sets."""
        return stderr_logger("debug" if self.verbose else "info", **always)


def _read_config(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    """Make the values in the file the defaults of the options with the same names."""
    if value is None:
        return
    settings = read_toml(value, f"--config {value}")
    known = {max(p.opts, key=len).lstrip("-"): p for p in context.command.params if p.expose_value}
    defaults = dict(context.default_map or {})
    for key, setting in settings.items():
        parameter = known.get(key.replace("_", "-"))
        if parameter is None or parameter.name is None:
            raise UsageError(f"--config {value}: unknown key {key!r}; {nearest(key, known)}")
        defaults[parameter.name] = [setting] if parameter.multiple and isinstance(setting, str) else setting
    context.default_map = defaults


def network_options(command: Command) -> Command:
    """Add --broker, --ca, --cert, --key, --mqtt, --net, --json, -v and --config; the function gets `network`."""
    return _with_network(command, own_broker=False)


def own_broker_options(command: Command) -> Command:
    """Add the same options to a command that starts a broker unless --broker names one.

    The environment's broker and password do not apply to a broker that is started here.
    """
    return _with_network(command, own_broker=True)


def _with_network(command: Command, own_broker: bool) -> Command:
    def wrapped(
        broker: tuple[str, ...], ca: str | None, cert: str | None, key: str | None, mqtt: MqttVersion, net: str,
        as_json: bool, verbose: int, **rest: Any,
    ) -> Any:  # fmt: skip
        environment = {} if own_broker and not broker else os.environ
        address = parse_brokers(broker, ca, cert, key, mqtt, environment)
        network = NetworkOptions(address, Topics(check_id(net, "--net")), as_json, verbose, bool(broker))
        return command(network=network, **rest)

    wrapped.__doc__ = command.__doc__
    wrapped.__name__ = command.__name__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    default = "one that is started here" if own_broker else f"$MPSL_BROKER, else {DEFAULT_URL}"
    decorators = [
        click.option(
            "--broker", metavar="URL", multiple=True,
            help=f"mqtt[s]://[user@]host[:port]; given again: the next to try  [default: {default}]",
        ),
        click.option("--ca", metavar="FILE", help="Certificate authority of an mqtts:// broker."),
        click.option("--cert", metavar="FILE", help="Client certificate, for a broker that requires one."),
        click.option("--key", metavar="FILE", help="Its private key."),
        click.option("--mqtt", type=click.Choice(["5", "3.1.1"]), default="5", show_default=True, help="MQTT version."),
        click.option("--net", default="main", show_default=True, help="Net, in all topics: mpsl/v1/NET/…"),
        click.option("--json", "as_json", is_flag=True, help="The last line of stdout is one JSON object."),
        click.option("-v", "--verbose", count=True, help="Print more on stderr."),
        click.option(
            "--config", type=click.Path(path_type=Path), is_eager=True, expose_value=False, callback=_read_config,
            metavar="FILE.toml", help="File with options of the same names.",
        ),
    ]  # fmt: skip
    decorated: Any = wrapped
    for decorator in reversed(decorators):
        decorated = decorator(decorated)
    return cast(Command, decorated)


def default_id(role: str) -> str:
    """Return host name and role as an id, such as `pi-4-device`. A device and a node of one host have two ids."""
    host = re.sub("[^a-z0-9-]", "-", socket.gethostname().split(".")[0].lower())
    return f"{host[: MAX_ID - 1 - len(role)]}-{role}"


def new_boot() -> str:
    """Return a random number that distinguishes a process from all others with its id."""
    return secrets.token_hex(4)
