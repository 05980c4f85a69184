"""Newcomers: devices that appear during a run take part from then on, if its job says `join = "open"`.

Devices that were present at the start but not chosen stay free for other runs, as long as the run has as many devices
as its job asks for.
"""

from mpsl.machines.census import Presence
from mpsl.machines.members import Member
from mpsl.machines.orchestrator.context import RunContext


class Newcomers:
    """Adds devices to the plan of the present term."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def seen(self, presence: Presence) -> None:
        """A participant's status, info or telemetry has changed."""
        state, context = self._context.state, self._context
        if presence.branch != "dev" or presence.id in state.members or state.plan is None:
            return
        fleet = state.job.fleet
        # A plan given with --plan names all participants.
        if fleet.join == "closed" or state.planned is not None or not presence.free(context.now, state.run):
            return
        few = sum(member.joined for member in state.members.values()) < fleet.devices
        if (presence.id, presence.boot) in state.bystanders and not few:
            return
        state.plan = state.plan.with_device(presence.id, presence.boot)
        member = Member(presence.id, presence.boot, revision=state.plan.revision)
        if state.ledger is not None:
            state.ledger.add(member)
        state.members[presence.id] = member
        context.log("info", "newcomer", device=presence.id, boot=presence.boot)
        context.replan()
        context.publish_plan()
