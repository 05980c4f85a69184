"""How many bytes a tensor takes on the wire under each codec: the planner's view of [wire], without running a codec."""

from mpsl.errors import UsageError
from mpsl.names import nearest

FACTORS = {
    "fp32": 1.0,
    "fp16": 0.5,
    "bf16": 0.5,
    "int8": 0.25,
    "int4": 0.125,
    **{f"affine:{bits}": bits / 32 for bits in (4, 3, 2)},
    "huffman:4": 1 / 8.2,
    "huffman:3": 1 / 11.3,
    "huffman:2": 1 / 18.4,
}
"""Wire bytes per byte of fp32; scales and headers are not counted. What huffman makes depends on the values: these are
normally distributed, so that what follows a ReLU takes less.
"""


def wire_factor(codec: str) -> float:
    """Wire bytes per byte of the fp32 tensor; `topk:p` keeps a share p of the values, each with its index.

    Raises UsageError for a codec that does not exist.
    """
    name, separator, share = codec.partition(":")
    if name == "topk" and separator:
        try:
            kept = float(share)
        except ValueError:
            kept = 0.0
        if not 0 < kept <= 1:
            raise UsageError(
                f"codec {codec!r}: the share after 'topk:' is more than 0 and at most 1, as in 'topk:0.05'"
            )
        return 2 * kept
    if codec not in FACTORS:
        raise UsageError(f"unknown codec {codec!r}; {nearest(codec, [*FACTORS, 'topk:0.05'])}")
    return FACTORS[codec]
