"""Converts fp16 and bf16 with torch: the same bytes as the numpy codecs, in a tenth of their time.

The codecs in `mpsl/codecs/` define the bytes, and this file must never write others. Values that torch rounds
differently are left to the codecs: those beyond the largest finite one, infinities and NaN.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mpsl.codecs import parse
from mpsl.codecs.bf16 import LARGEST as LARGEST_BF16
from mpsl.codecs.codec import Buffer
from mpsl.codecs.fp16 import LARGEST as LARGEST_FP16
from mpsl.messages import Tensor

_FORMATS: Mapping[str, tuple[torch.dtype, float]] = {
    "fp16": (torch.float16, float(LARGEST_FP16)),
    "bf16": (torch.bfloat16, float(LARGEST_BF16)),
}


def encode_half(tensor: torch.Tensor, codec: str) -> Tensor | None:
    """Encode a contiguous float32 tensor in fp16 or bf16. Returns None where the codec itself has to encode it."""
    if codec not in _FORMATS or sys.byteorder != "little" or tensor.numel() == 0:
        return None
    dtype, largest = _FORMATS[codec]
    minimum, maximum = tensor.aminmax()
    if not (maximum <= largest and minimum >= -largest):  # also true for NaN
        return None
    bits = tensor.to(dtype).view(torch.int16).reshape(-1).numpy()
    return Tensor(codec, "float32", tuple(tensor.shape), (bits.view(np.uint8).data,))


def decode_half(shape: Sequence[int], planes: Sequence[Buffer], codec: str) -> torch.Tensor | None:
    """Decode planes of fp16 or bf16 to float32. Returns None for any other codec. Raises WireError as `decode` does."""
    if codec not in _FORMATS or sys.byteorder != "little":
        return None
    parse(codec).check(shape, planes)
    bits = torch.empty(tuple(shape), dtype=torch.int16)
    # Copied because torch requires writable memory.
    bits.numpy().reshape(-1)[...] = np.frombuffer(planes[0], "<i2")
    return bits.view(_FORMATS[codec][0]).to(torch.float32)
