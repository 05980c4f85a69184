"""Sets the number of torch's threads, in the thread that computes."""

from concurrent.futures import ThreadPoolExecutor

import torch

from mpsl.nn.timeslice import request_long_timeslice


def limit_threads(threads: int | None) -> int:
    """Set torch's threads for the calling thread (None: torch's own choice). Returns how many it uses."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def begin_computing(threads: int | None) -> None:
    """Set up the calling thread to compute. OpenMP keeps the number of threads for each calling thread."""
    request_long_timeslice()
    limit_threads(threads)


def computing_worker(threads: int | None) -> ThreadPoolExecutor:
    """Return the executor with the one thread that computes."""
    return ThreadPoolExecutor(1, thread_name_prefix="worker", initializer=begin_computing, initargs=(threads,))
