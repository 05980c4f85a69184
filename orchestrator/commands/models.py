"""`mpsl models`: lists the models, their arguments, and the blocks that `cuts` counts. `show` describes one model."""

from pathlib import Path
from typing import Any

import click

from mpsl import strict_json
from mpsl.errors import UsageError
from mpsl.job import InputSection, ModelSection
from mpsl.whole_file import write_whole
from orchestrator.commands.model_arguments import args_option, input_option


@click.group("models", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line.")
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """Show every model with its arguments' defaults and its blocks with their parameters."""
    if context.invoked_subcommand is not None:
        return
    rows = _rows()
    if as_json:
        click.echo(strict_json.dumps({"models": rows}))
        return
    for row in rows:
        click.echo(f"{row['name']}: {row['parameters']:,} parameters, samples {_shape(row['input_shape'])}")
        click.echo("  args = { " + ", ".join(_argument(*item) for item in row["arguments"].items()) + " }")
        for block in row["blocks"]:
            click.echo(f"  {block['parameters']:>13,}  -> {_shape(block['output_shape']):<13}  {block['name']}")


@models.command("show")
@click.argument("name", metavar="NAME|PACKAGE.MODULE:FUNCTION")
@args_option()
@input_option()
@click.option("--batch", type=click.IntRange(2), default=32, show_default=True, help="Samples of a batch.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="MODEL.svg", help="Draw the blocks and cuts."
)
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line.")
def show(
    *, name: str, args: dict[str, Any], sample: InputSection | None, batch: int, plot: Path | None, as_json: bool
) -> None:
    """Show the blocks of a model, what crosses a cut after each, and where no block can begin."""
    from orchestrator.model_view import lines, model_view  # torch takes a second to import
    from orchestrator.plots.block_bars import picture

    view = model_view(ModelSection(name, args, None, sample), batch)
    click.echo("\n".join(lines(view)))
    if plot is not None:
        try:
            write_whole(plot, picture(view))
        except OSError as error:
            raise UsageError(f"--plot {plot}: {error.strerror or error}") from None
        click.echo(f"{plot}: written")
    if as_json:
        click.echo(strict_json.dumps(view.plain()))


def _rows() -> list[dict[str, Any]]:
    from mpsl.nn.cost import block_costs  # torch takes a second to import
    from mpsl.nn.models import arguments, input_shape, names

    rows = []
    for name in names():
        costs = block_costs(ModelSection(name), batch_size=2)
        blocks = [
            {"name": cost.name, "parameters": cost.parameters, "output_shape": cost.output_shape} for cost in costs
        ]
        rows.append(
            {
                "name": name,
                "arguments": arguments(name),
                "input_shape": input_shape(name),
                "parameters": sum(cost.parameters for cost in costs),
                "blocks": blocks,
            }
        )
    return rows


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _argument(name: str, default: Any) -> str:
    return f"[{name}]" if default is None else f"{name} = {strict_json.dumps(default)}"
