"""G is raised while the busiest seat idles though all places are taken, as far as budgets and use allow."""

from mpsl.machines.orchestrator.pace import Pace, SeatProgress


class Seats:
    """Seats that were busy for given shares of every ten seconds, in which they made twenty steps."""

    def __init__(self, *names: str) -> None:
        self._at = 0.0
        self._busy = dict.fromkeys(names, 0.0)
        self._steps = 0

    def say(self, pace: Pace) -> bool:
        """Everyone's telemetry now; whether G was raised."""
        readings = {name: SeatProgress(self._at, busy, self._steps) for name, busy in self._busy.items()}
        raised = [pace.seen(name, reading, len(readings), pace.admit) for name, reading in readings.items()]
        return any(raised)

    def pass_ten_seconds(self, *shares: float, steps: int = 20) -> None:
        """Time goes by."""
        self._at += 10.0
        self._steps += steps
        for name, share in zip(self._busy, shares, strict=True):
            self._busy[name] += 10.0 * share

    def turn(self, pace: Pace, *shares: float, steps: int = 20) -> bool:
        """Ten seconds between two words of everyone."""
        self.say(pace)
        self.pass_ten_seconds(*shares, steps=steps)
        return self.say(pace)


def test_an_idle_seat_lets_one_more_in_until_it_is_busy() -> None:
    pace, seats = Pace(2, 8), Seats("1_0")
    assert [(seats.turn(pace, share), pace.admit) for share in (0.5, 0.7, 0.97, 0.99)] == [
        (True, 3), (True, 4), (False, 4), (False, 4),
    ]  # fmt: skip


def test_the_busiest_seat_counts_and_all_must_have_spoken() -> None:
    pace, seats = Pace(2, 8), Seats("1_0", "2_0")
    assert not seats.turn(pace, 0.3, 0.96)
    pace.interrupted()
    assert pace.seen("1_0", SeatProgress(100.0, 50.0, 100), 2, 2) is False
    assert pace.seen("1_0", SeatProgress(110.0, 51.0, 120), 2, 2) is False, "2.0 has said nothing yet"
    assert seats.turn(pace, 0.3, 0.5)


def test_no_further_than_the_budgets_allow() -> None:
    pace, seats = Pace(2, 3), Seats("1_0")
    assert [seats.turn(pace, share) for share in (0.3, 0.5, 0.7)] == [True, False, False]
    assert pace.admit == 3


def test_a_raise_of_no_use_is_the_last() -> None:
    """Where the network or the devices set the pace, more copies would only cost memory."""
    pace, seats = Pace(2, 100), Seats("1_0")
    assert [seats.turn(pace, share) for share in (0.5, 0.51, 0.4, 0.3)] == [True, False, False, False]
    assert pace.admit == 3


def test_too_few_steps_or_seconds_say_nothing() -> None:
    pace, seats = Pace(2, 8), Seats("1_0")
    assert not seats.turn(pace, 0.1, steps=3), "one batch may have filled all the time of three steps"
    other = Pace(2, 8)
    other.seen("1_0", SeatProgress(0.0, 0.0, 0), 1, 2)
    assert not other.seen("1_0", SeatProgress(1.0, 0.0, 50), 1, 2)


def test_what_was_before_an_interruption_is_not_compared() -> None:
    pace, seats = Pace(2, 8), Seats("1_0")
    seats.say(pace)
    seats.pass_ten_seconds(0.1)
    pace.interrupted()
    assert not seats.say(pace)
