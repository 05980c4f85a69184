"""Who may say what: every kind of message, from everyone, to everyone."""

from typing import Any

import msgspec
import pytest
from plans import plan

from mpsl.link_messages import Echo, Linked, ProbeBurst, Pull, Took
from mpsl.machines.permissions import may_measure, may_send
from mpsl.messages import (
    KINDS,
    Accept,
    Activation,
    Admit,
    Close,
    Closed,
    Commit,
    Committed,
    CopyFailed,
    Counters,
    Discard,
    Discarded,
    End,
    Evaluate,
    Fault,
    Finished,
    Gradient,
    Joined,
    Keep,
    Loaded,
    Message,
    Probe,
    Report,
    Restored,
    RestoreSum,
    Score,
    Sent,
    Slice,
    TakeSavepoint,
    Tensor,
    Ticket,
    Update,
)

TENSOR = Tensor("raw", "float32", (0,), (memoryview(b""),))
TICKET = Ticket(1, 1, "dev-1", 1, 0, 0, 0, 1)

ORCH_TO_CHAIN = {("orch", "1_0"), ("orch", "2_0"), ("orch", "dev-1")}
ORCH_TO_ALL = ORCH_TO_CHAIN | {("orch", "1_1"), ("orch", "dev-2")}
ORCH_TO_SEATS = {("orch", "1_0"), ("orch", "2_0"), ("orch", "1_1")}
SEATS = {("node-1", "orch"), ("node-2", "orch"), ("node-3", "orch")}
CHAIN = {("node-1", "orch"), ("node-2", "orch")}
DEVICES = {("dev-1", "orch"), ("dev-2", "orch")}
FORWARD = {("dev-1", "1_0"), ("node-1", "2_0"), ("node-2", "dev-1")}
BACKWARD = {("dev-1", "2_0"), ("node-2", "1_0"), ("node-1", "dev-1")}

ALLOWED: list[tuple[Message, set[tuple[str, str]]]] = [
    (Activation(TICKET, TENSOR), FORWARD),
    (Probe(1, "dev-1", 1, 0, TENSOR), FORWARD),
    (Gradient(TICKET, TENSOR), BACKWARD),
    (Slice("global", 0, 0, 0, 0, 0, TENSOR), ORCH_TO_ALL),
    (Slice("update", 1, 1, 0, 0, 0, TENSOR), DEVICES),
    (Slice("sum", 1, 0, 1, 0, 0, TENSOR), SEATS),
    (Slice("savepoint", 1, 2, 1, 0, 0, TENSOR), SEATS | ORCH_TO_SEATS),
    (Sent("savepoint", 1, "d", 2), SEATS),
    (TakeSavepoint(1, 2, 1), ORCH_TO_SEATS),
    (RestoreSum(1, 1, 9), ORCH_TO_SEATS),
    (Restored(1), SEATS),
    (Slice("part", 1, 0, 1, 0, 0, TENSOR), SEATS),
    (Admit(1, "dev-1", "b", 1, 3), ORCH_TO_CHAIN),
    (Accept(1, "dev-1", 1, 1, 9, 3), ORCH_TO_CHAIN),
    (Discard(1, "dev-1", 1), ORCH_TO_CHAIN),
    (Close(1, 2, 20), {("orch", "1_0"), ("orch", "2_0"), ("orch", "1_1")}),
    (Commit(1), {("orch", "1_0"), ("orch", "2_0"), ("orch", "1_1")}),
    (Evaluate(1, 2), {("orch", "dev-1"), ("orch", "dev-2")}),
    (Keep(0), {("orch", "1_0"), ("orch", "2_0"), ("orch", "1_1")}),
    (Report(1), ORCH_TO_ALL),
    (End("done", ""), ORCH_TO_ALL),
    (Joined(), SEATS | DEVICES),
    (Fault("no"), SEATS | DEVICES),
    (CopyFailed("dev-1", 1, "no"), CHAIN),
    (Counters(1, 2, 3), SEATS | DEVICES),
    (Loaded(0), SEATS),
    (Closed(1, 2, 20), SEATS),
    (Sent("sum", 1, "d"), SEATS),
    (Sent("part", 1, "d"), SEATS),
    (Sent("global", 1, "d"), set()),
    (Committed(1), SEATS),
    (Finished(1, "dev-1", 1, 3), CHAIN),
    (Discarded("dev-1", 1), CHAIN | {("dev-1", "orch")}),
    (Update(1, 1, 3, 9, 0.5, 1.0), DEVICES),
    (Score(1, 2, 3, 4, 1.0), DEVICES),
    (Echo(1), set()),
    (Linked(0.1), set()),
    (Pull(1, 16), set()),
    (ProbeBurst(1, 0, 8, TENSOR), set()),
    (Took(1, 16, 0.1), set()),
]

THERE, BACK = ("orch", "dev-1"), ("dev-1", "orch")
MEASURING: dict[type[Message], set[tuple[str, str]]] = {
    Echo: {("dev-1", "dev-1")},
    Linked: {BACK},
    Pull: {THERE},
    ProbeBurst: {THERE, BACK},
    Took: {BACK},
    End: {THERE},
}
"""Who sends what to whom while the link of dev-1 is measured; nothing else is allowed then."""


def test_the_list_is_of_all_kinds() -> None:
    assert {type(message) for message, _ in ALLOWED} == set(KINDS.values())


@pytest.mark.parametrize(("message", "allowed"), ALLOWED, ids=lambda value: getattr(value, "kind", ""))
def test_only_those_may_send_it(message: Message, allowed: set[tuple[str, str]]) -> None:
    everyone = ["orch", "node-1", "node-2", "node-3", "dev-1", "dev-2", "stranger"]
    addresses = ["orch", "1_0", "1_1", "2_0", "dev-1", "dev-2"]
    found = {(source, to) for source in everyone for to in addresses if may_send(plan(), source, to, message)}
    assert found == allowed


@pytest.mark.parametrize("message", [message for message, _ in ALLOWED], ids=lambda value: value.kind)
def test_before_there_is_a_plan_only_the_orchestrator_and_the_measured_speak(message: Message) -> None:
    everyone = ["orch", "dev-1", "dev-2", "node-1", "1_0"]
    found = {(source, to) for source in everyone for to in everyone if may_measure("dev-1", source, to, message)}
    assert found == MEASURING.get(type(message), set())


@pytest.mark.parametrize("kind", [Activation, Gradient, Probe, Admit, Accept, Discard, Finished, Discarded])
def test_nobody_speaks_of_a_device_that_is_not_in_the_plan(kind: type[Message]) -> None:
    message: Any = next(message for message, _ in ALLOWED if isinstance(message, kind))
    if hasattr(message, "ticket"):
        message = msgspec.structs.replace(message, ticket=msgspec.structs.replace(TICKET, device="stranger"))
    else:
        message = msgspec.structs.replace(message, device="stranger")
    for source in ("orch", "node-1", "dev-1", "stranger"):
        for to in ("orch", "1_0", "dev-1"):
            assert not may_send(plan(), source, to, message) or (source, to) == ("stranger", "orch")
