"""Rules for the order in which a hop does the work that is ready, one per file, found by name."""

from collections.abc import Callable

from mpsl.machines.jobs import WorkerJob
from mpsl.registry import Registry

Schedule = Callable[[WorkerJob], int]
"""Returns the rank of a job. The lowest rank goes first; jobs of equal rank go in order of arrival."""

schedules: Registry[Schedule] = Registry("schedule", "mpsl.schedules")
