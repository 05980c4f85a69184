"""The worker of a process: performs jobs on one thread, outside the event loop.

It must never run two jobs at a time: torch's random generator belongs to the process.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from mpsl.machines.effects import Run
from mpsl.machines.interpreter import Performer
from mpsl.machines.jobs import Result


class Worker:
    """One thread that performs jobs; `executor` may be shared by several drivers of a process."""

    def __init__(self, executor: ThreadPoolExecutor | None = None) -> None:
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="worker")

    async def perform(self, performer: Performer, work: Run) -> Result:
        """Perform one job. Raises whatever the job raises."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, performer.perform, work.job, work.session)

    def close(self) -> None:
        """Accept no more jobs. The running one ends with the process."""
        self._executor.shutdown(wait=False, cancel_futures=True)
