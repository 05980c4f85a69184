"""What `mpsl train` shows of a run while it goes on."""

import pytest

from orchestrator.progress import loss_shown, round_line

FACTS = {"round": 3, "loss": 0.5, "accuracy": 0.875, "seconds": 1.234}


def test_a_round_in_one_line() -> None:
    assert round_line(FACTS) == "round 3 · loss 0.5000 · accuracy 87.50% · 1.23 s"
    assert (
        round_line(FACTS | {"accuracy": None, "predicted_s": 1.1}) == "round 3 · loss 0.5000 · 1.23 s (predicted 1.10)"
    )


def test_what_the_order_of_a_deterministic_run_costs_is_shown() -> None:
    assert round_line(FACTS | {"held_s": 0.756}).endswith("1.23 s · updates held 0.76 s for their turn")


@pytest.mark.parametrize(("loss", "shown"), [(0.01234, "0.0123"), (99_999.0, "99999.0000"), (6.04e32, "6.04e+32")])
def test_a_loss_of_any_size_is_readable(loss: float, shown: str) -> None:
    assert loss_shown(loss) == shown
