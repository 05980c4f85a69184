"""Single machines, event by event: what the simulator found, and what it cannot reach. The others are played here."""

import pytest
from participant_rig import SESSION, TENSOR, TOPICS, Rig, device, hop, slice_of
from plans import plan

from mpsl import facts
from mpsl.errors import IllegalEvent
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import CancelTimer, EndSession, Publish, SetTimer, Stop
from mpsl.machines.events import (
    Connected,
    Disconnected,
    JobDone,
    JobFailed,
    Received,
    StopRequested,
    Subscribed,
    TimerFired,
)
from mpsl.machines.jobs import Encoded, Forward, HeadForward, Prepared, Store
from mpsl.machines.machine import as_json, from_json
from mpsl.machines.online import MAX_ECHO_WAITS
from mpsl.machines.participant import MAX_REMEMBERED
from mpsl.machines.participant_session import SILENCE_S, SILENCE_TIMER
from mpsl.machines.session_id import SessionId
from mpsl.machines.tables.device import DeviceState
from mpsl.machines.tables.hop import HopState
from mpsl.messages import (
    Accept,
    Activation,
    Admit,
    Close,
    Closed,
    CopyFailed,
    Discard,
    Discarded,
    End,
    Fault,
    Gradient,
    Message,
    Ticket,
)


def activation(attempt: int, batch: int = 0, micro: int = 0, micros: int = 1, device: str = "dev-1") -> Activation:
    return Activation(Ticket(1, 1, device, attempt, 0, batch, micro, micros), TENSOR)


# The device


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_device_begins_once_it_is_admitted_and_holds_the_whole_part_whichever_comes_first(place: int) -> None:
    rig = device()
    steps: list[Message] = [slice_of(0, 0), slice_of(0, 2)]
    steps.insert(place, Admit(1, "dev-1", "d", 1, 1))
    for step in steps[:-1]:
        rig.say("orch", step)
        assert rig.session.state is not DeviceState.TRAINING
    rig.say("orch", steps[-1])
    assert isinstance(rig.jobs()[-1], HeadForward)


def test_a_slice_that_comes_twice_does_not_make_a_part_whole() -> None:
    """A link that was begun anew sends all slices again: the first one twice is not all of two."""
    rig = device()
    rig.say("orch", Admit(1, "dev-1", "d", 1, 1))
    rig.say("orch", slice_of(0, 0))
    rig.voices["orch"].forget("dev-1")
    rig.say("orch", slice_of(0, 0))
    assert rig.session.state is DeviceState.ADMITTED
    rig.say("orch", slice_of(0, 2))
    assert rig.session.state is DeviceState.TRAINING


def test_what_was_trained_is_not_overwritten_by_a_late_repeat_of_what_it_began_with() -> None:
    rig = device()
    for offset in (0, 2):
        rig.say("orch", slice_of(0, offset))
    rig.say("orch", Admit(1, "dev-1", "d", 1, 0))  # no batches: it uploads at once
    assert rig.session.state is DeviceState.UPLOADING
    before = rig.writes()
    rig.say("orch", slice_of(0, 0))
    assert rig.writes() == before
    rig.say("orch", slice_of(1, 0))
    assert rig.writes() == before + 1


def test_a_device_that_has_trained_in_vain_begins_the_same_round_again() -> None:
    """It gets the weights that the round began with once more. A repeat of the first ones is not taken for them."""
    rig = device()
    for offset in (0, 2):
        rig.say("orch", slice_of(0, offset))
    rig.say("orch", Admit(1, "dev-1", "d", 1, 1))
    running = rig.jobs()[-2:]
    rig.say("orch", Discard(1, "dev-1", 1))
    before = rig.writes()
    rig.say("orch", slice_of(0, 0))
    assert rig.writes() == before, "a job may still change the weights"
    for job in running:
        rig.done(job)
    rig.say("orch", Admit(1, "dev-1", "d", 2, 1))
    for offset in (0, 2):
        assert rig.session.state is DeviceState.ADMITTED
        rig.say("orch", slice_of(0, offset))
    assert rig.session.state is DeviceState.TRAINING


