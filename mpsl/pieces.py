"""A payload as the buffers that make it up, joined only where somebody has to have them in one.

A chunk is put together when the link's window opens, and sent some time later: joining it at once would be a copy that
has left the processor's caches by then. It must never outlive the acknowledgement of its chunk: until then, and no
longer, whoever sends a buffer leaves it unchanged.
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
"""What a publish carries."""
