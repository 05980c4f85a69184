"""The files of a run are written whole or not at all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mpsl.errors import RunFailed
from orchestrator.records import Records, write_whole


def test_a_model_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    records = Records(tmp_path / "out")
    for value in (1.0, 2.0):
        records.save_model("model.safetensors", {"weight": torch.full((3,), value)})
        assert load_file(tmp_path / "out" / "model.safetensors")["weight"].tolist() == [value] * 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_a_model_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    records = Records(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(RunFailed, match=r"out/model\.safetensors cannot be written; what was committed stays: "):
        records.save_model("model.safetensors", {"weight": torch.zeros(3)})


def test_a_disk_that_is_full_leaves_the_committed_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path)
    records.save_model("model.safetensors", {"weight": torch.ones(3)})

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("orchestrator.records.save_file", full)
    with pytest.raises(RunFailed, match="No space left on device"):
        records.save_model("model.safetensors", {"weight": torch.zeros(3)})
    assert load_file(tmp_path / "model.safetensors")["weight"].tolist() == [1.0] * 3
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


def test_a_text_that_cannot_be_written_is_named_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "some.json").mkdir()
    with pytest.raises(RunFailed, match=r"some\.json: cannot be written: "):
        write_whole(tmp_path / "some.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


def test_a_round_that_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """In a process of its own, whose files may have so many bytes and not one more: as a disk that fills meanwhile."""
    limit = len('{"round": 1}\n') + 4
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(f"{tmp_path}/metrics.jsonl: cannot be written: ")
    assert (tmp_path / "metrics.jsonl").read_text() == '{"round": 1}\n'