def test_a_discard_is_answered_even_where_its_admission_was_lost_with_the_link() -> None:
    rig = device()
    rig.say("orch", Discard(1, "dev-1", 3))
    assert rig.said[-1] == Discarded("dev-1", 3)


def test_a_discard_is_answered_only_once_no_job_can_touch_the_weights() -> None:
    rig = device()
    for offset in (0, 2):
        rig.say("orch", slice_of(0, offset))
    rig.say("orch", Admit(1, "dev-1", "d", 1, 1))
    start, begin = rig.jobs()[-2:]
    rig.say("orch", Discard(1, "dev-1", 1))
    rig.done(start)
    rig.handle(JobFailed(Store("orch"), "a slice that did not fit", SESSION))
    assert Discarded("dev-1", 1) not in rig.said
    rig.handle(JobFailed(begin, "whatever", SESSION))
    assert rig.said[-1] == Discarded("dev-1", 1)


# Being in a run


def test_a_job_of_the_run_that_was_left_says_nothing_about_the_next() -> None:
    rig = Rig(DeviceMachine("dev-1", "d", TOPICS, {}))
    rig.join()
    former = rig.jobs()[0]
    rig.handle(Received(TOPICS.run(plan().run, "plan"), b""))
    assert not rig.machine.sessions
    next_plan = facts.plain(plan()) | {"run": "q-000000"}
    rig.handle(Received(TOPICS.run("q-000000", "plan"), as_json(next_plan)))
    rig.done(former, Prepared(8, samples=99))
    assert rig.session.state is DeviceState.PREPARING
    assert EndSession(SESSION) in rig.effects
    rig.handle(JobDone(rig.jobs()[-1], Prepared(8, samples=4), SessionId("q-000000", 1)))
    assert rig.session.state is DeviceState.WAITING


def test_a_cleared_plan_after_the_outcome_was_told_is_the_end_itself() -> None:
    rig = Rig(DeviceMachine("dev-1", "d", TOPICS, {}, once=True))
    rig.join()
    rig.handle(Received(TOPICS.run(plan().run, "state"), as_json({"state": "ending", "outcome": "done", "reason": ""})))
    stops = [e for e in rig.handle(Received(TOPICS.run(plan().run, "plan"), b"")) if isinstance(e, Stop)]
    assert [stop.status for stop in stops] == [0]
    with pytest.raises(IllegalEvent):
        rig.handle(StopRequested())


def test_the_will_of_another_orchestrator_of_the_run_is_not_its_end() -> None:
    rig = device()
    former = as_json({"state": "lost", "boot": "former"})
    assert rig.handle(Received(TOPICS.run(plan().run, "state"), former)) == [], "no deadline follows from it"
    rig.handle(Received(TOPICS.run(plan().run, "state"), as_json({"state": "lost", "boot": "o"})))
    assert rig.machine.sessions, "the will may come from a broker that restarts"
    rig.handle(TimerFired(SILENCE_TIMER, SESSION))
    assert rig.session.is_orphaned, "the orchestrator may be started again"
    rig.handle(TimerFired(SILENCE_TIMER, SESSION))
    assert not rig.machine.sessions


def test_a_will_that_is_taken_back_is_not_the_end() -> None:
    rig = device()
    rig.handle(Received(TOPICS.run(plan().run, "state"), as_json({"state": "lost", "boot": "o"})))
    found = rig.handle(Received(TOPICS.run(plan().run, "state"), as_json({"state": "open"})))
    (timer,) = [effect for effect in found if isinstance(effect, SetTimer)]
    assert (timer.name, round(timer.at - rig.now)) == (SILENCE_TIMER, SILENCE_S)


