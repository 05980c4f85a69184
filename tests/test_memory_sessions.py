"""Several sessions on one node: each computes what it computes alone, within one budget, and is freed as a whole."""

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hop_rounds import BLOCKS, DEVICES, HopRounds, session_of, session_plan

from broker.address import parse_broker
from broker.options import NetworkOptions
from compute_node import command
from compute_node.performer import HopPerformer
from compute_node.seat_budget import most_copies
from device_agent.performer import DevicePerformer
from device_agent.shard_source import Shard
from mpsl.errors import RunFailed, UsageError
from mpsl.machines.effects import Stop
from mpsl.machines.jobs import CopyPart, Export, HeadForward, Leave, MeasureBlocks, Prepare, Prepared, StartRound
from mpsl.messages import Ticket
from mpsl.nn import allocation
from mpsl.nn.block_model import block_model
from mpsl.plan import Plan
from mpsl.planning.seat_memory import memory_strategies, part_sizes
from mpsl.profile_questions import Question
from mpsl.topics import Topics
from orchestrator.facts_of_model import facts_of_model

RUN_A, RUN_B = session_plan("run-a", seed=1), session_plan("run-b", seed=2)


def needed(plan: Plan, copies: int) -> int:
    """What the orchestrator reckons that the plan's seat needs with so many copies."""
    strategies = memory_strategies(part_sizes(facts_of_model(plan.job), BLOCKS), plan.job.run.micro_batches)
    seat = plan.seats[0]
    return next(each for each in strategies if (each.on_disk, each.recompute) == (seat.on_disk, seat.recompute)).needed(
        copies
    )


def promised(performer: HopPerformer) -> dict[str, int]:
    return {str(session): training.promised_bytes for session, training in performer.sessions.items()}


def test_two_sessions_whose_jobs_alternate_compute_what_each_computes_alone(tmp_path: Path) -> None:
    """Different seeds and data, dropout and BatchNorm: whatever one leaves behind would change the other's bits."""
    torch.set_num_threads(1)
    buffers = {name.split(".")[-1] for name, _ in block_model(RUN_A.job.model).part(*BLOCKS).named_buffers()}
    assert "running_mean" in buffers, "the part has a BatchNorm"
    alone = [HopRounds(HopPerformer("node-1", tmp_path), plan, at).run() for at, plan in enumerate((RUN_A, RUN_B))]
    assert alone[0].bytes_out() != alone[1].bytes_out()
    performer = HopPerformer("node-1", tmp_path)
    together = [HopRounds(performer, plan, at) for at, plan in enumerate((RUN_A, RUN_B))]
    copies = 0
    for _ in zip(*(rounds.steps() for rounds in together), strict=True):
        copies = max(copies, performer.copies_alive)
    assert copies == 4, "copies of the same devices in both sessions at once"
    for once, rounds in zip(alone, together, strict=True):
        assert len(rounds.bytes_out()) == 16 + 2 + 1
        assert rounds.bytes_out() == once.bytes_out()
        memory, memory_alone = rounds.results[-1].memory, once.results[-1].memory
        assert memory is not None
        assert memory_alone is not None
        uses = set(memory) - {"base", "resident"}
        assert {use: memory[use] for use in uses} == {use: memory_alone[use] for use in uses}, "counted per session"
    bases = {rounds.results[-1].memory["base"] for rounds in together if rounds.results[-1].memory}
    assert len(bases) == 1, "the process has one base"


def test_a_higher_term_leaves_nothing_of_the_former(tmp_path: Path) -> None:
    """It is freed by counting references alone, before its successor is built; its late `Leave` hurts nobody."""
    performer = HopPerformer("node-1", tmp_path, budget=needed(RUN_A, 2))
    former = HopRounds(performer, RUN_A)
    former.run()
    former.perform(CopyPart(DEVICES[0], 2, 3))
    held = weakref.ref(performer.sessions[former.session])
    copies = weakref.ref(performer.sessions[former.session].copies[DEVICES[0]])
    gc.collect()
    gc.disable()
    try:
        again = session_plan("run-a", term=2, seed=1)
        performer.perform(Prepare(again), session_of(again))
        assert held() is None
        assert copies() is None
    finally:
        gc.enable()
    assert performer.copies_alive == 0
    assert promised(performer) == {"run-a@2": needed(RUN_A, 2)}, "the budget has room for one of the two"
    with pytest.raises(RuntimeError, match="node-1 holds no session run-a@1"):
        former.perform(CopyPart(DEVICES[0], 3, 3))
    performer.perform(Leave(), former.session)
    rounds = HopRounds(performer, again).run()
    assert rounds.bytes_out() == HopRounds(HopPerformer("node-1", tmp_path), again).run().bytes_out()


def test_a_lower_term_that_comes_late_replaces_nothing(tmp_path: Path) -> None:
    performer = HopPerformer("node-1", tmp_path)
    for term in (2, 1):
        plan = session_plan("run-a", term=term)
        performer.perform(Prepare(plan), session_of(plan))
    assert [session.term for session in performer.sessions if session] == [2, 1]


