"""Finds the facts about a model that a plan needs, from the model and the meta device. Nothing is timed."""

from torch import nn

from mpsl.cuts import check_cuts
from mpsl.job import Job
from mpsl.machines.orchestrator_jobs import ModelBuilt
from mpsl.nn.block_bytes import block_bytes, costs_in
from mpsl.nn.cost import single_value_norms
from mpsl.nn.models import describe


def facts_of_model(job: Job, model: nn.Sequential) -> ModelBuilt:
    """Return the facts about a job's model. Raises UsageError if the job's cuts do not fit the model."""
    if job.model.cuts is not None:
        check_cuts(job.model.cuts, len(model))
    name, args = job.model.name, job.model.args
    costs = costs_in(job)
    sizes = block_bytes(costs, job.optimizer)
    described = describe(name, **args)
    return ModelBuilt(
        block_costs=tuple(float(cost.flops) for cost in costs),
        state_bytes=sizes.state_bytes,
        output_bytes=sizes.output_bytes,
        stored_bytes=sizes.stored_bytes,
        optimizer_bytes=sizes.optimizer_bytes,
        single_value_norms=tuple(single_value_norms(name, args)),
        input_shape=described.input_shape(),
        classes=described.num_classes,
        parameters=sum(cost.parameters for cost in costs),
    )
