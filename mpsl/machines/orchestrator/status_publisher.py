"""Publishes the progress of a run and whom it waits for: run/<run>/state and the retained plan. Changes nothing."""

from typing import Any

from mpsl.machines.members import Place
from mpsl.machines.orchestrator.admissions import Admissions
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.ending import MAX_REASON
from mpsl.machines.tables.run import OrchestratorState

S = OrchestratorState

MIN_PAUSE_S = 1.0
"""`state` goes out at most this often, and only when it has changed."""
HEARTBEAT_S = 5.0
"""`state` goes out at least this often."""


class StatusPublisher:
    """Publishes `state` at most once in MIN_PAUSE_S and at least once in HEARTBEAT_S."""

    def __init__(self, context: RunContext, admissions: Admissions) -> None:
        self._context = context
        self._admissions = admissions
        self._published: dict[str, Any] = {}
        self._published_at = float("-inf")

    def snapshot(self, phase: OrchestratorState, waiting_for: list[str]) -> dict[str, Any]:
        """Return the content of run/<run>/state: counts and names, no data; the outcome once there is one."""
        state, ledger = self._context.state, self._context.state.ledger
        over = phase is S.ENDING
        members = state.members.values()
        batches = {m.id: m.progress[0] for m in ledger.at(Place.ADMITTED)} if ledger else {}
        due = sum(self._admissions.batches_of(m) for m in members if m.place is not Place.OUT)
        return {
            "state": phase.value,
            "run": state.run,
            "round": state.round,
            "rounds": state.job.run.rounds,
            "admit": ledger.most if ledger else 0,
            "admitted": sorted(batches),
            "batches": sum(batches.values()) + sum(m.update.batches for m in members if m.update),
            "batches_in_round": due,
            "accepted": len(ledger.accepted) if ledger else 0,
            "loss": state.summary["loss"],
            "accuracy": state.summary["accuracy"],
            "waiting_for": waiting_for,
            "shortfall": state.plan.shortfall if state.plan else "",
            "outcome": state.summary["state"] if over else None,
            "reason": state.summary["reason"][:MAX_REASON] if over else "",
        }

    def publish(self, phase: OrchestratorState, waiting_for: list[str], force: bool = False) -> None:
        """Publish `state` if it is due; while devices join, publish the plan as well."""
        context = self._context
        state = self.snapshot(phase, waiting_for)
        since = context.now - self._published_at
        changed = state != self._published and since >= MIN_PAUSE_S
        if context.online and (force or changed or since >= HEARTBEAT_S):
            self._published, self._published_at = state, context.now
            context.publish("state", state, retain=True)
            if context.state.is_laid_out and phase is S.JOINING:
                context.publish_plan()