def test_who_left_in_silence_joins_again_and_its_links_go_on_counting() -> None:
    rig = device()
    links = rig.session.channel.links_used
    rig.handle(TimerFired(SILENCE_TIMER, SESSION))
    assert rig.machine.telemetry()[0]["waiting_for"] == "orchestrator"
    rig.handle(TimerFired(SILENCE_TIMER, SESSION))
    assert not rig.machine.sessions
    rig.handle(Received(TOPICS.run(plan().run, "plan"), as_json(facts.plain(plan()))))
    assert rig.session.channel.links_used == links > 0


def test_a_plan_of_a_higher_term_replaces_the_session_and_a_lower_one_is_dropped() -> None:
    rig = device()
    next_plan = facts.plain(plan()) | {"term": 2}
    rig.handle(Received(TOPICS.run(plan().run, "plan"), as_json(next_plan)))
    assert EndSession(SESSION, replaced=True) in rig.effects
    assert rig.session.id == SessionId(plan().run, 2)
    assert rig.session.state is DeviceState.PREPARING
    rig.handle(Received(TOPICS.run(plan().run, "plan"), as_json(facts.plain(plan()))))
    assert rig.session.id.term == 2
    assert rig.machine.dropped["plan of an earlier term"] == 1


def test_a_node_serves_two_runs_and_a_device_one_which_takes_the_other_plan_when_it_is_free() -> None:
    other = as_json(facts.plain(plan()) | {"run": "q-000000"})
    node, busy = hop(), device()
    for rig in (node, busy):
        rig.handle(Received(TOPICS.run("q-000000", "plan"), other))
    assert list(node.machine.sessions) == [plan().run, "q-000000"]
    assert list(busy.machine.sessions) == [plan().run]
    busy.say("orch", End("done", ""))
    assert list(busy.machine.sessions) == ["q-000000"]


def test_the_late_will_of_a_former_process_is_answered_with_our_status() -> None:
    rig = device()
    will = as_json({"state": "lost", "role": "device", "boot": "former"})
    (again,) = [
        e for e in rig.handle(Received(TOPICS.participant("dev", "dev-1", "status"), will)) if isinstance(e, Publish)
    ]
    assert b'"online"' in again.payload
    assert again.retain


def test_a_process_of_the_other_role_must_not_have_our_id() -> None:
    rig = device()
    online = as_json({"state": "online", "role": "node", "boot": "z", "protocol": 2})
    found = rig.handle(Received(TOPICS.participant("node", "dev-1", "status"), online))
    (stop,) = [each for each in found if isinstance(each, Stop)]
    assert stop.status == 1
    assert "this device (boot d) and a node (boot z)" in stop.reason


def test_a_process_whose_own_status_does_not_come_back_says_so_and_ends() -> None:
    rig = Rig(DeviceMachine("dev-1", "d", TOPICS, {}))
    for event in (Connected(), Subscribed(), TimerFired("announce")):
        rig.handle(event)
    found = [effect for _ in range(MAX_ECHO_WAITS) for effect in rig.handle(TimerFired("echo"))]
    (stop,) = [each for each in found if isinstance(each, Stop)]
    assert "has not returned our own status" in stop.reason
    assert sum(isinstance(each, Publish) and b'"online"' in each.payload for each in found) == MAX_ECHO_WAITS - 1


def test_a_process_that_sees_its_own_status_waits_no_longer() -> None:
    rig = device()
    status = as_json({"state": "online", "role": "device", "boot": "d", "protocol": 2})
    assert CancelTimer("echo") in rig.handle(Received(TOPICS.participant("dev", "dev-1", "status"), status))


