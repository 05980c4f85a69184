"""A payload in pieces is its buffers until it is joined, and what the simulator carries is a copy of its own."""

from hypothesis import given
from hypothesis import strategies as st

from mpsl.machines.effects import Publish
from mpsl.pieces import Pieces


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_pieces_are_what_their_buffers_are_end_to_end(buffers: list[bytes]) -> None:
    pieces = Pieces(tuple(buffers), sum(map(len, buffers)))
    assert bytes(pieces) == b"".join(buffers)
    assert len(pieces) == len(b"".join(buffers))


def test_nothing_is_copied_before_it_is_joined() -> None:
    memory = bytearray(b"abc")
    pieces = Pieces((b"head", memory), 7)
    memory[0] = ord("x")
    assert bytes(pieces) == b"headxbc"


def test_what_is_joined_changes_no_more() -> None:
    memory = bytearray(b"abc")
    joined = Publish("t", Pieces((b"head", memory), 7), properties=(("kind", "x"),)).joined()
    memory[0] = ord("x")
    assert joined == Publish("t", b"headabc", properties=(("kind", "x"),))
    assert joined.joined() is joined
