"""One orchestrator a run: who sees a plan of its run under a higher term ends itself, and names the other.

A retained plan of a lower term is that of a predecessor. It must never be obeyed.
"""

from mpsl.machines.effects import Stop
from mpsl.machines.machine import from_json
from mpsl.machines.orchestrator.context import RunContext
from mpsl.wire import Buffer


def superseded_by(context: RunContext, boot: str, payload: Buffer, is_ending: bool) -> Stop | None:
    """Take a plan of the run by another orchestrator. Returns how the process `boot` ends, if that one comes first."""
    context.is_plan_known = True
    state, content = context.state, from_json(payload) or {}
    term, other = content.get("term"), content.get("orchestrator")
    if not isinstance(term, int) or not isinstance(other, str) or other == boot:
        return None
    has_published = context.session is not None and state.is_laid_out
    # Until this process publishes its own plan, the retained one is its predecessor's.
    if (term, other) > (state.term, boot if has_published else "~") and state.term > 0:
        context.log("error", "superseded", other=other, other_term=term)
        conducts = f"another orchestrator (boot {other}) runs it under term {term}"
        reason = f"run {state.run}: {conducts}, this one (boot {boot}) had term {state.term}"
        state.summary |= {"state": "failed", "reason": reason}
        context.end_session()
        return Stop(1, reason)
    if has_published and not is_ending:
        context.publish_plan()
    return None
