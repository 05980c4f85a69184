"""fp16 and bf16 by torch's own conversion: the same bytes as the codecs of numpy, at a tenth of their time.

The codecs in `mpsl/codecs/` say what the bytes are; this must never write others. What torch rounds differently, values
beyond the largest finite one, infinities and NaN, is left to them.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mpsl.codecs import parse
from mpsl.codecs.bf16 import LARGEST as LARGEST_BF16
from mpsl.codecs.codec import Buffer, Encoded
from mpsl.codecs.fp16 import LARGEST as LARGEST_FP16

_HALVES: Mapping[str, tuple[torch.dtype, float]] = {
    "fp16": (torch.float16, float(LARGEST_FP16)),
    "bf16": (torch.bfloat16, float(LARGEST_BF16)),
}


def encode_half(tensor: torch.Tensor, codec: str) -> Encoded | None:
    """A contiguous float32 tensor in fp16 or bf16; None where only the codec itself knows how."""
    if codec not in _HALVES or sys.byteorder != "little" or tensor.numel() == 0:
        return None
    dtype, largest = _HALVES[codec]
    least, most = tensor.aminmax()
    if not (most <= largest and least >= -largest):  # also true for NaN
        return None
    bits = tensor.to(dtype).view(torch.int16).reshape(-1).numpy()
    return Encoded(codec, "float32", tuple(tensor.shape), (bits.view(np.uint8).data,))


def decode_half(shape: Sequence[int], planes: Sequence[Buffer], codec: str) -> torch.Tensor | None:
    """The float32 tensor that planes of fp16 or bf16 hold; None for any other codec. Raises WireError as `decode`."""
    if codec not in _HALVES or sys.byteorder != "little":
        return None
    parse(codec).check(shape, planes)
    bits = torch.empty(tuple(shape), dtype=torch.int16)
    # Copied, for torch wants memory that may be written.
    bits.numpy().reshape(-1)[...] = np.frombuffer(planes[0], "<i2")
    return bits.view(_HALVES[codec][0]).to(torch.float32)
