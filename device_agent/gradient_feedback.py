"""Adds the part of a sample's gradient that a codec has lost to the same sample's next gradient, an epoch later.

Only a device does it, for its gradient into the last hop: it knows its samples, while a node would need room for those
of all devices. A codec declares whether it gains by this (`Codec.feedback`); docs/codecs.md has the figures.
"""

import torch

from mpsl.codecs import ErrorFeedback, parse
from mpsl.messages import Tensor
from mpsl.nn import tensors
from mpsl.nn.edges import EXACT, Edge, EdgeValue, Values

MAX_RESIDUAL_BYTES = 64 * 1024 * 1024
"""A shard whose residuals would take more (as float32) is sent without feedback."""


class GradientFeedback:
    """For a shard of `samples`, in the codec `spec`. It keeps one float32 row per sample; for most codecs, nothing."""

    def __init__(self, spec: str, samples: int) -> None:
        self._spec = spec
        self._samples = samples
        self._feedback = ErrorFeedback(parse(spec), samples) if parse(spec).feedback else None
        self._unfinished = False
        self._names: set[str] = set()
        """The values whose gradients have something owed to them."""

    @property
    def nbytes(self) -> int:
        """The bytes of the residuals."""
        return self._feedback.nbytes if self._feedback else 0

    def begin(self) -> None:
        """Begin a round. If the one before was not finished, forget its residuals: its gradients do not count."""
        if self._feedback and self._unfinished:
            for name in self._names:
                self._feedback.forget(name)
        self._unfinished = True

    def finish(self) -> None:
        """The round is finished."""
        self._unfinished = False

    def encode(self, gradients: Values, edge: Edge, rows: list[int]) -> Tensor:
        """The gradients of the samples number `rows`, with what is still owed to them. Errors as `tensors.encode`."""
        described = tensors.gradients_of(edge)
        pairs = zip(gradients, described, strict=True)
        return tensors.together([self._encode_one(gradient, value, rows) for gradient, value in pairs])

    def _encode_one(self, gradient: torch.Tensor, value: EdgeValue, rows: list[int]) -> Tensor:
        spec = value.codec(self._spec)
        row_bytes = gradient.nbytes // max(1, len(rows))
        by_sample = spec != EXACT and gradient.shape[:1] == (len(rows),)
        if self._feedback is None or not by_sample or self._samples * row_bytes > MAX_RESIDUAL_BYTES:
            return tensors.encode(gradient, spec)
        self._names.add(value.name)
        encoded = self._feedback.encode(value.name, gradient.detach().contiguous().numpy(), rows)
        return Tensor(encoded.codec, encoded.dtype, encoded.shape, encoded.planes)
