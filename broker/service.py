"""Runs a driver in the foreground of a process: signals become events, and the machine's stop the exit status."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from broker.driver import Driver
from mpsl.machines.effects import Stop


async def drive(driver: Driver) -> Stop:
    """Drive until the machine stops. SIGTERM and SIGINT ask it to stop."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, driver.request_stop)
    try:
        return await driver.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def run_service(make: Callable[[], Coroutine[Any, Any, Stop]]) -> Stop:
    """Run the coroutine that `make` returns in a new event loop."""
    return asyncio.run(make())
