"""The orchestrator alone: what it accepts, whom it waits for and how long, and what it does not believe."""

import pytest
from orchestrator_rig import BATCHES, BOOTS, PART_BYTES, RUN, TENSOR, OrchestratorRig, rig

from mpsl import PROTOCOL
from mpsl.machines.census import STALE_S
from mpsl.machines.effects import SetTimer
from mpsl.machines.events import Connected, Disconnected, Received, Subscribed, TimerFired
from mpsl.machines.jobs import Export
from mpsl.machines.members import Place
from mpsl.machines.orchestrator import OrchestratorState as S
from mpsl.machines.orchestrator.admissions import REJOIN_S
from mpsl.machines.orchestrator.departures import FIRST_PATIENCE_S, STALL_S
from mpsl.machines.orchestrator.pace import Pace
from mpsl.machines.orchestrator_jobs import Checkpoint, CheckUpdate, Finish, FoldUpdate, RecordRound
from mpsl.machines.session import LOST_GRACE_S
from mpsl.messages import (
    Accept,
    Closed,
    Counters,
    Discarded,
    Evaluate,
    Finished,
    Keep,
    Purpose,
    Score,
    Sent,
    Slice,
    Update,
)


def opened(**changes: object) -> OrchestratorRig:
    """A run whose first round is open, both devices admitted."""
    found = rig(**changes)
    found.open()
    assert found.state is S.OPEN
    return found


def accepted(**changes: object) -> OrchestratorRig:
    """A run whose first round is closing."""
    found = opened(**changes)
    for id in BATCHES:
        found.finish(id)
        found.done(CheckUpdate)
    assert found.state is S.CLOSING
    return found


def test_a_fleet_is_waited_for_to_the_last_device() -> None:
    found = rig(fleet__devices=3)
    found.handle(Connected())
    for id in ("node-1", "dev-1", "dev-2"):
        found.be_online(id)
    assert found.machine.waiting_for() == ["1 more device"]


# Accepting


def test_an_update_is_accepted_once_slices_every_hop_and_its_own_word_agree_and_it_is_finite() -> None:
    found = opened()
    found.finish("dev-1")
    assert not any(isinstance(message, Accept) for message in found.heard["dev-1"])
    found.done(CheckUpdate)
    assert any(isinstance(message, Accept) for message in found.heard["dev-1"])
    assert list(found.machine.run_state.need_ledger().accepted) == ["dev-1"]


@pytest.mark.parametrize("left_out", ["slice", "finished", "update"])
def test_nothing_is_checked_while_a_piece_is_missing(left_out: str) -> None:
    found = opened()
    attempt = found.machine.run_state.members["dev-1"].attempt
    said = {
        "slice": ("dev-1", Slice("update", 1, attempt, 0, 0, 0, TENSOR)),
        "finished": ("node-1", Finished(1, "dev-1", attempt, BATCHES["dev-1"])),
        "update": ("dev-1", Update(1, attempt, BATCHES["dev-1"], 8, 1.0, 1.0)),
    }
    for name, (source, message) in said.items():
        if name != left_out:
            found.say(source, message)
    assert not found.jobs(CheckUpdate)


@pytest.mark.parametrize("changes", [{"batches": 1}, {"batches": 3}, {"samples": 9}, {"samples": 2**62}])
def test_an_update_that_counts_otherwise_is_not_checked_and_its_device_left_out(changes: dict[str, int]) -> None:
    found = opened(fleet__quorum=1)
    found.finish("dev-1", **changes)
    assert not found.jobs(CheckUpdate)
    assert found.machine.run_state.members["dev-1"].place is Place.DISCARDING


def test_a_hop_that_counts_otherwise_is_not_believed() -> None:
    found = opened()
    member = found.machine.run_state.members["dev-1"]
    found.say("node-1", Finished(1, "dev-1", member.attempt, BATCHES["dev-1"] - 1))
    assert not member.finished


