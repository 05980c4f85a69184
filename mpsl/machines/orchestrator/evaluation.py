"""Evaluation: the devices run their test data through the committed model; only counts come back."""

from typing import TYPE_CHECKING

from mpsl.machines.members import Place, RoundLedger
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.messages import Score

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine


class Evaluation:
    """Goes on like a round: G devices at a time, who is lost is left out."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine

    def begin(self) -> None:
        """Open it to all ready devices that have test data."""
        machine = self._machine
        assert machine.plan is not None
        machine.state = OrchestratorState.EVALUATING
        machine.book = RoundLedger(machine.round, machine.plan.admit, machine.members, machine.plan, machine.now)
        machine.book.open_to([id for id in machine.admission.ready() if machine.members[id].test_batches])
        machine.admission.fetch_device_slices(machine.round)

    def score(self, source: str, message: Score) -> None:
        """A device is through its test data."""
        machine, book = self._machine, self._machine.book
        member = machine.members.get(source)
        if book and member and member.place is Place.ADMITTED and message.attempt == member.attempt:
            member.place = Place.ACCEPTED
            book.scores[source] = (message.correct, message.total)
            machine.admission.admit_more()
        else:
            machine.drop(message, "of another attempt")

    def done(self, book: RoundLedger) -> None:
        """Everyone has a score or is out."""
        machine = self._machine
        correct = sum(score[0] for score in book.scores.values())
        total = sum(score[1] for score in book.scores.values())
        machine.closing.metrics["accuracy"] = machine.summary["accuracy"] = correct / total if total else None
        machine.reporting.begin()
