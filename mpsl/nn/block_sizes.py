"""The sizes in a profile, found without building the model."""

from mpsl.job import ModelSection
from mpsl.nn.block_model import block_model
from mpsl.nn.cost import BlockCost, block_costs
from mpsl.nn.edges import exact_bytes, gradient_bytes
from mpsl.planning.profile_file import BlockProfile, Profile


def profile_of_sizes(model: ModelSection, batch_size: int) -> Profile:
    """Return a profile without hardware.

    A tensor that autograd keeps counts for the block that made it. Each storage counts once in the whole model; weights
    and data do not count. So a part keeps the sum of its blocks, and its input. Raises UsageError for an unknown model
    or argument, and for a batch size that cannot train.
    """
    blocks = tuple(_block(cost) for cost in block_costs(model, batch_size))
    input_bytes = sum(value.nbytes for value in block_model(model).edge(0, batch_size))
    return Profile(model.name, batch_size, input_bytes, blocks, {}, dict(model.args))


def _block(cost: BlockCost) -> BlockProfile:
    gradient = gradient_bytes(cost.edge)
    return BlockProfile(
        cost.name,
        cost.parameter_bytes,
        cost.output_bytes,
        cost.stored_bytes,
        exact_bytes(cost.edge),
        None if gradient == cost.output_bytes else gradient,
        cost.frozen_bytes,
    )
