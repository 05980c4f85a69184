"""`mpsl simulate`: simulates a round before it is run, with the machines of a real run. Writes only requested files."""

from pathlib import Path
from typing import Any

import click

from mpsl import facts, strict_json
from mpsl.errors import MpslError, UsageError
from mpsl.names import BROKER
from mpsl.planning.analytic import closed_form
from mpsl.planning.fleet import Fleet
from mpsl.planning.objective import Prediction, Shape
from mpsl.planning.plan_file import PlannedRun
from mpsl.planning.profile_file import Profile, phase_times
from mpsl.planning.report import bar, count, duration
from mpsl.planning.seat_memory import GIB
from mpsl.planning.system import system_of
from mpsl.sim.chrome_trace import chrome_trace
from mpsl.sim.gantt import Row, gantt
from mpsl.sim.metrics import RehearsalMetrics, metrics_of
from mpsl.sim.rehearsal import Rehearsal
from mpsl.sim.timeline import Timeline
from mpsl.whole_file import write_whole
from orchestrator.chosen_plan import chosen_plan
from orchestrator.commands.plan import read_fleet, read_profile
from orchestrator.plan_option import load_plan


@click.command()
@click.option("--profile", "profile_path", type=click.Path(path_type=Path), required=True, help="PROFILE.json.")
@click.option("--fleet", "fleet_path", type=click.Path(path_type=Path), required=True, help="FLEET.toml.")
@click.option(
    "--plan", "plan_path", type=click.Path(path_type=Path), metavar="PLAN.json", help="[default: the best one]"
)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--trace", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.json", help="Write a trace for Perfetto."
)
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.svg", help="Draw one round as bars."
)
@click.option(
    "--predict",
    type=click.Choice(["simulation", "analytic"]),
    default="simulation",
    show_default=True,
    help="analytic: also show the papers' closed form.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object on the last line.")
def simulate(
    *, profile_path: Path, fleet_path: Path, plan_path: Path | None, rounds: int, trace: Path | None,
    plot: Path | None, predict: str, as_json: bool,
) -> None:  # fmt: skip
    """Run a plan's rounds in virtual time, with the profile's times and the fleet's links."""
    for path in (trace, plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise click.UsageError(f"{path}: there is no directory {path.parent}")
    try:
        profile, fleet = read_profile(profile_path), read_fleet(fleet_path)
        planned, where = _planned(profile, fleet, plan_path)
        rehearsal = Rehearsal(profile, fleet, planned, where, keep=bool(trace or plot))
        closed = analytic_seconds(profile, fleet, planned) if predict == "analytic" else None
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    try:
        timeline = rehearsal.run(rounds)
    except MpslError as error:
        raise click.ClickException(str(error)) from None
    metrics = metrics_of(timeline, [seat.node for seat in planned.seats])
    click.echo(table(profile, planned, rehearsal.judgement, metrics, closed), err=as_json)
    if trace is not None:
        write_whole(trace, strict_json.dumps(chrome_trace(timeline, participants(timeline, planned))))
        click.echo(f"{trace}: open it in ui.perfetto.dev", err=as_json)
    if plot is not None:
        write_whole(plot, picture(timeline, profile, planned, metrics))
        click.echo(f"{plot}: the first round", err=as_json)
    if as_json:
        click.echo(strict_json.dumps(told(planned, rehearsal.judgement, metrics, closed)))


def analytic_seconds(profile: Profile, fleet: Fleet, planned: PlannedRun) -> float:
    """Return the round's seconds by the papers' closed form. Raises UsageError."""
    hardware = {device.id: device.hardware for device in fleet.expanded_devices()}
    hardware |= {node.id: node.hardware for node in fleet.expanded_nodes()}
    return closed_form(system_of(profile, fleet), phase_times(profile), hardware, planned)


def participants(timeline: Timeline, planned: PlannedRun) -> list[str]:
    """All participants in display order: nodes by seat, devices with the slowest first, the broker."""
    return [*(seat.node for seat in planned.seats), *timeline.slowest_first(planned.devices), BROKER]


def table(
    profile: Profile, planned: PlannedRun, judged: Prediction, metrics: RehearsalMetrics, closed: float | None
) -> str:
    """The text output."""
    rounds = f"   {len(metrics.rounds_s)} rounds: " + ", ".join(map(duration, metrics.rounds_s[:8]))
    lines = [
        f"{profile.model}, batches of {profile.batch_size}, {count(len(planned.devices), 'device')}, "
        f"{count(max(0, len(planned.cuts) - 1), 'hop')} on {count(len(planned.seats), 'node')}, "
        f"{planned.admit} admitted at once",
        "",
        f"round       {duration(metrics.simulated_s)} simulated{rounds if len(metrics.rounds_s) > 1 else ''}",
        f"            {duration(judged.round_s)} by the planner's objective, "
        f"bottleneck {judged.bottleneck[0]} {judged.bottleneck[1]}",
    ]
    if closed is not None:
        lines.append(f"            {duration(closed)} by the papers' closed form")
    lines.append(
        f"in flight   {metrics.mean_in_flight_bytes / 1e6:.3g} MB on average, "
        f"{metrics.peak_in_flight_bytes / 1e6:.3g} MB at most"
    )
    if planned.seats:
        lines += ["", f"{'seat':<8} {'node':<16} {'computes':<27} {'wire CPU':>8} {'up':>5} {'down':>5} {'peak':>10}"]
    for seat in planned.seats:
        node = metrics.nodes[seat.node]
        lines.append(
            f"{f'{seat.stage}.{seat.replica}':<8} {seat.node:<16} {bar(node.compute)} {node.compute:>5.0%}  "
            f"{node.wire_cpu:>8.0%} {node.up:>5.0%} {node.down:>5.0%} {node.peak_bytes / GIB:>6.2f} GiB"
        )
    return "\n".join(lines)


def told(planned: PlannedRun, judged: Prediction, metrics: RehearsalMetrics, closed: float | None) -> dict[str, Any]:
    """The JSON output; docs/planner.md explains every key."""
    analytic = {} if closed is None else {"analytic_s": closed}
    objective = {"round_s": judged.round_s, "batch_s": judged.batch_s, "bottleneck": list(judged.bottleneck)}
    plan = {"cuts": list(planned.cuts), "seats": facts.plain(list(planned.seats)), "admit": planned.admit}
    return {**facts.plain(metrics), **analytic, "objective": objective, "plan": plan}


def picture(timeline: Timeline, profile: Profile, planned: PlannedRun, metrics: RehearsalMetrics) -> str:
    """The first round as SVG, stragglers first."""
    devices = timeline.slowest_first(planned.devices)
    rows = [Row(device, f"devices, the slowest first, blocks {_ends(profile, planned)}") for device in devices]
    rows += [
        Row(seat.node, f"stage {seat.stage}, blocks [{seat.blocks[0]}, {seat.blocks[1]})") for seat in planned.seats
    ]
    title = (
        f"{profile.model}: one round of {duration(metrics.rounds_s[0])}, {count(len(devices), 'device')}, "
        f"{planned.admit} at once"
    )
    return gantt(timeline, rows, devices, title)


def _ends(profile: Profile, planned: PlannedRun) -> str:
    blocks = len(profile.blocks)
    return f"[0, {planned.cuts[0]}) and [{planned.cuts[-1]}, {blocks})" if planned.cuts else f"[0, {blocks})"


def _planned(profile: Profile, fleet: Fleet, path: Path | None) -> tuple[PlannedRun, str]:
    if path is not None:
        return load_plan(path), str(path)
    return chosen_plan(profile, fleet, Shape(), cheapest=False).plan, "the plan"
