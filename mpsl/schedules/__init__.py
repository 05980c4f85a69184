"""In which order a hop takes the work that is ready: one rule a file, found by name."""

from collections.abc import Callable

from mpsl.machines.jobs import WorkerJob
from mpsl.registry import Registry

Schedule = Callable[[WorkerJob], int]
"""The rank of a job: the lowest goes first, equal ranks in the order of arrival."""

schedules: Registry[Schedule] = Registry("schedule", "mpsl.schedules")
