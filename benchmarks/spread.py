"""Statistics of several runs, as benchmarks print them: the median, the minimum and the maximum."""

import statistics
from collections.abc import Mapping, Sequence


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the minimum and the maximum of some values."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each figure of some runs."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def extremes(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return the minimum and the maximum of each figure of some runs."""
    return {key: {"least": min(run[key] for run in runs), "most": max(run[key] for run in runs)} for key in runs[0]}


def shown(found: Mapping[str, float], digits: int = 2) -> str:
    """Return a spread for people: 0.95 (0.93–0.99)."""
    return f"{found['median']:.{digits}f} ({found['least']:.{digits}f}–{found['most']:.{digits}f})"
