"""Evaluation: the devices run their test data through the committed model; only counts come back."""

from mpsl.machines.members import Place
from mpsl.machines.orchestrator.admission import Admission
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Message, Score


class Evaluation(Phase):
    """Goes on like a round: G devices at a time, and who is lost is left out."""

    def __init__(self, context: RunContext, admission: Admission) -> None:
        super().__init__(context)
        self._admission = admission

    def enter(self) -> None:
        """Open it to all ready devices that have test data."""
        members = self.state.members
        self._admission.open_evaluation([id for id in self._admission.ready() if members[id].test_batches])

    def take(self, source: str, message: Message) -> None:
        """A device is through its test data."""
        assert isinstance(message, Score)
        ledger, member = self.state.need_ledger(), self.state.members.get(source)
        if member and member.place is Place.ADMITTED and message.attempt == member.attempt:
            ledger.move(member, Place.ACCEPTED)
            ledger.scores[source] = (message.correct, message.total)
            self._admission.admit_more()
        else:
            self.context.drop(message, "of another attempt")

    def outcome(self) -> RunOutcome | None:
        """Everyone has a score or is out."""
        ledger = self.state.need_ledger()
        if not self._admission.has_begun:
            return None
        self._admission.admit_more()
        if not ledger.decided:
            return None
        correct = sum(score[0] for score in ledger.scores.values())
        total = sum(score[1] for score in ledger.scores.values())
        self.state.metrics["accuracy"] = self.state.summary["accuracy"] = correct / total if total else None
        return RunOutcome.ALL_SCORED

    def waiting_for(self) -> list[str]:
        """The admitted devices, and the seats that have yet to forget one."""
        return self._admission.waiting_for()
