"""The devices of a run as the orchestrator keeps them, and the book of a round: who waits, is in, counted or out.

Decides who is admitted next and who contributes; sends nothing.
"""

import enum
from collections import Counter
from dataclasses import dataclass, field

from mpsl.machines.arrivals import Arrivals
from mpsl.messages import Update
from mpsl.plan import Plan
from mpsl.topics import Address


class Place(enum.Enum):
    """Where a device is in the open round (or evaluation)."""

    WAITING = "waiting"
    ADMITTED = "admitted"
    ACCEPTED = "accepted"
    DISCARDING = "discarding"
    OUT = "left out"


@dataclass
class Member:
    """A device of the run. `held` is the round whose committed weights it holds; `cleared`: it may be admitted."""

    id: str
    boot: str
    joined: bool = False
    cleared: bool = True
    refusal: str = ""
    samples: int = 0
    test_batches: int = 0
    attempt: int = 0
    place: Place = Place.OUT
    held: int = -1
    update: Update | None = None
    arrivals: Arrivals = field(default_factory=Arrivals)
    finished: set[str] = field(default_factory=set)
    unclear: set[Address] = field(default_factory=set)
    present: bool = False
    """Whether its `info` has said that it is in this run."""
    progress: tuple[int, str, int] = (0, "", 0)
    """Batches of the round, state, and bytes received, as its telemetry says."""
    progress_at: float = 0.0
    batch_at: float = 0.0
    discarded_at: float = 0.0
    last_seconds: float = 0.0
    sent: int = 0
    received: int = 0
    counted: int = -1


@dataclass
class RoundLedger:
    """One round (or evaluation) over `members`: at most `most` admitted at a time."""

    round: int
    most: int
    members: dict[str, Member]
    plan: Plan
    opened_at: float
    accepted: dict[str, int] = field(default_factory=dict)
    """Training samples of the accepted devices, in the order of acceptance."""
    scores: dict[str, tuple[int, int]] = field(default_factory=dict)

    def open_to(self, ids: list[str]) -> None:
        """These take part; all others are out."""
        for id, member in self.members.items():
            member.place = Place.WAITING if id in ids else Place.OUT
            member.update = None
            member.arrivals = Arrivals()
            member.finished = set()

    def at(self, place: Place) -> list[Member]:
        """The members at a place."""
        return [member for member in self.members.values() if member.place is place]

    def next_admission(self) -> Member | None:
        """The slowest that waits, so that the end of the round is short; None while G are in.

        A place is given away only once every seat has forgotten the device that had it. A replica of a stage has its
        share of the places, so that its memory is bounded too; and the emptiest replicas come first, so that none waits
        for work while another has more than it needs.
        """
        occupying = self.at(Place.ADMITTED) + self.at(Place.DISCARDING)
        waiting = self.at(Place.WAITING)
        if len(occupying) >= self.most or not waiting:
            return None
        if not self.plan.replicated:
            return max(waiting, key=lambda member: (member.last_seconds, member.samples))
        taken = Counter(address for member in occupying for address in self.plan.chain(member.id))
        filled = {seat.address: taken[seat.address] / self._places(seat.address) for seat in self.plan.seats}

        def fullest(member: Member) -> float:
            """How full the fullest of the device's replicas is, as a share of its places."""
            return max(filled[address] for address in self.plan.chain(member.id))

        least = min(map(fullest, waiting))
        if least >= 1:
            return None
        emptiest = [member for member in waiting if fullest(member) == least]
        return max(emptiest, key=lambda member: (member.last_seconds, member.samples))

    def _places(self, seat: Address) -> int:
        # A replica that serves nobody has none, and nobody asks.
        return self.plan.places(seat, self.most) or 1

    @property
    def decided(self) -> bool:
        """Whether everyone is accepted or out."""
        return not (self.at(Place.WAITING) or self.at(Place.ADMITTED) or self.at(Place.DISCARDING))

    @property
    def possible(self) -> int:
        """How many are accepted or still may be."""
        return len(self.accepted) + len(self.at(Place.WAITING)) + len(self.at(Place.ADMITTED))

    @property
    def weight(self) -> int:
        """Training samples of the accepted devices: what the sums are divided by."""
        return sum(self.accepted.values())

    def loss(self) -> float:
        """Sample-weighted mean of the training losses of the accepted devices, all local epochs together."""
        updates = [self.members[id].update for id in self.accepted]
        samples = sum(update.samples for update in updates if update)
        return sum(update.loss for update in updates if update) / samples if samples else 0.0
