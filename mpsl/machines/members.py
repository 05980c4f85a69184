"""The devices of a run at the orchestrator, and the ledger of a round: waiting, admitted, accepted, discarding or out.

It decides which device is admitted next and which contribute. It sends nothing.
"""

import enum
from collections import Counter
from dataclasses import dataclass, field

from mpsl.machines.arrivals import Arrivals
from mpsl.messages import Score, Update
from mpsl.plan import Plan
from mpsl.topics import Address

MAX_TRIES = 5
"""How often a device may be admitted to one round, so that one that always fails cannot hold it up for ever."""


class Place(enum.Enum):
    """Where a device is in the open round or evaluation."""

    WAITING = "waiting"
    ADMITTED = "admitted"
    ACCEPTED = "accepted"
    DISCARDING = "discarding"
    OUT = "left out"


@dataclass
class Member:
    """A device of the run. `held` is the round whose committed weights it holds.

    `discard_acked`: the device has forgotten every discarded attempt, so it may be admitted.
    """

    id: str
    boot: str
    revision: int = 0
    """The revision of the plan that named this process. The seats must know it before the device is admitted."""
    joined: bool = False
    discard_acked: bool = True
    refusal: str = ""
    unfit: bool = False
    """Whether this process has failed for good, whatever it reports later."""
    left_out: str = ""
    """Why it was left out of the round."""
    samples: int = 0
    test_batches: int = 0
    attempt: int = 0
    tries: int = 0
    """How often it was admitted to the open round."""
    returned_at: float | None = None
    """When the device came back as a new process, if an earlier one was in the open round."""
    place: Place = Place.OUT
    held: int = -1
    whole: bool = False
    """Whether it has shown that it holds the frozen parameters: it has trained or evaluated under this term."""
    update: Update | None = None
    arrivals: Arrivals = field(default_factory=Arrivals)
    finished: set[str] = field(default_factory=set)
    pending_discards: set[Address] = field(default_factory=set)
    """Seats that have not yet acknowledged the discard of its attempt."""
    checking: bool = False
    """Whether its complete update is being checked or has been checked."""
    complete_at: float | None = None
    """When its update was known to be complete and finite."""
    present: bool = False
    """Whether its `info` has reported this run."""
    progress: tuple[int, str, int] = (0, "", 0)
    """Batches of the round, state, and bytes received, from its telemetry."""
    progress_at: float = 0.0
    batch_at: float = 0.0
    discarded_at: float = 0.0
    last_seconds: float = 0.0


@dataclass
class Passage:
    """When a device passed through one round with its last try, in seconds since the round's opening.

    None stands for what did not happen.
    """

    tries: int = 0
    """The number of admissions."""
    admitted_s: float | None = None
    complete_s: float | None = None
    """When its update was known to be complete and finite."""
    accepted_s: float | None = None
    left_out_s: float | None = None


