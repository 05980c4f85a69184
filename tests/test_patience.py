"""Whoever is at work over a slow link is waited for; whoever is dead is noticed as soon as on a fast one."""

from math import inf

import pytest
from orchestrator_rig import BOOTS, RUN, TENSOR, OrchestratorRig, rig
from participant_rig import SESSION, device, slice_of

from mpsl.link.channel import Channel, Limits, Peer
from mpsl.link.rate import FIRST_WINDOW
from mpsl.machines.census import STALE_S
from mpsl.machines.events import Received, TimerFired
from mpsl.machines.machine import as_json
from mpsl.machines.members import Place
from mpsl.machines.orchestrator import OrchestratorState as S
from mpsl.machines.orchestrator.departures import FIRST_PATIENCE_S, STALL_S
from mpsl.machines.orchestrator.patience import Patience
from mpsl.machines.participant_session import SILENCE_S, SILENCE_TIMER
from mpsl.messages import Slice, Tensor
from mpsl.topics import BinaryTopic


def opened() -> OrchestratorRig:
    found = rig(fleet__quorum=1)
    found.open()
    return found


def place(found: OrchestratorRig, id: str) -> Place:
    return found.machine.run_state.members[id].place


def long_message(found: OrchestratorRig, source: str, size: int = 400_000) -> list[Received]:
    """The chunks of one message, a slice of so many bytes, as they would arrive one by one."""
    sender, attempt = found.voices[source], found.machine.run_state.members[source].attempt
    tensor = Tensor("raw", "uint8", (size,), (memoryview(bytes(size)),))
    payloads = sender.send("orch", Slice("update", 1, attempt, 0, 0, 0, tensor), found.now)
    receiver = Channel(sender._topics, RUN, "orch", "o", 1, Limits(message=1 << 20))
    receiver.set_peers({source: Peer(BOOTS[source], source)})
    for payload in payloads:  # the list grows: every acknowledgement lets more chunks go
        topic = sender._topics.parse(payload.topic)
        assert isinstance(topic, BinaryTopic)
        for answer in receiver.receive(topic, bytes(payload.payload), found.now)[1] + receiver.due(inf):
            back = sender._topics.parse(answer.topic)
            assert isinstance(back, BinaryTopic)
            payloads += sender.receive(back, bytes(answer.payload), found.now)[1]
    return [Received(each.topic, bytes(each.payload)) for each in payloads]


def test_any_chunk_is_a_sign_of_life_where_telemetry_does_not_get_through() -> None:
    found = opened()
    chunks = long_message(found, "dev-1")
    assert len(chunks) >= 4
    for chunk in chunks:
        found.handle(chunk)
        found.be_online("node-1", RUN)
        found.watch(STALE_S - 1)
    assert found.state is S.OPEN
    assert place(found, "dev-1") is Place.ADMITTED
    assert place(found, "dev-2") is Place.DISCARDING, "it has said nothing at all"
    for _ in range(2):
        found.be_online("node-1", RUN)
        found.watch(STALE_S / 2 + 0.5)
    assert place(found, "dev-1") is Place.DISCARDING, "its last chunk was more than STALE_S ago"


def test_a_chunk_of_another_boot_is_no_sign_of_life() -> None:
    found = opened()
    former = Channel(found.machine.topics, RUN, "dev-1", "former", 1, Limits(message=1 << 20))
    former.set_peers({"orch": Peer("o", "orch")})
    for _ in range(4):
        for each in former.send("orch", Slice("update", 1, 1, 0, 0, 0, TENSOR), found.now):
            found.handle(Received(each.topic, bytes(each.payload)))
        found.be_online("node-1", RUN)
        found.watch(STALE_S / 3)
    assert place(found, "dev-1") is Place.DISCARDING


def test_the_chunks_of_one_long_message_are_progress() -> None:
    """A slice of a MiB takes minutes over some links; its first chunk is not all that is new."""
    found = opened()
    for chunk in long_message(found, "dev-1"):
        found.handle(chunk)
        for _ in range(11):
            for id in BOOTS:
                found.be_online(id, RUN)
            found.watch(FIRST_PATIENCE_S / 12)
    assert place(found, "dev-1") is Place.ADMITTED
    assert place(found, "dev-2") is Place.DISCARDING


class Fixed(Patience):
    """What is in flight takes so many seconds."""

    def __init__(self, found: OrchestratorRig, seconds: float) -> None:
        super().__init__(found.machine.context)
        session = found.machine.context.session
        assert session is not None
        session.channel.seconds_under_way = lambda to: seconds  # type: ignore[method-assign]


