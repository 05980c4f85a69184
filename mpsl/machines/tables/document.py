"""Writes docs/state-machines.md from the tables: `python -m mpsl.machines.tables.document > docs/state-machines.md`.

The page shows the content of the tables and nothing else, so the two always agree.
"""

import sys

from mpsl.machines.tables import device, hop, run
from mpsl.machines.tables.table import Table, diagram

INTRODUCTION = """# State machines

Generated from `mpsl/machines/tables/` by `make diagrams`; do not edit. Each arrow is one row: (state, outcome) ->
state. Everything else is refused before the state has changed. `Machine.validate` checks the invariants after every
event, in all tests and in the simulator.
"""


def page() -> str:
    """The whole page."""
    sections = [
        _section("A run at its orchestrator", run.TABLE),
        _section("A device's session", device.TABLE),
        _section("A hop's session", hop.TABLE),
    ]
    return INTRODUCTION + "\n" + "\n".join(sections)


def _section(title: str, table: Table) -> str:  # type: ignore[type-arg]
    taken = [
        f"| {state.value} | {', '.join(sorted(kind.kind for kind in kinds)) or 'none'} |"
        for state, kinds in table.messages.items()
    ]
    always = ", ".join(sorted(kind.kind for kind in table.always))
    rows = "\n".join(["| state | messages that it takes |", "|---|---|", *taken])
    note = f"\nEvery state takes: {always}.\n" if always else ""
    return f"## {title}\n\n```mermaid\n{diagram(table)}\n```\n\n{rows}\n{note}"


if __name__ == "__main__":
    sys.stdout.write(page())
