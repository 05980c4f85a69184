"""The pure kernel that every role shares.

Nothing in this package opens a socket, reads a clock, starts a thread or draws its own random numbers. Only `mpsl.nn`
imports torch.
"""

VERSION = "0.1.0"
PROTOCOL = 4
"""Raised whenever the bytes on the wire or the meaning of a topic change."""
