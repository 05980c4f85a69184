"""What may be left of a run in a simulation: between its rounds, and after its end. Everything else is a leak."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from failing_disk import FailingDisk

from compute_node.performer import HopPerformer
from device_agent.performer import DevicePerformer
from mpsl.machines.hop import HopMachine
from mpsl.machines.participant import Participant
from mpsl.sim.process import Process
from mpsl.sim.simulated_performer import TimedPerformer
from mpsl.sim.simulation import Simulation

FILES = {
    "initial.safetensors",
    "model.safetensors",
    "manifest.json",
    "plan.json",
    "metrics.jsonl",
    "devices.jsonl",
    "summary.json",
}
"""The files of a run that is done."""


def performer_of(process: Process) -> object:
    """The real performer of a process."""
    performer: object = process.performer
    while isinstance(performer, TimedPerformer | FailingDisk):
        performer = performer.performer
    return performer


def check_nothing_is_left(processes: Mapping[str, Process], seated: set[str]) -> None:
    """Assert that between two rounds no seat holds anything of a device.

    A frozen node may not know that it has no seat any more.
    """
    for process in [process for id, process in processes.items() if id in seated]:
        machine, performer = process.machine, performer_of(process)
        if isinstance(machine, HopMachine) and isinstance(performer, HopPerformer) and not process.over:
            assert not performer.copies_alive, f"{process.id} keeps {performer.copies_alive} copies of its part"
            for session in machine.sessions.values():
                assert not session.copies, f"{process.id} keeps copies {session.copies}"
                assert not any(session.early.values()), f"{process.id} keeps early messages {list(session.early)}"
                assert not session.early_probes, f"{process.id} keeps early probes"


def check_nothing_is_left_at_the_end(simulation: Simulation, out: Path, summary: Mapping[str, Any]) -> None:
    """Assert that a run that is over has left no session, copy, job, timer, file, line or retained topic behind."""
    for process in simulation.processes.values():
        machine, performer = process.machine, performer_of(process)
        if process.over or not isinstance(machine, Participant):
            continue
        assert not machine.sessions, f"{process.id} keeps {list(machine.sessions)}"
        assert not process.unfinished_jobs, f"{process.id} has unfinished jobs: {process.job}"
        assert all(session is None for session, _ in process.timers), f"{process.id} keeps timers {process.timers}"
        assert isinstance(performer, HopPerformer | DevicePerformer)
        assert not performer.sessions, f"{process.id} keeps the tensors of {list(performer.sessions)}"
    orchestrator = simulation.processes["orch"]
    if orchestrator.ended_with is None:
        return
    files = {path.name for path in out.iterdir() if path.is_file()}
    spare = {name for name in files if name not in FILES and summary["state"] == "done"}
    spare |= {name for name in files if name.startswith(".") or name.endswith(".new")}
    assert not spare, f"files are left over: {sorted(spare)}"
    if summary["state"] == "done":
        check_every_line_is_there_once(out, summary)


def check_every_line_is_there_once(out: Path, summary: Mapping[str, Any]) -> None:
    """Assert that the records of a run that is done have one line for each round, and for each device and round."""
    rounds = [entry["round"] for entry in lines_of(out / "metrics.jsonl")]
    assert rounds == [entry["round"] for entry in summary["rounds"]], f"metrics.jsonl has the rounds {rounds}"
    lines = Counter((entry["round"], entry["device"]) for entry in lines_of(out / "devices.jsonl"))
    assert all(count == 1 for count in lines.values()), f"devices.jsonl: {lines.most_common(3)}"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a record, all of which must be whole."""
    return [json.loads(line) for line in path.read_text().splitlines()]
