"""The pure kernel that every role shares.

Nothing in this package opens a socket, reads a clock, starts a thread or draws a random number of its own; torch is
imported in `mpsl.nn` only.
"""

VERSION = "0.1.0"
PROTOCOL = 3
"""Raised whenever the bytes on the wire or the meaning of a topic change."""
