"""Reads JOB.toml and checks everything that can be checked without a fleet."""

from pathlib import Path
from typing import Any

from mpsl import facts
from mpsl.aggregation import aggregations
from mpsl.codecs import parse
from mpsl.cuts import check_cuts, even_cuts
from mpsl.errors import UsageError
from mpsl.job import Job, ModelSection, read_job
from mpsl.nn.block_model import block_model
from mpsl.nn.cost import block_costs
from mpsl.planning.plan_file import PlannedRun
from mpsl.text_file import read_toml
from orchestrator.plan_option import job_as_planned, load_plan, overruled
from orchestrator.start_weights import match_of


def load_job(path: Path) -> Job:
    """Return the job in a TOML file. Raises UsageError that names the file, the key and what to do."""
    job = _read(path)
    check_job(job, str(path))
    return job


def load_planned_job(path: Path, plan_path: Path) -> tuple[Job, PlannedRun, list[str]]:
    """Return the job of a TOML file as a plan changes it, the plan, and the differences in words.

    Raises UsageError that names the file, also if the plan cannot be one of this job's model.
    """
    job, planned = _read(path), load_plan(plan_path)
    as_planned = job_as_planned(job, planned, str(plan_path))
    check_job(as_planned, str(path))
    return as_planned, planned, overruled(job, planned)


def _read(path: Path) -> Job:
    return read_job(with_numbered_cuts(read_toml(path), str(path)), str(path))


def with_numbered_cuts(data: Any, where: str) -> Any:
    """The content of a job with numbers instead of the names of modules in `model.cuts`.

    Anything else stays as it is, however wrong. Raises UsageError for a module at whose call the model cannot be cut.
    """
    model = data.get("model") if isinstance(data, dict) else None
    cuts = model.get("cuts") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(cuts, list) or not any(isinstance(cut, str) for cut in cuts):
        return data
    section = facts.read(ModelSection, {**model, "cuts": None}, f"{where}: model")
    try:
        known = block_model(section)
        numbers = [known.cut_at(cut) if isinstance(cut, str) else cut for cut in cuts]
    except UsageError as error:
        raise UsageError(f"{where}: model.cuts: {error}") from None
    return {**data, "model": {**model, "cuts": numbers}}


def check_job(job: Job, where: str) -> None:
    """Raise UsageError unless model, arguments, cuts, codecs and algorithm exist and fit one another."""
    try:
        aggregations.get(job.run.algorithm)
        costs = block_costs(job.model, 2)
        if job.model.cuts is None:
            even_cuts([float(cost.flops) for cost in costs], job.hops)
        else:
            check_cuts(job.model.cuts, len(costs))
        match_of(job.model)
        for codec in (job.wire.activations, job.wire.gradients):
            parse(codec)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
