"""Evaluation: the devices run their test data through the committed model; only counts come back."""

from math import isfinite

from mpsl.machines.members import Place
from mpsl.machines.orchestrator.admissions import Admissions
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.departures import Departures
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Message, Score


class Evaluation(Phase):
    """Runs like a round: G devices at a time, and a lost device is left out."""

    def __init__(self, context: RunContext, admissions: Admissions, departures: Departures) -> None:
        super().__init__(context)
        self._admissions = admissions
        self._departures = departures

    def enter(self) -> None:
        """Open the evaluation to all ready devices that have test data."""
        members = self.state.members
        self._admissions.open_evaluation([id for id in self._admissions.ready() if members[id].test_batches])

    def take(self, source: str, message: Message) -> None:
        """A device is through its test data."""
        if not isinstance(message, Score):
            super().take(source, message)
            return
        ledger, member = self.state.need_ledger(), self.state.members.get(source)
        if member is None or member.place is not Place.ADMITTED or message.attempt != member.attempt:
            self.context.drop(message, "of another attempt")
        elif not 0 <= message.correct <= message.total or message.loss < 0:
            said = f"{message.correct} of {message.total} right, loss {message.loss:g}"
            self._departures.unfit(member, f"its score is impossible: {said}")
        else:
            if not isfinite(message.loss):
                # The model is finite, its output is not: that is a result, and may be another device's fault.
                self.context.log("warning", "test-loss-not-finite", device=source, round=self.state.round)
            member.whole = True
            ledger.accept(member, self.context.now)
            ledger.scores[source] = message
            self._admissions.admit_more()

    def outcome(self) -> RunOutcome | None:
        """Every device has a score or is out."""
        ledger = self.state.need_ledger()
        if not self._admissions.has_begun:
            return None
        self._admissions.admit_more()
        if not ledger.decided:
            return None
        correct = sum(score.correct for score in ledger.scores.values())
        total = sum(score.total for score in ledger.scores.values())
        loss = sum(score.loss for score in ledger.scores.values())
        self.state.metrics["accuracy"] = self.state.summary["accuracy"] = correct / total if total else None
        self.state.metrics["test_loss"] = loss / total if total else None
        self.state.scores = dict(ledger.scores)
        self.state.evaluated = self.state.round
        return RunOutcome.ALL_SCORED

    def waiting_for(self) -> list[str]:
        """Return the admitted devices, and the seats that have not yet acknowledged a discard."""
        return self._admissions.waiting_for()
