"""A broker that we start keeps the memory of freed packets, unless whoever starts it says otherwise."""

import asyncio
from pathlib import Path

import pytest

from broker.engines.engine import running_broker

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc of Linux")]


def environment_of_a_broker(engine: str) -> dict[str, str]:
    async def look() -> str:
        async with running_broker(engine) as process:
            return Path(f"/proc/{process.pid}/environ").read_text()

    pairs = asyncio.run(look()).rstrip("\0").split("\0")
    return dict(pair.split("=", 1) for pair in pairs)


@pytest.mark.parametrize("engine", ["mosquitto", "embedded"])
def test_it_keeps_what_a_window_needs_many_times_over(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    found = environment_of_a_broker(engine)
    assert int(found["MALLOC_TRIM_THRESHOLD_"]) >= 64 << 20
    assert int(found["MALLOC_MMAP_THRESHOLD_"]) >= 64 << 20


def test_whoever_starts_it_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert environment_of_a_broker("mosquitto")["MALLOC_TRIM_THRESHOLD_"] == "131072"
