"""Adds what a lossy codec has lost of a tensor to the next one: nothing of a sum is lost, it only arrives later.

This helps if the receiver adds up what it gets and if both tensors describe the same thing:

- updates of weights, round after round: yes, the classic use;
- gradients of activations: only if the rows are the same samples again. So rows are named by the sample, and one
  epoch's residual goes to the next. A residual of other samples is noise, and reaches the wrong weights;
- activations: no. Each forward pass uses them once, nothing adds up, and the residual can double the error.

Nothing here may be shared by two threads.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from mpsl.codecs.codec import Codec, Floats
from mpsl.errors import UsageError
from mpsl.messages import Tensor


class ErrorFeedback:
    """Wraps `codec`, and keeps its residual row by row for every key; with an exact codec it keeps nothing.

    `rows`: the number of rows of a key, if it is known; otherwise there is room for more than have been seen.

    Over all calls, Σ decoded + residual = Σ tensors, up to float32 rounding. The residual stays bounded if the codec
    always transmits a part of its input (int8, int4, topk; fp16 and bf16 within their range).
    """

    def __init__(self, codec: Codec, rows: int = 0) -> None:
        self.codec = codec
        self._rows = rows
        self._residuals: dict[Hashable, Floats] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all residuals: one float32 row for the highest row number of each key, and those before."""
        return sum(residual.nbytes for residual in self._residuals.values())

    def encode(self, key: Hashable, array: Floats, rows: Sequence[int] | None = None) -> Tensor:
        """Encode `array` plus its residual, and keep what the codec loses.

        `key` names the tensor: a parameter, or a device and a direction. `rows[i]` names the meaning of row i of the
        array (its first dimension), such as the number of the sample. Without it, row i is always row i, so a smaller
        batch uses and renews the first residuals and leaves the others. An array without dimensions is one row.

        Raises UsageError for NaN and infinity, ValueError for rows that are repeated, negative or of a wrong number,
        and for a key whose rows had another shape; the residual is then as before.
        """
        if self.codec.exact:
            return self.codec.encode(array)
        table = array if array.ndim else array.reshape(1)
        where = slice(len(table)) if rows is None else _checked(rows, len(table))
        residual = self._room(key, table, len(table) if rows is None else max(rows, default=-1) + 1)
        wanted = np.add(table, residual[where])
        encoded = self.codec.encode(wanted.reshape(array.shape))
        decoded = self.codec.decode(wanted.shape, encoded.planes)
        with np.errstate(invalid="ignore"):
            np.subtract(wanted, decoded, out=wanted)
        if not np.isfinite(wanted).all():
            raise UsageError(f"error feedback for {key!r}: the tensor has NaN or infinity; the training has diverged")
        residual[where] = wanted
        return encoded

    def forget(self, key: Hashable) -> None:
        """Drop the residual of `key`, for instance if the encoded tensor will never arrive."""
        self._residuals.pop(key, None)

    def _room(self, key: Hashable, table: Floats, rows: int) -> Floats:
        """Return the residual of `key`, grown to at least `rows`; new rows are zero."""
        residual = self._residuals.get(key)
        if residual is None:
            residual = self._residuals[key] = np.zeros((max(rows, self._rows), *table.shape[1:]), np.float32)
        if residual.shape[1:] != table.shape[1:]:
            raise ValueError(f"{key!r} had rows of shape {residual.shape[1:]}, and now has {table.shape[1:]}")
        if len(residual) < rows:
            grown = np.zeros((max(rows, 2 * len(residual)), *table.shape[1:]), np.float32)
            grown[: len(residual)] = residual
            residual = self._residuals[key] = grown
        return residual


def _checked(rows: Sequence[int], expected: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    if len(rows) != expected or len(set(rows)) != expected or min(rows, default=0) < 0:
        raise ValueError(
            f"{expected} rows need as many different numbers of at least 0, got {len(rows)}: {list(rows)!r:.100}"
        )
    return np.asarray(rows, np.int64)
