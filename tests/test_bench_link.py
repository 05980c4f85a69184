"""What the link benchmark sends without the link, and what it says where one of its ends fails."""

import asyncio

import numpy as np
import pytest
from driving import PATIENCE_S

from benchmarks import link
from benchmarks.link_ends import piece_bytes, window_of
from benchmarks.measurers import measuring, results
from mpsl import wire
from mpsl.errors import MeasurementError
from mpsl.link.channel import Limits
from mpsl.messages import Activation, Tensor, Ticket


@pytest.mark.parametrize(("size", "chunk", "pieces"), [(1000, 300, 4), (900, 300, 3), (4, 4, 1), (301, 300, 2)])
def test_paho_alone_moves_just_the_bytes_of_each_tensor(size: int, chunk: int, pieces: int) -> None:
    sent = [piece_bytes(number, size, chunk) for number in range(3 * pieces)]
    assert [sum(sent[first : first + pieces]) for first in range(0, 3 * pieces, pieces)] == [size] * 3
    assert 0 < min(sent) <= max(sent) <= chunk


def test_no_more_publishes_are_under_way_than_mosquitto_keeps() -> None:
    assert (window_of(1 << 20), window_of(64 << 10), window_of(4), window_of(1 << 30)) == (8, 128, 500, 4)


def test_the_largest_tensor_fits_into_a_message() -> None:
    values = np.zeros(link.LARGEST // 4, np.float32)
    tensor = Tensor("fp32", "float32", values.shape, (memoryview(values),))
    encoded = wire.encode(Activation(Ticket(1, 1, "a", 1, 0, 1, 0, 1), tensor))
    assert sum(memoryview(part).nbytes for part in encoded) <= Limits().message


def said_of(command: list[str]) -> str:
    """What the error says where the sender runs `python -m COMMAND`."""

    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_S), measuring({"the sender": command}) as ends:
            await results(ends, PATIENCE_S)

    with pytest.raises(MeasurementError) as error:
        asyncio.run(scenario())
    return str(error.value)


def test_an_end_that_dies_is_named_with_its_last_words() -> None:
    says = said_of(["json.tool", "/nonexistent.json"])
    assert says.startswith("the sender ended with status ")
    assert "/nonexistent.json" in says


def test_an_end_that_prints_something_else_is_named_with_it() -> None:
    assert said_of(["this"]).startswith("the sender printed no JSON object, but: Namespaces are one honking great idea")


def test_what_takes_too_long_is_named_and_ended() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_S), measuring({"the receiver": ["http.server", "0"]}) as ends:
            with pytest.raises(MeasurementError, match=r"the receiver: not done after 0\.01 s"):
                await results(ends, 0.01)
        with pytest.raises(MeasurementError, match="the receiver ended with status -9"):
            ends[0].result()

    asyncio.run(scenario())


@pytest.mark.slow
def test_an_end_that_cannot_begin_is_said_at_once() -> None:
    with pytest.raises(MeasurementError, match=r"the (receiver|sender) ended with status 2: .*--count"):
        asyncio.run(link.pair("auto", True, 64, "many", 64))  # type: ignore[arg-type]
