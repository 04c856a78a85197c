"""Options by name: what a text stands for, by the type of the field."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest

from prmagic.options import Setting, option, settings


@dataclass(frozen=True)
class Some:
    count: int = option(3, "How many")
    size: float | None = option(0.5, "How large; none: any")
    kind: str = option("round", "Which shape", ("round", "square"))
    sizes: tuple[int, int] = option((1, 4), "Fewest and most")
    channels: tuple[int, ...] | None = option(None, "Which of them")
    fine: bool = option(False, "Whether it is fine")


def parse(name, text):
    return settings(Some())[name].parse(text)


def test_settings_are_the_fields_with_the_instances_values():
    found = settings(Some(count=7), rename={"kind": "shape"})
    assert list(found) == ["count", "size", "shape", "sizes", "channels", "fine"]
    assert found["count"] == Setting("count", int, 7, "How many")
    assert found["shape"].choices == ("round", "square") and found["shape"].name == "shape"
    assert {each.name for each in fields(Some)} == set(settings(Some()))


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("count", "12", 12),
        ("count", " -3 ", -3),
        ("size", "0.25", 0.25),
        ("size", "1e-3", 0.001),
        ("size", "2", 2.0),
        ("size", "none", None),
        ("size", "None", None),
        ("size", "", None),
        ("kind", "square", "square"),
        ("sizes", "2,6", (2, 6)),
        ("sizes", "(2, 6)", (2, 6)),
        ("sizes", "[2,6]", (2, 6)),
        ("channels", "0,2", (0, 2)),
        ("channels", "1", (1,)),
        ("channels", "none", None),
        ("fine", "true", True),
        ("fine", "Yes", True),
        ("fine", "0", False),
    ],
)
def test_texts_become_values_of_the_fields_type(name, text, value):
    found = parse(name, text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "name, text, told",
    [
        ("count", "2.5", "count '2.5' is not a whole number"),
        ("count", "True", "count 'True' is not a whole number"),
        ("count", "many", "count 'many' is not a whole number"),
        ("count", "none", "count 'none' is not a whole number"),
        ("count", "__import__('os')", "is not a whole number"),
        ("size", "large", "size 'large' is not a number or none"),
        ("size", "'2'", "is not a number or none"),
        ("size", "nan", "is not a number or none"),
        ("size", "1" + "0" * 400, "is not a number or none"),  # no float is so large
        ("kind", "sqare", r"unknown kind 'sqare': did you mean 'square'\? Known: round, square"),
        ("sizes", "2", "sizes '2' is not 2 numbers separated by a comma"),
        ("sizes", "1,2,3", "is not 2 numbers"),
        ("sizes", "1,b", "is not 2 numbers"),
        ("channels", "0,x", "channels '0,x' is not numbers separated by commas or none"),
        ("fine", "maybe", "fine 'maybe' is not true or false"),
    ],
)
def test_texts_that_are_no_such_value(name, text, told):
    with pytest.raises(ValueError, match=told) as raised:
        parse(name, text)
    assert "\n" not in str(raised.value)


def test_a_whole_number_beyond_any_float_is_told():
    with pytest.raises(ValueError, match="size must be a number or none; got 1000"):
        settings(Some())["size"].check(10**400)
