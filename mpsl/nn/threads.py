"""How many threads torch computes with: set by whoever starts a process, in every thread that computes."""

import torch


def limit_threads(threads: int | None) -> int:
    """Let torch use so many threads in the calling thread (None: leave its own choice); returns how many it uses."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()
