"""The even cuts are the best ones that brute force finds; unsound cuts are refused with the reason."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsl.cuts import check_cuts, even_cuts
from mpsl.errors import UsageError


def costliest(costs: list[float], cuts: list[int]) -> float:
    return max(sum(costs[begin:end]) for begin, end in itertools.pairwise(cuts))


@given(st.lists(st.integers(0, 20).map(float), min_size=3, max_size=10), st.data())
def test_no_other_cuts_have_a_cheaper_costliest_part(costs: list[float], data: st.DataObject) -> None:
    hops = data.draw(st.integers(1, len(costs) - 2))
    cuts = even_cuts(costs, hops)
    check_cuts(cuts, len(costs))
    last = len(costs) - 1
    assert (len(cuts), cuts[0], cuts[-1]) == (hops + 1, 1, last)
    candidates = ([1, *inner, last] for inner in itertools.combinations(range(2, last), hops - 1))
    assert costliest(costs, cuts) == min(costliest(costs, candidate) for candidate in candidates)


def test_the_costs_of_the_devices_own_blocks_do_not_count() -> None:
    assert even_cuts([100, 3, 1, 1, 1, 100], 2) == [1, 2, 5]


def test_no_hops_are_no_cuts() -> None:
    assert even_cuts([1.0, 2.0], 0) == []


@pytest.mark.parametrize("hops", [-1, 3])
def test_more_hops_than_blocks_between_the_ends_are_refused(hops: int) -> None:
    with pytest.raises(UsageError, match="the model has 4"):
        even_cuts([1.0] * 4, hops)


@pytest.mark.parametrize("cuts", [[], [1, 8], [2, 5, 8], list(range(1, 9))])
def test_sound_cuts(cuts: list[int]) -> None:
    check_cuts(cuts, 9)


@pytest.mark.parametrize(
    ("cuts", "text"),
    [
        ([3], "N hops need N . 1 cuts"),
        ([5, 2], "rise strictly"),
        ([2, 2], "rise strictly"),
        ([0, 4], "within 1 and 8"),
        ([-3, 4], "within 1 and 8"),
        ([4, 9], "within 1 and 8"),
    ],
)
def test_unsound_cuts_are_refused(cuts: list[int], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        check_cuts(cuts, 9)
