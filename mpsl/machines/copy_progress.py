"""The progress of an admitted device at a seat: which tensor of it may come next.

A tensor that comes twice or out of order must never reach the device's copy.
"""

from dataclasses import dataclass

from mpsl.messages import Ticket


@dataclass
class CopyProgress:
    """The attempt of a device, its steps made, and the last ticket in each direction."""

    attempt: int
    batches: int
    steps: int = 0
    forward: Ticket | None = None
    backward: Ticket | None = None

    def takes_forward(self, ticket: Ticket) -> bool:
        """Whether an activation with this ticket comes next."""
        return _follows(self.forward, ticket)

    def takes_backward(self, ticket: Ticket) -> bool:
        """Whether a gradient with this ticket comes next: its activation has been here."""
        return _follows(self.backward, ticket) and self.forward is not None and ticket <= self.forward


def _follows(before: Ticket | None, ticket: Ticket) -> bool:
    """Whether a ticket is the next one of its device: the next micro-batch, or the first of a later batch."""
    if before is None or before.last:
        return ticket.micro == 0 and (before is None or (ticket.epoch, ticket.batch) > (before.epoch, before.batch))
    return (ticket.epoch, ticket.batch, ticket.micro) == (before.epoch, before.batch, before.micro + 1)
