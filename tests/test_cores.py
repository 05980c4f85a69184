"""Shared cores and links in virtual time: what the parts of a rehearsal promise one by one."""

from math import inf

import pytest

from mpsl.sim.agenda import Agenda
from mpsl.sim.cores import Cores, Worker
from mpsl.sim.wires import NO_TRUNK, Trunk, Wire


def ended(cores: float, tasks: list[tuple[float, int, float]]) -> list[float]:
    """When each (start, threads, seconds) is done."""
    agenda = Agenda()
    machine, done = Cores(agenda, cores), [inf] * len(tasks)

    def end(number: int) -> None:
        done[number] = agenda.now

    for number, (start, threads, seconds) in enumerate(tasks):
        agenda.at(start, machine.run, threads, seconds, lambda number=number: end(number))
    while agenda.step(inf):
        pass
    return done


def test_as_many_as_there_are_cores_do_not_disturb_one_another() -> None:
    assert ended(2, [(0, 1, 3.0), (0, 1, 5.0)]) == [3.0, 5.0]


def test_more_than_there_are_cores_go_slower_alike() -> None:
    # One core, two tasks: half speed until the short one is done at 2, then the other has it for itself.
    assert ended(1, [(0, 1, 1.0), (0, 1, 3.0)]) == pytest.approx([2.0, 4.0])
    # A third that comes later: 0-1 alone, 1-3 two share, and so on.
    assert ended(1, [(0, 1, 2.0), (1, 1, 1.0)]) == pytest.approx([3.0, 3.0])


def test_a_task_of_many_threads_has_its_share_of_each() -> None:
    assert ended(2, [(0, 2, 1.0), (0, 2, 1.0)]) == pytest.approx([2.0, 2.0])
    assert ended(4, [(0, 2, 1.0), (0, 2, 1.0)]) == pytest.approx([1.0, 1.0])


def test_cores_without_number_are_never_waited_for() -> None:
    assert ended(inf, [(0, 1, 1.0)] * 50) == [1.0] * 50


def test_tasks_of_no_time_end_at_once() -> None:
    assert ended(1, [(0, 1, 0.0), (0, 1, 0.0), (2, 1, 0.0)]) == [0.0, 0.0, 2.0]


def test_a_worker_does_one_thing_after_another() -> None:
    agenda = Agenda()
    worker, heard = Worker(agenda, Cores(agenda)), []
    for seconds in (2.0, 3.0):
        worker.run(seconds, lambda began: heard.append((began, agenda.now)))
    agenda.at(10.0, worker.run, 1.0, lambda began: heard.append((began, agenda.now)))
    while agenda.step(inf):
        pass
    assert heard == [(0.0, 2.0), (2.0, 5.0), (10.0, 11.0)]


def test_a_wire_takes_whole_messages_in_order_and_the_latency_overlaps() -> None:
    agenda = Agenda()
    busy: list[tuple[float, float]] = []
    wire = Wire(agenda, 10.0, 0.5, NO_TRUNK, lambda label, began, ended: busy.append((began, ended)))
    arrived: list[float] = []
    for size in (10, 20):
        wire.send(size, ("it", ""), lambda: arrived.append(agenda.now))
    while agenda.step(inf):
        pass
    assert arrived == [1.5, 3.5]
    assert busy == [(0.0, 1.0), (1.0, 3.0)]


def test_what_passes_a_trunk_waits_for_the_slower_of_both() -> None:
    agenda = Agenda()
    trunk, arrived = Trunk(10.0), []
    wires = [Wire(agenda, rate, 0.0, trunk, lambda *_: None) for rate in (5.0, 100.0)]
    for number, wire in enumerate(wires):
        wire.send(10, ("it", ""), lambda number=number: arrived.append((number, agenda.now)))
    while agenda.step(inf):
        pass
    # Alone, the first takes 2 s; the second waits for the second that the trunk has given to the first.
    assert arrived == [(0, 2.0), (1, 2.0)]
