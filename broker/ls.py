"""`mpsl ls`: lists the devices, nodes and runs of a net, with state and age.

The values were written by other processes: those of an unexpected type are left out, control characters are escaped,
and the JSON is strict.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from broker.options import NetworkOptions, looking_options
from broker.tap import printable, printing
from broker.watch import watching
from mpsl import strict_json
from mpsl.machines.census import Census, Presence, natural
from mpsl.machines.machine import from_json
from mpsl.machines.online import TELEMETRY_S
from mpsl.topics import BRANCHES, Branch, ParticipantTopic, RunTopic, Topics
from mpsl.wire import Buffer

RETAINED_S = 0.5
"""Retained messages have arrived by then."""
LISTEN_S = TELEMETRY_S + RETAINED_S
"""Telemetry of all live processes has arrived by then."""
MAX_WARNING = 200
"""Characters of a warning that are shown."""
MAX_NUMBER = 1e300
"""Larger numbers cannot be counts or losses of a run, and cannot be formatted."""

Row = dict[str, Any]


@click.command()
@looking_options
def ls(*, network: NetworkOptions) -> None:
    """Show the present devices, nodes and runs. Takes up to 2.5 s, because telemetry comes every 2 s."""
    listing = Listing(network.topics)
    asyncio.run(_listen(network, listing))
    found = listing.rows()
    with printing():
        print(strict_json.dumps(found) if network.as_json else "\n".join(table(found)))


async def _listen(network: NetworkOptions, listing: "Listing") -> None:
    """Listen until telemetry of all processes with the status online has arrived, or for LISTEN_S.

    If telemetry arrives without a status, the topics of that process are subscribed to by name, because RabbitMQ sends
    no retained messages to wildcards.
    """
    topics = network.topics
    filters = [topics.participant(branch, "+", leaf) for branch in BRANCHES for leaf in ("status", "info", "tele")]
    async with watching(network, "ls", (*filters, topics.run("+", "state"))) as connection:
        clock = asyncio.get_running_loop().time
        begun = clock()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_S):
                async for topic, payload, *_ in connection.messages():
                    listing.note(topic, payload, time.time())
                    if by_name := listing.missing_topics():
                        await connection.subscribe(by_name)
                    if clock() - begun >= RETAINED_S and listing.complete:
                        return


class Listing:
    """All participants and runs of one net, from their JSON topics; times in seconds since 1970."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._census = Census()
        self._ids: set[tuple[Branch, str]] = set()
        self._runs: dict[str, Row] = {}
        self._named: set[str] = set()
        """Topics whose retained message has not arrived by itself."""
        self._missing: list[str] = []
        """Those of them that are not subscribed to yet."""

    def note(self, topic: str, payload: Buffer, now: float) -> None:
        """Take a message. A malformed one is ignored."""
        match self._topics.parse(topic):
            case ParticipantTopic(branch, id) as named:
                presence = self._census.note(named, payload, now)
                if presence is not None:
                    self._ids.add((branch, id))
                    if not presence.status:
                        self._miss(presence)
            case RunTopic(run, "state"):
                content = from_json(payload)
                if content is None:
                    self._runs.pop(run, None)
                else:
                    self._runs[run] = content

    def _miss(self, presence: Presence) -> None:
        """Note, for `missing_topics`, the topics of a process without a status, and that of its run."""
        topics = [self._topics.participant(presence.branch, presence.id, leaf) for leaf in ("status", "info")]
        run = presence.telemetry.get("run")
        state = self._topics.run(run, "state") if isinstance(run, str) else ""
        if run not in self._runs and isinstance(self._topics.parse(state), RunTopic):
            topics.append(state)
        self._missing += [topic for topic in topics if topic not in self._named]
        self._named.update(topics)

    def missing_topics(self) -> tuple[str, ...]:
        """Return topics to subscribe to by name, each once."""
        missing, self._missing = tuple(self._missing), []
        return missing

    @property
    def complete(self) -> bool:
        """Whether telemetry and status agree: of each process, either both have arrived or it is not online."""
        return not self._named and all(p.heard_at is not None for p in self._presences() if p.online)

    def rows(self) -> dict[str, list[Row]]:
        """Return everything known, by branch, in natural order of the ids; strict JSON."""
        rows = {branch: [_row(p) for p in self._presences() if p.branch == branch and p.status] for branch in BRANCHES}
        runs = [_run(run, self._runs[run]) for run in sorted(self._runs)]
        return {"devices": rows["dev"], "nodes": rows["node"], "runs": runs}

    def _presences(self) -> list[Presence]:
        found = [self._census.get(branch, id) for branch, id in self._ids]
        return sorted((presence for presence in found if presence), key=lambda presence: natural(presence.id))


