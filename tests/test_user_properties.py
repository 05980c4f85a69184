"""User properties: what we write is what paho reads."""

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.user_properties import UserProperties

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
