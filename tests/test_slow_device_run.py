"""A real run over a real broker with a device behind 1 Mbit/s: patience and parts are small, so that seconds tell.

The same with 16 MB and the real constants takes seven minutes: `make slow-link`.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fleet import make_shards, run_fleet

from broker.address import BrokerAddress, parse_broker
from broker.engines.engine import BrokerProcess
from broker.slow_link import parse_link
from mpsl.machines.events import Event, Received
from mpsl.machines.machine import from_json
from mpsl.machines.orchestrator import OrchestratorMachine

WIDTH = 400
PART_BYTES = 4 * (65 * WIDTH + WIDTH * (WIDTH + 1) + 16 * (WIDTH + 1) + 10 * 17)
"""Of the device's blocks: 64 → WIDTH → WIDTH → 16, and 16 → 10 behind the hop."""
BYTES_S = PART_BYTES / 125_000
"""Seconds that they take, one way."""
PATIENCE = {
    "mpsl.machines.online.TELEMETRY_S": 0.25,
    "mpsl.machines.orchestrator.departures.FIRST_PATIENCE_S": 5.0,
    "mpsl.machines.orchestrator.departures.MIN_PATIENCE_S": 5.0,
}
"""Less than the parts take, as with 16 MB and the real ones; and a sign of life often enough to see what delays it."""
JOB = {
    "run": {"name": "slow", "rounds": 1, "batch_size": 32},
    "model": {"name": "mlp", "args": {"hidden": [WIDTH, WIDTH, 16, 16]}, "cuts": [3, 4]},
    "optimizer": {"name": "sgd", "lr": 0.05},
    "fleet": {"devices": 2, "nodes": 1, "quorum": 2, "silence_s": 5.0, "stall_s": 5.0},
}


def test_a_device_behind_1_mbit_takes_part_and_its_signs_of_life_are_in_time(
    mosquitto: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages: list[float] = []
    """Of the slow device's telemetry, when it arrives; by one clock, from an unknown beginning."""
    handle = OrchestratorMachine.handle

    def listening(self: OrchestratorMachine, event: Event, now: float) -> Any:
        if isinstance(event, Received) and event.topic.endswith("dev/dev-2/tele"):
            said = from_json(event.payload)
            assert said is not None
            ages.append(now - said["uptime_s"])
        return handle(self, event, now)

    def address(id: str) -> BrokerAddress:
        link = parse_link("1mbit/20ms") if id == "dev-2" else None
        return dataclasses.replace(parse_broker(mosquitto.url), link=link)

    monkeypatch.setattr(OrchestratorMachine, "handle", listening)
    for name, seconds in PATIENCE.items():
        monkeypatch.setattr(name, seconds)
    assert max(PATIENCE.values()) < BYTES_S
    outcome = run_fleet(address, JOB, make_shards([64, 64], (1, 8, 8), 10), tmp_path, nodes=1)
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    assert [event for _, event, _ in outcome.log if event == "left-out"] == []
    (entry,) = outcome.summary["rounds"]
    assert sorted(entry["devices"]) == ["dev-1", "dev-2"]
    assert entry["seconds"] >= 2 * BYTES_S, "the link is as slow as it says"
    # A chunk is half a second of the link, which telemetry waits for at most; the rest is for a machine under load.
    assert max(ages) - min(ages) <= 3.0
    assert len(ages) >= 0.5 * 2 * BYTES_S / PATIENCE["mpsl.machines.online.TELEMETRY_S"]
