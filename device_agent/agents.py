"""The agents of one process: each with its own identity, shard and connection, in one event loop.

One thread computes for all of them, because torch's generator belongs to the process.
"""

import asyncio
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from broker.driver import Driver
from broker.hardware import cache_directory, machine_info
from broker.options import NetworkOptions, new_boot
from broker.worker import Worker
from device_agent.performer import DevicePerformer
from device_agent.shard_source import Shard
from mpsl.allowed_models import REGISTERED_ONLY, AllowedModels
from mpsl.errors import MpslError, UsageError
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import Run, Stop
from mpsl.machines.interpreter import Performer
from mpsl.machines.jobs import HeadBackward, HeadForward, Result, TailStep, WholeBatch, WorkerJob
from mpsl.nn.profiler import Profiler
from mpsl.nn.threads import begin_computing, limit_threads
from mpsl.topics import client_id


class SharedWorker(Worker):
    """The computing thread that all agents of this process share.

    `batch_s`: extra seconds for each batch, as on a slower processor; the other agents do not wait for it.
    """

    def __init__(self, executor: ThreadPoolExecutor, batch_s: float) -> None:
        super().__init__(executor)
        self._batch_s = batch_s

    async def perform(self, performer: Performer, work: Run) -> Result:
        """Perform a job, then wait as long as the slower processor would have computed on."""
        result = await super().perform(performer, work)
        if self._batch_s:
            await asyncio.sleep(extra_seconds(work.job, self._batch_s))
        return result

    def close(self) -> None:
        """Keep the thread running for the other drivers."""


def extra_seconds(job: WorkerJob, batch_s: float) -> float:
    """Return the extra seconds of a job if a batch takes `batch_s` more: a third for each visit of the batch."""
    match job:
        case HeadForward(ticket) | TailStep(ticket) | HeadBackward(ticket):
            return batch_s / 3 / ticket.micros
        case WholeBatch():
            return batch_s
    return 0.0


async def serve(
    network: NetworkOptions,
    shards: Mapping[str, Shard],
    once: bool,
    threads: int | None,
    think_s: float = 0.0,
    models: AllowedModels = REGISTERED_ONLY,
) -> dict[str, Stop]:
    """Run one agent for each shard, by id, until all have stopped; SIGTERM and SIGINT ask them to.

    `think_s`: extra seconds for each batch. An agent that ends with an error does not end the others.
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix="worker", initializer=begin_computing, initargs=(threads,))
    worker = SharedWorker(executor, think_s)
    drivers = {id: _driver(network, id, shard, once, threads, worker, models) for id, shard in shards.items()}
    loop = asyncio.get_running_loop()

    def stop_all() -> None:
        for driver in drivers.values():
            driver.request_stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_all)
    try:
        stops = await asyncio.gather(*(_run(network, id, driver) for id, driver in drivers.items()))
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return dict(zip(drivers, stops, strict=True))


def _driver(
    network: NetworkOptions,
    id: str,
    shard: Shard,
    once: bool,
    threads: int | None,
    worker: Worker,
    models: AllowedModels,
) -> Driver:
    boot = new_boot()
    machine_is = machine_info(limit_threads(threads))
    profiler = Profiler(time.perf_counter, machine_is["hardware"], machine_is["threads"], cache_directory())
    info = {
        "samples": shard.samples,
        "test_samples": shard.test_samples,
        "shape": list(shard.x.shape[1:]),
        **machine_is,
    }
    log = network.logger(role="device", id=id)
    for warning in shard.warnings():
        log("warning", "unscaled-samples", {"reason": warning})
    return Driver(
        DeviceMachine(id, boot, network.topics, info, once),
        DevicePerformer(id, shard, profiler, models),
        network.address,
        client_id("device", id, boot),
        log,
        worker=worker,
    )


async def _run(network: NetworkOptions, id: str, driver: Driver) -> Stop:
    try:
        stop = await driver.run()
    except MpslError as error:
        stop = Stop(2 if isinstance(error, UsageError) else 1, str(error))
    if stop.status:
        # At once, because the others may go on for days.
        network.logger(role="device", id=id)("error", "ended", {"status": stop.status, "reason": stop.reason})
    return stop
