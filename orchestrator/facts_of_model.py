"""Finds the facts about a model that a plan needs, from the model and the meta device. Nothing is timed."""

from mpsl.cuts import check_cuts
from mpsl.job import Job
from mpsl.machines.orchestrator_jobs import ModelBuilt
from mpsl.nn.block_bytes import block_bytes, costs_in
from mpsl.nn.block_model import block_model
from mpsl.nn.edges import exact_bytes, gradient_bytes


def facts_of_model(job: Job) -> ModelBuilt:
    """Return the facts about a job's model. Raises UsageError if the job's cuts do not fit the model."""
    model = block_model(job.model)
    if job.model.cuts is not None:
        check_cuts(job.model.cuts, len(model))
    costs = costs_in(job)
    sizes = block_bytes(costs, job.optimizer)
    return ModelBuilt(
        block_costs=tuple(float(cost.flops) for cost in costs),
        state_bytes=sizes.state_bytes,
        output_bytes=sizes.output_bytes,
        stored_bytes=sizes.stored_bytes,
        optimizer_bytes=sizes.optimizer_bytes,
        single_value_norms=model.single_value_norms(),
        input_shape=model.sample.shape,
        classes=next(iter(costs[-1].output_shape), 0),
        parameters=sum(cost.parameters for cost in costs),
        exact_bytes=tuple(exact_bytes(cost.edge) for cost in costs),
        gradient_bytes=tuple(gradient_bytes(cost.edge) for cost in costs),
        input_bytes=sum(value.nbytes for value in model.edge(0, job.run.batch_size)),
        digests=tuple(model.digests()),
        frozen_bytes=sizes.frozen_bytes,
    )
