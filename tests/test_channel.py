"""All the links of a process: who counts, what is fenced, how much is in flight."""

import dataclasses
import heapq
import itertools
import random
from collections import Counter
from collections.abc import Iterator

import pytest
from links import KEYS, TOPICS, Network, activation, fault
from msgspec.structs import replace

from mpsl.link import chunk
from mpsl.link.channel import YIELD_S, Limits, Outbound, Peer
from mpsl.link.chunk import Ack, ChunkHeader
from mpsl.link.receiver import ACK_DELAY_S
from mpsl.link.sender import FIRST_RETRY_S, HEADER_ALLOWANCE
from mpsl.messages import Activation, Admit, Discarded, Keep, Slice, Tensor
from mpsl.topics import BinaryTopic


def limits(**changed: int) -> Limits:
    return Limits(**({"chunk_bytes": 1256, "window": 10_000, "in_flight": 40_000, "message": 10**6} | changed))


def replace_limits(**changed: bool) -> Limits:
    return dataclasses.replace(limits(), **changed)


def publishes(outbound: list[Outbound]) -> list[tuple[BinaryTopic, bytes]]:
    found = []
    for each in outbound:
        topic = TOPICS.parse(each.topic)
        assert isinstance(topic, BinaryTopic)
        found.append((topic, bytes(each.payload)))
    return found


def test_only_the_planned_boot_counts() -> None:
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    [(to_b, payload)] = publishes(a.send("b", fault(1), 0.0))
    b.set_peers({"a": Peer("another", "a")})
    assert b.receive(to_b, payload, 0.0) == ([], [])
    assert b.dropped == Counter({"boot": 1})
    b.set_peers({"a": Peer("boot-a", "a")})
    messages, _ = b.receive(to_b, payload, 0.0)
    assert messages == [fault(1)]

    [(to_a, ack)] = publishes(b.due(1.0))
    a.set_peers({"b": Peer("another", "b")})
    assert not a._senders, "what a former boot left is forgotten"
    a.set_peers({"b": Peer("boot-b", "b")})
    a.send("b", fault(2), 0.0)
    a.receive(to_a, ack, 0.0)
    assert not a.idle, "the ack names a session that is no more"
    assert a.dropped == Counter({"ack": 1})


def test_an_ack_from_an_impostor_does_not_count() -> None:
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    [(to_b, payload)] = publishes(a.send("b", fault(1), 0.0))
    b.receive(to_b, payload, 0.0)
    [(to_a, ack)] = publishes(b.due(1.0))
    decoded = chunk.decode(ack)
    assert isinstance(decoded, Ack)
    forged = [
        (replace(decoded, boot="other"), "boot"),
        (replace(decoded, term=2), "term"),
        (replace(decoded, term=0), "term"),
        (replace(decoded, to_boot="other"), "ack"),
        (replace(decoded, session=9), "ack"),
        (replace(decoded, lane="weights"), "ack"),
        (replace(decoded, lane="none"), "ack"),
    ]
    for each, key in forged:
        a.receive(to_a, chunk.encode_ack(each), 1.0)
        assert a.dropped.pop(key) == 1
        assert not a.idle
    a.receive(BinaryTopic("run-1", "a", "ack", "c"), ack, 1.0)
    assert a.dropped.pop("stranger") == 1
    a.receive(BinaryTopic("run-1", "a", "ctl", "b"), ack, 1.0)
    assert a.dropped.pop("lane") == 1
    a.receive(to_a, ack, 1.0)
    assert a.idle
    assert not a.dropped


@pytest.mark.parametrize("term", [1, 3])
def test_messages_of_another_term_are_dropped_and_counted(term: int) -> None:
    network = Network()
    network.join("a", limits(), term=term)
    network.join("b", limits(), term=2)
    network.send("a", "b", fault(1))
    network.step()
    assert network.received["b"] == []
    assert network.channels["b"].dropped == Counter({"term": 1})
    assert network.channels["b"].next_due() is None, (
        "no ack, so that a newer term's message is sent again after the plan"
    )


def test_a_forgotten_link_begins_anew() -> None:
    """Mid-message, with chunks of the old session still in the pipe: they are dropped, and the new session is whole."""
    network = Network(seed=3, latest_s=3.0)
    a = network.join("a", limits())
    b = network.join("b", limits())
    network.send("a", "b", activation(1, bytes(50_000)))
    for _ in range(4):
        network.step()
    a.forget("b")
    assert a.idle
    assert a.in_flight_bytes == 0
    network.send("a", "b", activation(2, bytes(30_000)))
    network.run()
    assert a.idle
    assert [m.ticket.batch for _, m in network.received["b"] if isinstance(m, Activation)] == [2]
    assert set(a.dropped) <= {"ack"}
    assert set(b.dropped) <= {"session"}


