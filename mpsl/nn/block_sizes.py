"""The bytes that a profile says of a model, found without building it."""

import math

from mpsl.job import ModelSection
from mpsl.nn.cost import block_costs
from mpsl.nn.models import input_shape
from mpsl.planning.profile import BlockProfile, Profile

FLOAT_BYTES = 4


def profile_of_sizes(model: ModelSection, batch_size: int) -> Profile:
    """A profile without hardware. Raises UsageError for an unknown model or argument, or a batch that cannot train.

    What autograd keeps counts for the block that made it, each storage once over the whole model, without the weights
    and the data; so a part keeps the sum of its blocks, and its input besides.
    """
    blocks = tuple(
        BlockProfile(cost.name, cost.parameter_bytes, cost.output_bytes, cost.stored_bytes)
        for cost in block_costs(model.name, model.args, batch_size)
    )
    input_bytes = batch_size * math.prod(input_shape(model.name, **model.args)) * FLOAT_BYTES
    return Profile(model.name, batch_size, input_bytes, blocks, {}, dict(model.args))
