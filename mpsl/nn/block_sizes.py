"""The sizes in a profile, found without building the model."""

import math

from mpsl.job import ModelSection
from mpsl.nn.cost import block_costs
from mpsl.nn.models import input_shape
from mpsl.planning.profile_file import BlockProfile, Profile

FLOAT_BYTES = 4


def profile_of_sizes(model: ModelSection, batch_size: int) -> Profile:
    """Return a profile without hardware.

    A tensor that autograd keeps counts for the block that made it. Each storage counts once in the whole model; weights
    and data do not count. So a part keeps the sum of its blocks, and its input. Raises UsageError for an unknown model
    or argument, and for a batch size that cannot train.
    """
    blocks = tuple(
        BlockProfile(cost.name, cost.parameter_bytes, cost.output_bytes, cost.stored_bytes)
        for cost in block_costs(model.name, model.args, batch_size)
    )
    input_bytes = batch_size * math.prod(input_shape(model.name, **model.args)) * FLOAT_BYTES
    return Profile(model.name, batch_size, input_bytes, blocks, {}, dict(model.args))
