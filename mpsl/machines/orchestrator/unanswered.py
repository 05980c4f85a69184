"""Says who gets no acknowledgement from whom, and what that may be due to: access rules, or a limit on the size.

A broker drops a publish at QoS 0 without a word if its rules forbid it or if it is too large. Both ends are alive then,
and only the missing acknowledgement shows it. This file decides nothing.
"""

from collections.abc import Iterator
from math import inf

from mpsl.link.channel import Unanswered
from mpsl.machines.census import Presence
from mpsl.machines.orchestrator.context import RunContext
from mpsl.names import ORCHESTRATOR
from mpsl.topics import LANES, Address

MAX_NAMED = 3
MIN_CHUNK_BYTES = 4096
"""The least that a job may set."""


class UnansweredLinks:
    """The links of one run on which acknowledgements are overdue although both ends are alive."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def found(self) -> list[tuple[str, Unanswered]]:
        """Return each link with the process that sends on it, the one that waits longest first."""
        context, links = self._context, []
        if context.session is not None:
            links += [(ORCHESTRATOR, each) for each in context.session.unanswered(context.now)]
        present = list(self._present())
        for presence in present:
            links += [(presence.id, each) for each in _told(presence)]
        alive = {ORCHESTRATOR, *(presence.id for presence in present)}
        links = [link for link in links if context.state.node_at(link[1].to) in alive]
        return sorted(links, key=lambda link: -link[1].seconds)

    def too_large(self, links: list[tuple[str, Unanswered]], seconds: float) -> str:
        """Why the run cannot go on if publishes seem to vanish because of their size; empty otherwise.

        They do if a smaller one has arrived over the same link, or if nothing as large has arrived anywhere.
        """
        overdue = [(source, link) for source, link in links if link.seconds >= seconds]
        if not overdue:
            return ""
        largest = self._largest_arrived()
        certain = [(source, link) for source, link in overdue if 0 < link.arrived < link.bytes]
        likely = certain or [(source, link) for source, link in overdue if 0 < largest < link.bytes]
        return self.explained(likely[:1] if certain else likely).removeprefix("; ")

    def explained(self, links: list[tuple[str, Unanswered]]) -> str:
        """Return what is known of these links, as the end of an error message; empty if there are none."""
        more, largest = len(links) - MAX_NAMED, self._largest_arrived()
        named = [self._sentence(source, link, largest) for source, link in links[:MAX_NAMED]]
        return "".join(f"; {each}" for each in named) + (f"; and {more} more such links" if more > 0 else "")

    def _largest_arrived(self) -> int:
        """Return the largest payload that has arrived in this term, as far as its senders have told."""
        session = self._context.session
        told = (presence.telemetry.get("largest_arrived") for presence in self._present())
        return max([session.channel.largest_arrived if session else 0, *(n for n in told if isinstance(n, int))])

    def _sentence(self, source: str, link: Unanswered, largest: int) -> str:
        topics, run, node = self._context.topics, self._context.state.run, self._context.state.node_at(link.to)
        receiver = f"{node} (seat {link.to})" if node != link.to else node
        said = f"{source} has had no acknowledgement from {receiver} for {link.seconds:.0f} s: "
        if 0 < link.arrived < link.bytes:
            return said + _too_large(link.bytes, link.arrived)
        there = topics.binary(run, link.to, link.lane, source)
        back = topics.binary(run, self._address(source), "ack", node)
        rules = (
            f"the broker's access rules may keep {source} from writing {there} or {node} from reading it, or the same "
            f"for the answer on {back} (docs/acl.example)"
        )
        is_small = link.bytes <= max(largest, MIN_CHUNK_BYTES)
        return said + (rules if is_small else f"{rules}; or {_too_large(link.bytes, largest)}")

    def _address(self, source: str) -> Address:
        seat = self._context.state.seat_of(source)
        return seat.address if seat else source

    def _present(self) -> Iterator[Presence]:
        """The participants of the plan that are alive."""
        state, census = self._context.state, self._context.census
        named = [census.get("node", seat.node) for seat in state.seats.values()]
        named += [census.get("dev", id) for id in state.members]
        yield from (each for each in named if each is not None and each.alive(self._context.now))


def _too_large(vanished: int, arrived: int) -> str:
    """What to do if publishes of a size vanish; `arrived`: the largest that does not, 0 if there is none."""
    known = f", those of {arrived:,} bytes arrive" if arrived else ""
    chunk_bytes = f"chunk_bytes = {max(MIN_CHUNK_BYTES, arrived)}" if arrived else "a smaller chunk_bytes"
    return (
        f"publishes of {vanished:,} bytes vanish{known}; raise the broker's limit on the size of a message (mosquitto: "
        f"message_size_limit), or set {chunk_bytes} under [wire] in the job"
    )


def _told(presence: Presence) -> Iterator[Unanswered]:
    """What a participant's telemetry says of its links, as far as it is well-formed."""
    told = presence.telemetry.get("unanswered")
    for each in told if isinstance(told, list) else ():
        match each:
            case {
                "to": str(to),
                "lane": str(lane),
                "seconds": int() | float() as seconds,
                "bytes": int(sent),
                "arrived": int(arrived),
            }:
                if lane in LANES and 0 <= seconds < inf:
                    yield Unanswered(to, lane, seconds, sent, arrived)
