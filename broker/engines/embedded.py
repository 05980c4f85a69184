"""Configures the embedded broker: rumqttd from the Python package `iotcore`, for machines without mosquitto.

The process itself is rumqttd.py; docs/embedded-broker.md lists the limits. It must never import `iotcore`.
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from broker.engines.launch import Launch
from mpsl import strict_json
from mpsl.errors import UsageError

Protocol = Literal["5", "3.1.1"]
"""rumqttd decodes one MQTT version per port; a client of the other version gets no answer."""

SEGMENT_BYTES = 1 << 20
SEGMENTS = 8
"""Every subscription filter ever used keeps its last 8 MiB: rumqttd's only queue, which is never freed."""

BUSY_FILTERS = ("mpsl/v1/+/seat/#", "mpsl/v1/+/x/+/orch/#")
BUSY_SEGMENTS = 64
"""Seats and the orchestrator have many senders with a window each, so their filters keep 64 MiB."""

MAX_PAYLOAD_BYTES = 16 << 20
"""rumqttd does not announce this limit; it disconnects clients that exceed it. mosquitto.conf sets the same one."""

MAX_CONNECTIONS = 4096


@dataclass(frozen=True)
class TlsFiles:
    """What the broker encrypts with: the authority, its own certificate and key. It asks clients for no certificate."""

    ca: Path
    cert: Path
    key: Path


_PROCESS = str(Path(__file__).with_name("rumqttd.py"))


def installed() -> bool:
    """Whether the package is installed; it is not imported."""
    return importlib.util.find_spec("iotcore") is not None


def launch(address: str, port: int, protocol: Protocol, tls: TlsFiles | None = None) -> Launch:
    """The embedded broker on `address` (an IP number) and `port`, for clients that speak `protocol`."""
    if protocol not in ("5", "3.1.1"):
        raise UsageError(f"protocol {protocol!r}: the embedded broker speaks MQTT '5' or '3.1.1'")
    listen = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    listener = "v5.1" if protocol == "5" else "v4.1"
    configuration = _configuration(listen, listener, tls)
    return Launch((sys.executable, "-P", _PROCESS), configuration, answers_connect=tls is None)


def _configuration(listen: str, listener: str, tls: TlsFiles | None) -> str:
    busy = "\n".join(
        f'[router.custom_segment."{topics}"]\nmax_segment_size = {SEGMENT_BYTES}\nmax_segment_count = {BUSY_SEGMENTS}'
        for topics in BUSY_FILTERS
    )
    return f"""id = 0
[router]
id = 0
max_connections = {MAX_CONNECTIONS}
max_outgoing_packet_count = 200
max_segment_size = {SEGMENT_BYTES}
max_segment_count = {SEGMENTS}
{busy}
[{listener}]
name = "mqtt"
listen = "{listen}"
next_connection_delay_ms = 0
[{listener}.connections]
connection_timeout_ms = 10000
max_payload_size = {MAX_PAYLOAD_BYTES}
max_inflight_count = 200
dynamic_filters = true
{"" if tls is None else _encryption(listener, tls)}"""


def _encryption(listener: str, tls: TlsFiles) -> str:
    paths = {"capath": tls.ca, "certpath": tls.cert, "keypath": tls.key}
    lines = [f"{name} = {strict_json.dumps(str(path.resolve()))}" for name, path in paths.items()]
    return "\n".join([f"[{listener}.tls]", *lines, ""])
