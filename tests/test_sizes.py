"""Sizes as people write them."""

import pytest

from broker.sizes import parse_bytes
from mpsl.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1000000", 10**6),
        ("2GiB", 2**31),
        ("3.5GB", 3_500_000_000),
        (" 500 mb ", 5 * 10**8),
        ("1B", 1),
        ("0.5KiB", 512),
    ],
)
def test_a_size_is_a_number_and_its_unit(text: str, size: int) -> None:
    assert parse_bytes(text, "--memory-budget") == size


@pytest.mark.parametrize("text", ["", "GB", "5parsecs", "-1GB", "1,5GB", "1e9", "٣GB", "9" * 400, "1GB extra"])
def test_what_is_no_size_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(UsageError, match=r"--memory-budget '.*': write a size such as 2GiB"):
        parse_bytes(text, "--memory-budget")
