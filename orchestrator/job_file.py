"""JOB.toml from disk, checked against everything that can be known without a fleet."""

import tomllib
from pathlib import Path

from mpsl.aggregation import aggregations
from mpsl.codecs import parse
from mpsl.cuts import check_cuts, even_cuts
from mpsl.errors import UsageError
from mpsl.job import Job, read_job
from mpsl.nn.cost import block_costs


def load_job(path: Path) -> Job:
    """The job in a TOML file; raises UsageError that names the file, the key and what to do."""
    try:
        data = tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is no TOML: {error}") from None
    job = read_job(data, str(path))
    check_job(job, str(path))
    return job


def check_job(job: Job, where: str) -> None:
    """Raise UsageError unless model, arguments, cuts, codecs and algorithm exist and fit one another."""
    try:
        aggregations.get(job.run.algorithm)
        costs = block_costs(job.model.name, job.model.args, 2)
        if job.model.cuts is None:
            even_cuts([float(cost.flops) for cost in costs], job.hops)
        else:
            check_cuts(job.model.cuts, len(costs))
        for codec in (job.wire.activations, job.wire.gradients):
            parse(codec)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
