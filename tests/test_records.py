"""The files of a run are written whole or not at all."""

import json
import shutil
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
