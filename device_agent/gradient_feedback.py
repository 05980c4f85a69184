"""What a codec left out of a sample's gradient goes with the same sample's next one, an epoch later.

For the gradient that a device sends into the last hop, and only there: a device knows its samples, a node would need
room for all devices'. Which codecs gain by it they say themselves (`Codec.feedback`); docs/codecs.md has the figures.
"""

import torch

from mpsl.codecs import ErrorFeedback, parse
from mpsl.messages import Tensor
from mpsl.nn import tensors

MAX_BYTES = 64 * 1024 * 1024
"""A shard whose samples' gradients would take more (as float32) is sent without feedback."""


class GradientFeedback:
    """For a shard of `samples`, in the codec `spec`; keeps one float32 row a sample, for most codecs nothing."""

    def __init__(self, spec: str, samples: int) -> None:
        self._spec = spec
        self._samples = samples
        self._feedback = ErrorFeedback(parse(spec), samples) if parse(spec).feedback else None
        self._unfinished = False

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self._feedback.nbytes if self._feedback else 0

    def begin(self) -> None:
        """A round begins; where the one before was never finished, forget: what was sent in it is not counted."""
        if self._feedback and self._unfinished:
            self._feedback.forget("gradient")
        self._unfinished = True

    def finish(self) -> None:
        """The round's result goes out."""
        self._unfinished = False

    def encode(self, gradient: torch.Tensor, rows: list[int]) -> Tensor:
        """The gradient of the samples number `rows`, with what is still owed to them. Errors as `tensors.encode`."""
        row_bytes = gradient.nbytes // max(1, len(rows))
        if self._feedback is None or self._samples * row_bytes > MAX_BYTES:
            return tensors.encode(gradient, self._spec)
        encoded = self._feedback.encode("gradient", gradient.detach().contiguous().numpy(), rows)
        return Tensor(encoded.codec, encoded.dtype, encoded.shape, encoded.planes)
