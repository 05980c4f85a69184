"""Summarises messages for people who watch the topics: kind and headers, never the body.

Every message gets a summary, whatever its bytes and topic; one of another protocol is of kind `foreign`.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from mpsl import wire
from mpsl.errors import WireError
from mpsl.link import chunk
from mpsl.machines.machine import from_json
from mpsl.messages import KINDS
from mpsl.names import ORCHESTRATOR
from mpsl.topics import BinaryTopic, ParticipantTopic, RunTopic, Topics
from mpsl.wire import Buffer

FOREIGN = "foreign"
MAX_OPEN_MESSAGES = 4096
"""The number of messages whose first chunk is remembered, so that later chunks can be described."""


@dataclass(frozen=True)
class MessageSummary:
    """One message. Unknown fields are None; `note` is further text for people."""

    kind: str
    src: str | None = None
    dst: str | None = None
    round: int | None = None
    batch: int | None = None
    micro: int | None = None
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    note: str = ""


class Watcher:
    """Summarises the messages of one net."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._first_chunks: OrderedDict[tuple[object, ...], MessageSummary] = OrderedDict()

    def see(self, topic: str, payload: Buffer) -> MessageSummary:
        """Return the summary of this message. Never raises."""
        match self._topics.parse(topic):
            case BinaryTopic() as binary:
                return self._binary(binary, payload)
            case ParticipantTopic(_, id, leaf):
                src, dst = (ORCHESTRATOR, id) if leaf == "cmd" else (id, None)
                return _json(leaf, src, dst, payload)
            case RunTopic(_, leaf):
                return _json(leaf, ORCHESTRATOR, None, payload)
        return MessageSummary(FOREIGN, note="foreign topic")

    def _binary(self, topic: BinaryTopic, payload: Buffer) -> MessageSummary:
        blank = MessageSummary(FOREIGN, topic.source, topic.to)
        try:
            decoded = chunk.decode(payload)
            if isinstance(decoded, chunk.Ack):
                missing = sum(end - first for first, end in decoded.gaps)
                note = f"{decoded.lane} up to {decoded.next}" + (f", {missing} missing" if missing else "")
                return replace(blank, kind="ack", note=note)
            header, body = decoded
            key = (topic, header.boot, header.session, header.message)
            if header.index:
                found = self._first_chunks.get(key, replace(blank, kind="chunk"))
            else:
                found = _first(blank, wire.header_of(body)[0])
        except WireError as error:
            return replace(blank, note=str(error))
        if header.total == 1:
            return found
        if not header.index:
            self._remember(key, found)
        return replace(found, note=f"{found.note} chunk {header.index + 1} of {header.total}".strip())

    def _remember(self, key: tuple[object, ...], summary: MessageSummary) -> None:
        self._first_chunks[key] = summary
        if len(self._first_chunks) > MAX_OPEN_MESSAGES:
            self._first_chunks.popitem(last=False)


def _json(leaf: str, src: str, dst: str | None, payload: Buffer) -> MessageSummary:
    if not payload:
        return MessageSummary(leaf, src, dst, note="cleared")
    content = from_json(payload)
    if content is None:
        return MessageSummary(FOREIGN, src, dst, note="no JSON object")
    state = content.get("state")
    note = state if isinstance(state, str) else ""
    return MessageSummary(leaf, src, dst, _count(content.get("round")), _count(content.get("batch")), note=note[:40])


def _first(blank: MessageSummary, header: dict[str, Any]) -> MessageSummary:
    """Return the summary of a message from its header. Raises WireError if the header is not valid."""
    kind, fields, tensor = header.get("k"), header.get("f"), header.get("t")
    if not isinstance(kind, str) or kind not in KINDS or not isinstance(fields, dict):
        raise WireError("the kind of the message is unknown")
    ticket = fields.get("ticket")
    about = ticket if isinstance(ticket, dict) else fields
    found = replace(
        blank,
        kind=kind,
        round=_count(about.get("round", about.get("version"))),
        batch=_count(about.get("batch")),
        micro=_count(about.get("micro")),
        note=str(fields.get("purpose", ""))[:40],
    )
    match tensor:
        case None:
            return found
        case [str(codec), str(dtype), list(shape), list(_), *more] if all(_count(size) is not None for size in shape):
            others = f"and {len(more[1])} more" if len(more) > 1 and isinstance(more[1], list) else ""
            note = " ".join(word for word in (found.note, codec[:40], others) if word)
            return replace(found, dtype=dtype, shape=tuple(shape), note=note)
    raise WireError("the tensor is not described as [codec, dtype, shape, sizes]")


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