def test_runs_that_were_left_are_remembered_up_to_a_bound() -> None:
    rig = device()
    rig.say("orch", End("done", ""))
    rig.machine._left.update({f"r-{number:06x}": 1 for number in range(MAX_REMEMBERED)})
    rig.handle(Received(TOPICS.run("q-000000", "plan"), as_json(facts.plain(plan()) | {"run": "q-000000"})))
    rig.handle(Received(TOPICS.run("q-000000", "state"), as_json({"state": "ending", "outcome": "done"})))
    rig.handle(TimerFired(SILENCE_TIMER, SessionId("q-000000", 1)))
    assert len(rig.machine._left) == MAX_REMEMBERED


def test_nobody_but_the_orchestrator_ends_a_run() -> None:
    rig = device()
    rig.say("dev-2", End("done", ""))
    rig.say("node-1", End("failed", "because"))
    assert rig.machine.sessions
    assert rig.session.dropped["end from a wrong sender"] == 2


def test_what_was_left_is_forgotten_with_its_plan() -> None:
    rig = device()
    rig.say("orch", End("done", ""))
    assert rig.machine._left
    rig.handle(Received(TOPICS.run(plan().run, "plan"), as_json(facts.plain(plan()))))
    assert not rig.machine.sessions  # the plan is still retained, but we were in that run
    rig.handle(Received(TOPICS.run(plan().run, "plan"), b""))
    assert not rig.machine._left


# The hop


def test_an_activation_before_its_admission_waits_for_it() -> None:
    rig = hop()
    assert rig.session.state is HopState.SERVING
    rig.say("dev-1", activation(2))
    assert not any(isinstance(job, Forward) for job in rig.jobs())
    rig.say("orch", Admit(1, "dev-1", "d", 1, 1))
    rig.say("orch", Discard(1, "dev-1", 1))
    rig.say("orch", Admit(1, "dev-1", "d", 2, 1))
    while not isinstance(rig.jobs()[-1], Forward):
        rig.done(rig.jobs()[-1])
    assert rig.jobs()[-1].ticket.attempt == 2


