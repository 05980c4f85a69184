"""The learning rate over a run: a schedule by rounds or by batches, with a warm-up. The same number on every machine.

Every part of every device's copy steps with the rate of its round and batch, so the rate must depend on nothing but the
job, the round, and the batch's place in the device's round. Numbers only: nothing here may know a model.
"""

import math
from dataclasses import dataclass

from mpsl.job import Job, ScheduleSection
from mpsl.messages import Ticket


@dataclass(frozen=True)
class LearningRates:
    """The rates of one device's round. `batches`: the optimizer steps of that round, `per_epoch` of a local epoch."""

    lr: float
    schedule: ScheduleSection
    rounds: int
    batches: int
    per_epoch: int

    def at(self, ticket: Ticket) -> float:
        """Return the rate of the step that the ticket's batch makes."""
        if self.schedule.name == "constant" and not self.schedule.warmup_rounds:
            return self.lr
        done, step = float(ticket.round - 1), 1.0
        if self.schedule.by == "batch" and self.batches:
            done += (ticket.epoch * self.per_epoch + ticket.batch) / self.batches
            step = 1 / self.batches
        return self.lr * factor(self.schedule, self.rounds, done, step)


def rates_of(job: Job, batches: int) -> LearningRates:
    """Return the rates of a device's round of so many batches, all local epochs together."""
    per_epoch = batches // job.run.local_epochs
    return LearningRates(job.optimizer.lr, job.schedule, job.run.rounds, batches, per_epoch)


def factor(schedule: ScheduleSection, rounds: int, done: float, step: float) -> float:
    """Return what the rate is multiplied by after `done` of the `rounds`; `step` is the length of a step in rounds.

    During the warm-up it rises linearly, and reaches 1 with the last step of it. After that the schedule runs from 1 at
    the end of the warm-up to `end` at the end of the run. `step` multiplies by `gamma` every `step_rounds` instead.
    """
    warm = schedule.warmup_rounds
    if done + step <= warm:
        return (done + step) / warm
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        # A sum of fractions may lie just below a whole round.
        return float(schedule.gamma ** math.floor((done - warm) / schedule.step_rounds + 1e-9))
    passed = min(1.0, max(0.0, done - warm) / max(rounds - warm, step))
    left = 1 - passed if schedule.name == "linear" else (1 + math.cos(math.pi * passed)) / 2
    return schedule.end + (1 - schedule.end) * left
