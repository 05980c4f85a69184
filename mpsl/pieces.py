"""A payload as the buffers that make it up, joined only where somebody has to have them in one.

A chunk is put together when the link's window opens, and sent some time later: joining it at once would be a copy that
has left the processor's caches by then. It must never outlive the acknowledgement of its chunk: until then, and no
longer, whoever sends a buffer leaves it unchanged.
"""

from mpsl.wire import Buffer


class Pieces:
    """The buffers of one payload, in order; `bytes` joins them."""

    __slots__ = ("buffers", "size")

    def __init__(self, *buffers: Buffer) -> None:
        self.buffers = tuple([memoryview(buffer) for buffer in buffers if len(buffer)])
        self.size = sum(map(len, self.buffers))

    def __len__(self) -> int:
        return self.size

    def __bytes__(self) -> bytes:
        return b"".join(self.buffers)


Content = bytes | Pieces
"""What a publish carries."""
