"""Closing and committing a round: every seat sends its sum, the whole model goes to disk, then everyone commits.

Until the checkpoint is on disk every seat keeps the last committed part.
"""

from typing import TYPE_CHECKING, Any

from mpsl.machines.arrivals import Arrivals
from mpsl.machines.effects import CancelTimer, Run, Write
from mpsl.machines.jobs import Checkpoint
from mpsl.machines.members import RoundLedger
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.messages import Close, Closed, Commit, Committed, Loaded, Slice
from mpsl.topics import Address

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

S = OrchestratorState


class Closing:
    """What has arrived of the round's sums; `metrics` are the committed round's so far."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._sums: dict[Address, Arrivals] = {}
        self._closed_by: dict[Address, Closed] = {}
        self.folding = 0
        """Accepted updates that the worker has yet to add up."""
        self.metrics: dict[str, Any] = {}

    # The sums

    def begin(self, book: RoundLedger) -> None:
        """Everyone is accepted or out: ask every seat for its sum."""
        machine = self._machine
        machine.do(CancelTimer("round"))
        machine.state = S.CLOSING
        machine.heard_at = machine.now
        machine.waiting_seats = set(machine.seats)
        self._sums = {address: Arrivals() for address in machine.seats}
        self._closed_by = {}
        for address in machine.seats:
            served = [id for id in book.accepted if address in machine.chain(id)]
            machine.send(address, Close(machine.round, len(served)))
        self._maybe_closed()

    def slice(self, source: str, message: Slice) -> None:
        """A piece of a seat's sum."""
        machine = self._machine
        seat = machine.seat_of(source)
        if seat is None or message.version != machine.round:
            machine.drop(message, "of another attempt")
            return
        self._sums[seat.address].add(message)
        machine.do(Write(source, message))
        self._maybe_closed()

    def closed(self, source: str, message: Closed) -> None:
        """A seat's sum is on its way."""
        seat = self._machine.seat_of(source)
        if seat is not None and message.round == self._machine.round:
            self._closed_by[seat.address] = message
            self._maybe_closed()

    def folded(self) -> None:
        """The worker has added up an update."""
        self.folding -= 1
        self._maybe_closed()

    def _maybe_closed(self) -> None:
        machine, book = self._machine, self._machine.book
        if machine.state is not S.CLOSING or book is None:
            return
        for address, closed in self._closed_by.items():
            if self._sums[address].bytes == machine.loading.part_bytes[address]:
                machine.waiting_seats.discard(address)
                due = sum(samples for id, samples in book.accepted.items() if address in machine.chain(id))
                if closed.weight != due:
                    machine.fail(f"seat {address} folded {closed.weight} samples, {due} were accepted")
                    return
        if not machine.waiting_seats and self.folding == 0:
            machine.state = S.SAVING
            digests = {address: closed.digest for address, closed in self._closed_by.items()}
            machine.do(Run(Checkpoint(machine.round, book.weight, digests)))

    # The commit

    def saved(self) -> None:
        """The round is on disk: it is committed from this moment on."""
        machine, book = self._machine, self._machine.book
        assert book is not None
        machine.state = S.COMMITTING
        machine.heard_at = machine.now
        machine.waiting_seats = set(machine.seats)
        self.metrics = {
            "round": machine.round,
            "loss": book.loss(),
            "accuracy": None,
            "samples": book.weight,
            "seconds": machine.now - book.opened_at,
            "devices": list(book.accepted),
        }
        machine.summary["loss"] = self.metrics["loss"]
        facts = {"round": machine.round, "devices": len(book.accepted), "loss": round(book.loss(), 4)}
        machine.log("info", "committed", run=machine.run, **facts)
        replicated = {seat.stage for seat in machine.seats.values() if seat.replica > 0}
        for address, seat in machine.seats.items():
            if seat.stage in replicated:
                machine.loading.send_part(address)
            else:
                machine.send(address, Commit(machine.round, book.weight))
        self._maybe_committed()

    def merged_loaded(self, source: str, message: Loaded) -> None:
        """A replica holds the merged part: now it may serve it."""
        machine, book = self._machine, self._machine.book
        seat = machine.seat_of(source)
        if seat is not None and book is not None and message.version == machine.round:
            machine.send(seat.address, Commit(machine.round, book.weight, merged=True))

    def committed(self, source: str, message: Committed) -> None:
        """A seat serves the committed part of the round."""
        machine = self._machine
        seat = machine.seat_of(source)
        if seat is not None and message.round == machine.round:
            machine.waiting_seats.discard(seat.address)
            self._maybe_committed()

    def _maybe_committed(self) -> None:
        machine, run = self._machine, self._machine.job.run
        if machine.state is not S.COMMITTING or machine.waiting_seats:
            return
        if machine.round == run.rounds or machine.round % run.evaluate_every == 0:
            machine.evaluation.begin()
        else:
            machine.reporting.begin()
