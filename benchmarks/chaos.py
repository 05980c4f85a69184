"""`mpsl bench chaos`: kills and stops every kind of process of a run at random, and proves that its model is exact."""

import asyncio
import itertools
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from benchmarks.cables import can_be_laid
from benchmarks.disturbed_run import DEVICES, SEATS, Outcome, Planned, disturbed_run
from benchmarks.recovery import by_role, costs, counting, useful_share
from broker.engines.engine import choose
from mpsl import strict_json

Card = TypeVar("Card")

STOPPED_S = (2.0, 8.0)
ONE_STOP_IN = 4
"""One fault of a role in this many stops a process for a while (SIGSTOP), and one pulls its cable; the others kill."""
ROLES = ("device", "node", "orchestrator", "broker")
SHOWN = {"next_batch_s": "next batch", "beyond_s": "beyond restart or stop", "own_next_batch_s": "its own next"}


@click.command()
@click.option(
    "--kills", type=click.IntRange(1), default=40, show_default=True, help="Number of faults, stops included."
)
@click.option(
    "--every", type=click.FloatRange(1.0), default=12.0, show_default=True, help="Mean seconds between faults."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Determines victims, pauses and stops.")
@click.option("--engine", type=click.Choice(["mosquitto", "embedded"]), default="mosquitto", show_default=True)
@click.option(
    "--standbys",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Nodes beyond the two seats. With 0, a node that was killed takes its seat again.",
)
@click.option(
    "--cables/--no-cables",
    default=None,
    help="Also pull cables, in network namespaces, which needs root.  [default: where that is allowed]",
)
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Keep logs and the run's folder in DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print only one JSON object.")
def command(
    *, kills: int, every: float, seed: int, engine: str, standbys: int, cables: bool | None, keep: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Kill and stop processes of a run at random. Prints one JSON object last; status 1 if it is not exact."""
    choose(engine)
    if cables and not can_be_laid():
        raise click.UsageError("--cables needs root, network namespaces and the command ip")
    cables = can_be_laid() if cables is None else cables
    plan = schedule(kills, every, seed, standbys, cables)
    with tempfile.TemporaryDirectory(prefix="mpsl-bench-") as name:
        folder = keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = asyncio.run(disturbed_run(folder, plan, engine, quiet=as_json, standbys=standbys))
    figures = figures_of(outcome)
    if not as_json:
        for line in lines(figures):
            click.echo(line, err=True)
    setting = {"kills": kills, "every": every, "seed": seed, "engine": engine, "standbys": standbys, "cables": cables}
    click.echo(strict_json.dumps({"benchmark": "chaos", **setting, **figures}))
    if not outcome.ok:
        raise SystemExit(1)


def schedule(kills: int, every: float, seed: int, standbys: int = 1, cables: bool = False) -> list[Planned]:
    """Return the faults of a seed, in random order. Of four faults each role has one.

    Of its four, one is a stop, and, with `cables`, one is a cut; the broker is not cut off.
    """
    chance = random.Random(seed)
    members = {
        "device": [f"dev-{number}" for number in range(1, DEVICES + 1)],
        "node": [f"node-{number}" for number in range(1, SEATS + standbys + 1)],
        "orchestrator": ["orch"],
        "broker": ["broker"],
    }
    roles = _decks(chance, ROLES)
    victims = {role: _decks(chance, names) for role, names in members.items()}
    kinds = ["stopped", *["cut"] * cables]
    hand = kinds + ["killed"] * (ONE_STOP_IN - len(kinds))
    drawn = {role: _decks(chance, hand) for role in ROLES}
    plan = []
    for role in itertools.islice(roles, kills):
        kind = next(drawn[role])
        is_cut = kind == "cut" and role != "broker"
        stopped_s = chance.uniform(*STOPPED_S) if kind == "stopped" or is_cut else 0.0
        plan.append(Planned(chance.uniform(0.3, 1.7) * every, next(victims[role]), stopped_s, is_cut))
    return plan


def _decks(chance: random.Random, cards: Sequence[Card]) -> Iterator[Card]:
    """Yield the cards in random order, and again."""
    while True:
        yield from chance.sample(cards, len(cards))


def lines(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures for people."""
    found = []
    for name, row in figures["by_role"].items():
        parts = [f"{row['faults']} ({row['overlapped']} overlapped)"]
        for figure, words in SHOWN.items():
            if figure in row:
                parts.append(f"{words} {row[figure]['median']:.1f} s (worst {row[figure]['worst']:.1f})")
        if "batches_lost" in row:
            parts.append(f"batches lost {row['batches_lost']['median']:.0f} (worst {row['batches_lost']['worst']})")
        found.append(f"{name:20} {'; '.join(parts)}")
    found.append(
        f"{figures['rounds']} rounds, {figures['terms']} terms, {figures['batches']} batches count, "
        f"{figures['batches_lost']} lost; useful share {figures['useful_share']:.1%} of {figures['seconds']:.0f} s"
    )
    exact = "equal to the reference, bit for bit" if figures["exact"] else "NOT equal to the reference"
    found.append(f"model: {exact}; left over: {', '.join(figures['left_over']) or 'nothing'}")
    found += [f"ended by itself: {end}" for end in figures["ended_by_themselves"]]
    return found


def figures_of(outcome: Outcome) -> dict[str, Any]:
    """Return the costs, by role and in total."""
    found = costs(outcome.faults, outcome.batches, outcome.rounds)
    counted = sorted(counting(outcome.batches, outcome.rounds).values())
    return {
        "exact": not outcome.different,
        "left_over": outcome.left,
        "ended_by_themselves": outcome.own_ends,
        "rounds": len(outcome.rounds),
        "terms": outcome.rounds[-1]["term"],
        "batches": len(counted),
        "batches_lost": len(outcome.batches) - len(counted),
        "useful_share": useful_share(outcome.faults, counted, outcome.began),
        "seconds": outcome.faults[-1].at - outcome.faults[0].at,
        "by_role": by_role(found),
        "faults": found,
    }
