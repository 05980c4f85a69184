"""The report of a round: how many bytes it took, asked from everyone.

The figures are recorded once the round is on disk (`durability.py`); the last round's come after that.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mpsl.machines.census import Presence
from mpsl.machines.members import Passage
from mpsl.machines.orchestrator.admissions import Admissions
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.durability import Durability
from mpsl.machines.orchestrator.growth import Growth
from mpsl.machines.orchestrator.outliers import outliers, suspects
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Counters, Report
from mpsl.topics import Address

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

    def __init__(self, context: RunContext, admissions: Admissions, durability: Durability, growth: Growth) -> None:
        super().__init__(context)
        self._growth = growth
        self._admissions = admissions
        self._durability = durability
        self._bytes: dict[str, ByteCount] = {}
        """By id, of each device and node."""
        self._unanswered: set[str] = set()
        """Devices and nodes that have not answered yet."""
        self._before: dict[str, int] = {"device_up": 0, "device_down": 0, "nodes_out": 0}
        self._late = False
        self._has_asked = False
        self._has_reported = False

    @property
    def _is_last(self) -> bool:
        return self.state.round == self.state.job.run.rounds

    def enter(self) -> None:
        """Ask everyone. In the last round their bytes include those of the parts that go to the checkpoint."""
        self._unanswered = set()
        self._late = self._has_asked = self._has_reported = False
        self.state.progress_at = self.context.now
        self._ask()

    def _ask(self) -> None:
        if self._is_last and self.state.durable < self.state.committed:
            return
        self._has_asked = True
        devices = self._admissions.ready()
        self._unanswered = {*devices, *(seat.node for seat in self.state.seats.values())}
        for address in [*devices, *self.state.seats]:
            self.context.send(address, Report(self.state.round))
        self.context.set_timer("report", REPORT_S)

    def seen(self, presence: Presence) -> None:
        """Stop waiting for a device that is gone."""
        if presence.branch == "dev" and presence.gone(self.context.now):
            self._unanswered.discard(presence.id)

    def waiting_for(self) -> list[str]:
        """Who has not answered; before that, whose part of the last round is still to come."""
        return sorted(self._unanswered) or self._durability.waiting_for()

    def counters(self, source: str, message: Counters) -> None:
        """Take a participant's bytes since it joined."""
        self._bytes.setdefault(source, ByteCount()).said(message.sent, message.received)
        if message.round == self.state.round:
            self._unanswered.discard(source)

    def timer_fired(self, name: str) -> None:
        """REPORT_S is over: stop waiting for the other counts."""
        self._late = self._late or name == "report"

    def awaited_seats(self) -> set[Address]:
        """Those whose committed part is not here, once only that is waited for."""
        return self._durability.missing if not self._has_asked or self._has_reported else set()

    def outcome(self) -> RunOutcome | None:
        """Everyone has answered, or had the time to; the last round is on disk and recorded as well."""
        if not self._has_asked:
            self._ask()
        if not self._has_asked or (self._unanswered and not self._late):
            return None
        if not self._has_reported:
            self._has_reported = True
            self.context.cancel_timer("report")
            self._report()
        if not self._is_last:
            return self._outcome_of_round()
        return RunOutcome.LAST_REPORTED if self._durability.is_settled else None

    def _outcome_of_round(self) -> RunOutcome | None:
        """The next round; or the same under another plan, once this one is on disk."""
        if self._growth.is_ready:
            if not self._durability.is_settled:
                return None
            if self._growth.seat():
                self.state.ledger = None
                self.context.set_timer("patience", self.state.job.fleet.patience_s)
                return RunOutcome.NODES_JOINED
        return RunOutcome.REPORTED

    def _report(self) -> None:
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
        for id, figures in outliers(state.contributions).items():
            self.context.log("warning", "loss-far-from-others", device=id, round=state.round, figures=figures)
        state.suspects = suspects(state.contributions, state.suspects)
        self._durability.report(metrics, tuple(self._devices()))

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
