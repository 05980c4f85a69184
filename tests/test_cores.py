"""Shared cores and links in virtual time, each on its own."""

from math import inf

import pytest

from mpsl.sim.cores import Cores, SimulatedWorker
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.links import SharedLink, SimulatedLink


def ended(cores: float, tasks: list[tuple[float, int, float]]) -> list[float]:
    """When each (start, threads, seconds) is done."""
    queue = EventQueue()
    machine, done = Cores(queue, cores), [inf] * len(tasks)

    def end(number: int) -> None:
        done[number] = queue.now

    for number, (start, threads, seconds) in enumerate(tasks):
        queue.at(start, machine.run, threads, seconds, lambda number=number: end(number))
    while queue.step(inf):
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
    queue = EventQueue()
    worker, heard = SimulatedWorker(queue, Cores(queue)), []
    for seconds in (2.0, 3.0):
        worker.run(seconds, lambda began: heard.append((began, queue.now)))
    queue.at(10.0, worker.run, 1.0, lambda began: heard.append((began, queue.now)))
    while queue.step(inf):
        pass
    assert heard == [(0.0, 2.0), (2.0, 5.0), (10.0, 11.0)]


def test_a_link_takes_whole_messages_in_order_and_the_latency_overlaps() -> None:
    queue = EventQueue()
    busy: list[tuple[float, float]] = []
    link = SimulatedLink(queue, 0.5, 10.0, None, lambda label, start, end: busy.append((start, end)))
    arrived: list[float] = []
    for size in (10, 20):
        link.send(size, ("it", ""), lambda: arrived.append(queue.now))
    while queue.step(inf):
        pass
    assert arrived == [1.5, 3.5]
    assert busy == [(0.0, 1.0), (1.0, 3.0)]


def test_a_message_over_a_shared_link_waits_for_the_slower_of_both() -> None:
    queue = EventQueue()
    shared, arrived = SharedLink(10.0), []
    links = [SimulatedLink(queue, 0.0, rate, shared) for rate in (5.0, 100.0)]
    for number, link in enumerate(links):
        link.send(10, ("it", ""), lambda number=number: arrived.append((number, queue.now)))
    while queue.step(inf):
        pass
    # Alone, the first takes 2 s; the second message waits for the second that the shared link gave to the first.
    assert arrived == [(0, 2.0), (1, 2.0)]
