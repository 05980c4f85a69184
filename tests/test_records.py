"""The files of a run are written whole or not at all."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from driving import PATIENCE_S
from safetensors import safe_open
from safetensors.torch import load_file

from mpsl import VERSION
from mpsl.errors import DiskError, RunFailed, UsageError
from mpsl.job import ModelSection
from mpsl.whole_file import write_whole
from orchestrator.records import Records
from orchestrator.run_folder import run_folder

MODEL = ModelSection("mlp", {"hidden": [3]})
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\Z")


def test_a_model_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    records = Records(tmp_path / "out")
    for value in (1.0, 2.0):
        records.save_model("model.safetensors", {"weight": torch.full((3,), value)}, MODEL, 1)
        assert load_file(tmp_path / "out" / "model.safetensors")["weight"].tolist() == [value] * 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_a_model_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    records = Records(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(RunFailed, match=r"out/model\.safetensors cannot be written; the committed model stays: "):
        records.save_model("model.safetensors", {"weight": torch.zeros(3)}, MODEL, 2)


def test_a_disk_that_is_full_leaves_the_committed_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path)
    records.save_model("model.safetensors", {"weight": torch.ones(3)}, MODEL, 1)

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.records.save_file", full)
    with pytest.raises(RunFailed, match="No space left on device"):
        records.save_model("model.safetensors", {"weight": torch.zeros(3)}, MODEL, 2)
    assert load_file(tmp_path / "model.safetensors")["weight"].tolist() == [1.0] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_model_that_cannot_be_put_in_its_place_is_no_half_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    records = Records(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DiskError, match="No space left on device"):
        records.save_model("model.safetensors", {"weight": torch.zeros(3)}, MODEL, 2)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_has_half_written_is_removed(tmp_path: Path) -> None:
    for name in (".model.safetensors.new", ".manifest.json.new", "model.safetensors"):
        (tmp_path / name).write_text("half of")
    Records(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_rounds_are_appended_and_texts_replaced(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for number in (1, 2):
        records.append_round({"round": number})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2]
    path = tmp_path / "some.json"
    path.write_text("old, and longer than what follows")
    write_whole(path, "new")
    assert path.read_text() == "new"


def test_the_devices_of_a_round_are_a_line_each_with_run_and_time(tmp_path: Path) -> None:
    records = Records(tmp_path, "r-1")
    records.append_devices(
        [{"round": 1, "device": "a", "loss": 0.5}, {"round": 1, "device": "b", "loss": float("nan")}]
    )
    records.append_devices([])
    records.append_devices([{"round": 2, "device": "a", "loss": 0.25}])
    lines = [json.loads(line) for line in (tmp_path / "devices.jsonl").read_text().splitlines()]
    assert [(line["run"], line["round"], line["device"], line["loss"]) for line in lines] == [
        ("r-1", 1, "a", 0.5), ("r-1", 1, "b", None), ("r-1", 2, "a", 0.25)
    ]  # fmt: skip
    assert all(line["time"].endswith("Z") for line in lines)


def test_a_text_that_cannot_be_written_is_named_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "some.json").mkdir()
    with pytest.raises(RunFailed, match=r"some\.json: cannot be written: "):
        write_whole(tmp_path / "some.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


def test_a_round_that_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """In a process of its own, whose files may have so many bytes and not one more: as a disk that fills meanwhile."""
    limit = 90
    script = f"""
import resource, signal, sys
from pathlib import Path
from mpsl.errors import RunFailed
from orchestrator.records import Records

records = Records(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
records.append_round({{"round": 1}})
try:
    records.append_round({{"round": 2}})
except RunFailed as error:
    print(error)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout.startswith(f"{tmp_path}/metrics.jsonl: cannot be written: ")
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["round"] == 1
    assert len(line) + 1 < limit < 2 * len(line)


def test_every_record_says_which_run_and_when(tmp_path: Path) -> None:
    records = Records(tmp_path, "digits-1a2b3c")
    records.append_round({"round": 1, "loss": 0.5})
    written = records.save_summary({"run": "digits-1a2b3c", "state": "done"})
    records.save_model("model.safetensors", {"weight": torch.ones(3)}, MODEL, 7)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["run"], line["round"], line["loss"]) == ("digits-1a2b3c", 1, 0.5)
    assert written == json.loads((tmp_path / "summary.json").read_text())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert all(TIME.match(time) for time in (line["time"], written["ended"], metadata.pop("time")))
    assert metadata == {
        "format": "pt", "model": "mlp", "args": '{"hidden": [3]}', "run": "digits-1a2b3c", "round": "7",
        "mpsl": VERSION,
    }  # fmt: skip