def test_a_device_that_was_left_out_is_admitted_again_only_once_it_has_forgotten_the_attempt() -> None:
    found = opened(fleet__quorum=1)
    found.finish("dev-1", batches=1)
    member = found.machine.run_state.members["dev-1"]
    assert not member.discard_acked
    found.say("node-1", Discarded("dev-1", member.attempt))
    assert (member.place, member.discard_acked) == (Place.OUT, False)
    found.say("dev-1", Discarded("dev-1", member.attempt))
    assert member.discard_acked


def came_back() -> OrchestratorRig:
    """A round that waits for dev-2 alone, which comes back as a new process."""
    found = opened(fleet__quorum=1)
    found.finish("dev-1")
    found.done(CheckUpdate)
    attempt = found.machine.run_state.members["dev-2"].attempt
    found.tell("dev", "dev-2", "status", state="online", role="device", protocol=PROTOCOL, version="1", boot="d2-new")
    found.tell("dev", "dev-2", "info", run=None, samples=4, boot="d2-new")
    found.say("node-1", Discarded("dev-2", attempt))
    return found


def test_a_round_waits_for_the_last_device_where_it_has_come_back_as_a_new_process() -> None:
    found = came_back()
    assert found.state is S.OPEN
    assert found.machine.waiting_for() == ["dev-2"]
    found.watch(REJOIN_S - 1.0)
    assert found.state is S.OPEN
    found.watch(1.5)
    assert found.state is S.CLOSING
    assert list(found.machine.run_state.need_ledger().accepted) == ["dev-1"]


def test_a_round_does_not_wait_for_a_device_that_came_back_and_has_gone_again() -> None:
    found = came_back()
    found.tell("dev", "dev-2", "status", state="offline", role="device", protocol=PROTOCOL, version="1", boot="d2-new")
    assert found.state is S.CLOSING


def test_an_update_that_is_not_finite_costs_its_device_the_run_and_nobody_else() -> None:
    found = opened(fleet__quorum=1)
    found.finish("dev-1")
    found.failed(CheckUpdate, "the update of dev-1 is not finite")
    assert "not finite" in found.machine.run_state.members["dev-1"].refusal
    assert found.state is S.OPEN


# Closing and committing


def test_a_round_is_averaged_once_every_seat_has_closed_and_every_update_is_added_up() -> None:
    found = accepted()
    found.close()
    assert found.state is S.CLOSING, "two updates have yet to be added up"
    found.done(FoldUpdate, number=0)
    assert found.state is S.CLOSING
    found.done(FoldUpdate)
    assert found.state is S.AVERAGING


@pytest.mark.parametrize("weight", [11, 13, 0, 2**62])
def test_a_seat_that_has_folded_another_weight_fails_the_run(weight: int) -> None:
    found = accepted()
    found.close(weight)
    assert found.state is S.ENDING
    assert f"seat 1_0 folded {weight} samples, 12 were accepted" in found.machine.summary["reason"]


def test_the_word_of_another_round_is_dropped() -> None:
    found = accepted()
    found.say("node-1", Closed(0, 2, 12))
    assert found.machine.run_state.waiting_seats == {"1_0"}
    assert found.machine.context.dropped["closed of another attempt"] == 1


@pytest.mark.parametrize("purpose", ["sum", "part"])
def test_a_part_of_another_round_is_dropped(purpose: Purpose) -> None:
    found = accepted()
    found.say("node-1", Slice(purpose, 0, 0, 1, 0, 0, TENSOR))
    found.say("node-1", Sent(purpose, 0, "digest"))
    assert found.machine.context.dropped["slice of another round"] == 1
    assert found.machine.context.dropped["sent of another round"] == 1


def test_the_last_round_is_evaluated_whatever_evaluate_every_says() -> None:
    found = rig(run__evaluate_every=2, run__rounds=1)
    found.open()
    for id in BATCHES:
        found.finish(id)
        found.done(CheckUpdate)
    found.close()
    for number in (0, 1):
        found.done(FoldUpdate, number=number)
    found.average()
    assert found.state is S.EVALUATING


def evaluating() -> OrchestratorRig:
    found = rig(run__rounds=1)
    found.open()
    for id in BATCHES:
        found.finish(id)
        found.done(CheckUpdate)
    found.close()
    for number in (0, 1):
        found.done(FoldUpdate, number=number)
    found.average()
    found.export()
    assert found.state is S.EVALUATING
    assert any(isinstance(message, Evaluate) for message in found.heard["dev-1"])
    return found


