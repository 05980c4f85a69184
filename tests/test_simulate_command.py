"""`mpsl simulate` from files to its output: the text, the JSON, the trace, the picture, and errors that name a file."""

import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from planning_files import FLEET, files, run

from orchestrator.commands.simulate import simulate

__all__ = ["files"]

NODE = {"compute", "wire_cpu", "up", "down", "peak_bytes", "memory"}


def simulated(files: tuple[Path, Path], *options: str) -> Result:
    return CliRunner().invoke(simulate, ["--profile", str(files[0]), "--fleet", str(files[1]), *options])


def told(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_json_says_what_happens_in_every_round(files: tuple[Path, Path]) -> None:
    said = told(simulated(files, "--rounds", "3", "--json"))
    assert set(said) == {
        "rounds_s", "simulated_s", "nodes", "broker", "peak_in_flight_bytes", "mean_in_flight_bytes", "in_flight",
        "objective", "plan",
    }  # fmt: skip
    assert len(said["rounds_s"]) == 3
    assert sorted(said["rounds_s"])[1] == said["simulated_s"]
    for node in said["nodes"].values():
        assert set(node) == NODE
        assert 0 < node["compute"] <= 1
        assert max(size for _, size in node["memory"]) == node["peak_bytes"]
    assert said["simulated_s"] == pytest.approx(said["objective"]["round_s"], rel=0.3)


def test_it_is_the_second_the_plan_speaks_of(files: tuple[Path, Path]) -> None:
    planned = json.loads(run(files, "--json").stdout.splitlines()[-1])
    (files[0].parent / "plan.json").write_text(json.dumps(planned))
    said = told(simulated(files, "--plan", str(files[0].parent / "plan.json"), "--json"))
    assert said["simulated_s"] == planned["predicted"]["simulated_s"]
    assert said["objective"]["round_s"] == pytest.approx(planned["predicted"]["round_s"], rel=1e-9)
    assert said["plan"] == {key: planned[key] for key in ("cuts", "seats", "admit")}


def test_the_closed_form_stands_beside_it_when_asked_for(files: tuple[Path, Path]) -> None:
    assert "analytic_s" not in told(simulated(files, "--json"))
    said = told(simulated(files, "--predict", "analytic", "--json"))
    assert 0.3 * said["simulated_s"] < said["analytic_s"] < 3 * said["simulated_s"]
    assert "by the papers' closed form" in simulated(files, "--predict", "analytic").stdout


def test_the_trace_is_what_perfetto_reads(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "trace.json"
    said = told(simulated(files, "--rounds", "2", "--trace", str(out), "--json"))
    events = json.loads(out.read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert set(names.values()) == {"run", "broker", *said["nodes"], *(f"pi-{number}" for number in range(1, 5))}
    lanes = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    spans = [event for event in events if event["ph"] == "X"]
    assert {(event["pid"], event["tid"]) for event in spans} <= lanes
    assert all(event["dur"] >= 0 and event["ts"] >= -1e-3 for event in spans)
    rounds = [event["dur"] / 1e6 for event in spans if event["cat"] == "round"]
    assert rounds == pytest.approx(said["rounds_s"])
    # Each of 4 devices makes 4 batches in each of 2 rounds, through every stage of one node or another.
    what = Counter(event["name"] for event in spans if names[event["pid"]].startswith("server"))
    stages = len(said["plan"]["cuts"]) - 1
    assert what["backward pi-1"] == 4 * 2 * stages
    assert {event["ph"] for event in events} == {"M", "X", "C"}


def test_the_picture_has_a_row_for_everyone(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "plot.svg"
    said = told(simulated(files, "--plot", str(out), "--json"))
    root = ElementTree.fromstring(out.read_text())
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"pi-1", "pi-4", *said["nodes"]} <= texts
    bars = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    width = float(root.attrib["width"])
    assert len(bars) > 50
    assert all(0 <= float(bar.get("x", 0)) <= width and float(bar.get("width", 0)) >= 0 for bar in bars)


def test_many_devices_are_counted_in_the_picture_and_not_drawn(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[1].write_text(FLEET.replace("count = 4", "count = 40").replace("samples = 100", "samples = 10"))
    out = tmp_path / "plot.svg"
    assert simulated(files, "--plot", str(out)).exit_code == 0
    assert "and 28 more devices" in out.read_text()


def test_the_text_says_who_is_busy(files: tuple[Path, Path]) -> None:
    shown = simulated(files, "--rounds", "2").stdout
    for expected in (
        "mlp, batches of 32, 4 devices",
        "simulated   2 rounds: ",
        "bottleneck",
        "1.0      server-1",
        "GiB",
    ):
        assert expected in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--plan", "nowhere.json"), "nowhere.json: cannot be read"),
        (("--trace", "no/where/t.json"), "there is no directory"),
        (("--rounds", "0"), "0 is not in the range"),
        (("--predict", "guess"), "guess"),
    ],
)
def test_what_cannot_be_is_refused(files: tuple[Path, Path], options: tuple[str, ...], message: str) -> None:
    result = simulated(files, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_plan_of_another_fleet_is_refused_by_name(files: tuple[Path, Path]) -> None:
    planned = json.loads(run(files, "--json").stdout.splitlines()[-1])
    planned["devices"]["pc-1"] = planned["devices"].pop("pi-1")
    path = files[0].parent / "plan.json"
    path.write_text(json.dumps(planned))
    result = simulated(files, "--plan", str(path))
    assert result.exit_code == 2
    assert "plan.json: device 'pc-1' is not in the fleet" in result.stderr


def test_the_picture_has_room_for_long_names(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Names end where the bars begin; the picture reaches as far to the left as the longest."""
    out = tmp_path / "plot.svg"
    long = "a-server-with-a-very-long-name"
    files[1].write_text(FLEET.replace('id = "server"', f'id = "{long}"'))
    assert simulated(files, "--plot", str(out)).exit_code == 0
    root = ElementTree.fromstring(out.read_text())
    name = next(each for each in root.iter("{http://www.w3.org/2000/svg}text") if (each.text or "").startswith(long))
    left, _, width, _ = (float(number) for number in root.attrib["viewBox"].split())
    assert float(name.attrib["x"]) - left > 6.5 * len(long)
    assert width == float(root.attrib["width"])
    assert "blocks [1, " in out.read_text()


SLOW = """
[[devices]]
id = "slow"
hardware = "pi"
count = 3
up_mbps = 2
down_mbps = 5
latency_ms = 5
samples = 100
"""


def test_stragglers_come_first_in_picture_and_trace(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Also where they are so far back in the fleet that they would not be drawn."""
    files[1].write_text(FLEET.replace("count = 4", "count = 30").replace("[[nodes]]", f"{SLOW}\n[[nodes]]", 1))
    out, trace = tmp_path / "plot.svg", tmp_path / "trace.json"
    assert simulated(files, "--plot", str(out), "--trace", str(trace)).exit_code == 0
    root = ElementTree.fromstring(out.read_text())
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    rows = [text for text in texts if text.startswith(("slow-", "pi-"))]
    assert sorted(rows[:3]) == ["slow-1", "slow-2", "slow-3"]
    assert len(rows) == 12
    assert any(text.startswith("devices, the slowest first") for text in texts)
    events = json.loads(trace.read_text())["traceEvents"]
    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    devices = [name for name in names if name.startswith(("slow-", "pi-"))]
    assert sorted(devices[:3]) == ["slow-1", "slow-2", "slow-3"]
    assert len(devices) == 33
