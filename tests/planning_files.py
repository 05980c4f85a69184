"""A profile and a fleet as files, and `mpsl plan` over them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from orchestrator.commands import plan as command

FLEET = """
[[devices]]
id = "pi"
hardware = "pi"
count = 4
up_mbps = 20
down_mbps = 50
latency_ms = 5
samples = 100

[[nodes]]
id = "server"
hardware = "server"
count = 3
memory_gib = 2
link_mbps = 1000
cost_per_hour = 0.5

[broker]
link_mbps = 1000
latency_ms = 0.5

[job]
local_epochs = 1
first_cut = 1
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    times = {"forward_ms": [2.0, 20.0, 20.0, 20.0, 1.0], "backward_ms": [4.0, 40.0, 40.0, 40.0, 2.0]}
    block = {"parameter_bytes": 1_000_000, "output_bytes": 100_000, "stored_bytes": 300_000}
    profile = {
        "model": "mlp",
        "args": {"hidden": [64, 64]},
        "batch_size": 32,
        "input_bytes": 50_000,
        "blocks": [{"name": f"b{number}", **block} for number in range(5)],
        "hardware": {"pi": times, "server": times},
    }
    (tmp_path / "p.json").write_text(json.dumps(profile))
    (tmp_path / "f.toml").write_text(FLEET)
    return tmp_path / "p.json", tmp_path / "f.toml"


def run(files: tuple[Path, Path], *options: str) -> Result:
    return CliRunner().invoke(command.plan, ["--profile", str(files[0]), "--fleet", str(files[1]), *options])
