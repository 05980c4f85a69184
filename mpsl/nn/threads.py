"""How many threads torch computes with: set by whoever starts a process, in the thread that computes."""

from concurrent.futures import ThreadPoolExecutor

import torch

from mpsl.nn.timeslice import request_long_timeslice


def limit_threads(threads: int | None) -> int:
    """Let torch use so many threads in the calling thread (None: leave its own choice); returns how many it uses."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def begin_computing(threads: int | None) -> None:
    """Set up the calling thread as one that computes; OpenMP keeps a number of threads for each thread that asks."""
    request_long_timeslice()
    limit_threads(threads)


def computing_worker(threads: int | None) -> ThreadPoolExecutor:
    """The one thread that computes."""
    return ThreadPoolExecutor(1, thread_name_prefix="worker", initializer=begin_computing, initargs=(threads,))
