"""Reports a plan that a run has made for itself, in the log and the summary, with the judge that chose it."""

from typing import Any

from mpsl.machines.orchestrator.context import RunContext
from mpsl.planning.plan_file import Choice, PlanFile


def log_choice(context: RunContext, choice: Choice) -> None:
    """Log a plan that was found, as a warning if the simulator has not judged it."""
    predicted = choice.plan.predicted
    bottleneck = f"{predicted.bottleneck.kind} {predicted.bottleneck.id}"
    said = told(choice)
    formula = {f"formula_{key}": value for key, value in said.pop("formula", {}).items()}
    context.log("warning" if choice.reason else "info", "planned", bottleneck=bottleneck, **said, **formula)


def take(context: RunContext, choice: Choice | None) -> None:
    """Note the run's plan in the summary; None stands for a plan that is not made from measured times."""
    state = context.state
    state.predicted = None if choice is None else choice.plan.predicted
    state.summary["planned"] = None if choice is None else told(choice)


def told(choice: Choice) -> dict[str, Any]:
    """Return the judge and the predictions of the plan, and those of the formula's best if that is another plan."""
    found: dict[str, Any] = {"chosen_by": choice.chosen_by, "simulated_plans": choice.simulated}
    if choice.reason:
        found["reason"] = choice.reason
    found |= _figures(choice.plan)
    if choice.chosen_by == "simulator":
        found["formula"] = _figures(choice.formula)
    return found


def _figures(plan: PlanFile) -> dict[str, Any]:
    simulated_s = plan.predicted.simulated_s
    return {
        "cuts": list(plan.cuts),
        "nodes": [seat.node for seat in plan.seats],
        "round_s": round(plan.predicted.round_s, 3),
        "simulated_s": None if simulated_s is None else round(simulated_s, 3),
    }
