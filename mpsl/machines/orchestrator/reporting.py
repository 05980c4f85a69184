"""Reporting: collects the byte counts of all participants, then records the metrics of the round."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mpsl.machines.census import Presence
from mpsl.machines.jobs import RecordRound, Result, WorkerJob
from mpsl.machines.members import Passage
from mpsl.machines.orchestrator.admissions import Admissions
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.outliers import outliers, suspects
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Counters, Report

REPORT_S = 5.0
"""How long the phase waits for counts. A missing count keeps its last value."""


@dataclass
class ByteCount:
    """Payload bytes that a participant has sent and received in the run, summed over its sessions.

    Each session counts from 0.
    """

    sent: int = 0
    received: int = 0
    _last: tuple[int, int] = (0, 0)

    def said(self, sent: int, received: int) -> None:
        """Take the present counts of a session."""
        before = self._last if sent >= self._last[0] and received >= self._last[1] else (0, 0)
        self.sent += sent - before[0]
        self.received += received - before[1]
        self._last = (sent, received)


class Reporting(Phase):
    """Holds the last reported bytes of every participant."""

    def __init__(self, context: RunContext, admissions: Admissions) -> None:
        super().__init__(context)
        self._admissions = admissions
        self._bytes: dict[str, ByteCount] = {}
        """By id, of each device and node."""
        self._unanswered: set[str] = set()
        """Devices and nodes that have not answered yet."""
        self._before: dict[str, int] = {"device_up": 0, "device_down": 0, "nodes_out": 0}
        self._late = False
        self._asked = False
        """Whether the worker has been asked to record the round."""
        self._recorded = False

    def enter(self) -> None:
        """Ask all participants for their counts."""
        devices = self._admissions.ready()
        self._unanswered = {*devices, *(seat.node for seat in self.state.seats.values())}
        self._late = self._asked = self._recorded = False
        for address in [*devices, *self.state.seats]:
            self.context.send(address, Report(self.state.round))
        self.context.set_timer("report", REPORT_S)

    def seen(self, presence: Presence) -> None:
        """Stop waiting for a device that is gone."""
        if presence.branch == "dev" and presence.gone(self.context.now):
            self._unanswered.discard(presence.id)

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The round is recorded."""
        self._recorded = self._recorded or isinstance(job, RecordRound)

    def waiting_for(self) -> list[str]:
        """Return the participants that have not answered."""
        return sorted(self._unanswered)

    def counters(self, source: str, message: Counters) -> None:
        """Take a participant's bytes since it joined."""
        self._bytes.setdefault(source, ByteCount()).said(message.sent, message.received)
        if message.round == self.state.round:
            self._unanswered.discard(source)

    def timer_fired(self, name: str) -> None:
        """REPORT_S is over: stop waiting for the other counts."""
        self._late = self._late or name == "report"

    def outcome(self) -> RunOutcome | None:
        """Record the round once all have answered or REPORT_S is over."""
        if self._unanswered and not self._late:
            return None
        if not self._asked:
            self._asked = True
            self.context.cancel_timer("report")
            self._record()
        if not self._recorded:
            return None
        last = self.state.round == self.state.job.run.rounds
        return RunOutcome.LAST_REPORTED if last else RunOutcome.REPORTED

    def _record(self) -> None:
        state = self.state
        devices = [count for id, count in self._bytes.items() if id in state.members]
        now = {
            "device_up": sum(count.sent for count in devices),
            "device_down": sum(count.received for count in devices),
            "nodes_out": sum(count.sent for id, count in self._bytes.items() if id not in state.members),
        }
        metrics = state.metrics | {"bytes": {key: now[key] - self._before[key] for key in now}}
        self._before = now
        if state.predicted is not None:
            metrics["predicted_s"] = state.predicted.round_s
        state.summary["rounds"].append(metrics)
        state.reported = state.round
        self.context.publish("metrics", metrics)
        shown = {
            "loss": round(metrics["loss"], 4),
            "accuracy": metrics["accuracy"],
            "seconds": round(metrics["seconds"], 2),
        }
        if state.predicted is not None:
            shown["predicted_s"] = round(state.predicted.round_s, 2)
        if "held_s" in metrics:
            shown["held_s"] = round(metrics["held_s"], 2)
        self.context.log("info", "round", round=state.round, **shown)
        for id, figures in outliers(state.contributions).items():
            self.context.log("warning", "loss-far-from-others", device=id, round=state.round, figures=figures)
        state.suspects = suspects(state.contributions, state.suspects)
        self.context.start_run_job(RecordRound(metrics, tuple(self._devices())))

    def _devices(self) -> Iterator[dict[str, Any]]:
        """Yield a line for each device of the run: its counts and sums, and when it passed through the round."""
        state = self.state
        for id in dict.fromkeys([*state.contributions, *state.scores, *state.passages]):
            update, score = state.contributions.get(id), state.scores.get(id)
            yield {
                "round": state.round,
                "device": id,
                "contributed": update is not None,
                "loss": update.loss / update.samples if update and update.samples else None,
                "samples": update.samples if update else None,
                "batches": update.batches if update else None,
                "seconds": update.seconds if update else None,
                "accuracy": score.correct / score.total if score and score.total else None,
                "test_loss": score.loss / score.total if score and score.total else None,
                "test_samples": score.total if score else None,
                **vars(state.passages.get(id) or Passage()),
                "left_out": state.metrics["left_out"].get(id),
            }