def test_accuracy_is_what_the_devices_counted_and_a_score_of_another_attempt_does_not_count() -> None:
    found = evaluating()
    members = found.machine.run_state.members
    found.say("dev-1", Score(1, members["dev-1"].attempt - 1, 9, 9, 1.0))
    assert not found.machine.run_state.need_ledger().scores
    found.say("dev-1", Score(1, members["dev-1"].attempt, 2, 3, 1.5))
    found.say("dev-2", Score(1, members["dev-2"].attempt, 1, 3, 1.5))
    assert found.machine.summary["accuracy"] == 0.5


def test_a_run_that_ends_says_so_once_everyone_has_heard_and_the_summary_is_written() -> None:
    found = evaluating()
    members = found.machine.run_state.members
    for id in BATCHES:
        found.say(id, Score(1, members[id].attempt, 1, 2, 1.0))
    assert found.machine.waiting_for() == ["node-1"], "its part is not here yet"
    found.checkpoint()
    for id in ("dev-1", "dev-2", "node-1"):
        found.say(id, Counters(1, 10, 10))
    assert found.state is S.REPORTING, "the round is not recorded yet"
    found.done(RecordRound)
    assert found.state is S.ENDING
    assert len(found.metrics()) == 1
    found.done(Finish)
    assert [stop.status for stop in found.stops()] == [0]


@pytest.mark.parametrize(("correct", "total", "loss"), [(4, 3, 1.0), (-1, 3, 1.0), (1, 3, -1.0), (1, 3, float("-inf"))])
def test_a_score_that_cannot_be_costs_its_device_the_evaluation_and_nobody_else(
    correct: int, total: int, loss: float
) -> None:
    found = evaluating()
    members = found.machine.run_state.members
    found.say("dev-1", Score(1, members["dev-1"].attempt, correct, total, loss))
    found.say("dev-2", Score(1, members["dev-2"].attempt, 1, 4, 2.0))
    assert "score is impossible" in members["dev-1"].refusal
    assert found.machine.summary["accuracy"] == 0.25


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_test_loss_that_is_not_finite_is_the_model_s_and_does_not_cost_the_device_the_run(loss: float) -> None:
    found = evaluating()
    members = found.machine.run_state.members
    found.say("dev-1", Score(1, members["dev-1"].attempt, 1, 2, loss))
    found.say("dev-2", Score(1, members["dev-2"].attempt, 1, 2, 1.0))
    assert not members["dev-1"].refusal
    assert found.machine.summary["accuracy"] == 0.5
    found.checkpoint()
    for id in ("dev-1", "dev-2", "node-1"):
        found.say(id, Counters(1, 10, 10))
    assert [round["test_loss"] for round in found.metrics()] == [None]
    assert [log.facts["device"] for log in found.logged("test-loss-not-finite")] == ["dev-1"]


@pytest.mark.parametrize("changes", [{"loss": float("nan")}, {"loss": float("inf")}, {"seconds": float("nan")}])
def test_an_update_whose_figures_are_not_finite_is_not_checked(changes: dict[str, float]) -> None:
    found = opened(fleet__quorum=1)
    found.finish("dev-1", **changes)
    assert not found.jobs(CheckUpdate)
    assert "not finite" in found.machine.run_state.members["dev-1"].refusal


def test_every_device_has_its_own_line() -> None:
    found = evaluating()
    members = found.machine.run_state.members
    found.say("dev-1", Score(1, members["dev-1"].attempt, 1, 2, 3.0))
    found.say("dev-2", Score(1, members["dev-2"].attempt, 3, 4, 2.0))
    found.checkpoint()
    for id in ("dev-1", "dev-2", "node-1"):
        found.say(id, Counters(1, 10, 10))
    (work,) = found.jobs(RecordRound)
    assert isinstance(work.job, RecordRound)
    first = work.job.devices[0]
    assert (first["device"], first["loss"], first["samples"], first["batches"]) == ("dev-1", 1.0 / 8, 8, 2)
    assert (first["accuracy"], first["test_loss"], first["test_samples"]) == (0.5, 1.5, 2)
    assert [line["device"] for line in work.job.devices] == ["dev-1", "dev-2"]
    assert work.job.metrics["test_loss"] == 5.0 / 6


