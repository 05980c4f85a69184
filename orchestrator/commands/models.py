"""`mpsl models`: lists the models, their arguments, and the blocks that `cuts` counts."""

from typing import Any

import click

from mpsl import strict_json


@click.command("models")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line.")
def models(as_json: bool) -> None:
    """Show every model with its arguments' defaults and its blocks with their parameters."""
    rows = _rows()
    if as_json:
        click.echo(strict_json.dumps({"models": rows}))
        return
    for row in rows:
        click.echo(f"{row['name']}: {row['parameters']:,} parameters, samples {_shape(row['input_shape'])}")
        click.echo("  args = { " + ", ".join(_argument(*item) for item in row["arguments"].items()) + " }")
        for block in row["blocks"]:
            click.echo(f"  {block['parameters']:>13,}  -> {_shape(block['output_shape']):<13}  {block['name']}")


def _rows() -> list[dict[str, Any]]:
    from mpsl.job import ModelSection
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
