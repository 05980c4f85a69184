"""Counts what happens in simulated runs, so that a pass over many seeds can show that it tests what it means to."""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from scenarios import Scenario

EVENTS = {
    "savepoint": "savepoints taken",
    "savepoint-failed": "savepoints left out",
    "round-restored": "rounds restored from a savepoint",
    "round-undone": "closed rounds undone",
    "readmitted": "devices readmitted to a round",
    "newcomer": "devices that came later",
    "disk": "pauses for the disk",
    "disk-again": "pauses ended by the disk",
    "orchestrator-missing": "sessions that waited for an orchestrator",
    "superseded": "orchestrators superseded",
}
"""Log events, and what they are called in the counts."""
EXPECTED = (
    "runs done",
    "runs failed",
    "chains cut again",
    "seats taken over by a standby",
    "savepoints taken",
    "rounds restored from a savepoint",
    "closed rounds undone",
    "resumed by another orchestrator",
    "devices readmitted to a round",
    "pauses for the disk",
    "pauses ended by the disk",
)
"""What must happen at least once in any 300 seeds of random faults."""


class Tally(Counter[str]):
    """How often each thing happened."""

    def note(self, event: str, _: object) -> None:
        """Count a log event."""
        if event in EVENTS:
            self[EVENTS[event]] += 1

    def ended(self, scenario: Scenario, summary: Mapping[str, Any], is_over: bool) -> None:
        """Count the end of a run and its terms; `is_over`: its orchestrator lived to the end."""
        self["runs"] += 1
        self[f"runs {summary['state']}" if is_over else "runs whose orchestrator never came back"] += 1
        terms = summary["terms"]
        self["terms"] += len(terms)
        for before, after in pairwise(terms):
            newly = set(after["seats"].values()) - set(before["seats"].values())
            self["chains cut again"] += before["cuts"] != after["cuts"]
            self["seats taken over by a standby"] += len(newly & set(scenario.spare_nodes))

    def lines(self) -> list[str]:
        """What was counted, one line each."""
        return [f"{count:8,d} {what}" for what, count in self.items() if count]

    def missing(self) -> list[str]:
        """What should have happened and has not."""
        return [what for what in EXPECTED if not self[what]]
