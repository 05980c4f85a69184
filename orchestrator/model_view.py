"""What `mpsl models show` shows: the blocks of a model, what crosses a cut after each, and where no block can begin."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mpsl import facts
from mpsl.job import ModelSection
from mpsl.nn.block_model import ChainModel, block_model
from mpsl.nn.cost import BlockCost, block_costs
from mpsl.nn.edges import EdgeValue

BAR = 20
"""Characters of the longest bar."""


@dataclass(frozen=True)
class CrossingRow:
    """One value that crosses a cut: its shape and bytes for the batch, whether it is coded and has a gradient."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    coded: bool
    gradient: bool


@dataclass(frozen=True)
class BlockView:
    """One block, and what crosses a cut after it (for the last block: the output)."""

    number: int
    name: str
    parameters: int
    output_bytes: int
    stored_bytes: int
    flops: int
    compute_share: float
    crosses: tuple[CrossingRow, ...]


@dataclass(frozen=True)
class ModelView:
    """A model for one batch size. `refused`: modules at whose call no block begins, and why."""

    name: str
    batch_size: int
    input_shape: tuple[int, ...]
    input_dtype: str
    parameters: int
    blocks: tuple[BlockView, ...]
    refused: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        found: dict[str, Any] = facts.plain(self)
        return found


def model_view(section: ModelSection, batch: int) -> ModelView:
    """Describe a model. Raises UsageError for one that cannot be built or cut."""
    model = block_model(section)
    costs = block_costs(section, batch)
    flops = sum(cost.flops for cost in costs) or 1
    return ModelView(
        section.name,
        batch,
        model.sample.shape,
        str(model.sample.dtype).removeprefix("torch."),
        sum(cost.parameters for cost in costs),
        tuple(_block(number, cost, flops) for number, cost in enumerate(costs)),
        {} if isinstance(model, ChainModel) else dict(sorted(model.places.refused.items())),
    )


def _block(number: int, cost: BlockCost, flops: int) -> BlockView:
    return BlockView(
        number,
        cost.name.partition(" ")[2],
        cost.parameters,
        cost.output_bytes,
        cost.stored_bytes,
        cost.flops,
        round(cost.flops / flops, 4),
        tuple(map(_crossing, cost.edge)),
    )


def _crossing(value: EdgeValue) -> CrossingRow:
    return CrossingRow(str(value.dtype).removeprefix("torch."), value.shape, value.nbytes, value.coded, value.gradient)


def lines(view: ModelView) -> Iterator[str]:
    """Yield the text: a table of the blocks with a bar for what crosses after each, then the refused places."""
    shape = "×".join(map(str, view.input_shape))
    samples = f"samples {shape} {view.input_dtype}, batches of {view.batch_size}"
    yield f"{view.name}: {view.parameters:,} parameters, {samples}"
    yield ""
    yield f"{'':>4}  {'block':<36} {'parameters':>13} {'kept for backward':>17} {'compute':>8}   crosses a cut after it"
    most = max((block.output_bytes for block in view.blocks), default=0) or 1
    for block in view.blocks:
        bar = "█" * max(1, round(BAR * block.output_bytes / most))
        yield (
            f"{block.number:>4}  {block.name[:36]:<36} {block.parameters:>13,} {block.stored_bytes:>17,} "
            f"{block.compute_share:>8.1%}   {bar:<{BAR}} {block.output_bytes:,} bytes: {_said(block)}"
        )
    if view.refused:
        yield ""
        yield "no block can begin at"
        for path, why in view.refused.items():
            yield f"      {path}: {why}"


def _said(block: BlockView) -> str:
    return ", ".join(
        f"{row.dtype} {'×'.join(map(str, row.shape))}"
        + ("" if row.coded else " exactly")
        + ("" if row.gradient else ", no gradient")
        for row in block.crosses
    )
