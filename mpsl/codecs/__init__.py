"""How the values of a tensor become bytes: `parse("bf16").encode(array)` and back.

There is one file per codec. A new one registers itself with `@codecs.register("name")`, and nothing else changes. Pure
numpy: nothing here may import torch, and no codec keeps state between two calls (`ErrorFeedback` does that).
"""

from mpsl.codecs.codec import Codec, Plane, codecs, parse
from mpsl.codecs.error_feedback import ErrorFeedback

__all__ = ["Codec", "ErrorFeedback", "Plane", "codecs", "parse"]
