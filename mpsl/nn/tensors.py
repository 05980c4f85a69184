"""Between torch and the wire: encodes what crosses a cut into a message, and decodes it into torch's own memory.

Kernels may round differently for another order of the dimensions in memory. So where the codec is exact, a tensor whose
dimensions are permuted is sent in the order of its memory, and has the same order at the receiver.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from mpsl.codecs import parse
from mpsl.errors import WireError
from mpsl.job import WireSection
from mpsl.link.receiver import aligned_buffer
from mpsl.messages import Tensor
from mpsl.nn.edges import EXACT, Edge, Values
from mpsl.nn.half_precision import decode_half, encode_half
from mpsl.wire import ALIGNMENT, DTYPES

NOTHING = Tensor(EXACT, "uint8", (0,), (memoryview(b""),))
"""What is sent where nothing crosses: no gradient comes back to weights that do not train."""


def encode(tensor: torch.Tensor, codec: str) -> Tensor:
    """Encode a tensor, of float32 unless the codec is EXACT.

    With an exact codec the planes are the tensor's own memory, which must not be changed.
    """
    plain = tensor.detach()
    order: tuple[int, ...] = ()
    if not plain.is_contiguous():
        order = _memory_order(plain) if codec == EXACT or parse(codec).exact else ()
        plain = plain.permute(order) if order else plain.contiguous()
    if codec == EXACT:
        planes: tuple[memoryview, ...] = (plain.reshape(-1).view(torch.uint8).numpy().data,)
        return Tensor(EXACT, _name(tensor.dtype), tuple(tensor.shape), planes, order)
    encoded = encode_half(plain, codec) or parse(codec).encode(plain.numpy())
    return Tensor(encoded.codec, encoded.dtype, tuple(tensor.shape), encoded.planes, order) if order else encoded


def decode(tensor: Tensor, codec: str, largest: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Decode to `dtype` in aligned, writable memory. Raises WireError for another codec, or beyond `largest` bytes."""
    if tensor.codec != codec or tensor.dtype != _name(dtype):
        raise WireError(f"tensor in {tensor.codec} of {tensor.dtype}, the job says {codec} of {_name(dtype)}")
    shape = tuple(tensor.shape[each] for each in tensor.order) if tensor.order else tensor.shape
    if codec == EXACT:
        value = _decode_exact(tensor, shape, largest, dtype)
    else:
        # Its size on the wire, and its size in memory.
        if max(parse(each).max_bytes(shape) for each in (codec, "fp32")) > largest:
            raise WireError(f"tensor of shape {tensor.shape} is larger than any of this run")
        value = _decode_coded(tensor, shape, codec)
    if not tensor.order:
        return value
    return value.permute(tuple(np.argsort(tensor.order).tolist()))


def encode_all(values: Sequence[torch.Tensor], edge: Edge, spec: str) -> Tensor:
    """Encode what crosses a cut as one message: each value in `spec` or exactly, as `edge` says."""
    return together([encode(value, described.codec(spec)) for value, described in zip(values, edge, strict=True)])


def together(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors as one: the first carries the others."""
    if not tensors:
        return NOTHING
    first, *others = tensors
    if not others:
        return first
    return Tensor(first.codec, first.dtype, first.shape, first.planes, first.order, tuple(others))


def decode_all(tensor: Tensor, edge: Edge, spec: str, largest: int) -> Values:
    """Decode what crosses a cut. Raises WireError where it is not what `edge` says, or beyond `largest` bytes."""
    tensors = (tensor, *tensor.others) if edge else ()
    if len(tensors) != len(edge):
        raise WireError(f"{len(tensors)} tensors where {len(edge)} cross")
    return tuple(
        decode(each, described.codec(spec), largest, described.dtype)
        for each, described in zip(tensors, edge, strict=True)
    )


def gradients_of(edge: Edge) -> Edge:
    """The values of an edge for which a gradient comes back."""
    return tuple(value for value in edge if value.gradient)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _memory_order(tensor: torch.Tensor) -> tuple[int, ...]:
    """The dimensions from the outermost in memory to the innermost; empty unless they fill the memory."""
    strides = tensor.stride()
    order = tuple(sorted(range(tensor.ndim), key=lambda each: (-strides[each], each)))
    return order if tensor.permute(order).is_contiguous() else ()


def _decode_exact(tensor: Tensor, shape: Sequence[int], largest: int, dtype: torch.dtype) -> torch.Tensor:
    size = DTYPES[tensor.dtype] * int(np.prod(shape, dtype=np.int64))
    if size > largest:
        raise WireError(f"tensor of shape {tensor.shape} is larger than any of this run")
    if len(tensor.planes) != 1 or tensor.planes[0].nbytes != size:
        raise WireError(f"{tensor.nbytes} bytes for shape {tensor.shape} of {tensor.dtype}, which takes {size}")
    value = torch.empty(tuple(shape), dtype=dtype)
    if size:
        value.view(-1).view(torch.uint8).numpy()[...] = np.frombuffer(tensor.planes[0], np.uint8)
    return value


def _decode_coded(tensor: Tensor, shape: Sequence[int], codec: str) -> torch.Tensor:
    half = decode_half(shape, tensor.planes, codec)
    if half is not None:
        return half
    array = parse(codec).decode(shape, tensor.planes)
    if array.ctypes.data % ALIGNMENT or not array.flags.writeable:
        # Kernels may round differently with another alignment; torch aligns its own memory to 64 bytes.
        moved = np.frombuffer(aligned_buffer(array.nbytes), np.float32).reshape(array.shape)
        moved[...] = array
        array = moved
    return torch.from_numpy(array)


class Coding:
    """Encodes and decodes what crosses the cuts of a job, and counts the seconds that this takes by `clock`."""

    def __init__(self, clock: Callable[[], float], wire: WireSection, largest: int) -> None:
        self._clock = clock
        self._wire = wire
        self._largest = largest
        self._seconds = 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of the block."""
        began = self._clock()
        try:
            yield
        finally:
            self._seconds += self._clock() - began

    def encode_activations(self, values: Values, edge: Edge) -> Tensor:
        """Encode what crosses a cut forward."""
        with self.timed():
            return encode_all(values, edge, self._wire.activations)

    def decode_activations(self, tensor: Tensor, edge: Edge) -> Values:
        """Decode what crosses a cut forward. Raises WireError where it is not what `edge` says."""
        with self.timed():
            return decode_all(tensor, edge, self._wire.activations, self._largest)

    def encode_gradients(self, values: Values, edge: Edge) -> Tensor:
        """Encode what crosses a cut backward: a gradient for every value of `edge` that gets one."""
        with self.timed():
            return encode_all(values, gradients_of(edge), self._wire.gradients)

    def decode_gradients(self, tensor: Tensor, edge: Edge) -> Values:
        """Decode what crosses a cut backward. Raises WireError where it is not what `edge` says."""
        with self.timed():
            return decode_all(tensor, gradients_of(edge), self._wire.gradients, self._largest)

    def take(self) -> float:
        """Return the seconds counted since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
