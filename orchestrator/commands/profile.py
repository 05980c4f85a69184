"""`mpsl profile`: measures a model block by block on this machine, as a run computes it. Writes PROFILE.json last."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from broker.engines.engine_option import engine_option
from broker.hardware import hardware_name, usable_cores
from mpsl import strict_json
from mpsl.errors import UsageError
from mpsl.job import InputSection, ModelSection
from mpsl.planning.profile_file import HardwareTimes, Profile, merged, profile_data
from mpsl.profile_questions import optimizer_kinds
from mpsl.whole_file import write_whole
from orchestrator.commands.model_arguments import args_option, input_option
from orchestrator.commands.plan import read_profile
from orchestrator.measuring import Measured, MeasuringTask, measure
from orchestrator.wire_cost import wire_cost


@click.command()
@click.option(
    "--model", required=True, metavar="NAME", help="Model, or package.module:function; `mpsl models` lists them."
)
@args_option()
@input_option()
@click.option("--batch-size", type=click.IntRange(1), required=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="PROFILE.json")
@click.option("--hardware", metavar="NAME", help="Name of this machine in FLEET.toml.  [default: its processor]")
@click.option(
    "--merge", type=click.Path(path_type=Path), metavar="OTHER.json", help="Add the hardware of another profile."
)
@click.option("--optimizer", type=click.Choice(optimizer_kinds()), default="sgd", show_default=True)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of each process, as in the run."
)
@click.option(
    "--copies", type=click.IntRange(1), help="Processes that compute at once.  [default: as many as fill the cores]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=4.0,
    show_default=True,
    help="Minimum time to measure.",
)
@engine_option()
@click.option("--wire/--no-wire", default=True, help="Measure the cost of a byte, with a broker started here.")
def profile(
    *, model: str, args: dict[str, Any], sample: InputSection | None, batch_size: int, out: Path,
    hardware: str | None, merge: Path | None, optimizer: str, threads: int, copies: int | None, seconds: float,
    engine: str, wire: bool,
) -> None:  # fmt: skip
    """Measure MODEL on this machine: seconds and bytes of every block, for `mpsl plan` and `mpsl simulate`.

    Nothing is written if the blocks do not add up to the whole model within 5 %.
    """
    from mpsl.nn.block_sizes import profile_of_sizes  # torch takes a second to import

    cores = usable_cores()
    if threads > cores:
        raise UsageError(f"--threads {threads}: this machine has {cores} cores")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no directory {out.parent}")
    section = ModelSection(model, args, None, sample)
    found = profile_of_sizes(section, batch_size)
    other = None if merge is None else read_profile(merge)
    if other is not None:
        merged(found, other, str(merge))
    copies = copies or max(1, cores // threads)
    name = hardware or hardware_name()
    click.echo(f"{name}: {copies} at once with {_count(threads, 'thread')} each, {_count(cores, 'core')}", err=True)
    task = MeasuringTask(section, batch_size, optimizer, threads, seconds)
    measured = measure(task, copies)
    cost = wire_cost(found, engine, task, copies, measured.whole) if wire else None
    found = replace(found, hardware={name: times(measured, cost.end if cost else 0.0, cores, threads)})
    click.echo(table(found, name, measured.whole))
    if cost is not None and cost.broker > 0:  # zero on a system without /proc
        click.echo(f"a broker on this machine passes on {1e3 / cost.broker:.0f} MB per CPU second: its max_mb_per_s")
    if other is not None:
        found = merged(found, other, str(merge))
    write_whole(out, strict_json.dumps(profile_data(found), indent=1) + "\n")
    click.echo(f"{out}: {model}, batches of {batch_size}, on {', '.join(sorted(found.hardware))}")


def table(profile: Profile, name: str, whole_s: float) -> str:
    """The text output: bytes and milliseconds of each block, their sum, and the time of the whole model at once."""
    times = profile.hardware[name]
    lines = [
        f"{'block':<42} {'parameters':>13} {'output':>13} {'stored':>13} {'forward':>9} {'backward':>9} {'step':>9}"
    ]
    phases = (times.forward_ms, times.backward_ms, times.step_ms)
    for block, row in zip(profile.blocks, zip(*phases, strict=True), strict=True):
        sizes = (block.parameter_bytes, block.output_bytes, block.stored_bytes)
        lines.append(_row(block.name, sizes, row))
    total = (
        sum(block.parameter_bytes for block in profile.blocks),
        sum(block.output_bytes for block in profile.blocks),
        sum(block.stored_bytes for block in profile.blocks),
    )
    lines.append(_row("all, bytes and ms", total, tuple(map(sum, phases))))
    seconds = sum(map(sum, phases)) / 1e3
    copied = "" if times.copy_gb_per_s is None else f"; {times.copy_gb_per_s:.2f} GB/s copied and folded"
    lines.append(
        f"the blocks add up to {seconds * 1e3:.2f} ms, the whole model takes {whole_s * 1e3:.2f} ms "
        f"({seconds / whole_s - 1:+.1%}){copied}; {times.wire_cpu_s_per_gb:.2f} CPU s for a GB on the wire"
    )
    return "\n".join(lines)


def _row(name: str, sizes: tuple[int, ...], milliseconds: tuple[float, ...]) -> str:
    return " ".join([f"{name[:42]:<42}", *(f"{size:>13,}" for size in sizes), *(f"{ms:>9.3f}" for ms in milliseconds)])


def times(measured: Measured, wire_cost: float, cores: int, threads: int) -> HardwareTimes:
    """Return the measured times in the units of the profile."""
    forward, backward, step = (
        tuple(round(second * 1e3, 6) for second in seconds)
        for seconds in (measured.forward, measured.backward, measured.step)
    )
    return HardwareTimes(forward, backward, step, wire_cost, measured.copied_bytes_per_s / 1e9, cores, threads)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