def test_forgetting_drops_nothing_that_comes_from_there() -> None:
    network = Network(loss=0.2, seed=5)
    a, b = network.join("a", limits()), network.join("b", limits())
    for number in range(20):
        network.send("b", "a", fault(number, 500))
        if number % 5 == 0:
            network.step()
            a.forget("b")
    network.run()
    assert b.idle
    assert [m for _, m in network.received["a"]] == [fault(number, 500) for number in range(20)]


def test_another_boot_of_a_peer_starts_from_nothing() -> None:
    network = Network(seed=2)
    network.join("a", limits())
    network.join("b", limits())
    for number in range(5):
        network.send("b", "a", activation(number, bytes(5000)))
        network.send("a", "b", fault(number))
    for _ in range(3):
        network.step()
    before = len(network.received["b"])
    network.join("b", limits(), boot="reborn")
    network.send("b", "a", activation(7, bytes(5000)))
    network.send("a", "b", fault(8))
    network.run()
    assert [m.ticket.batch for _, m in network.received["a"] if isinstance(m, Activation)][-1] == 7
    assert network.received["b"][before:][-1] == ("a", fault(8))
    assert network.channels["a"].idle
    assert set(network.channels["a"].dropped) <= {"boot", "ack"}


def test_a_message_larger_than_the_window() -> None:
    network = Network(loss=0.1, seed=1)
    a = network.join("a", limits(window=3000))
    network.join("b", limits(window=3000))
    data = random.Random(0).randbytes(200_000)
    network.send("a", "b", activation(1, data))
    most = 0
    while network.step():
        most = max(most, a.in_flight_bytes)
    [(_, message)] = network.received["b"]
    assert isinstance(message, Activation)
    assert bytes(message.tensor.planes[0]) == data
    assert most <= 3000


def test_all_links_together_are_bounded() -> None:
    network = Network(seed=4)
    few = limits(in_flight=25_000)
    a = network.join("a", few)
    others = [f"b{number}" for number in range(6)]
    for other in others:
        network.join(other, few)
        network.send("a", other, activation(0, bytes(100_000)))
    most = 0
    while network.step():
        most = max(most, a.in_flight_bytes)
    body = few.chunk_bytes - HEADER_ALLOWANCE
    assert most <= few.in_flight + (len(others) - 1) * body
    assert all(len(network.received[other]) == 1 for other in others)


def test_what_is_in_flight_and_held_is_the_sum_over_all_links() -> None:
    """Counted as it changes: through losses, repeats, a link begun anew and a peer with another boot."""
    network = Network(seed=11, loss=0.15, double=0.1, latest_s=0.5)
    names = ["a", "b", "c"]
    for name in names:
        network.join(name, limits(window=6000))
    for number in range(30):
        source, to = names[number % 3], names[(number + 1 + number % 2) % 3]
        network.send(source, to, activation(number, bytes(1000 * (number % 7) + 10)))
    for step in itertools.count():
        for channel in network.channels.values():
            assert channel.in_flight_bytes == sum(each.in_flight_bytes for each in channel._senders.values())
            assert channel.held_bytes == sum(each.held_bytes for each in channel._receivers.values())
        if step == 40:
            network.channels["a"].forget("b")
        if step == 60:
            network.channels["b"].set_peers({"c": Peer("another boot", "c")})
        if not network.step() or network.now > 60:
            break
    assert step > 100


def test_peers_that_do_not_answer_hold_up_nobody() -> None:
    """As many dead links as fill the whole allowance; a discard and an activation to the living get through at once."""
    network = Network()
    a = network.join("a", limits())
    network.join("living", limits())
    a.set_peers({f"dead{number}": Peer("gone", f"dead{number}") for number in range(8)})
    for number in range(8):
        a.send(f"dead{number}", activation(0, bytes(100_000)), 0.0)
    assert a.in_flight_bytes >= limits().in_flight
    network.send("a", "living", Discarded("dev-1", 3))
    network.send("a", "living", activation(1, bytes(20_000)))
    for _ in range(200):
        if len(network.received["living"]) == 2 or network.now > 1.5:
            break
        step_towards(network, "living")
    assert len(network.received["living"]) == 2
    assert set(a.waiting_for()) >= {f"dead{number}" for number in range(8)}


def step_towards(network: Network, id: str) -> None:
    """One step that does not deliver to peers that are not there."""
    network._pipe = [entry for entry in network._pipe if f"/{id}/" in entry[2].topic or "/a/" in entry[2].topic]
    heapq.heapify(network._pipe)
    network.step()


def test_no_link_starves() -> None:
    """Links that always have more to send share the allowance: the last to come gets half as far as the first."""
    network = Network(seed=6)
    few = limits(in_flight=10_000)
    network.join("a", few)
    others = [f"b{number}" for number in range(8)]
    for other in others:
        network.join(other, few)
        for number in range(100):
            network.send("a", other, activation(number, bytes(3000)))
    while max(len(network.received[other]) for other in others) < 60:
        network.step()
    progress = [len(network.received[other]) for other in others]
    assert min(progress) >= 25, progress


