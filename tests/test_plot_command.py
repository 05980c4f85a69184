"""`mpsl plot` from the records of a run to its picture: stragglers first, and errors that name file and line."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from scenarios import Scenario
from simulated import run_and_check

from mpsl.sim.faults import Faults, InjectedFault
from orchestrator.commands.plot import plot
from orchestrator.plots.device_bars import worst_first
from orchestrator.plots.measured_round import slowest_first
from orchestrator.plots.run_picture import MAX_DEVICES
from orchestrator.run_records import DeviceRecord, read_records

SVG = "{http://www.w3.org/2000/svg}"


def metrics(number: int, **changes: Any) -> dict[str, Any]:
    return {"run": "r-1", "round": number, "loss": 1 / number, "accuracy": 0.5, "seconds": 4.0} | changes


def device(number: int, id: str, start: float, end: float, **changes: Any) -> dict[str, Any]:
    record = {"run": "r-1", "round": number, "device": id, "contributed": True, "loss": 0.5, "accuracy": 0.5}
    moments = {"admitted_s": start, "complete_s": end, "accepted_s": end, "left_out_s": None, "left_out": None}
    return record | {"seconds": end - start} | moments | changes


OUT = {"contributed": False, "complete_s": None, "accepted_s": None, "loss": None, "accuracy": None}
ROUNDS = [metrics(1), metrics(2, predicted_s=3.5)]
DEVICES = [
    device(1, "dev-1", 0.0, 1.0),
    device(1, "dev-2", 0.0, 3.0),
    device(2, "dev-1", 0.0, 0.5, accuracy=0.9),
    device(2, "dev-2", 0.5, 3.5, accuracy=0.21),
    device(2, "dev-3", 0.0, 1.0, left_out_s=1.5, left_out="is lost <&>", **OUT),
    device(2, "dev-4", 0.0, 2.0, accepted_s=3.5, accuracy=0.8),
]


def write(folder: Path, rounds: list[dict[str, Any]], devices: list[dict[str, Any]], **summary: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in rounds))
    if devices:
        (folder / "devices.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in devices))
    (folder / "summary.json").write_text(json.dumps({"run": "r-1", "state": "done", "reason": ""} | summary))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write(tmp_path / "out", ROUNDS, DEVICES)


def plotted(*arguments: str | Path) -> Result:
    return CliRunner().invoke(plot, [str(each) for each in arguments])


def texts(path: Path) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(path.read_text()).iter(f"{SVG}text")]


def rows(path: Path) -> list[list[str]]:
    """The names of devices, section by section, from above."""
    sections: list[list[str]] = []
    for words in texts(path):
        if words.startswith("Round "):
            sections.append([])
        elif re.fullmatch(r"dev-\d+", words):
            sections[-1].append(words)
    return sections


def test_the_worst_and_the_slowest_come_first(out: Path) -> None:
    result = plotted(out)
    assert result.exit_code == 0, result.output
    worst, slowest = rows(out / "plot.svg")
    assert worst == ["dev-2", "dev-4", "dev-1", "dev-3"]
    assert slowest == ["dev-3", "dev-2", "dev-4", "dev-1"], "whoever was left out never finished"
    said = texts(out / "plot.svg")
    assert "left out: is lost <&>" in said
    assert "Round 2, 4 s measured, 3.5 s predicted, the slowest device first" in said
    assert result.stdout.splitlines() == [
        f"{out}/plot.svg: 2 rounds of r-1",
        "round 2     4 s",
        "slowest     dev-2 3 s, dev-4 2 s, dev-1 500 ms",
        "worst       dev-2 21.00%, dev-4 80.00%, dev-1 90.00%",
        "left out    dev-3 (is lost <&>)",
    ]


def test_a_bar_goes_from_admission_to_acceptance(out: Path) -> None:
    """In pixels of an axis of 4 s over 1200."""
    plotted(out)
    found = {
        title: (round(float(bar.get("x", 0)) - 130), round(float(bar.get("width", 0))))
        for bar in ElementTree.fromstring((out / "plot.svg").read_text()).iter(f"{SVG}rect")
        if (title := bar.findtext(f"{SVG}title"))
    }
    assert found["dev-2: waited · 500 ms"] == (0, 150)
    assert found["dev-2: in its round · 3 s"] == (150, 900)
    assert found["dev-3: in its round until it was left out · 1.5 s"] == (0, 450)
    assert found["dev-4: in its round · 2 s"] == (0, 600)
    assert found["dev-4: complete, until it was its turn · 1.5 s"] == (600, 450)
    assert found["500 ms until the round was committed"] == (1050, 150)


def test_a_round_and_a_file_can_be_chosen(out: Path, tmp_path: Path) -> None:
    path = tmp_path / "first.svg"
    result = plotted(out, "--round", "1", "--out", path)
    assert result.exit_code == 0, result.output
    assert rows(path) == [["dev-1", "dev-2"], ["dev-2", "dev-1"]]
    assert sorted(each.name for each in out.iterdir()) == ["devices.jsonl", "metrics.jsonl", "summary.json"]


def test_many_devices_are_counted_and_the_slow_ones_are_drawn(tmp_path: Path) -> None:
    count = MAX_DEVICES + 25
    devices = [device(1, f"dev-{number}", 0.0, 1.0 + (number == count)) for number in range(1, count + 1)]
    out = write(tmp_path / "out", ROUNDS[:1], devices)
    assert plotted(out).exit_code == 0
    sections = rows(out / "plot.svg")
    assert [len(section) for section in sections] == [MAX_DEVICES] * 2
    assert sections[1][0] == f"dev-{count}"
    assert texts(out / "plot.svg").count("and 25 more devices") == 2


def test_curves_pass_over_rounds_without_a_figure_and_one_round_has_dots(tmp_path: Path) -> None:
    rounds = [metrics(number, accuracy=None if number % 2 else 0.5, loss=None) for number in range(1, 7)]
    out = write(tmp_path / "out", rounds, [])
    assert plotted(out).exit_code == 0
    root = ElementTree.fromstring((out / "plot.svg").read_text())
    assert [len(line.get("points", "").split()) for line in root.iter(f"{SVG}polyline")] == [3]
    assert texts(out / "plot.svg").count("not measured") == 1
    one = write(tmp_path / "one", [metrics(1)], [device(1, "dev-1", 0.0, 1.0)])
    assert plotted(one).exit_code == 0
    root = ElementTree.fromstring((one / "plot.svg").read_text())
    assert not list(root.iter(f"{SVG}polyline"))
    assert len(list(root.iter(f"{SVG}circle"))) == 4, "loss and accuracy, of the device and of all"


def test_records_of_an_older_version_are_drawn_as_far_as_they_go(tmp_path: Path) -> None:
    """Without moments, or without devices.jsonl at all; unknown keys are those of a newer one."""
    known = ("run", "round", "device", "contributed", "loss", "accuracy", "seconds")
    older = [{key: line[key] for key in known} for line in DEVICES if line["contributed"]]
    out = write(tmp_path / "older", [{**line, "new": {"key": 1}} for line in ROUNDS], older)
    assert plotted(out).exit_code == 0
    assert any("not recorded: devices.jsonl lacks the times" in words for words in texts(out / "plot.svg"))
    oldest = write(tmp_path / "oldest", ROUNDS, [])
    result = plotted(oldest)
    assert result.exit_code == 0
    assert any("devices.jsonl is missing" in words for words in texts(oldest / "plot.svg"))
    (oldest / "summary.json").unlink()
    assert plotted(oldest).exit_code == 0, "a run that still goes on has no summary"


def test_the_last_line_about_a_round_counts(tmp_path: Path) -> None:
    """A run that is resumed may do a round once more."""
    out = write(tmp_path / "out", [*ROUNDS, metrics(2, loss=0.125)], DEVICES)
    assert [record.loss for record in read_records(out).rounds] == [1.0, 0.125]


def spoiled(out: Path, name: str, text: str) -> Path:
    (out / name).write_text(text)
    return out


LINE = json.dumps(metrics(1)) + "\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metrics.jsonl", "", "no round is recorded there (metrics.jsonl is missing or empty)"),
        ("metrics.jsonl", LINE + LINE[:30], "metrics.jsonl: line 2 is cut off: "),
        ("metrics.jsonl", LINE + LINE[:30] + "\n", "metrics.jsonl: line 2: is not a record of a run: "),
        ("metrics.jsonl", "\n", "line 1: is not a record of a run: "),
        ("metrics.jsonl", "a,b\n1,2\n", "line 1: is not a record of a run: "),
        ("metrics.jsonl", "[1]\n", "line 1: is not a record of a run: Expected `object`, got `array`"),
        ("metrics.jsonl", '{"epoch": 1, "val_loss": 2}\n', "missing required field `round`"),
        ("metrics.jsonl", LINE.replace('"seconds": 4.0', '"seconds": "4"'), "$.seconds"),
        ("metrics.jsonl", LINE.replace("4.0", "NaN"), "line 1: is not a record of a run: "),
        ("metrics.jsonl", LINE.replace("4.0", "-4.0"), "seconds = -4 must be a number of at least 0"),
        ("metrics.jsonl", LINE.replace("0.5", "50.0"), "accuracy = 50 must lie within 0 and 1"),
        ("metrics.jsonl", LINE.replace('"round": 1', '"round": 0'), "round = 0 must lie within 1 and"),
        ("metrics.jsonl", LINE.replace("4.0", "9" * 400), "line 1: is not a record of a run: "),
        ("metrics.jsonl", LINE.replace("r-1", "r-\ud800"), "line 1: is not a record of a run: "),
        ("metrics.jsonl", LINE + LINE.replace("r-1", "r-2"), "hold more than one run (r-1, r-2)"),
        ("metrics.jsonl", "[" * 100_000 + "\n", "line 1: is not a record of a run: "),
        ("devices.jsonl", json.dumps(DEVICES[0]), "devices.jsonl: line 1 is cut off: "),
        ("devices.jsonl", json.dumps(DEVICES[0] | {"device": 3}) + "\n", "devices.jsonl: line 1: "),
        ("devices.jsonl", json.dumps(DEVICES[0] | {"run": "r-9"}) + "\n", "hold more than one run (r-1, r-9)"),
        ("summary.json", "{", "summary.json: is not JSON"),
        ("summary.json", "[]", "summary.json: is not the summary of a run, but list"),
    ],
)
def test_what_is_no_record_is_named_with_its_line(out: Path, name: str, text: str, said: str) -> None:
    (out / name).write_bytes(text.encode(errors="surrogatepass"))
    result = plotted(out)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert not (out / "plot.svg").exists()


def test_a_folder_without_a_run_is_refused(out: Path, tmp_path: Path) -> None:
    for folder, said in (
        (tmp_path / "nowhere", "nowhere: no such folder; give the --out folder of a run"),
        (out / "metrics.jsonl", "metrics.jsonl: is not a folder; give"),
        (tmp_path, "no round is recorded there"),
    ):
        result = plotted(folder)
        assert result.exit_code == 2
        assert said in result.stderr
    failed = write(tmp_path / "failed", [], [], state="failed", reason="nobody came")
    assert "missing or empty); the run failed: nobody came" in plotted(failed).stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--round", "3"), "--round 3: is not recorded; r-1 has rounds 1 to 2"),
        (("--round", "0"), "--round 0: is not recorded"),
        (("--round", "9" * 5000), "--round"),
        (("--round", "last"), "--round"),
        (("--out", "no/where/p.svg"), "there is no directory no/where"),
        (("--out", "."), "is a directory"),
    ],
)
def test_options_that_cannot_be_are_refused(out: Path, options: tuple[str, str], said: str) -> None:
    result = plotted(out, *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", ["metrics.jsonl", "devices.jsonl", "summary.json", "model.safetensors"])
def test_no_record_is_written_over(out: Path, name: str) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    result = plotted(out, "--out", out / name)
    assert result.exit_code == 2
    assert "is the name of a record of a run" in result.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_whatever_a_file_holds_it_is_drawn_or_refused(out: Path) -> None:
    """Records with bytes changed, lines dropped, figures replaced: a picture that is XML, or UsageError."""
    draw = random.Random(0)
    files = {name: (out / name).read_text() for name in ("metrics.jsonl", "devices.jsonl")}
    drawn = 0
    for _ in range(300):
        for name, text in files.items():
            lines = text.splitlines(keepends=True)
            line = draw.randrange(len(lines))
            figures = list(re.finditer(r"\d+\.?\d*|null|true|false", lines[line]))
            at = draw.choice(figures)
            other = draw.choice(["0", "1e308", "5e-324", "1e9", "null", "-0.0", "true", '"x\\u0000y"', "0.3"])
            lines[line] = lines[line][: at.start()] + other + lines[line][at.end() :]
            (out / name).write_text("".join(lines))
        result = plotted(out)
        assert result.exit_code in (0, 2), result.output + repr(result.exception)
        if result.exit_code == 0:
            drawn += 1
            root = ElementTree.fromstring((out / "plot.svg").read_text())
            assert "nan" not in (out / "plot.svg").read_text()
            assert all(0 <= float(bar.get("width", 0)) < 1e4 for bar in root.iter(f"{SVG}rect"))
    assert drawn > 50


def test_names_of_any_length_have_room(tmp_path: Path) -> None:
    long = "a-device-with-a-very-long-name-1"
    out = write(tmp_path / "out", ROUNDS[:1], [device(1, long, 0.0, 1.0)])
    assert plotted(out).exit_code == 0
    root = ElementTree.fromstring((out / "plot.svg").read_text())
    left, _, width, _ = (float(number) for number in root.attrib["viewBox"].split())
    name = next(each for each in root.iter(f"{SVG}text") if each.text == long)
    assert float(name.attrib["x"]) - left > 6.5 * len(long)
    assert width == float(root.attrib["width"])


def test_the_orders_are_total() -> None:
    records = [
        DeviceRecord(1, "tested", True, accuracy=0.5, admitted_s=0.0, complete_s=1.0, accepted_s=9.0),
        DeviceRecord(1, "never-in", False, left_out_s=0.0, left_out="was not ready"),
        DeviceRecord(1, "untested", True, loss=2.0, admitted_s=0.0, complete_s=5.0, accepted_s=5.0),
        DeviceRecord(1, "evaluated", False, accuracy=0.1, left_out_s=3.0, left_out="is lost", admitted_s=1.0),
    ]
    assert [record.device for record in worst_first(records)] == ["evaluated", "tested", "untested", "never-in"]
    assert [record.device for record in slowest_first(records)] == ["evaluated", "never-in", "untested", "tested"]


def test_a_simulated_run_with_a_device_that_is_lost_is_drawn(tmp_path: Path) -> None:
    lost = InjectedFault("crash", "dev-2", 40, float("inf"))
    scenario = Scenario(0, hops=2, samples=(9, 6, 11), tests=(4, 2, 3), hidden=(4, 4, 4, 4), quorum=1)
    run_and_check(Scenario(**{**vars(scenario), "faults": Faults(injected=(lost,))}), tmp_path)
    records = read_records(tmp_path)
    out = [record for record in records.devices if record.left_out]
    assert {record.device for record in out} == {"dev-2"}
    assert plotted(tmp_path, "--round", str(out[0].round)).exit_code == 0
    assert rows(tmp_path / "plot.svg")[1][0] == "dev-2"


def test_records_are_read_without_torch() -> None:
    """Whoever draws has perhaps only the folder, and waits for no library."""
    code = "import orchestrator.commands.plot, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
