"""A re-cut: the answer to an earlier question is not taken for the present one."""

from types import SimpleNamespace
from typing import Any

import pytest
from orchestrator_rig import BOOTS, rig

from mpsl.machines.effects import Run
from mpsl.machines.orchestrator import recut
from mpsl.machines.orchestrator.recut import Recut
from mpsl.machines.orchestrator_jobs import FindPlan


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A re-cut whose fleet has been measured, the nodes and devices that are there, and the jobs that it asks for."""
    monkeypatch.setattr(recut, "profile_of", lambda *_: "profile")
    monkeypatch.setattr(recut, "fleet_of", lambda *_: "fleet")
    monkeypatch.setattr(recut, "take", lambda *_: None)
    monkeypatch.setattr(recut, "log_choice", lambda *_: None)
    found = rig(model__cuts=None)
    found.gather()
    context = found.machine.context
    effects: list[Any] = []
    context.emit = effects.append
    people = [context.census.get("node" if id.startswith("node") else "dev", id) for id in BOOTS]
    nodes, devices = people[:1], people[1:]
    jobs = lambda: [each.job for each in effects if isinstance(each, Run) and isinstance(each.job, FindPlan)]  # noqa: E731
    return SimpleNamespace(recut=Recut(context), job=context.state.job, nodes=nodes, devices=devices, jobs=jobs)


def choice(node: str) -> Any:
    """A plan that cuts at 1 and 2."""
    return SimpleNamespace(plan=SimpleNamespace(cuts=(1, 2), seats=[node]))


def test_a_plan_for_nodes_that_may_be_gone_is_not_taken(asked: Any) -> None:
    assert asked.recut.seating(asked.job, asked.nodes, asked.devices) is None
    asked.recut.reset()
    assert asked.recut.seating(asked.job, asked.nodes, asked.devices) is None
    first, second = asked.jobs()
    asked.recut.found(first, choice("gone"))
    assert asked.recut.planning
    asked.recut.found(second, choice("here"))
    job, seating = asked.recut.seating(asked.job, asked.nodes, asked.devices)
    assert (job.model.cuts, seating.planned.seats) == ((1, 2), ["here"])


def test_a_search_that_fails_late_does_not_end_the_present_one(asked: Any) -> None:
    asked.recut.seating(asked.job, asked.nodes, asked.devices)
    asked.recut.reset()
    asked.recut.seating(asked.job, asked.nodes, asked.devices)
    first, second = asked.jobs()
    asked.recut.failed(first, "none fits")
    assert asked.recut.planning
    asked.recut.failed(second, "none fits")
    _, seating = asked.recut.seating(asked.job, asked.nodes, asked.devices)
    assert seating.planned is None
