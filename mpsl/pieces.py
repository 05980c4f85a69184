"""A payload as a list of buffers, joined only if one contiguous buffer is needed.

A chunk is built when the link's window opens and sent some time later; a joined copy would have left the processor's
caches by then. It must never outlive the acknowledgement of its chunk: until then, whoever sends a buffer must leave it
unchanged.
"""

from msgspec import Struct

from mpsl.wire import Buffer


class Pieces(Struct, frozen=True, gc=False):
    """The `buffers` of one payload of `size` bytes, in order, none of them empty; `bytes` joins them."""

    buffers: tuple[Buffer, ...]
    size: int

    def __len__(self) -> int:
        return self.size

    def __bytes__(self) -> bytes:
        return b"".join(self.buffers)


Content = bytes | Pieces
"""The payload of a publish."""