def test_a_device_that_is_left_out_has_its_own_line_with_the_reason() -> None:
    found = opened(fleet__quorum=1, fleet__admit=1, fleet__round_timeout_s=60.0)
    found.finish("dev-1")
    found.done(CheckUpdate)
    found.tell("dev", "dev-2", "status", state="offline")
    found.say("node-1", Discarded("dev-2", found.machine.run_state.members["dev-2"].attempt))
    assert found.state is S.CLOSING
    found.done(FoldUpdate)
    found.close(weight=8)
    found.average()
    found.export()
    found.say("dev-1", Score(1, found.machine.run_state.members["dev-1"].attempt, 1, 2, 3.0))
    for id in ("dev-1", "node-1"):
        found.say(id, Counters(1, 10, 10))
    found.checkpoint()
    (work,) = found.jobs(RecordRound)
    assert isinstance(work.job, RecordRound)
    first, second = work.job.devices
    assert 0 <= first["admitted_s"] < first["complete_s"] == first["accepted_s"] < work.job.metrics["seconds"]
    assert (first["left_out_s"], first["left_out"]) == (None, None)
    assert (second["device"], second["contributed"], second["left_out"]) == ("dev-2", False, "is offline")
    assert (second["samples"], second["accuracy"], second["accepted_s"]) == (None, None, None)
    assert first["accepted_s"] <= second["admitted_s"] <= second["left_out_s"] < work.job.metrics["seconds"]


def test_who_is_still_waiting_when_the_time_of_a_round_is_over_is_left_out_with_that_reason() -> None:
    found = opened(fleet__quorum=1, fleet__admit=1, fleet__round_timeout_s=60.0)
    found.now += 60.0
    found.handle(TimerFired("round"))
    passages, members = found.machine.run_state.need_ledger().passages, found.machine.run_state.members
    assert members["dev-1"].left_out == "was not done after round_timeout_s = 60 s"
    assert members["dev-2"].left_out == "was not admitted within round_timeout_s = 60 s"
    assert passages["dev-2"].admitted_s is None
    assert 60.0 < (passages["dev-2"].left_out_s or 0.0) < 61.0


# Durable


def closed(**changes: object) -> OrchestratorRig:
    """A run whose first round is closed and whose second one is open; the first is not on disk."""
    found = accepted(run__evaluate_every=2, **changes)
    found.close()
    for number in (0, 1):
        found.done(FoldUpdate, number=number)
    found.average()
    assert found.state is S.REPORTING
    for id in ("dev-1", "dev-2", "node-1"):
        found.say(id, Counters(1, 10, 10))
    assert found.state is S.OPEN
    found.export()
    assert (found.machine.run_state.round, found.machine.run_state.durable) == (2, 0)
    return found


def test_the_next_round_opens_before_the_last_one_is_on_disk_which_is_recorded_only_then() -> None:
    found = closed()
    assert not found.metrics()
    found.send_part()
    assert not found.metrics(), "the part is here, but not on disk"
    found.done(Checkpoint)
    (metrics,) = found.metrics()
    assert metrics["round"] == 1
    assert metrics["durable_s"] > 0


@pytest.mark.parametrize("missing", ["slice", "sent"])
def test_a_part_of_which_something_is_missing_is_not_written(missing: str) -> None:
    found = closed()
    if missing != "slice":
        found.say("node-1", Slice("part", 1, 0, 1, 0, 0, TENSOR))
    if missing != "sent":
        found.say("node-1", Sent("part", 1, "digest"))
    assert not found.jobs(Checkpoint)


