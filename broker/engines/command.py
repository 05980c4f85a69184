"""`mpsl broker`: runs a broker in the foreground until it is told to stop."""

import asyncio
import contextlib
import signal
from pathlib import Path

import click

from broker.engines import embedded, mosquitto
from broker.engines.engine import BrokerProcess, choose, running_broker
from broker.engines.engine_option import engine_option
from broker.fleet import broker_files
from broker.fleet.fleet_folder import FleetFolder
from mpsl import strict_json
from mpsl.errors import BrokerError, UsageError


@click.command()
@click.option("--host", help="Where to listen.  [default: 127.0.0.1, or the first listener of --conf]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="0 for any free port.  [default: 1883, or the first listener of --conf]",
)
@engine_option()
@click.option(
    "--conf", type=click.Path(path_type=Path), help="A mosquitto.conf; --host and --port override its first listener."
)
@click.option(
    "--fleet",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Serve the fleet in DIR, made by `mpsl fleet`: with its certificates and, with mosquitto, its access rules.",
)
@click.option(
    "--protocol",
    type=click.Choice(["5", "3.1.1"]),
    default="5",
    show_default=True,
    help="The one MQTT version that the embedded broker speaks; mosquitto speaks both.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the address as one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Show the broker's own output on stderr.")
def broker(
    *,
    host: str | None,
    port: int | None,
    engine: str,
    conf: Path | None,
    fleet: Path | None,
    protocol: embedded.Protocol,
    as_json: bool,
    verbose: bool,
) -> None:
    """Run a broker until SIGTERM or Ctrl-C. Exit status 1 if it cannot start or dies, 2 for wrong use."""
    tls = None
    if fleet is not None:
        if conf is not None:
            raise click.UsageError("--fleet has a mosquitto.conf of its own; leave --conf out")
        conf, tls, served_port = fleet_files(fleet, choose(engine))
        port = served_port if port is None else port
    elif port is None and conf is None:
        port = mosquitto.DEFAULT_PORT
    if conf is None and host not in (None, *mosquitto.LOOPBACK):
        click.echo(
            f"warning: anyone who can reach {host} can read and write; see mosquitto.conf for passwords", err=True
        )
    starting = running_broker(engine, host=host, port=port, conf=conf, protocol=protocol, log=verbose, tls=tls)
    try:
        reason = asyncio.run(_serve(starting, as_json))
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    except BrokerError as error:
        raise click.ClickException(str(error)) from None
    if reason:
        raise click.ClickException(reason)


def fleet_files(folder: Path, engine: str) -> tuple[Path | None, embedded.TlsFiles | None, int]:
    """The mosquitto.conf of a fleet's folder, or the files that the embedded engine encrypts with; and the port.

    Says what the embedded engine cannot enforce. Raises UsageError where the folder holds no fleet.
    """
    fleet = FleetFolder(folder)
    register = fleet.register()
    if engine == "mosquitto":
        return fleet.broker / broker_files.CONF, None, register.port
    click.echo(
        "warning: the embedded broker encrypts and enforces nothing else. It asks no client for a certificate, and has "
        "no access rules and no revocation list: whoever reaches it may read and write everything. mosquitto enforces "
        "all of it",
        err=True,
    )
    names = (broker_files.CA, broker_files.SERVER_CERT, broker_files.SERVER_KEY)
    return None, embedded.TlsFiles(*(fleet.broker / name for name in names)), register.port


async def _serve(starting: contextlib.AbstractAsyncContextManager[BrokerProcess], as_json: bool) -> str:
    """Serve until asked to stop. Returns why the broker died, or "" if it was asked."""
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    stopping = asyncio.create_task(asked.wait(), name="asked-to-stop")
    serving = asyncio.create_task(_until_death(starting, as_json), name="serving")
    await asyncio.wait([stopping, serving], return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        stopping.cancel()
        return serving.result()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    return ""


async def _until_death(starting: contextlib.AbstractAsyncContextManager[BrokerProcess], as_json: bool) -> str:
    async with starting as process:
        if as_json:
            facts = {"url": process.url, "host": process.host, "port": process.port, "engine": process.engine}
            print(strict_json.dumps({**facts, "pid": process.pid}), flush=True)
        else:
            print(f"{process.engine} listens on {process.url}", flush=True)
        return await process.died()
