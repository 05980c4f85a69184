"""What a plan needs to know of a model, read off the model and the meta device: no measuring, no guessing of time."""

from torch import nn

from mpsl.cuts import check_cuts
from mpsl.job import Job
from mpsl.machines.jobs import ModelBuilt
from mpsl.nn.cost import block_costs, single_value_norms
from mpsl.nn.models import describe
from mpsl.nn.optimizers import block_state_bytes


def facts_of_model(job: Job, model: nn.Sequential) -> ModelBuilt:
    """The facts; raises UsageError where the job's cuts do not fit the model."""
    if job.model.cuts is not None:
        check_cuts(job.model.cuts, len(model))
    name, args = job.model.name, job.model.args
    costs = block_costs(name, args, max(2, job.run.batch_size))
    described = describe(name, **args)
    return ModelBuilt(
        block_costs=tuple(float(cost.flops) for cost in costs),
        state_bytes=tuple(cost.parameter_bytes + cost.buffer_bytes for cost in costs),
        output_bytes=tuple(cost.output_bytes for cost in costs),
        stored_bytes=tuple(cost.stored_bytes for cost in costs),
        optimizer_bytes=block_state_bytes(job.optimizer, [cost.parameter_bytes for cost in costs]),
        single_value_norms=tuple(single_value_norms(name, args)),
        input_shape=described.input_shape(),
        classes=described.num_classes,
        parameters=sum(cost.parameters for cost in costs),
    )
