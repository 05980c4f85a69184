"""Between torch and the wire: encodes a tensor into a message, and decodes a message into torch's own memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from mpsl.codecs import parse
from mpsl.errors import WireError
from mpsl.link.receiver import aligned_buffer
from mpsl.messages import Tensor
from mpsl.nn.half_precision import decode_half, encode_half
from mpsl.wire import ALIGNMENT


def encode(tensor: torch.Tensor, codec: str) -> Tensor:
    """Encode a float32 tensor. With fp32 the planes are the tensor's own memory, which must not be changed."""
    plain = tensor.detach().contiguous()
    return encode_half(plain, codec) or parse(codec).encode(plain.numpy())


def decode(tensor: Tensor, codec: str, largest: int) -> torch.Tensor:
    """Decode to float32 in aligned, writable memory. Raises WireError for another codec, or beyond `largest` bytes."""
    if tensor.codec != codec or tensor.dtype != "float32":
        raise WireError(f"tensor in {tensor.codec} of {tensor.dtype}, the job says {codec} of float32")
    # Its size on the wire, and its size in memory.
    if max(parse(each).max_bytes(tensor.shape) for each in (codec, "fp32")) > largest:
        raise WireError(f"tensor of shape {tensor.shape} is larger than any of this run")
    half = decode_half(tensor.shape, tensor.planes, codec)
    if half is not None:
        return half
    array = parse(codec).decode(tensor.shape, tensor.planes)
    if array.ctypes.data % ALIGNMENT or not array.flags.writeable:
        # Kernels may round differently with another alignment; torch aligns its own memory to 64 bytes.
        moved = np.frombuffer(aligned_buffer(array.nbytes), np.float32).reshape(array.shape)
        moved[...] = array
        array = moved
    return torch.from_numpy(array)


class Coding:
    """Encodes and decodes, and counts the seconds that this takes by `clock`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block."""
        began = self._clock()
        try:
            yield
        finally:
            self._seconds += self._clock() - began

    def encode(self, tensor: torch.Tensor, codec: str) -> Tensor:
        """Encode as the function `encode` does."""
        with self.timed():
            return encode(tensor, codec)

    def decode(self, tensor: Tensor, codec: str, largest: int) -> torch.Tensor:
        """Decode as the function `decode` does."""
        with self.timed():
            return decode(tensor, codec, largest)

    def take(self) -> float:
        """Return the seconds counted since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
