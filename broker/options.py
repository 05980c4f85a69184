"""The options shared by all commands that talk to a broker, and --config, which reads the same names from a file."""

import difflib
import os
import re
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from click.core import ParameterSource

from broker.address import DEFAULT_URL, BrokerAddress, MqttVersion, parse_brokers
from broker.log import Logger, stderr_logger
from broker.own_certificate import member_of
from mpsl.errors import UsageError
from mpsl.identity.fleet_member import FleetMember
from mpsl.names import MAX_ID, check_id, nearest
from mpsl.text_file import read_toml
from mpsl.topics import Topics

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG, PASSWORD_FILE = "MPSL_CONFIG", "MPSL_PASSWORD_FILE"
OWN_BROKER = {CONFIG: "", PASSWORD_FILE: ""}
"""Environment of the processes that are started beside a broker of their own: it has no password for them."""
FILES = ("ca", "cert", "key", "password_file")
"""Options whose values in a file are relative to that file."""


@dataclass(frozen=True)
class NetworkOptions:
    """The parsed options: broker, net and verbosity."""

    address: BrokerAddress
    topics: Topics
    as_json: bool
    verbose: int
    named: bool = False
    """Whether --broker was given. If not, commands that can start their own broker do so."""
    member: FleetMember | None = None
    """Who our certificate says that we are; None without one that a fleet has made."""

    def logger(self, **always: object) -> Logger:
        """Return a logger at the level that -v sets."""
        return stderr_logger("debug" if self.verbose else "info", **always)


def _read_config(context: click.Context, value: Path | None, of_another: bool) -> None:
    """Make the values in the file the defaults of the options with the same names; its files lie beside it.

    A file describes a process. So `id` may be there for every command, and with `of_another`, for a command that looks
    at another process, every option of that one; what looks like a mistyped option is refused all the same.
    """
    if value is None:
        return
    settings = read_toml(value, f"--config {value}")
    known = {max(p.opts, key=len).lstrip("-"): p for p in context.command.params if p.expose_value}
    defaults = dict(context.default_map or {})
    for key, setting in settings.items():
        parameter = known.get(key.replace("_", "-"))
        if parameter is None or parameter.name is None:
            if key == "id" or (of_another and not difflib.get_close_matches(key, known)):
                continue
            raise UsageError(f"--config {value}: unknown key {key!r}; {nearest(key, known)}")
        text = isinstance(setting, str)
        found = str(value.parent / setting) if text and parameter.name in FILES else setting
        defaults[parameter.name] = [found] if text and parameter.multiple else found
    context.default_map = defaults


def _unless_another_broker(given: dict[str, str | None], broker: tuple[str, ...]) -> dict[str, str | None]:
    """The options, without those of --config where a --broker beside it has no use for them.

    A broker without TLS needs no certificates, and one without a user in its URL no password.
    """
    context = click.get_current_context()
    own = context.get_parameter_source("broker") is ParameterSource.DEFAULT_MAP
    mark = "@" if "password_file" in given else "mqtts:"
    if own or not broker or any(mark in url for url in broker):
        return given
    from_file = {name for name in given if context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP}
    return {name: None if name in from_file else value for name, value in given.items()}


def network_options(command: Command) -> Command:
    """Add --broker, --net, --config and the others that say how to connect; the function gets `network`."""
    return _with_network(command, own_broker=False)


def looking_options(command: Command) -> Command:
    """Add the same options to a command that looks at others, and takes their files with --config."""
    return _with_network(command, own_broker=False, of_another=True)


def own_broker_options(command: Command) -> Command:
    """Add the same options to a command that starts a broker unless --broker names one.

    The environment's broker and password do not apply to a broker that is started here.
    """
    return _with_network(command, own_broker=True)


def _with_network(command: Command, own_broker: bool, of_another: bool = False) -> Command:
    def wrapped(
        broker: tuple[str, ...], ca: str | None, cert: str | None, key: str | None, password_file: str | None,
        insecure: bool, mqtt: MqttVersion, net: str, as_json: bool, verbose: int, **rest: Any,
    ) -> Any:  # fmt: skip
        password_file = _unless_another_broker({"password_file": password_file}, broker)["password_file"]
        if password_file is not None:
            os.environ[PASSWORD_FILE] = password_file  # where the processes that a command starts look for it, too
        environment = {} if own_broker and not broker else os.environ
        files = _unless_another_broker({"ca": ca, "cert": cert, "key": key}, broker)
        address = replace(parse_brokers(broker, **files, version=mqtt, environment=environment), insecure=insecure)
        address.check_encrypted()
        topics = Topics(check_id(net, "--net"))
        member = member_of(address.cert, topics.net)
        network = NetworkOptions(address, topics, as_json, verbose, bool(broker), member)
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
        click.option(
            "--password-file", metavar="FILE", help=f"Password of the user in --broker.  [default: ${PASSWORD_FILE}]"
        ),
        click.option("--insecure", is_flag=True, help="Allow mqtt:// to another machine, readable on the way."),
        click.option("--mqtt", type=click.Choice(["5", "3.1.1"]), default="5", show_default=True, help="MQTT version."),
        click.option("--net", default="main", show_default=True, help="Net, in all topics: mpsl/v1/NET/…"),
        click.option("--json", "as_json", is_flag=True, help="The last line of stdout is one JSON object."),
        click.option("-v", "--verbose", count=True, help="Print more on stderr."),
        click.option(
            "--config", type=click.Path(path_type=Path), is_eager=True, expose_value=False,
            callback=lambda context, _, value: _read_config(context, value, of_another),
            metavar="FILE.toml", envvar=None if own_broker else CONFIG,
            help="File with options of the same names, such as a member's agent.toml."
            + ("" if own_broker else f"  [default: ${CONFIG}]"),
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
