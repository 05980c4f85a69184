"""Between torch and the wire: a tensor encoded into a message, and a message decoded into memory as torch has it."""

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
    """A float32 tensor as it travels. With fp32 its planes are the tensor's own memory: leave that unchanged."""
    plain = tensor.detach().contiguous()
    return encode_half(plain, codec) or parse(codec).encode(plain.numpy())


def decode(tensor: Tensor, codec: str, largest: int) -> torch.Tensor:
    """The float32 tensor in aligned, writable memory; WireError for another codec or more than `largest` bytes."""
    if tensor.codec != codec or tensor.dtype != "float32":
        raise WireError(f"tensor in {tensor.codec} of {tensor.dtype}, the job says {codec} of float32")
    # What it takes on the wire, and what it takes here.
    if max(parse(each).max_bytes(tensor.shape) for each in (codec, "fp32")) > largest:
        raise WireError(f"tensor of shape {tensor.shape} is larger than any of this run")
    half = decode_half(tensor.shape, tensor.planes, codec)
    if half is not None:
        return half
    array = parse(codec).decode(tensor.shape, tensor.planes)
    if array.ctypes.data % ALIGNMENT or not array.flags.writeable:
        # Kernels may round differently on memory aligned differently; torch's own is aligned to 64.
        moved = np.frombuffer(aligned_buffer(array.nbytes), np.float32).reshape(array.shape)
        moved[...] = array
        array = moved
    return torch.from_numpy(array)


class Coding:
    """Encodes and decodes, and counts the seconds of `clock` that this takes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seconds = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """What happens in the block counts."""
        began = self._clock()
        try:
            yield
        finally:
            self._seconds += self._clock() - began

    def encode(self, tensor: torch.Tensor, codec: str) -> Tensor:
        """As `encode`."""
        with self.timed():
            return encode(tensor, codec)

    def decode(self, tensor: Tensor, codec: str, largest: int) -> torch.Tensor:
        """As `decode`."""
        with self.timed():
            return decode(tensor, codec, largest)

    def take(self) -> float:
        """The seconds since this was last asked."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