@pytest.mark.parametrize(("under_way", "allowed"), [(0.0, 0.0), (2.0, 2.0), (40.0, 40.0), (1e6, 90.0)])
def test_a_deadline_follows_what_is_in_flight_and_never_more_than_doubles(under_way: float, allowed: float) -> None:
    found = opened()
    patience = Fixed(found, under_way)
    assert patience.allowance_s(90.0, "dev-1") == allowed
    since = found.machine.context.now
    found.machine.context.now += 90.0 + allowed
    assert not patience.is_over(since, 90.0, "dev-1")
    found.machine.context.now += 0.1
    assert patience.is_over(since, 90.0, "dev-1")


@pytest.mark.parametrize(("under_way", "silent_after"), [(0.0, STALE_S), (20.0, STALE_S + 20.0)])
def test_a_device_is_silent_once_what_is_in_flight_should_have_been_there(
    under_way: float, silent_after: float
) -> None:
    found = opened()
    found.step_s = 0.0
    found.be_online("dev-1", RUN)
    Fixed(found, under_way)
    for at in range(1, int(silent_after + 5)):
        found.be_online("node-1", RUN)
        found.watch(1.0)
        assert (place(found, "dev-1") is Place.DISCARDING) is (at > silent_after), f"after {at} s"


def test_a_step_that_stands_still_is_given_what_is_in_flight() -> None:
    found = rig()
    found.join()
    found.export()
    assert found.state is S.LOADING
    Fixed(found, 50.0)
    for _ in range(int((STALL_S + 40.0) / 10)):
        for id in BOOTS:
            found.be_online(id, RUN)
        found.watch(10.0)
    assert found.state is S.LOADING
    for id in BOOTS:
        found.be_online(id, RUN)
    found.watch(20.0)
    assert found.state is S.ENDING


def test_what_is_in_flight_takes_what_was_measured_and_does_not_grow_while_nothing_is_answered() -> None:
    a, b = (Channel(rig().machine.topics, RUN, id, f"boot-{id}", 1, Limits()) for id in "ab")
    a.set_peers({"b": Peer("boot-b", "b")})
    b.set_peers({"a": Peer("boot-a", "a")})
    tensor = Tensor("raw", "uint8", (3_000_000,), (memoryview(bytes(3_000_000)),))
    payloads = a.send("b", Slice("global", 1, 0, 1, 0, 0, tensor), 0.0)
    assert a.seconds_under_way("b") == 0.0, "nothing has been measured"
    now = 0.0
    for payload in payloads[:2]:
        now += len(payload.payload) / 10_000
        topic = a._topics.parse(payload.topic)
        assert isinstance(topic, BinaryTopic)
        for answer in b.receive(topic, bytes(payload.payload), now)[1] + b.due(inf):
            back = a._topics.parse(answer.topic)
            assert isinstance(back, BinaryTopic)
            payloads += a.receive(back, bytes(answer.payload), now)[1]
    expected = a.in_flight_bytes / 10_000
    assert 0 < a.in_flight_bytes <= FIRST_WINDOW
    assert a.seconds_under_way("b") == pytest.approx(expected, rel=0.1)
    assert a.seconds_under_way("c") == 0.0
    for later in range(1, 20):
        a.due(now + 60.0 * later)
    assert a.seconds_under_way("b") == pytest.approx(expected, rel=0.1)


def test_a_run_goes_on_without_the_orchestrators_state_while_its_chunks_come() -> None:
    found = device()
    for offset in (0, 8):
        found.now += SILENCE_S - 5.0
        found.say("orch", slice_of(0, offset))
        found.handle(TimerFired(SILENCE_TIMER, SESSION))
        assert not found.session.is_orphaned
    found.now += SILENCE_S
    found.handle(TimerFired(SILENCE_TIMER, SESSION))
    assert found.session.is_orphaned


def test_a_last_will_is_believed_whatever_came_over_the_link_before() -> None:
    found = device()
    found.say("orch", slice_of(0, 0))
    state = found.machine.topics.run(found.session.plan.run, "state")
    found.handle(Received(state, as_json({"state": "lost", "boot": "o"})))
    found.say("orch", slice_of(0, 8))
    found.handle(TimerFired(SILENCE_TIMER, SESSION))
    assert found.session.is_orphaned


def test_a_chunk_of_the_orchestrator_ends_the_wait_for_it() -> None:
    found = device()
    found.now += SILENCE_S
    found.handle(TimerFired(SILENCE_TIMER, SESSION))
    assert found.session.is_orphaned
    found.say("orch", slice_of(0, 0))
    assert not found.session.is_orphaned
    found.now += SILENCE_S - 5.0
    found.handle(TimerFired(SILENCE_TIMER, SESSION))
    assert not found.session.is_orphaned
