"""Who is admitted next: the slowest, and where stages have replicas one whose replicas are the emptiest."""

from scenarios import Scenario

from mpsl.job import read_job
from mpsl.machines.members import Member, Passage, Place, RoundLedger
from mpsl.plan import DeviceEntry, Plan, Seat


def book(replicas: dict[str, tuple[int, ...]], most: int, in_order: bool = False) -> RoundLedger:
    """One stage with two replicas, or as many as the devices name."""
    count = 1 + max(chosen[0] for chosen in replicas.values())
    seats = tuple(Seat(1, replica, f"node-{replica}", "b", (1, 2)) for replica in range(count))
    devices = {id: DeviceEntry("b", chosen) for id, chosen in replicas.items()}
    job = read_job(Scenario(0).job(), "job")
    plan = Plan("r", 1, "b", job, 3, (1, 2), seats, devices, most, 1 << 20)
    found = RoundLedger(1, most, {id: Member(id, "b") for id in replicas}, plan, 0.0, in_order)
    found.open_to(list(replicas))
    return found


def admitted(book: RoundLedger) -> list[str]:
    order = []
    while (member := book.next_admission()) is not None:
        book.move(member, Place.ADMITTED)
        order.append(member.id)
    return order


def test_the_slowest_comes_first() -> None:
    found = book({"a": (0,), "b": (0,), "c": (0,)}, most=2)
    for id, seconds in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
        found.members[id].last_seconds = seconds
    assert admitted(found) == ["b", "c"]


def test_replicas_fill_up_evenly() -> None:
    """All of the first replica's devices are slower: even so the second does not wait until the first is full."""
    found = book({"a": (0,), "b": (0,), "c": (1,), "d": (1,)}, most=4)
    for number, member in enumerate(found.members.values()):
        member.last_seconds = 10.0 - number
    assert admitted(found) == ["a", "c", "b", "d"]


def test_a_full_replica_holds_up_only_its_own_devices() -> None:
    found = book({"a": (0,), "b": (0,), "c": (0,), "d": (1,)}, most=2)
    assert found.plan.places("1_0", 2) == 2
    for id in "abc":
        found.members[id].last_seconds = 1.0
    assert admitted(found) == ["a", "d"]
    found.move(found.members["d"], Place.ACCEPTED)
    assert admitted(found) == ["b"]


def test_a_replica_that_serves_nobody_is_asked_nothing() -> None:
    found = book({"a": (1,), "b": (1,)}, most=2)
    assert admitted(found) == ["a", "b"]


def test_in_the_order_of_the_roster_the_slowest_does_not_come_first() -> None:
    found = book({"a": (0,), "b": (0,), "c": (0,)}, most=2, in_order=True)
    for id, seconds in (("a", 1.0), ("b", 3.0), ("c", 9.0)):
        found.members[id].last_seconds = seconds
    assert admitted(found) == ["a", "b"]


def test_in_order_a_later_device_does_not_take_the_place_that_an_earlier_one_waits_for() -> None:
    """b waits for a's replica: d could begin at the other one, but then b might never be its turn."""
    found = book({"a": (0,), "b": (0,), "c": (0,), "d": (1,)}, most=2, in_order=True)
    assert admitted(found) == ["a", "b"]
    found.move(found.members["a"], Place.ACCEPTED)
    assert admitted(found) == ["c"]


def test_in_order_a_complete_update_waits_until_those_before_it_are_accepted_or_out() -> None:
    found = book({"a": (0,), "b": (0,), "c": (0,)}, most=3, in_order=True)
    admitted(found)
    found.members["c"].complete_at = 1.0
    found.members["b"].complete_at = 2.0
    assert found.acceptable() == []
    found.move(found.members["a"], Place.DISCARDING)
    assert found.acceptable() == [], "its seats have yet to forget it"
    found.move(found.members["a"], Place.OUT)
    assert [member.id for member in found.acceptable()] == ["b", "c"]
    free = book({"a": (0,), "b": (0,)}, most=2)
    admitted(free)
    free.members["b"].complete_at = 1.0
    assert [member.id for member in free.acceptable()] == ["b"]


def test_the_ledger_notes_when_a_device_passes_through_the_round() -> None:
    """Seconds since the opening, whatever the clock says; why a device is left out, from the opening on."""
    found = book({"a": (0,), "b": (0,), "c": (0,), "d": (0,)}, most=3, in_order=True)
    found.opened_at = 100.0
    found.members["d"].refusal = "node-1: no memory"
    found.open_to(["a", "b"])
    for id in "ab":
        found.admit(found.members[id], 101.0)
    found.members["a"].complete_at = 103.0
    found.accept(found.members["a"], 104.0)
    found.leave_out(found.members["b"], Place.DISCARDING, 105.0, "is lost")
    assert found.passages == {
        "a": Passage(1, 1.0, 3.0, 4.0),
        "b": Passage(1, 1.0, left_out_s=5.0),
        "c": Passage(left_out_s=0.0),
        "d": Passage(left_out_s=0.0),
    }
    assert [found.members[id].left_out for id in "abcd"] == ["", "is lost", "was not there", "node-1: no memory"]
    assert [found.members[id].place for id in "abcd"] == [Place.ACCEPTED, Place.DISCARDING, Place.OUT, Place.OUT]


def test_an_update_that_is_complete_and_left_out_was_complete() -> None:
    found = book({"a": (0,), "b": (0,)}, most=2, in_order=True)
    found.admit(found.members["b"], 1.0)
    found.members["b"].complete_at = 2.0
    found.leave_out(found.members["b"], Place.OUT, 3.0, "is lost")
    assert found.passages["b"] == Passage(1, 1.0, 2.0, None, 3.0)


def test_of_a_device_that_is_readmitted_the_last_try_is_noted() -> None:
    found = book({"a": (0,), "b": (0,)}, most=2)
    found.admit(found.members["a"], 1.0)
    found.leave_out(found.members["a"], Place.OUT, 2.0, "is lost")
    assert found.readmit(found.members["a"])
    assert (found.passages["a"], found.members["a"].left_out) == (Passage(1), "")
    found.admit(found.members["a"], 3.0)
    found.accept(found.members["a"], 4.0)
    assert found.passages["a"] == Passage(2, 3.0, None, 4.0)


def test_a_device_that_comes_in_the_middle_of_the_round_is_out_until_it_is_ready() -> None:
    found = book({"a": (0,)}, most=2)
    found.add(Member("b", "b"))
    assert found.passages["b"] == Passage(left_out_s=0.0)
    assert found.members["b"].left_out == "came during the round"
    found.validate()