def test_what_comes_early_is_bounded() -> None:
    rig = hop()
    for batch in range(50):
        rig.say("dev-1", activation(1 + batch // 10, batch % 10))
    assert sum(len(kept) for _, kept in rig.session.early.values()) == 1


def test_of_early_activations_only_the_newest_attempts_are_kept_and_a_discard_drops_them() -> None:
    rig = hop()
    rig.say("dev-1", activation(1))
    rig.say("dev-1", activation(2))
    rig.say("dev-1", activation(1))
    assert [kept[0].ticket.attempt for _, kept in rig.session.early.values()] == [2]
    rig.say("orch", Discard(1, "dev-1", 2))
    assert not rig.session.early


def test_an_accept_that_does_not_fit_shows_at_the_close_at_the_latest() -> None:
    rig = hop()
    rig.say("orch", Accept(1, "dev-1", 1, 1, 4, 1))
    rig.say("orch", Close(1, 1, 8))
    assert any(isinstance(message, Fault) and "folded 0 devices" in message.reason for message in rig.said)


def test_a_job_that_fails_for_one_device_spoils_its_copy_and_any_other_is_the_nodes_fault() -> None:
    rig = hop()
    rig.say("orch", Admit(1, "dev-1", "d", 3, 2))
    copying = rig.jobs()[-1]
    rig.done(copying)
    rig.say("dev-1", activation(3))
    rig.handle(JobFailed(rig.jobs()[-1], "fp32: a plane of 8 bytes for 3 values", SESSION))
    assert rig.said[-1] == CopyFailed("dev-1", 3, "fp32: a plane of 8 bytes for 3 values")
    rig.handle(JobFailed(copying, "no memory", SESSION))
    assert rig.said[-1] == Fault("no memory")


def test_a_part_that_no_node_can_commit_ends_the_run_and_an_error_of_the_node_costs_it_the_seat() -> None:
    for is_unforeseen in (False, True):
        rig = hop()
        rig.say("orch", Close(1, 0, 0))
        rig.handle(JobFailed(rig.jobs()[-1], "why", SESSION, is_unforeseen=is_unforeseen))
        assert rig.said[-1] == (Fault("why") if is_unforeseen else Closed(1, 0, 0, "why"))


def test_an_activation_of_another_device_or_out_of_order_is_dropped() -> None:
    rig = hop()
    rig.say("orch", Admit(1, "dev-1", "d", 1, 2))
    rig.say("dev-1", activation(1, device="dev-2"))
    rig.say("dev-1", activation(1, batch=0, micro=1, micros=2))
    assert rig.session.dropped["activation from a wrong sender"] == 1
    assert rig.session.dropped["activation out of order"] == 1
    assert not any(isinstance(job, Forward) for job in rig.jobs())


def test_the_last_telemetry_of_a_run_says_how_it_was_before_all_is_forgotten() -> None:
    rig = hop("node-2", "b")  # it serves both devices
    rig.say("orch", Admit(1, "dev-2", "e", 1, 1))
    rig.say("orch", Admit(1, "dev-1", "d", 1, 1))
    rig.say("orch", Discard(1, "dev-2", 1))
    for _ in range(3):  # two copies are made, one is dropped
        rig.done(rig.jobs()[-1])
    rig.say("node-1", activation(1))
    rig.done(rig.jobs()[-1], Encoded(TENSOR, memory={"resident": 77}))
    rig.say("dev-1", Gradient(activation(1).ticket, TENSOR))
    rig.done(rig.jobs()[-1], Encoded(TENSOR))
    said = [
        from_json(effect.payload)
        for effect in rig.say("orch", End("done", ""))
        if isinstance(effect, Publish) and effect.topic == TOPICS.participant("node", "node-2", "tele")
    ]
    assert len(said) == 1
    told = said[0] or {}
    assert (told["run"], told["copies"], told["most_copies"], told["steps"]) == (plan().run, 1, 2, 1)
    assert told["memory"]["resident"] == 77
    # Every event is a tenth of a second: forward, done, gradient, done.
    assert told["stepped_at"] - told["began_at"] == pytest.approx(0.3)
    assert told["batches_busy_s"] == pytest.approx(0.2)
    assert rig.machine.idle_progress()["most_copies"] == 0


# What is not the moment for a message, or for a result


def test_a_message_that_the_state_does_not_allow_is_dropped_and_changes_nothing() -> None:
    rig = device()
    jobs = len(rig.jobs())
    rig.say("node-2", activation(1))
    assert rig.session.dropped["activation not in this state"] == 1
    assert len(rig.jobs()) == jobs
    assert rig.session.state is DeviceState.WAITING


def test_what_a_discarded_attempt_has_computed_is_not_sent() -> None:
    rig = device()
    for offset in (0, 2):
        rig.say("orch", slice_of(0, offset))
    rig.say("orch", Admit(1, "dev-1", "d", 1, 1))
    start, forward = rig.jobs()[-2:]
    rig.done(start)
    rig.say("orch", Discard(1, "dev-1", 1))
    rig.done(forward, Encoded(TENSOR))
    assert not any(isinstance(message, Activation) for message in rig.said)
    assert rig.said[-1] == Discarded("dev-1", 1)


def test_a_copy_that_has_not_made_all_its_steps_is_not_folded() -> None:
    rig = hop()
    rig.say("orch", Admit(1, "dev-1", "d", 1, 2))
    rig.say("orch", Accept(1, "dev-1", 1, 1, 4, 2))
    assert rig.session.dropped["accept of an unknown copy"] == 1
    assert list(rig.session.copies) == ["dev-1"]


def test_whoever_loses_its_connection_before_it_is_announced_announces_nothing_without_one() -> None:
    machine = DeviceMachine("dev-1", "d", TOPICS, {})
    machine.handle(Connected(None, True), 0.0)
    machine.handle(Subscribed(), 0.1)
    effects = machine.handle(Disconnected("the broker is gone"), 0.2)
    assert {each.name for each in effects if isinstance(each, CancelTimer)} >= {"announce", "echo"}
