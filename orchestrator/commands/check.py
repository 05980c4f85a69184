"""`mpsl check`: checks whether a job is sound, and shows who computes what. Reports all problems at once."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mpsl import strict_json
from mpsl.errors import UsageError

if TYPE_CHECKING:
    from mpsl.job import Job
    from orchestrator.soundness import Outlook


@click.command("check")
@click.argument("job", type=click.Path(path_type=Path), metavar="JOB.toml")
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR", help="Check the shards DIR/*.npz too.")
@click.option("--json", "as_json", is_flag=True, help="The last line of stdout is one JSON object.")
def check(*, job: Path, data: Path | None, as_json: bool) -> int:
    """Check JOB.toml: model, cuts, codecs, batches and, with --data, every shard. Exit status 2 if it cannot run."""
    from mpsl import facts  # torch takes a second to import
    from orchestrator.job_file import load_job
    from orchestrator.locally import shards_in
    from orchestrator.soundness import outlook

    try:
        training = load_job(job)
        found = outlook(training, str(job), None if data is None else shards_in(data))
    except UsageError as error:
        problems: tuple[str, ...] = (str(error),)
        shown = {}
    else:
        problems = found.problems
        shown = facts.plain(found)
        print("\n".join(lines(training, found)))
    for problem in problems:
        print(f"Error: {problem}", file=sys.stderr)
    if not problems:
        print(f"{job}: sound")
    if as_json:
        print(strict_json.dumps({"job": str(job), "sound": not problems, **shown, "problems": list(problems)}))
    return 2 if problems else 0


def lines(job: "Job", found: "Outlook") -> list[str]:
    """Return the text output: blocks with the cuts between them, parts, devices and notes."""
    shown = [
        f"{job.model.name}, {sum(row.parameters for row in found.blocks):,} parameters, cuts {list(found.cuts)}",
        "",
    ]
    shown.append(f"{'':>5}  {'block':<40}  {'parameters':>13}  {'output':<13}  compute")
    edges = dict(zip(found.cuts, found.edges, strict=True))
    part_starts = {part.blocks[0]: part for part in found.parts}
    for row in found.blocks:
        if row.index in edges:
            edge = edges[row.index]
            shown.append(
                f"{'':>5}  ---- a batch: {edge.forward_bytes:,} bytes forward ({job.wire.activations}), "
                f"{edge.backward_bytes:,} back ({job.wire.gradients})"
                + (f", {edge.tensors} tensors" if edge.tensors > 1 else "")
            )
        if row.index in part_starts:
            part = part_starts[row.index]
            shown.append(f"{part.where}: {part.parameters:,} parameters, {part.compute_share:.1%} of the compute")
        shape = "×".join(map(str, row.output_shape))
        shown.append(
            f"{row.index:>5}  {row.name[:40]:<40}  {row.parameters:>13,}  {shape:<13}  {row.compute_share:>6.1%}"
        )
    if found.devices:
        shown += [
            "",
            f"{'device':<32}  {'samples':>8}  {'test':>8}  {'batches a round':>15}  {'smallest micro-batch':>20}",
        ]
        shown += [
            f"{row.id:<32}  {row.samples:>8,}  {row.test_samples:>8,}  {row.batches_per_round:>15,}  "
            f"{row.smallest_micro_batch:>20,}"
            for row in found.devices
        ]
    fleet = job.fleet
    shown += [
        "",
        f"{fleet.devices} devices (quorum {job.quorum}), {fleet.nodes} nodes, {job.hops} hops, {job.run.rounds} rounds",
    ]
    return [*shown, *(f"note: {note}" for note in found.notes), ""]