def test_the_budget_is_given_out_first_come_first_served(tmp_path: Path) -> None:
    each = needed(RUN_A, 2)
    performer = HopPerformer("node-1", tmp_path, budget=2 * each + 1000)
    for plan in (RUN_A, RUN_B):
        result = performer.perform(Prepare(plan), session_of(plan))
        assert isinstance(result, Prepared)
        assert result.promised_bytes == each
    third = session_plan("run-c")
    with pytest.raises(UsageError) as refused:
        performer.perform(Prepare(third), session_of(third))
    text = str(refused.value)
    for part in (
        f"seat 1_0 of run-c on node-1 needs {each:,} bytes for up to 2 admitted devices",
        f"--memory-budget is {2 * each + 1000:,}, of which 1,000 are free",
        f"promised: {each:,} to run-a@1, {each:,} to run-b@1",
    ):
        assert part in text
    assert promised(performer) == {"run-a@1": each, "run-b@1": each}, "a refusal changes nothing"
    performer.perform(Leave(), session_of(RUN_A))
    performer.perform(Prepare(third), session_of(third))
    assert promised(performer) == {"run-b@1": each, "run-c@1": each}


@pytest.mark.parametrize("short", [0, 1])
def test_a_budget_for_exactly_the_seat_is_enough_and_a_byte_less_is_not(tmp_path: Path, short: int) -> None:
    performer = HopPerformer("node-1", tmp_path, budget=needed(RUN_A, 2) - short)
    if not short:
        performer.perform(Prepare(RUN_A), session_of(RUN_A))
        return
    with pytest.raises(UsageError, match=r"promised: nothing"):
        performer.perform(Prepare(RUN_A), session_of(RUN_A))
    assert not performer.sessions


@pytest.mark.parametrize("seat", [{}, {"on_disk": True}, {"on_disk": True, "recompute": True}], ids=str)
def test_the_promise_is_what_the_orchestrator_reckoned_with(tmp_path: Path, seat: dict[str, bool]) -> None:
    plan = session_plan("run-a", **seat)
    performer = HopPerformer("node-1", tmp_path, budget=1 << 40)
    performer.perform(Prepare(plan), session_of(plan))
    assert promised(performer) == {"run-a@1": needed(plan, 2)}


def test_the_promise_covers_the_devices_that_the_plan_may_admit_later(tmp_path: Path) -> None:
    plan = session_plan("run-a", admit_most=7)
    assert most_copies(plan, plan.seats[0]) == 7
    performer = HopPerformer("node-1", tmp_path, budget=1 << 40)
    performer.perform(Prepare(plan), session_of(plan))
    assert promised(performer) == {"run-a@1": needed(plan, 7)}


def test_a_seat_whose_file_finds_no_room_holds_no_promise(tmp_path: Path) -> None:
    plan = session_plan("run-a", on_disk=True)
    performer = HopPerformer("node-1", tmp_path / "nowhere", budget=1 << 40)
    with pytest.raises(RunFailed, match=r"needs .* bytes in a file"):
        performer.perform(Prepare(plan), session_of(plan))
    assert not performer.sessions


def test_a_device_frees_a_session_whole_and_a_round_belongs_to_one() -> None:
    chance = np.random.default_rng(0)
    data, labels = chance.random((32, 1, 8, 8), np.float32), chance.integers(0, 10, 32)
    shard = Shard("dev-1", data, labels, np.empty((0, 1, 8, 8), np.float32), np.empty(0, np.int64))
    performer = DevicePerformer("dev-1", shard)
    sessions = [session_of(plan) for plan in (RUN_A, RUN_B)]
    for plan, session in zip((RUN_A, RUN_B), sessions, strict=True):
        performer.perform(Prepare(plan), session)
    performer.perform(StartRound(1, 1), sessions[0])
    with pytest.raises(RuntimeError, match="dev-1 is in no round"):
        performer.perform(HeadForward(Ticket(1, 1, "dev-1", 1, 0, 0, 0, 1)), sessions[1])
    performer.perform(HeadForward(Ticket(1, 1, "dev-1", 1, 0, 0, 0, 1)), sessions[0])
    performer.perform(Export("update", 1, 1), sessions[0])
    performer.perform(StartRound(2, 1), sessions[0])
    held = weakref.ref(performer.sessions[sessions[0]])
    gc.collect()
    gc.disable()
    try:
        again = session_plan("run-a", term=2)
        performer.perform(Prepare(again), session_of(again))
        assert held() is None
    finally:
        gc.enable()
    performer.perform(Leave(), sessions[0])
    assert list(performer.sessions) == [sessions[1], session_of(again)]
    for session in list(performer.sessions):
        performer.perform(Leave(), session)
    with pytest.raises(RuntimeError, match="dev-1 holds no session run-b@1"):
        performer.perform(StartRound(1, 1), sessions[1])


def test_the_node_command_gives_the_performer_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    performers: list[HopPerformer] = []

    async def drive(driver: Any) -> Stop:
        performers.append(driver)
        return Stop(0, "done")

    monkeypatch.setattr(command, "Driver", lambda machine, performer, *_, **__: performer)
    monkeypatch.setattr(command, "drive", drive)
    monkeypatch.setattr(allocation, "return_large_at_once", lambda: None)
    network = NetworkOptions(parse_broker("mqtt://localhost"), Topics("main"), as_json=False, verbose=0)
    asyncio.run(command.serve(network, "node-1", needed(RUN_A, 2), tmp_path, once=True, threads=1))
    performers[0].perform(Prepare(RUN_A), session_of(RUN_A))
    with pytest.raises(UsageError, match="run-b on node-1 needs"):
        performers[0].perform(Prepare(RUN_B), session_of(RUN_B))


def test_what_belongs_to_the_process_needs_no_session(tmp_path: Path) -> None:
    question = Question(RUN_A.job.model, 16, "sgd", ((1, 2),))
    with pytest.raises(RuntimeError, match="cannot measure"):
        HopPerformer("node-1", tmp_path).perform(MeasureBlocks(question), None)
