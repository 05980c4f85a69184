"""User properties: what we write is what paho reads, and we alone step over them."""

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.user_properties import UserProperties, skipping

PAIRS = [
    (),
    (("kind", "tensor"),),
    (("kind", "activation"), ("shape", "64x3x8x8"), ("kind", "twice")),
    (("größe", "½ MB"), ("", "")),
    (("long", "x" * 20_000),),
]


def read(packet: bytes, kind: int = PacketTypes.PUBLISH) -> tuple[list[tuple[str, str]], int]:
    properties, length = Properties(kind).unpack(packet)
    return getattr(properties, "UserProperty", []), length


@pytest.mark.parametrize("pairs", PAIRS)
def test_paho_reads_what_was_packed(pairs: tuple[tuple[str, str], ...]) -> None:
    packed = UserProperties(pairs).pack()
    assert read(packed + b"payload") == (list(pairs), len(packed))


@pytest.mark.parametrize("pairs", PAIRS)
def test_the_bytes_are_those_of_paho(pairs: tuple[tuple[str, str], ...]) -> None:
    theirs = Properties(PacketTypes.PUBLISH)
    if pairs:
        theirs.UserProperty = list(pairs)
    assert UserProperties(pairs).pack() == theirs.pack()


@pytest.mark.parametrize("pairs", PAIRS)
def test_our_reading_steps_over_those_of_a_publish_and_of_nothing_else(pairs: tuple[tuple[str, str], ...]) -> None:
    packed = UserProperties(pairs).pack()
    assert skipping(read)(packed + b"payload") == ([], len(packed))
    assert skipping(read)(packed, PacketTypes.CONNACK) == (list(pairs), len(packed))
    assert read(packed) == (list(pairs), len(packed))


def test_a_reading_that_fails_leaves_the_others_alone() -> None:
    def failing() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        skipping(failing)()
    packed = UserProperties(PAIRS[1]).pack()
    assert read(packed) == (list(PAIRS[1]), len(packed))
