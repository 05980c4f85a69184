"""`--plan PLAN.json`: compares a plan from disk with the job before anything starts.

A plan sets the cuts, the seats, which replica serves which device, and G. The job sets everything else. Where both set
something, the plan wins, and the difference is printed.
"""

import sys
from dataclasses import replace
from pathlib import Path

import click

from mpsl.cuts import check_cuts
from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.nn.cost import block_costs
from mpsl.planning.plan_file import PlannedRun, planned_run
from mpsl.text_file import read_json

plan_option = click.option(
    "--plan", type=click.Path(path_type=Path), metavar="PLAN.json", help="Run as planned by `mpsl plan --json`."
)


def load_plan(path: Path) -> PlannedRun:
    """Return the plan in a file of `mpsl plan --json`. Raises UsageError that names the file and the key."""
    return planned_run(read_json(path, "it must be the last line of `mpsl plan --json`"), str(path))


def job_as_planned(job: Job, planned: PlannedRun, where: str) -> Job:
    """Return the job with the cuts, devices and G of the plan `where`. Raises UsageError if they do not fit the job."""
    blocks = len(block_costs(job.model, 2))
    try:
        check_cuts(planned.cuts, blocks)
    except UsageError as error:
        raise UsageError(f"{where}: {error}; is it the plan of another model than {job.model.name}?") from None
    fleet, devices = job.fleet, len(planned.devices)
    if fleet.quorum is not None and fleet.quorum > devices:
        raise UsageError(f"{where}: has {devices} devices, but the job has fleet.quorum = {fleet.quorum}; reduce it")
    nodes = max(fleet.nodes, len(planned.seats))
    fleet = replace(fleet, devices=devices, nodes=nodes, admit=planned.admit, replicas=1)
    return replace(job, model=replace(job.model, cuts=planned.cuts), fleet=fleet)


def overruled(job: Job, planned: PlannedRun) -> list[str]:
    """Return the differences between the job and its plan, in words. The plan wins because it was given explicitly."""
    fleet, seats = job.fleet, len(planned.seats)
    pairs: list[tuple[str, object, object]] = [
        ("model.cuts", planned.cuts if job.model.cuts is None else job.model.cuts, planned.cuts),
        ("fleet.devices", fleet.devices, len(planned.devices)),
        ("fleet.nodes", fleet.nodes, max(fleet.nodes, seats)),
        ("fleet.admit", planned.admit if fleet.admit is None else fleet.admit, planned.admit),
    ]
    return [f"{key} = {_shown(ours)} is {_shown(theirs)} in the plan" for key, ours, theirs in pairs if ours != theirs]


def say_overruled(path: Path, differences: list[str]) -> None:
    """Print the differences on stderr."""
    for difference in differences:
        print(f"{path}: {difference}", file=sys.stderr)


def _shown(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