def test_a_round_closes_only_once_the_one_before_is_on_disk_and_recorded() -> None:
    found = closed()
    for id in BATCHES:
        found.finish(id)
        found.done(CheckUpdate)
    assert found.state is S.OPEN
    assert found.machine.waiting_for() == ["node-1"]
    found.send_part()
    assert found.machine.waiting_for() == ["the disk"]
    found.done(Checkpoint)
    assert found.state is S.OPEN
    found.done(RecordRound)
    assert found.state is S.CLOSING


def test_a_seat_that_never_sends_its_committed_part_is_lost_once_only_that_is_waited_for() -> None:
    found = closed()
    for id in BATCHES:
        found.finish(id)
        found.done(CheckUpdate)
    keep_alive(found, STALL_S + 20.0)
    assert "has sent nothing new for 90 s" in found.machine.run_state.term_reason or found.state is S.ENDING


def test_a_closed_round_is_made_again_where_a_seat_is_lost_before_its_part_is_here() -> None:
    found = closed()
    found.lose_node()
    state = found.machine.run_state
    assert (state.committed, state.round, state.durable) == (0, 0, 0)
    found.be_online("node-1")
    assert state.need_plan().round == 0
    assert not found.metrics()


def test_a_closed_round_that_is_being_written_when_a_seat_is_lost_is_kept() -> None:
    found = closed()
    found.send_part()
    found.lose_node()
    found.be_online("node-1")
    assert found.state is S.RESEATING
    assert found.machine.waiting_for() == ["the disk"]
    found.done(Checkpoint)
    found.done(RecordRound)
    assert found.state is S.JOINING
    assert found.machine.run_state.need_plan().round == 1
    assert [entry["round"] for entry in found.metrics()] == [1]


def test_a_part_that_is_not_finite_ends_the_run_and_the_last_model_stays() -> None:
    found = accepted()
    found.say("node-1", Closed(1, 2, 12, "the part of seat 1_0 is not finite after round 1"))
    assert found.state is S.ENDING
    assert found.machine.summary["reason"] == "the part of seat 1_0 is not finite after round 1"
    assert not found.jobs(Checkpoint)


# Waiting


def test_a_run_that_fails_has_exit_status_1() -> None:
    found = accepted()
    found.close(weight=1)
    found.done(Finish)
    assert [stop.status for stop in found.stops()] == [1]


def test_a_broker_that_does_not_come_back_ends_the_run_although_every_attempt_to_connect_fails_anew() -> None:
    found = opened(fleet__patience_s=60.0)
    found.handle(Disconnected("the connection was lost"))
    due = next(e.at for e in reversed(found.effects) if isinstance(e, SetTimer) and e.name == "broker")
    for _ in range(4):
        found.now += 20.0
        found.handle(Disconnected("connection refused"))
    timers = [effect for effect in found.effects if isinstance(effect, SetTimer) and effect.name == "broker"]
    assert {timer.at for timer in timers} == {due}
    assert len(found.logged("disconnected")) == 1
    found.handle(TimerFired("broker"))
    assert "the broker was not reached again within patience_s = 60 s" in found.machine.summary["reason"]


def keep_alive(found: OrchestratorRig, seconds: float) -> None:
    """Everyone's telemetry goes on, and says nothing new."""
    for _ in range(int(seconds / 10)):
        for id in BOOTS:
            found.be_online(id, RUN)
        found.watch(10.0)


def test_a_step_in_which_nothing_new_comes_fails_and_names_a_likely_cause() -> None:
    found = accepted()
    keep_alive(found, STALL_S + 20.0)
    reason = found.machine.summary["reason"]
    assert found.state is S.ENDING
    for part in ("closing: nothing new for 90 s", "node-1", "access rules", "/seat/r-000000/1_0/+/orch", "bytes"):
        assert part in reason, reason


def test_a_process_that_stood_still_blames_nobody_for_its_own_silence() -> None:
    """Be it stopped, or its clock set: the deadlines of all others and of the run are later."""
    found = accepted(fleet__round_timeout_s=30.0)
    found.now += 10 * STALL_S
    found.watch()
    assert found.state is S.CLOSING
    keep_alive(found, STALL_S + 20.0)
    assert "closing: nothing new for 90 s" in found.machine.summary["reason"]


