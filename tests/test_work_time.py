"""A hop's worker: how long it is busy, and of that between the first and the last batch of a round."""

from mpsl.machines.jobs import Backward, CopyPart, Forward
from mpsl.machines.work_time import WorkTime
from mpsl.messages import Tensor, Ticket

TENSOR = Tensor("raw", "float32", (2,), (memoryview(bytes(8)),))


def forward(round: int, batch: int = 0) -> Forward:
    return Forward(Ticket(1, round, "dev-1", 1, 0, batch, 0, 1), TENSOR)


def backward(round: int, batch: int = 0) -> Backward:
    return Backward(Ticket(1, round, "dev-1", 1, 0, batch, 0, 1), TENSOR)


def worked(time: WorkTime, number: int, begins: float) -> WorkTime:
    """A copy is made for a second; two seconds later a batch goes forward for two, and after one more back for four."""
    for job, at, seconds in (
        (CopyPart("dev-1", 1, number), 0.0, 1.0),
        (forward(number), 3.0, 2.0),
        (backward(number), 6.0, 4.0),
    ):
        time.begins(job, begins + at)
        time.ends(begins + at + seconds)
    time.stepped(begins + 10.0)
    return time


def test_from_the_first_batch_to_the_last_step_what_was_before_and_comes_after_does_not_count() -> None:
    time = worked(WorkTime(), 1, 100.0)
    time.begins(CopyPart("dev-2", 1, 1), 120.0)
    assert time.facts(125.0) == {
        "steps": 1, "stepped_at": 110.0, "busy_s": 12.0, "began_at": 103.0, "batches_busy_s": 6.0,
    }  # fmt: skip


def test_later_batches_of_a_round_go_on_and_another_round_begins_anew() -> None:
    time = worked(worked(WorkTime(), 1, 100.0), 1, 200.0)
    assert (time.facts(300.0)["began_at"], time.facts(300.0)["batches_busy_s"]) == (103.0, 13.0)
    worked(time, 2, 300.0)
    assert time.facts(400.0) == {
        "steps": 3, "stepped_at": 310.0, "busy_s": 21.0, "began_at": 303.0, "batches_busy_s": 6.0,
    }  # fmt: skip


def test_a_job_that_the_worker_was_not_asked_for_takes_no_time() -> None:
    time = WorkTime()
    time.ends(50.0)
    assert time.facts(60.0)["busy_s"] == 0.0
