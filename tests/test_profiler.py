"""What a participant measures of itself and keeps: every block that was asked for, once, in pieces that fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from broker.hardware import cache_directory, machine_info
from mpsl.errors import UsageError
from mpsl.job import ModelSection
from mpsl.nn import profiler
from mpsl.nn.cost import block_costs
from mpsl.nn.profiler import COPIES, Profiler, pieces
from mpsl.profile_questions import Question

QUESTION = Question(ModelSection("mlp", {"hidden": [8, 8, 8], "batch_norm": True}), 4, "momentum", ((0, 1), (3, 4)))


class Ticking:
    """A clock that is 1 ms later at every reading."""

    def __init__(self) -> None:
        self.readings = 0

    def __call__(self) -> float:
        self.readings += 1
        return self.readings / 1e3


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "SECONDS", 0.01)
    monkeypatch.setattr(profiler, "WARM_S", 0.01)


def test_every_block_that_was_asked_for_has_its_times() -> None:
    times = Profiler(Ticking(), "box", 1, None).answer(QUESTION)
    assert [len(row) for row in (times.forward_ms, times.backward_ms, times.step_ms)] == [2, 2, 2]
    assert min(*times.forward_ms, *times.backward_ms, *times.step_ms, times.copy_gb_per_s) > 0


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("name", ["digits-cnn", "har-cnn"])
def test_parts_within_and_at_the_ends_of_real_models(name: str, optimizer: str) -> None:
    blocks = len(block_costs(ModelSection(name), 2))
    for asked in (((0, 1), (blocks - 1, blocks)), ((1, blocks - 1),)):
        times = Profiler(Ticking(), "box", 1, None).answer(Question(ModelSection(name), 3, optimizer, asked))
        assert len(times.forward_ms) == sum(end - first for first, end in asked)


def test_the_generator_of_the_process_seeds_no_weight_and_is_left_to_the_runs() -> None:
    """Two answers are of the same weights, whatever the process has drawn before."""
    seen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        chain = profiler._chain(QUESTION, (0, 1), Ticking())
        seen.append(chain.part.state_dict())
    assert all(torch.equal(tensor, seen[1][name]) for name, tensor in seen[0].items())


def test_what_was_measured_once_is_kept(tmp_path: Path) -> None:
    clock = Ticking()
    first = Profiler(clock, "box", 1, tmp_path / "kept").answer(QUESTION)
    measured = clock.readings
    assert Profiler(clock, "box", 1, tmp_path / "kept").answer(QUESTION) == first
    assert clock.readings == measured
    (path,) = (tmp_path / "kept").iterdir()
    for damaged in ("{", "{}", path.read_text().replace("[", "[1.0, ")):
        path.write_text(damaged)
        Profiler(clock, "box", 1, tmp_path / "kept").answer(QUESTION)
        assert clock.readings > measured
        measured = clock.readings


def test_another_question_machine_or_number_of_threads_is_measured_anew(tmp_path: Path) -> None:
    others = [
        replace(QUESTION, batch_size=5),
        replace(QUESTION, optimizer="adam"),
        replace(QUESTION, blocks=((1, 3),)),
        replace(QUESTION, model=ModelSection("mlp", {"hidden": [8, 8, 9], "batch_norm": True})),
    ]
    for question in [QUESTION, *others]:
        Profiler(Ticking(), "box", 1, tmp_path).answer(question)
    Profiler(Ticking(), "box", 2, tmp_path).answer(QUESTION)
    Profiler(Ticking(), "pi", 1, tmp_path).answer(QUESTION)
    assert len(list(tmp_path.iterdir())) == 7


def test_who_may_not_write_answers_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert Profiler(Ticking(), "box", 1, tmp_path / "file" / "kept").answer(QUESTION)


def test_a_model_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown model 'mpl'"):
        Profiler(Ticking(), "box", 1, None).answer(replace(QUESTION, model=ModelSection("mpl")))
    with pytest.raises(UsageError, match="has 4 blocks"):
        Profiler(Ticking(), "box", 1, None).answer(replace(QUESTION, blocks=((3, 5),)))


def test_pieces_keep_within_the_bytes_and_leave_nothing_out() -> None:
    costs = block_costs(ModelSection("vgg11", {"image_size": 32, "num_classes": 10}), 8)
    taken = [COPIES * c.parameter_bytes + c.stored_bytes + c.output_bytes for c in costs]
    for most in (0, 10**8, 10**9, 10**12):
        found = list(pieces(costs, 1, 10, most))
        assert [block for first, end in found for block in range(first, end)] == list(range(1, 10))
        assert all(sum(taken[first:end]) <= most or end - first == 1 for first, end in found)
        assert all(sum(taken[first : end + 1]) > most for first, end in found[:-1]), "no piece could be longer"
    assert list(pieces(costs, 1, 10, 10**12)) == [(1, 10)]
    assert list(pieces(costs, 4, 4, 10**12)) == []


def test_times_are_kept_where_the_desktop_keeps_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "mpsl" / "profiles"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "mpsl" / "profiles"


def test_a_host_is_the_kernel_that_runs_there(tmp_path: Path) -> None:
    kernel = tmp_path / "boot_id"
    kernel.write_text("1f0c9a52-6a3e-4b8d-9c0e-5f2b7d8e4a10\n")
    said = machine_info(3, kernel)
    assert (said["host"], said["threads"]) == ("1f0c9a52-6a3e", 3)
    assert machine_info(1, tmp_path / "nowhere")["host"]
