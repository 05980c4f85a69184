"""What processes really take: a node stays within its budget on every way to fill its seat, a device within 380 MB."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from driven import allowed

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def driven(*arguments: str) -> dict[str, Any]:
    """The object that tests/driven.py prints, from a fresh process with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "driven.py"), *arguments]
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize(
    ("model", "on_disk", "recompute"),
    [("mlp", False, False), ("mlp", True, False), ("resnet18", True, False), ("resnet18", True, True)],
)
def test_a_node_keeps_its_budget(model: str, on_disk: bool, recompute: bool) -> None:
    """The budget is just what this way asks for two devices, so a holder too many would break it."""
    budget = allowed(model, on_disk, recompute, copies=2)
    seen = driven("node", str(budget), model)
    assert (seen["admit"], seen["on_disk"], seen["recompute"]) == (2, on_disk, recompute)
    assert seen["grown"] <= budget
    holders = seen["holders"]
    counted = sum(size for holder, size in holders.items() if holder not in ("base", "resident"))
    assert 0.5 * seen["grown"] < counted <= budget, "what is counted is what there is"


def test_a_budget_too_small_for_one_device_is_refused_with_the_number() -> None:
    least = min(allowed("mlp", True, again, 1) for again in (False, True))
    with pytest.raises(AssertionError, match=rf"{least:,} bytes for one admitted device.*budget is {least - 1:,}"):
        driven("node", str(least - 1), "mlp")


def test_a_device_of_the_digits_model_takes_no_more_than_380_mb() -> None:
    assert driven("device")["resident"] <= 380_000_000