def _row(presence: Presence) -> Row:
    """Return the row of a participant. `silent` means that its status says online but no telemetry arrives."""
    heard = presence.heard_at if presence.online else None
    state = presence.status["state"]
    uptime = presence.telemetry.get("uptime_s")
    described = presence.info if presence.online and presence.info.get("boot") == presence.boot else {}
    return {
        "id": presence.id,
        "role": _plain(presence.status.get("role")),
        "state": "silent" if presence.online and heard is None else _plain(state),
        "run": _plain(described.get("run")),
        "since": _when(heard - uptime) if heard and isinstance(uptime, int | float) and 0 <= uptime <= heard else None,
        "last_seen": _when(heard),
        "doing": _plain(presence.telemetry.get("state")) if heard is not None else None,
        "version": _plain(presence.status.get("version")),
        "protocol": _plain(presence.status.get("protocol")),
        "boot": presence.boot,
        "warning": _plain(presence.status.get("warning")),
    }


def _run(run: str, content: Row) -> Row:
    """Return the row of a run. `state` is `lost` if the broker has published the orchestrator's last will."""
    return {"run": run} | {
        key: _plain(content.get(key))
        for key in ("state", "round", "rounds", "batches", "batches_in_round", "loss", "accuracy", "waiting_for")
    }


def _plain(value: object) -> object:
    """Return a text, a finite number, a truth value or a list of texts unchanged; None for anything else."""
    if isinstance(value, list):
        return [each for each in value if isinstance(each, str)]
    if isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        return None
    return value if isinstance(value, str | int | float) else None


def _when(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def table(found: dict[str, list[Row]]) -> list[str]:
    """Return the lines for a person; times in the local zone."""
    header = ("ROLE", "ID", "STATE", "RUN", "SINCE", "LAST SEEN", "VERSION", "DOING")
    cells = [header] + [
        (
            row["role"],
            row["id"],
            row["state"],
            row["run"],
            _local(row["since"]),
            _local(row["last_seen"]),
            row["version"],
            row["doing"],
        )
        for row in found["devices"] + found["nodes"]
    ]
    lines = _aligned(cells) if len(cells) > 1 else ["no devices and no nodes"]
    warned = [row for row in found["devices"] + found["nodes"] if row["warning"] and row["state"] == "online"]
    lines += [printable(f"{row['id']}: {row['warning']}")[:MAX_WARNING] for row in warned]
    if not found["runs"]:
        return [*lines, "", "no runs"]
    runs = [("RUN", "STATE", "ROUND", "BATCHES", "LOSS", "ACCURACY", "WAITING FOR")] + [
        (
            row["run"], row["state"], _of(row["round"], row["rounds"]), _of(row["batches"], row["batches_in_round"]),
            _number(row["loss"], ".4f"), _number(row["accuracy"], ".2%"), _names(row["waiting_for"]),
        )
        for row in found["runs"]
    ]  # fmt: skip
    return [*lines, "", *_aligned(runs)]


def _aligned(rows: Sequence[tuple[object, ...]]) -> list[str]:
    texts = [["-" if cell is None else printable(str(cell))[:40] for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in texts]


def _local(when: str | None) -> str | None:
    return when and datetime.fromisoformat(when).astimezone().strftime("%m-%d %H:%M:%S")


def _of(part: object, whole: object) -> str | None:
    return None if part is None else f"{part}/{whole}"


def _number(value: object, form: str) -> str | None:
    return format(value, form) if isinstance(value, int | float) else None


def _names(value: object) -> str | None:
    return ", ".join(map(str, value)) if isinstance(value, list) and value else None
