"""A network of this machine in which every process has a cable that can be pulled: one namespace each, and a bridge.

It needs root, `ip` and the right to make namespaces; `mpsl bench chaos` does without where one of them is missing.
Everything that it makes is removed at the end of its block.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from mpsl.errors import RunFailed

FIRST_HOST = 2
PREFIX_BITS = 24
MAX_NAME = 15
"""The longest name of an interface."""


class Cables:
    """The cables of the processes `names`; the broker listens at `broker_host`, outside of all namespaces."""

    def __init__(self, names: Sequence[str], token: str) -> None:
        self._names = list(names)
        self._token = token[-5:]
        octet = os.getpid() % 250 + 2
        self._network = f"10.213.{octet}"
        self.broker_host = f"{self._network}.1"

    def command(self, name: str) -> list[str]:
        """What precedes a command that runs at the end of this process's cable."""
        return ["ip", "netns", "exec", self._space(name)] if name in self._names else []

    async def pull(self, name: str) -> None:
        """Nothing reaches the process, and nothing that it sends gets anywhere. Its connections stay open."""
        await _ip("link", "set", self._cable(name), "down")

    async def plug(self, name: str) -> None:
        """The cable is back."""
        await _ip("link", "set", self._cable(name), "up")

    async def lay(self) -> None:
        """Make the bridge, the namespaces and the cables. Raises RunFailed where that is not allowed."""
        await _ip("link", "add", self._bridge, "type", "bridge")
        await _ip("addr", "add", f"{self.broker_host}/{PREFIX_BITS}", "dev", self._bridge)
        await _ip("link", "set", self._bridge, "up")
        for number, name in enumerate(self._names, start=FIRST_HOST):
            space, cable = self._space(name), self._cable(name)
            await _ip("netns", "add", space)
            await _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            await _ip("link", "set", cable, "master", self._bridge, "up")
            await _ip("-n", space, "addr", "add", f"{self._network}.{number}/{PREFIX_BITS}", "dev", "eth0")
            await _ip("-n", space, "link", "set", "eth0", "up")
            await _ip("-n", space, "link", "set", "lo", "up")

    async def remove(self) -> None:
        """Remove all of it; what is not there is passed over."""
        for name in self._names:
            with contextlib.suppress(RunFailed):
                await _ip("netns", "del", self._space(name))
        with contextlib.suppress(RunFailed):
            await _ip("link", "del", self._bridge)

    @property
    def _bridge(self) -> str:
        return f"mpsl-{self._token}"

    def _space(self, name: str) -> str:
        return f"mpsl-{self._token}-{name}"

    def _cable(self, name: str) -> str:
        return f"m{self._token}{self._names.index(name)}"[:MAX_NAME]


@contextlib.asynccontextmanager
async def cabled(names: Sequence[str], token: str) -> AsyncIterator[Cables]:
    """Cables for the block."""
    cables = Cables(names, token)
    try:
        await cables.lay()
        yield cables
    finally:
        await asyncio.shield(cables.remove())


def can_be_laid() -> bool:
    """Whether this process may make namespaces and bridges."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    net_admin, sys_admin = 12, 21
    allowed = all(int(effective, 16) >> capability & 1 for capability in (net_admin, sys_admin))
    return allowed and shutil.which("ip") is not None


async def _ip(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode:
        raise RunFailed(f"ip {' '.join(arguments)}: {said.decode().strip()}")
