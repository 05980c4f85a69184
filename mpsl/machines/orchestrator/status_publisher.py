"""Says where a run is and whom it waits for: run/<run>/state and the retained plan. Changes nothing."""

from typing import TYPE_CHECKING, Any

from mpsl import facts
from mpsl.machines.members import Place
from mpsl.machines.orchestrator.state import OrchestratorState

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

S = OrchestratorState

MIN_PAUSE_S = 1.0
"""`state` goes out at most this often, and only when it has changed."""
MAX_REASON = 1000
HEARTBEAT_S = 5.0
"""`state` goes out at least this often."""


class StatusPublisher:
    """What is said about a run while it goes on."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._published: dict[str, Any] = {}
        self._published_at = float("-inf")

    def waiting_for(self) -> list[str]:
        """Whom (or what) the run waits for at this moment."""
        machine = self._machine
        match machine.state:
            case S.GATHERING:
                return machine.gathering.missing()
            case S.PROFILING:
                return machine.profiling.waiting_for()
            case S.JOINING:
                return machine.gathering.not_joined()
            case S.LOADING | S.CLOSING | S.COMMITTING:
                return [machine.seats[address].node for address in sorted(machine.waiting_seats)]
            case S.OPEN | S.EVALUATING if machine.book:
                discarding = machine.book.at(Place.DISCARDING)
                unclear = {self._name_of(address) for member in discarding for address in member.unclear}
                return [member.id for member in machine.book.at(Place.ADMITTED)] + sorted(unclear)
            case S.REPORTING:
                return machine.reporting.silent()
            case S.ENDING if machine.channel:
                return [self._name_of(address) for address in machine.channel.waiting_for()]
        return []

    def snapshot(self) -> dict[str, Any]:
        """What run/<run>/state says: counts and names, nothing of the data; the outcome once there is one."""
        machine, book = self._machine, self._machine.book
        over = machine.state is S.ENDING
        members = machine.members.values()
        batches = {m.id: m.progress[0] for m in book.at(Place.ADMITTED)} if book else {}
        due = sum(machine.admission.batches_of(m) for m in members if m.place is not Place.OUT)
        return {
            "state": machine.state.value,
            "run": machine.run,
            "round": machine.round,
            "rounds": machine.job.run.rounds,
            "admit": machine.book.most if machine.book else 0,
            "admitted": sorted(batches),
            "batches": sum(batches.values()) + sum(m.update.batches for m in members if m.update),
            "batches_in_round": due,
            "accepted": len(book.accepted) if book else 0,
            "loss": machine.summary["loss"],
            "accuracy": machine.summary["accuracy"],
            "waiting_for": self.waiting_for(),
            "shortfall": machine.plan.shortfall if machine.plan else "",
            "outcome": machine.summary["state"] if over else None,
            "reason": machine.summary["reason"][:MAX_REASON] if over else "",
        }

    def publish(self, force: bool = False) -> None:
        """Publish `state` where it is due, and while devices join the plan as well."""
        machine = self._machine
        state = self.snapshot()
        since = machine.now - self._published_at
        changed = state != self._published and since >= MIN_PAUSE_S
        if machine.online and (force or changed or since >= HEARTBEAT_S):
            self._published, self._published_at = state, machine.now
            machine.publish("state", state, retain=True)
            if machine.plan is not None and machine.state is S.JOINING:
                self.publish_plan()

    def publish_plan(self) -> None:
        """Publish the plan, retained."""
        self._machine.publish("plan", facts.plain(self._machine.plan), retain=True)

    def _name_of(self, address: str) -> str:
        seats = self._machine.seats
        return seats[address].node if address in seats else address