# The folder of a run


def a_run_in(out: Path, name: str = "old-1") -> None:
    records = Records(out, name)
    records.append_round({"round": 1})
    records.save_summary({"run": name, "state": "failed", "rounds": [{}]})


def test_a_folder_is_made_and_other_files_in_it_do_not_matter(tmp_path: Path) -> None:
    with run_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "notes.txt").write_text("mine")
    with run_folder(tmp_path, force=True):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "notes.txt"]


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "plan.json", "model.safetensors"])
def test_a_folder_that_holds_any_file_of_a_run_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(UsageError, match=f"holds a run .*{name}.*--force"), run_folder(tmp_path):
        pass


def test_the_run_that_lies_there_is_named(tmp_path: Path) -> None:
    a_run_in(tmp_path)
    with pytest.raises(UsageError, match=r"holds run old-1 \(failed, 1 rounds\)"), run_folder(tmp_path):
        pass


def test_with_force_every_older_run_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("first", "second", "third"):
        with run_folder(out, force=True):
            assert list(out.iterdir()) == []
            a_run_in(out, name)
    kept = [json.loads((tmp_path / folder / "summary.json").read_text())["run"] for folder in ("out.1", "out.2", "out")]
    assert kept == ["first", "second", "third"]


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with run_folder(out):
        a_run_in(out)
        for force in (False, True):
            with pytest.raises(UsageError, match="another process writes a run there"), run_folder(out, force):
                pass
    with run_folder(out, force=True):
        pass
    assert (tmp_path / "out.1").is_dir()


def test_the_working_directory_is_not_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    a_run_in(Path())
    with (
        pytest.raises(UsageError, match=r"--out \.: holds a run and cannot be renamed"),
        run_folder(Path(), force=True),
    ):
        pass
    assert (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("read", ["out", "out/shards", "link"])
def test_a_folder_is_not_renamed_with_what_the_run_reads(tmp_path: Path, read: str) -> None:
    out = tmp_path / "out"
    (out / "shards").mkdir(parents=True)
    (tmp_path / "link").symlink_to("out/shards")
    a_run_in(out)
    with (
        pytest.raises(UsageError, match=f"--out {out}: holds {tmp_path / read} too"),
        run_folder(out, force=True, inputs=[tmp_path / "job.toml", tmp_path / read]),
    ):
        pass
    with run_folder(out, force=True, inputs=[tmp_path / "job.toml"]):
        assert (tmp_path / "out.1" / "shards").is_dir()


def test_a_folder_that_cannot_be_renamed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    a_run_in(tmp_path)
    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(UsageError, match=r"cannot be renamed to .*\.1 \(Device or resource busy\); name another folder"),
        run_folder(tmp_path, force=True),
    ):
        pass


@pytest.mark.parametrize("kind", ["file", "below-a-file", "dangling-link", "loop", "long", "read-only"])
def test_a_folder_that_cannot_be_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling-link").symlink_to("/proc/nowhere")
    (tmp_path / "loop").symlink_to("loop")
    out = {"below-a-file": tmp_path / "file" / "out", "long": tmp_path / ("x" * 300), "read-only": Path("/proc")}.get(
        kind, tmp_path / kind
    )
    with pytest.raises(UsageError) as caught, run_folder(out):
        pass
    assert str(caught.value).startswith(f"--out {out}: ")
    assert os.path.exists(tmp_path / "file")


@pytest.mark.parametrize(
    ("files", "goes_on"),
    [
        ({"initial.safetensors": ""}, True),
        ({"initial.safetensors": "", "summary.json": '{"state": "failed"}'}, True),
        ({"manifest.json": "{}", "model.safetensors": "", "metrics.jsonl": ""}, True),
        ({"manifest.json": "{}", "model.safetensors": "", "summary.json": '{"state": "failed"}'}, True),
        ({"manifest.json": "{}", "model.safetensors": "", "summary.json": '{"state": "done"}'}, False),
        ({"initial.safetensors": "", "model.safetensors": ""}, False),
        ({"metrics.jsonl": ""}, False),
    ],
)
def test_the_same_command_goes_on_with_a_run_that_is_not_done_and_refuses_any_other(
    tmp_path: Path, files: dict[str, str], goes_on: bool
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    if goes_on:
        with run_folder(tmp_path, may_go_on=True):
            assert all((tmp_path / name).read_text() == content for name, content in files.items())
    else:
        with pytest.raises(UsageError, match="holds"), run_folder(tmp_path, may_go_on=True):
            pass
