"""Decides who may send which message to whom in a run, before the message reaches a state machine.

The link has made sure that the source is in the plan, with its boot. This file checks its place in the plan: a device
speaks only for itself, a tensor comes from the neighbour in its device's chain, and only the orchestrator decides who
counts. It must never look at a state.
"""

from mpsl.link_messages import Echo, Linked, ProbeBurst, Pull, Took
from mpsl.messages import (
    Accept,
    Activation,
    Admit,
    Close,
    Closed,
    Commit,
    Committed,
    CopyFailed,
    Counters,
    Discard,
    Discarded,
    End,
    Evaluate,
    Fault,
    Finished,
    Gradient,
    Joined,
    Keep,
    Loaded,
    Message,
    Probe,
    Report,
    Restored,
    RestoreSum,
    Score,
    Sent,
    Slice,
    TakeSavepoint,
    Update,
)
from mpsl.names import ORCHESTRATOR
from mpsl.plan import Plan
from mpsl.topics import Address


def may_send(plan: Plan, source: str, to: Address, message: Message) -> bool:
    """Whether the participant `source` may send `message` to the seat, device or orchestrator at `to`."""
    if to == ORCHESTRATOR:
        return _may_tell(plan, source, message)
    match message:
        case Activation(ticket):
            return _next_to(plan, ticket.device, to, -1) == source
        case Gradient(ticket):
            return _next_to(plan, ticket.device, to, +1) == source
        case Probe(device=device):
            return _next_to(plan, device, to, -1) == source
        case Slice(purpose=purpose):
            is_seat = to not in plan.devices
            return source == ORCHESTRATOR and (purpose in ("global", "frozen") or (purpose == "savepoint" and is_seat))
        case Admit(device=device) | Accept(device=device) | Discard(device=device):
            return source == ORCHESTRATOR and (device == to or _serves(plan, to, device))
        case Close() | Commit() | Keep() | TakeSavepoint() | RestoreSum():
            return source == ORCHESTRATOR and to not in plan.devices
        case Evaluate():
            return source == ORCHESTRATOR and to in plan.devices
        case Report() | End():
            return source == ORCHESTRATOR
    return False


def may_measure(participant: str, source: str, to: Address, message: Message) -> bool:
    """Whether `source` may send `message` to `to` while the link of `participant` is measured, before any plan."""
    match message:
        case Echo():
            return source == to == participant
        case Pull() | End():
            return (source, to) == (ORCHESTRATOR, participant)
        case Linked() | Took():
            return (source, to) == (participant, ORCHESTRATOR)
        case ProbeBurst():
            return (source, to) in ((ORCHESTRATOR, participant), (participant, ORCHESTRATOR))
    return False


def _may_tell(plan: Plan, source: str, message: Message) -> bool:
    """Whether `source` may send `message` to the orchestrator."""
    seat = plan.seat_of(source)
    match message:
        case Joined() | Fault() | Counters():
            return seat is not None or source in plan.devices
        case Loaded() | Restored() | Closed() | Committed() | Sent(purpose="sum" | "part" | "savepoint"):
            return seat is not None
        case Finished(device=device) | CopyFailed(device=device):
            return seat is not None and _serves(plan, seat.address, device)
        case Discarded(device=device):
            return source == device or (seat is not None and _serves(plan, seat.address, device))
        case Update() | Score():
            return source in plan.devices
        case Slice(purpose=purpose):
            if purpose == "update":
                return source in plan.devices
            return purpose in ("sum", "part", "savepoint") and seat is not None
    return False


def _serves(plan: Plan, address: Address, device: str) -> bool:
    return device in plan.devices and address in plan.chain(device)


def _next_to(plan: Plan, device: str, to: Address, step: int) -> str | None:
    """Return the neighbour before (-1) or after (+1) `to` in the circle of a device and its seats."""
    if device not in plan.devices:
        return None
    circle = [device, *plan.chain(device)]
    if to not in circle or len(circle) == 1:
        return None
    address = circle[(circle.index(to) + step) % len(circle)]
    return next((seat.node for seat in plan.seats if seat.address == address), address)
