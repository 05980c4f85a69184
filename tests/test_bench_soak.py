"""`mpsl bench soak`: what counts as growth, and what does not."""

import pytest

from benchmarks.soak import MAX_GROWTH_MB, Held, Soaked, too_much

ROUNDS = 100


def soaked(mb_a_round: float = 0.0, files: int = 0, tasks: int = 0, warm_mb: float = 0.0) -> Soaked:
    """A node that grows by so much; `warm_mb` only in its first rounds."""
    held = [
        Held(
            number,
            {"node-1": 300 + mb_a_round * number + min(number, 10) * warm_mb / 10},
            {"node-1": 7 + files * number},
            5 + tasks * number,
        )
        for number in range(1, ROUNDS + 1)
    ]
    return Soaked(held)


def test_a_process_that_stays_as_it_is_has_not_grown() -> None:
    assert too_much(soaked().growth(), []) == []


def test_what_the_first_rounds_need_does_not_count() -> None:
    assert too_much(soaked(warm_mb=200.0).growth(), []) == []


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        ({"mb_a_round": 0.5}, "node-1: 36.0 MB more"),
        ({"files": 1}, "node-1: 79 open files more"),
        ({"tasks": 1}, "orchestrator: 79 tasks more"),
    ],
)
def test_what_grows_with_every_round_is_named(grown: dict[str, float], said: str) -> None:
    assert too_much(soaked(**grown).growth(), []) == [said]  # type: ignore[arg-type]


def test_noise_is_no_growth() -> None:
    assert too_much(soaked(mb_a_round=MAX_GROWTH_MB / ROUNDS).growth(), []) == []


def test_retained_topics_of_a_run_that_is_over_are_named() -> None:
    assert too_much(soaked().growth(), ["mpsl/v1/main/run/r-1/plan"]) == ["retained: mpsl/v1/main/run/r-1/plan"]
