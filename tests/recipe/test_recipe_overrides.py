"""`--set key.path=value`."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyheads.errors import InputError
from manyheads.recipe.document import Document, read_text, written
from manyheads.recipe.overrides import overridden, replaced

NAMES = st.text("abcdefgh_-", min_size=1, max_size=5)
TREES = st.recursive(
    st.integers() | st.booleans() | st.text("ab1.:= ", max_size=6),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def values_after(values: dict[str, Any], *overrides: str) -> dict[str, Any]:
    return overridden(Document(values), overrides).values


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("a.b=2", {"a": {"b": 2, "c": [10, 20]}}),
        ("a.b=[1,2]", {"a": {"b": [1, 2], "c": [10, 20]}}),
        ("a.b={x: 1}", {"a": {"b": {"x": 1}, "c": [10, 20]}}),
        ("a.b=", {"a": {"b": None, "c": [10, 20]}}),
        ("a.b=x=y", {"a": {"b": "x=y", "c": [10, 20]}}),
        ("a.b=2e-5", {"a": {"b": 2e-5, "c": [10, 20]}}),
        ("a.b='2'", {"a": {"b": "2", "c": [10, 20]}}),
        ("a.c.1=7", {"a": {"b": 1, "c": [10, 7]}}),
        ("a=7", {"a": 7}),
        ("d.e.f=7", {"a": {"b": 1, "c": [10, 20]}, "d": {"e": {"f": 7}}}),
        (" a . b = 2 ", {"a": {"b": 2, "c": [10, 20]}}),
    ],
)
def test_a_value_takes_its_place(override: str, values: dict[str, Any]) -> None:
    before = {"a": {"b": 1, "c": [10, 20]}}
    assert values_after(before, override) == values
    assert before == {"a": {"b": 1, "c": [10, 20]}}


def test_the_later_one_wins_and_a_null_section_is_filled() -> None:
    assert values_after({"a": None}, "a.b=1", "a.b=2") == {"a": {"b": 2}}
    assert values_after({"a": {"b": 1}}, "a.b=2", "a={c: 3}") == {"a": {"c": 3}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "--set a: expected key.path=value"),
        ("=1", "--set =1: expected key.path=value"),
        ("a..b=1", "--set a..b=1: expected key.path=value"),
        ("a.=1", "--set a.=1: expected key.path=value"),
        ("a.b.c=1", "--set a.b.c=1: a.b: expected a mapping or a list, found 1"),
        ("a.c.2=1", "--set a.c.2=1: a.c: expected a position from 0 to 1, found '2'"),
        ("a.c.-1=1", "--set a.c.-1=1: a.c: expected a position from 0 to 1, found '-1'"),
        ("a.c.x=1", "--set a.c.x=1: a.c: expected a position from 0 to 1, found 'x'"),
        ("a.c.²=1", "--set a.c.²=1: a.c: expected a position from 0 to 1, found '²'"),
        ("a.d.0=1", "--set a.d.0=1: a.d: expected no position, the list is empty, found '0'"),
        ("a.b=[1", "--set a.b=[1: not valid YAML"),
        ("a.b=!!str x", "--set a.b=!!str x: tags are not read"),
        ("a.b={x: 1, x: 2}", "--set a.b={x: 1, x: 2}: x: stands twice"),
    ],
)
def test_what_is_refused_names_the_override(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        values_after({"a": {"b": 1, "c": [10, 20], "d": []}}, override)
    assert str(caught.value).startswith(message)


def test_an_overridden_value_is_no_longer_on_its_line() -> None:
    document = overridden(read_text("a:\n  b:\n    c: 1\nd: 1\n", file="x.yaml"), ["a.b={c: 2}", "e.f=1"])
    assert str(document.error("no", ("a", "b", "c"))) == "--set a.b={c: 2}: a.b.c: no"
    assert str(document.error("no", ("a",))) == "x.yaml, line 1: a: no"
    assert str(document.error("no", ("d",))) == "x.yaml, line 4: d: no"
    assert str(document.error("no", ("e",))) == "--set e.f=1: e: no"


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, TREES, max_size=3), st.lists(NAMES, min_size=1, max_size=3), TREES)
def test_what_was_set_is_there_and_nothing_else_moved(
    values: dict[str, Any], path: list[str], value: Any
) -> None:
    holder: Any = values
    for part in path[:-1]:
        holder = holder.get(part)
        if holder is None:
            break
        if not isinstance(holder, dict):
            with pytest.raises(InputError):
                values_after(values, f"{'.'.join(path)}={written(value, inline=True)}")
            return
    after = values_after(values, f"{'.'.join(path)}={written(value, inline=True)}")
    there: Any = after
    for part in path:
        there = there[part]
    assert there == value
    # Put back what was there before, and nothing is different.
    if isinstance(holder, dict) and path[-1] in holder:
        assert replaced(Document(after), path, holder[path[-1]], None).values == values
