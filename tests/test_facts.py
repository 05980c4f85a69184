"""What is read from outside: a value of a fixed set is refused with the whole set, wherever it stands."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from mpsl import facts
from mpsl.errors import UsageError
from mpsl.names import MAX_LISTED, nearest

Colour = Literal["red", "green"]


@dataclass(frozen=True)
class Leaf:
    colour: Colour


@dataclass(frozen=True)
class Tree:
    colour: Colour = "red"
    leaf: Leaf | None = None
    row: tuple[Leaf, ...] = ()
    by_name: dict[str, Leaf] | None = None
    second: Colour | None = None


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"colour": "gren"}, "colour"),
        ({"second": "gren"}, "second"),
        ({"leaf": {"colour": "gren"}}, "leaf.colour"),
        ({"row": [{"colour": "red"}, {"colour": "gren"}]}, "row[1].colour"),
        ({"by_name": {"a": {"colour": "gren"}}}, "by_name.a.colour"),
    ],
)
def test_a_value_of_a_fixed_set_is_refused_with_the_set(data: dict[str, Any], place: str) -> None:
    with pytest.raises(UsageError) as error:
        facts.read(Tree, data, "F")
    assert str(error.value) == f"F: {place}: unknown value 'gren'; did you mean 'green'? known: green, red"


def test_names_are_listed_unless_they_are_too_many() -> None:
    few = [f"name-{number}" for number in range(MAX_LISTED)]
    assert nearest("nam-1", few) == f"did you mean 'name-1'? known: {', '.join(sorted(few))}"
    assert nearest("nam-1", [*few, "other"]) == "did you mean 'name-1'?"
    assert nearest("xyz", ["b", "a"]) == "known: a, b"
