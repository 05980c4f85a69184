"""Child processes: a failure of one ends what waits for it, with the child's own words, unless that says so first."""

import asyncio
from pathlib import Path

import pytest
from driving import PATIENCE_S

from mpsl.errors import RunFailed
from orchestrator import processes
from orchestrator.processes import children

BROKEN = ["node", "--id", "node-1", "--memory-budget", "5parsecs"]


async def never() -> str:
    await asyncio.get_running_loop().create_future()
    return ""


def test_what_waits_for_a_child_that_cannot_start_ends_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "EXPLANATION_S", 0.1)

    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_S), children(tmp_path) as group:
            await group.start("node-1", BROKEN, {})
            with pytest.raises(RunFailed, match=r"node-1 ended with status 2: .*5parsecs.*write a size"):
                await group.attend(never())

    asyncio.run(scenario())


def test_it_may_say_so_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_S), children(tmp_path) as group:
            child = await group.start("node-1", BROKEN, {})

            async def notices() -> str:
                await child.process.wait()
                await asyncio.sleep(0)
                return "node-1 is lost"

            assert await group.attend(notices()) == "node-1 is lost"

    asyncio.run(scenario())


def test_its_own_errors_come_through(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def fails() -> str:
            raise ValueError("of its own")

        async with asyncio.timeout(PATIENCE_S), children(tmp_path) as group:
            with pytest.raises(ValueError, match="of its own"):
                await group.attend(fails())

    asyncio.run(scenario())


def test_a_process_is_read_although_its_log_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "node-1.log").symlink_to("/dev/full")

    async def scenario() -> str:
        async with asyncio.timeout(PATIENCE_S), children(tmp_path) as group:
            child = await group.start("node-1", BROKEN, {})
            await child.process.wait()
            assert child.reading is not None
            await child.reading
            return child.last_words()

    assert "5parsecs" in asyncio.run(scenario())
