"""The ready queue of a compute node: by rank, then by arrival; its bytes are those of what is in it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mpsl.machines.jobs import Backward, CopyPart, Forward, WorkerJob
from mpsl.machines.ready_queue import ReadyQueue
from mpsl.messages import Tensor, Ticket


def tensor(size: int) -> Tensor:
    return Tensor("fp32", "float32", (size // 4,), (memoryview(bytes(size)),))


def job(number: int, size: int) -> WorkerJob:
    ticket = Ticket(1, 1, f"dev-{number % 3}", 1, 0, number, 0, 1)
    if size == 0:
        return CopyPart(ticket.device, 1, 1)
    return Forward(ticket, tensor(size)) if number % 2 else Backward(ticket, tensor(size))


def device_of(some: Any) -> str:
    return some.device if isinstance(some, CopyPart) else str(some.ticket.device)


def test_the_lowest_rank_goes_first_and_of_equal_ranks_the_first() -> None:
    queue = ReadyQueue()
    jobs = [job(number, 4) for number in range(6)]
    for rank, each in zip([2, 1, 2, 0, 1, 0], jobs, strict=True):
        queue.add(rank, each)
    order = []
    while (taken := queue.take()) is not None:
        assert queue.take() is None, "one at a time"
        order.append(jobs.index(taken))
        queue.finish()
    assert order == [3, 5, 1, 4, 0, 2]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 4, 40, 400]), st.sampled_from("atfd"))))
def test_its_bytes_are_those_of_what_waits_and_of_what_runs(steps: list[tuple[int, int, str]]) -> None:
    queue = ReadyQueue()
    waiting: list[tuple[int, int, int, WorkerJob]] = []
    running = 0
    for number, (rank, size, step) in enumerate(steps):
        if step == "a":
            added = job(number, size)
            queue.add(rank, added)
            waiting.append((rank, number, size, added))
        elif step == "t":
            taken = queue.take()
            if taken is not None:
                waiting.sort(key=lambda entry: entry[:2])
                *_, running, expected = waiting.pop(0)
                assert taken is expected
        elif step == "f":
            queue.finish()
            running = 0
        else:
            queue.drop(f"dev-{number % 3}")
            waiting = [entry for entry in waiting if device_of(entry[3]) != f"dev-{number % 3}"]
        assert queue.tensor_bytes == running + sum(size for _, _, size, _ in waiting)


def test_nothing_is_taken_from_an_empty_queue() -> None:
    queue = ReadyQueue()
    queue.finish()
    assert queue.take() is None
    assert queue.tensor_bytes == 0