@dataclass
class RoundLedger:
    """One round or evaluation over `members`, with at most `most` devices admitted at a time.

    `in_order`: devices are admitted and accepted in the order of the roster, which makes a run repeatable.
    """

    round: int
    most: int
    members: dict[str, Member]
    plan: Plan
    opened_at: float
    in_order: bool = False
    training: bool = True
    accepted: dict[str, int] = field(default_factory=dict)
    """Training samples of the accepted devices, in the order of acceptance."""
    terms: dict[str, int] = field(default_factory=dict)
    """Under which term each of them was accepted."""
    scores: dict[str, Score] = field(default_factory=dict)
    passages: dict[str, Passage] = field(default_factory=dict)
    """When each member passed through the round."""
    held_s: float = 0.0
    """Total seconds that complete updates have waited for their turn."""
    _counts: Counter[Place] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._counts = Counter(member.place for member in self.members.values())

    def open_to(self, ids: list[str]) -> None:
        """Begin the round with these devices; all others are out."""
        taking_part = set(ids)
        self.passages = {id: Passage() for id in self.members}
        for id, member in self.members.items():
            member.left_out = ""
            member.tries, member.returned_at = 0, None
            member.update = None
            member.arrivals = Arrivals()
            member.finished = set()
            member.checking = False
            member.complete_at = None
            if id in taking_part:
                self.move(member, Place.WAITING)
            else:
                self.leave_out(member, Place.OUT, self.opened_at, member.refusal or "was not there")

    def restore(self, device: str, samples: int, term: int, update: Update, passage: Passage) -> None:
        """A device was accepted before the round was interrupted: it still counts, in the same place."""
        member = self.members[device]
        member.update, member.left_out = update, ""
        self.passages[device] = passage
        self.accepted[device], self.terms[device] = samples, term
        self.move(member, Place.ACCEPTED)

    def add(self, member: Member) -> None:
        """Add a device that came during the round. It is out until it is ready."""
        self._counts[member.place] += 1
        self.members[member.id] = member
        self.passages[member.id] = Passage()
        self.leave_out(member, Place.OUT, self.opened_at, "came during the round")

    def move(self, member: Member, place: Place) -> None:
        """Move a member to a place. Nothing else may write its place."""
        self._counts[member.place] -= 1
        self._counts[place] += 1
        member.place = place
        if place is Place.ADMITTED:
            member.arrivals, member.update, member.finished = Arrivals(), None, set()
            member.checking, member.complete_at = False, None
            member.tries += 1

    def has_turn(self, member: Member) -> bool:
        """Whether a device that is out may still be accepted in the order of acceptance."""
        ids = list(self.members)
        return not self.in_order or all(ids.index(id) < ids.index(member.id) for id in self.accepted)

    def readmit(self, member: Member) -> bool:
        """Let a device that is out wait for admission again. Returns False if its turn in the roster is over."""
        if not self.has_turn(member):
            return False
        self.move(member, Place.WAITING)
        member.left_out = ""
        self.passages[member.id] = Passage(member.tries)
        return True

    def admit(self, member: Member, now: float) -> None:
        """A waiting member begins its round."""
        self.move(member, Place.ADMITTED)
        passage = self.passages[member.id]
        passage.tries, passage.admitted_s = member.tries, now - self.opened_at

    def accept(self, member: Member, now: float) -> None:
        """An admitted member has finished its round."""
        passage = self.passages[member.id]
        passage.complete_s = self._since_opening(member.complete_at)
        passage.accepted_s = now - self.opened_at
        self.move(member, Place.ACCEPTED)

    def leave_out(self, member: Member, place: Place, now: float, why: str) -> None:
        """A member does not contribute: its `place` is OUT, or DISCARDING until every seat has forgotten it."""
        passage = self.passages[member.id]
        passage.complete_s = self._since_opening(member.complete_at)
        passage.left_out_s = now - self.opened_at
        member.left_out = why
        self.move(member, place)

    def _since_opening(self, moment: float | None) -> float | None:
        return None if moment is None else moment - self.opened_at

    def count(self, place: Place) -> int:
        """Return the number of members at a place."""
        return self._counts[place]

    def at(self, place: Place) -> list[Member]:
        """Return the members at a place."""
        return [member for member in self.members.values() if member.place is place]

    def acceptable(self) -> list[Member]:
        """Return the admitted members with a complete update whose turn it is, the earliest complete first."""
        if not self.in_order:
            complete = [member for member in self.at(Place.ADMITTED) if member.complete_at is not None]
            return sorted(complete, key=lambda member: member.complete_at or 0.0)
        turn: list[Member] = []
        for member in self.members.values():
            if member.place in (Place.ACCEPTED, Place.OUT):
                continue
            if member.place is not Place.ADMITTED or member.complete_at is None:
                break
            turn.append(member)
        return turn

    def validate(self) -> None:
        """Raise AssertionError if the ledger disagrees with the places of its members."""
        places = Counter(member.place for member in self.members.values())
        assert +self._counts == +places, f"{self._counts} are counted, {places} are there"
        assert self.count(Place.ADMITTED) + self.count(Place.DISCARDING) <= max(self.most, self.plan.admit)
        if self.training:
            accepted = {member.id for member in self.members.values() if member.place is Place.ACCEPTED}
            assert accepted == self.accepted.keys()
        assert not self.in_order or list(self.accepted) == [id for id in self.members if id in self.accepted]

    def next_admission(self) -> Member | None:
        """Return the slowest waiting device, so that the round ends soon; None while G are admitted.

        A place is free again only when every seat has forgotten the device that had it. A replica of a stage has its
        share of the places, so its memory is bounded too. The emptiest replicas come first, so that no replica waits
        for work while another has more than it needs.
        """
        if self.count(Place.ADMITTED) + self.count(Place.DISCARDING) >= self.most or not self.count(Place.WAITING):
            return None
        occupying = self.at(Place.ADMITTED) + self.at(Place.DISCARDING)
        # Strictly in order: a later device must not take a place that an earlier one of the same replica waits for.
        waiting = self.at(Place.WAITING)[:1] if self.in_order else self.at(Place.WAITING)
        if not self.plan.replicated:
            return max(waiting, key=lambda member: (member.last_seconds, member.samples))
        taken = Counter(address for member in occupying for address in self.plan.chain(member.id))
        filled = {seat.address: taken[seat.address] / self._places(seat.address) for seat in self.plan.seats}

        def fullest(member: Member) -> float:
            """The share of used places at the fullest of the device's replicas."""
            return max(filled[address] for address in self.plan.chain(member.id))

        least = min(map(fullest, waiting))
        if least >= 1:
            return None
        emptiest = [member for member in waiting if fullest(member) == least]
        return max(emptiest, key=lambda member: (member.last_seconds, member.samples))

    def _places(self, seat: Address) -> int:
        # A replica that serves nobody has no places, and is never asked for any.
        return self.plan.places(seat, self.most) or 1

    @property
    def decided(self) -> bool:
        """Whether every device is accepted or out."""
        return not (self.count(Place.WAITING) or self.count(Place.ADMITTED) or self.count(Place.DISCARDING))

    @property
    def possible(self) -> int:
        """The number of devices that are accepted or may still be."""
        return len(self.accepted) + self.count(Place.WAITING) + self.count(Place.ADMITTED)

    @property
    def weight(self) -> int:
        """The training samples of the accepted devices. The sums are divided by it."""
        return sum(self.accepted.values())

    def loss(self) -> float:
        """The sample-weighted mean training loss of the accepted devices over all local epochs."""
        updates = [self.members[id].update for id in self.accepted]
        samples = sum(update.samples for update in updates if update)
        return sum(update.loss for update in updates if update) / samples if samples else 0.0