def test_the_timers_of_a_process_that_stood_still_are_later() -> None:
    found = opened(fleet__round_timeout_s=30.0)
    before = [effect.at for effect in found.effects if isinstance(effect, SetTimer) and effect.name == "round"]
    found.now += 1000.0
    found.watch()
    after = [effect.at for effect in found.effects if isinstance(effect, SetTimer) and effect.name == "round"]
    assert len(before) == 1
    assert after[-1] - before[-1] == pytest.approx(1000.0, abs=2.0)


def test_nobody_is_silent_while_the_orchestrator_itself_has_no_connection() -> None:
    found = opened()
    found.handle(Disconnected("the broker is gone"))
    found.watch(2 * STALE_S)
    found.handle(Connected())
    found.handle(Subscribed())
    found.watch()
    assert found.state is S.OPEN
    assert found.machine.run_state.members["dev-1"].place is Place.ADMITTED
    found.watch(2 * STALE_S)
    assert found.machine.run_state.members["dev-1"].place is not Place.ADMITTED


def test_messages_that_are_only_repeated_are_no_progress() -> None:
    found = accepted()
    outbound = found.voices["node-1"].send("orch", Closed(0, 2, 12), found.now)

    for _ in range(int((STALL_S + 20.0) / 10)):
        for id in BOOTS:
            found.be_online(id, RUN)
        for each in outbound:
            found.handle(Received(each.topic, bytes(each.payload)))
        found.watch(10.0)
    assert found.state is S.ENDING


def test_a_device_without_progress_is_left_out_though_its_telemetry_goes_on() -> None:
    found = opened(fleet__quorum=1)
    keep_alive(found, FIRST_PATIENCE_S + 20.0)
    assert found.machine.run_state.members["dev-1"].place is Place.DISCARDING or found.state is S.ENDING


def test_a_last_will_is_believed_after_its_grace_time() -> None:
    found = opened(fleet__quorum=1)
    found.tell("dev", "dev-1", "status", state="lost")
    assert found.machine.run_state.members["dev-1"].place is Place.ADMITTED
    found.watch(LOST_GRACE_S / 2)
    assert found.machine.run_state.members["dev-1"].place is Place.ADMITTED
    found.watch(LOST_GRACE_S)
    assert found.machine.run_state.members["dev-1"].place is Place.DISCARDING


def test_a_node_that_leaves_the_run_by_itself_is_seated_again() -> None:
    found = opened()
    found.tell("node", "node-1", "info", run=None)
    assert found.machine.run_state.term == 2
    assert found.machine.run_state.term_reason == "node node-1 (seat 1_0) is no longer in the run"
    assert found.state.name == "JOINING"


def test_a_part_is_one_slice_here() -> None:
    assert TENSOR.nbytes == PART_BYTES


def test_a_node_that_is_lost_again_and_again_holds_the_run_up_no_longer_than_patience_s() -> None:
    found, first = opened(), None
    for _ in range(3):
        found.lose_node()
        first = first or found.now
        timer = [each for each in found.effects if isinstance(each, SetTimer) and each.name == "patience"][-1]
        assert timer.at == pytest.approx(first + found.machine.run_state.job.fleet.patience_s)
        found.watch(50.0)
        found.be_online("node-1")
        found.answer_plan()


def test_under_a_new_term_no_more_devices_are_in_than_its_plan_allows() -> None:
    found = opened()
    admissions = found.machine._admissions
    admissions._pace = Pace(9, 9)
    found.lose_node()
    found.be_online("node-1")
    found.answer_plan()
    found.load()
    assert found.machine.run_state.need_ledger().most == found.machine.run_state.need_plan().admit < 9


@pytest.mark.parametrize(("held", "is_kept"), [("d1", True), ("d2", False), ("", False)])
def test_a_part_that_a_seat_still_holds_is_not_sent_again(held: str, is_kept: bool) -> None:
    found = opened()
    exports = len(found.jobs(Export))
    found.lose_node()
    found.be_online("node-1")
    found.answer_plan(held, "d1")
    assert found.state is S.LOADING
    assert len(found.jobs(Export)) == exports + (not is_kept)
    assert (Keep(0) in found.heard["1_0"]) is is_kept
