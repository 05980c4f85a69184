"""Measures a model as a run computes it: in a process like a node's, while others compute the same.

The other processes only keep the cores, caches and memory as busy as a run does. They end with the process that started
them, whatever happens to that one.
"""

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mpsl import facts, strict_json
from mpsl.errors import MeasurementError
from mpsl.job import ModelSection

if TYPE_CHECKING:
    from mpsl.nn.block_times import Chain

READY = "ready"


@dataclass(frozen=True)
class MeasuringTask:
    """What is measured: the training of a model with one optimizer and batch size, with `threads` threads per process.

    `seconds`: the minimum time to measure. A quarter of that is spent on warming up first.
    """

    model: ModelSection
    batch_size: int
    optimizer: str
    threads: int
    seconds: float


@dataclass(frozen=True)
class Measured:
    """Seconds of one batch by block and for the whole model at once, and bytes per second copied and folded."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    step: tuple[float, ...]
    whole: float
    copied_bytes_per_s: float


def measure(task: MeasuringTask, copies: int) -> Measured:
    """Measure in one process while `copies - 1` others compute the same. Raises MeasurementError."""
    with computing(task, copies - 1), _process("measure", task) as measuring:
        output, _ = measuring.communicate()
    if measuring.returncode != 0:
        raise MeasurementError(output.strip() or f"the measuring process ended with status {measuring.returncode}")
    return facts.read(Measured, json.loads(output), "the measuring process")


@contextlib.contextmanager
def computing(task: MeasuringTask, copies: int) -> Iterator[None]:
    """Keep `copies` processes computing while the block lasts. Raises MeasurementError."""
    with contextlib.ExitStack() as all_of_them:
        for _ in range(copies):
            all_of_them.enter_context(_process("load", task))
        yield


@contextlib.contextmanager
def _process(role: str, task: MeasuringTask) -> Iterator["subprocess.Popen[str]"]:
    """One process, warm when the block begins (a measuring one warms up by itself) and ended when it ends."""
    threads = str(task.threads)
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.measuring", role, strict_json.dumps(asdict(task))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    try:
        if role == "load":
            assert process.stdout is not None
            if process.stdout.readline().strip() != READY:
                raise MeasurementError("a process that computes beside the measured one did not start")
        yield process
    finally:
        process.kill()
        process.communicate()


def _measured_here(task: MeasuringTask) -> Measured:
    from mpsl.aggregation import aggregations
    from mpsl.nn.block_model import block_model
    from mpsl.nn.block_times import MeasurementEffort, block_times
    from mpsl.nn.copy_rate import copied_bytes_per_s

    chain = _chain(task)
    times = block_times(chain, time.perf_counter, MeasurementEffort(task.seconds / 4, seconds=task.seconds))
    model = block_model(task.model)
    bare = model.part(0, len(model))
    copied = copied_bytes_per_s(chain.part, bare, aggregations.get("splitfed-v1"), time.perf_counter)
    return Measured(**asdict(times), copied_bytes_per_s=copied)


def _load(task: MeasuringTask) -> None:
    """Compute until the other end of stdin is closed."""
    chain = _chain(task)
    chain.whole()
    print(READY, flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        chain.whole()


def _chain(task: MeasuringTask) -> "Chain":
    import torch

    from mpsl.nn.block_model import block_model, build_whole
    from mpsl.nn.profiler import chain_of

    torch.manual_seed(0)
    model = block_model(task.model)
    return chain_of(model, build_whole(task.model), task.batch_size, task.optimizer, time.perf_counter)


def main() -> None:
    """Run one of the processes: `python -m orchestrator.measuring measure|load TASK`."""
    from mpsl.nn.allocation import keep_for_reuse
    from mpsl.nn.threads import computing_worker

    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["measure", "load"])
    parser.add_argument("task", type=json.loads)
    arguments = parser.parse_args()
    task = facts.read(MeasuringTask, arguments.task, "task")
    keep_for_reuse()
    # In a worker thread, as in a node: the C library keeps memory for each thread on its own.
    worker = computing_worker(task.threads)
    try:
        if arguments.role == "load":
            worker.submit(_load, task).result()
        else:
            print(strict_json.dumps(asdict(worker.submit(_measured_here, task).result())))
    except MeasurementError as error:
        print(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