def test_a_sender_and_its_acks_are_counted_in_bytes() -> None:
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    network.send("a", "b", activation(1, bytes(5000)))
    network.run()
    assert a.sent_bytes == b.received_bytes > 5000
    assert b.sent_bytes == a.received_bytes > 0


def test_next_due_is_when_something_is_to_be_done() -> None:
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    assert a.next_due() is None
    [(topic, payload)] = publishes(a.send("b", Admit(1, "b", "boot-b", 1, 5), 10.0))
    assert a.next_due() == 10.0 + FIRST_RETRY_S
    assert len(a.due(10.0 + FIRST_RETRY_S)) == 1
    b.receive(topic, payload, 11.0)
    assert b.next_due() == 11.0 + ACK_DELAY_S
    assert len(b.due(11.0 + ACK_DELAY_S)) == 1
    assert b.next_due() is None


def test_what_foreigners_send_makes_no_new_keys() -> None:
    """Whatever arrives is dropped and counted, under a bounded number of keys, and disturbs nothing."""
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    chance = random.Random(0)
    [(_, good)] = publishes(a.send("b", Keep(1), 0.0))

    def attacks() -> Iterator[bytes]:
        for number in range(2000):
            flipped = bytearray(good)
            flipped[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
            yield bytes(flipped)
            yield good[: chance.randrange(len(good))]
            yield chance.randbytes(chance.randrange(200))
            yield bytes(chunk.encode_chunk(ChunkHeader(f"boot-{number}", 1, 1, 1, 1, 0, 1, 0, 5, 5), [bytes(5)]))
            yield bytes(chunk.encode_chunk(ChunkHeader("boot-a", number + 2, 1, 1, 1, 0, 1, 0, 5, 5), [bytes(5)]))
            yield bytes(chunk.encode_chunk(ChunkHeader("boot-a", 1, 1, number + 600, 1, 0, 1, 0, 5, 5), [bytes(5)]))
            yield b"MPSL" + bytes([number % 256, number % 7]) + bytes(90)

    for number, attack in enumerate(attacks()):
        source = ("a", "a", f"c{number}")[number % 3]
        lane = ("fwd", "bwd", "weights", "ack")[number % 4]
        b.receive(BinaryTopic("run-1", "b", lane, source), attack, 0.0)
    assert set(b.dropped) <= KEYS
    assert sum(b.dropped.values()) > 10_000
    messages, _ = b.receive(BinaryTopic("run-1", "b", "ctl", "a"), good, 1.0)
    assert messages == [Keep(1)]


def test_messages_on_the_wrong_lane_are_dropped() -> None:
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    [(topic, payload)] = publishes(a.send("b", Keep(1), 0.0))
    messages, _ = b.receive(BinaryTopic("run-1", "b", "weights", "a"), payload, 0.0)
    assert messages == []
    assert b.dropped == Counter({"lane": 1})
    assert topic.lane == "ctl"


def a_part(bytes_: int) -> Slice:
    """A slice of a committed part."""
    return Slice("part", 1, 0, 1, 0, 0, Tensor("raw", "uint8", (bytes_,), (memoryview(bytes(bytes_)),)))


def chunks_out(outbound: list[Outbound], lane: str) -> int:
    return sum(topic.lane == lane for topic, _ in publishes(outbound))


def test_weights_that_yield_have_two_chunks_in_flight_at_most_while_activations_go_out() -> None:
    network = Network()
    seat, orchestrator = network.join("a", replace_limits(yielding=True)), network.join("b", limits())
    seat.send("b", activation(1, bytes(8)), 0.0)
    assert chunks_out(seat.send("b", a_part(8000), 0.1), "weights") == 2
    assert chunks_out(seat.send("b", a_part(8000), 0.1), "weights") == 0
    assert chunks_out(seat.send("b", activation(2, bytes(8)), 0.2), "fwd") >= 1, "it waits for no more than those"
    assert orchestrator.idle


def test_weights_that_yield_fill_their_window_once_no_activation_goes_out() -> None:
    network = Network()
    seat = network.join("a", replace_limits(yielding=True))
    network.join("b", limits())
    seat.send("b", activation(1, bytes(8)), 0.0)
    assert chunks_out(seat.send("b", a_part(8000), YIELD_S + 0.1), "weights") > 1


def test_everyone_elses_weights_do_not_yield() -> None:
    network = Network()
    device = network.join("a", limits())
    network.join("b", limits())
    device.send("b", activation(1, bytes(8)), 0.0)
    assert chunks_out(device.send("b", a_part(8000), 0.1), "weights") > 1


def test_a_yielding_part_arrives_whole_while_activations_go_on() -> None:
    network = Network(seed=3, loss=0.1, double=0.1)
    network.join("a", replace_limits(yielding=True, paced=False))
    network.join("b", limits())
    for number in range(40):
        network.send("a", "b", a_part(3000))
        network.send("a", "b", activation(number, bytes(8)))
    network.run()
    assert sum(isinstance(message, Slice) for _, message in network.received["b"]) == 40
