"""The report of a round: how many bytes it took, asked from everyone, then one line of metrics."""

from typing import TYPE_CHECKING

from mpsl.machines.effects import CancelTimer, Run, SetTimer
from mpsl.machines.jobs import RecordRound
from mpsl.machines.members import Member
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.messages import Counters, Report

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

S = OrchestratorState

REPORT_S = 5.0
"""Who has not answered by then counts as before."""


class Reporting:
    """Bytes of everyone as last reported."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._node_bytes: dict[str, tuple[int, int]] = {}
        self._answered_nodes: set[str] = set()
        self._before: dict[str, int] = {"device_up": 0, "device_down": 0, "nodes_out": 0}

    def begin(self) -> None:
        """Ask everyone."""
        machine = self._machine
        machine.state = S.REPORTING
        self._answered_nodes = set()
        for address in [*(member.id for member in self._asked()), *machine.seats]:
            machine.send(address, Report(machine.round))
        machine.do(SetTimer("report", machine.now + REPORT_S))
        self.maybe_done()

    def _asked(self) -> list[Member]:
        return [self._machine.members[id] for id in self._machine.admission.ready()]

    def silent(self) -> list[str]:
        """The devices that have not answered."""
        return [member.id for member in self._asked() if member.counted < self._machine.round]

    def counters(self, source: str, message: Counters) -> None:
        """Someone's bytes since it joined."""
        machine = self._machine
        member = machine.members.get(source)
        if member is not None:
            member.sent, member.received, member.counted = message.sent, message.received, message.round
        else:
            self._node_bytes[source] = (message.sent, message.received)
            if machine.state is S.REPORTING:
                self._answered_nodes.add(source)
        self.maybe_done()

    def maybe_done(self, late: bool = False) -> None:
        """Record the round once all have answered, or had the time to."""
        machine = self._machine
        if machine.state is not S.REPORTING:
            return
        nodes_done = {seat.node for seat in machine.seats.values()} <= self._answered_nodes
        if late or (nodes_done and not self.silent()):
            machine.do(CancelTimer("report"))
            self._record()

    def _record(self) -> None:
        machine = self._machine
        members = machine.members.values()
        now = {
            "device_up": sum(member.sent for member in members),
            "device_down": sum(member.received for member in members),
            "nodes_out": sum(sent for sent, _ in self._node_bytes.values()),
        }
        metrics = machine.closing.metrics | {"bytes": {key: now[key] - self._before[key] for key in now}}
        self._before = now
        predicted = machine.profiling.predicted
        if predicted is not None:
            metrics["predicted_s"] = predicted.round_s
        machine.summary["rounds"].append(metrics)
        machine.publish("metrics", metrics)
        shown = {
            "loss": round(metrics["loss"], 4),
            "accuracy": metrics["accuracy"],
            "seconds": round(metrics["seconds"], 2),
        }
        if predicted is not None:
            shown["predicted_s"] = round(predicted.round_s, 2)
        machine.log("info", "round", run=machine.run, round=machine.round, **shown)
        machine.do(Run(RecordRound(metrics)))
        if machine.round == machine.job.run.rounds:
            machine.ending.end("done", "")
        else:
            machine.admission.open_round()
