"""Recipe text → values and lines: what is read, what is refused, and that writing reads back."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from manyheads.errors import InputError
from manyheads.recipe.document import MAX_DEPTH, MAX_VALUES, read_document, read_text, read_value, written

RecipeFile = Callable[[str | bytes], Path]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LOOKS_LIKE = st.sampled_from(
    ["no", "yes", "on", "true", "~", "null", "2e-5", "1e3", "1_000", "0x1F", "0o7", "010", "1:30",
     "2020-01-01", "<<", "=", "-", ".5", "5.", "+1", "-0", ".inf", ".nan", "", " ",
     "a: b", "- a", "#", "!x", "&a", "*a",
     "\t", "\n", "\x85 \u2028"]
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS | TEXTS | LOOKS_LIKE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | LOOKS_LIKE, inner, max_size=4),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types: 1, 1.0 and True are three values."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and a == b


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(TEXTS | LOOKS_LIKE, VALUES, min_size=1, max_size=4))
def test_what_is_written_reads_back(values: dict[str, Any]) -> None:
    assert same(read_text(written(values)).values, values)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_what_is_written_in_one_line_reads_back(value: Any) -> None:
    text = written(value, inline=True)
    assert "\n" not in text
    assert same(read_value(text, "--set x"), value)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(TEXTS | LOOKS_LIKE, TEXTS | LOOKS_LIKE, min_size=1, max_size=4))
def test_texts_are_quoted_for_readers_of_yaml_1_1_too(values: dict[str, str]) -> None:
    assert yaml.safe_load(written(values)) == values


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab:-[]{},#&*!|>'\"%@`? \n\t\r0\\uUx.<~\x00\ud800"), max_size=40))
def test_any_text_is_a_mapping_or_an_input_error(text: str) -> None:
    try:
        document = read_text(text, file="x.yaml")
    except InputError as error:
        message = str(error)
    else:
        message = "x.yaml"
        assert isinstance(document.values, dict)
    assert message.startswith("x.yaml")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1e-3", 1e-3),
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("", None),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("[yes, 1, 1.0]", ["yes", 1, 1.0]),
    ],
)
def test_plain_words(text: str, value: object) -> None:
    assert same(read_value(text, "--set x"), value)


def test_every_value_has_its_line() -> None:
    document = read_text(
        "name: x\ntasks:\n  sst:\n    labels: [a,\n      b]\n    files:\n      - one\n      - two\n"
    )
    assert document.origins == {
        (): 1,
        ("name",): 1,
        ("tasks",): 2,
        ("tasks", "sst"): 3,
        ("tasks", "sst", "labels"): 4,
        ("tasks", "sst", "labels", 0): 4,
        ("tasks", "sst", "labels", 1): 5,
        ("tasks", "sst", "files"): 6,
        ("tasks", "sst", "files", 0): 7,
        ("tasks", "sst", "files", 1): 8,
    }
    assert str(document.error("no", ("tasks", "sst", "lable"))) == "line 3: tasks.sst.lable: no"


def test_aliases_are_copies() -> None:
    values = read_text("a: &x {k: [1]}\nb: *x\n").values
    assert values == {"a": {"k": [1]}, "b": {"k": [1]}}
    assert values["a"] is not values["b"]
    assert values["a"]["k"] is not values["b"]["k"]


def test_a_bomb_of_aliases_is_refused_before_it_is_built() -> None:
    # Ten to the ninth texts: would this be built, no machine would live to fail the test.
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(InputError, match=r"bomb\.yaml, line 4: more than 10,000 values"):
        read_text("\n".join(lines), file="bomb.yaml")


def test_the_limits_themselves_are_still_read() -> None:
    assert len(read_text("a: [" + "1, " * (MAX_VALUES - 3) + "]").values["a"]) == MAX_VALUES - 3
    with pytest.raises(InputError, match="more than"):
        read_text("a: [" + "1, " * (MAX_VALUES - 2) + "]")
    depth = MAX_DEPTH - 1
    assert read_text("a: " + "[" * depth + "]" * depth).values["a"] is not None
    with pytest.raises(InputError, match="levels deep"):
        read_text("a: " + "[" * (depth + 2) + "]" * (depth + 2))


def test_nesting_without_end_is_an_error_not_a_crash() -> None:
    with pytest.raises(InputError, match="levels deep"):
        read_text("a: " + "[" * 100_000)
    with pytest.raises(InputError, match="levels deep"):
        read_text("a:\n" + "- " * 10_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml: is empty, expected a mapping of settings"),
        ("# only a comment\n", "x.yaml: is empty, expected a mapping of settings"),
        ("---\n", "x.yaml: is empty, expected a mapping of settings"),
        ("\n- a\n- b\n", "x.yaml, line 2: expected a mapping of settings, found a list"),
        ("fast", "x.yaml, line 1: expected a mapping of settings, found 'fast'"),
        (
            "a: 1\nb: !!python/name:os.system x\n",
            "x.yaml, line 2: tags are not read, found 'tag:yaml.org,2002:python",
        ),
        ("a: !!str 1", "x.yaml, line 1: tags are not read, found 'tag:yaml.org,2002:str'"),
        ("a: ! x", "x.yaml, line 1: tags are not read, found '!'"),
        ("a:\n  !!map\n  b: 1", "x.yaml, line 2: tags are not read"),
        ("a: 1\nb: 2\n\na: 3\n", "x.yaml, line 4: a: stands twice, the first time on line 1"),
        ("o:\n  lr: 1\n  'lr': 2\n", "x.yaml, line 3: o.lr: stands twice, the first time on line 2"),
        ("a: &x\n  b: *x\n", "x.yaml, line 2: '*x' stands inside the value that it repeats"),
        ("a: &x [*x]\n", "x.yaml, line 1: '*x' stands inside the value that it repeats"),
        ("a: 1\nb: *x\n", "x.yaml, line 2: '*x' has no anchor '&x' before it"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "x.yaml, line 3: merge keys ('<<') are not read"),
        ("a:\n  1: x\n", "x.yaml, line 2: expected a name as key, found 1; put it in quotes"),
        ("a:\n  true: x\n", "x.yaml, line 2: expected a name as key, found true; put it in quotes"),
        ("? [a, b]\n: 1\n", "x.yaml, line 1: expected a plain name as key"),
        ("a: 1\n---\nb: 1\n", "x.yaml, line 2: a second document"),
        ("a:\n\tb: 1\n", "x.yaml, line 2: a tab in the indentation, expected spaces"),
        ("a:\n  b: 1\n  \tc: 1\n", "x.yaml, line 3: a tab in the indentation, expected spaces"),
        ("a: [1\nb: 2\n", "x.yaml, line 2: not valid YAML"),
        ("a: 'x\n", "x.yaml, line 2: not valid YAML"),
        ("a: 1\nb: c: d\n", "x.yaml, line 2: not valid YAML"),
        ("a: 1\nb: @c\n", "x.yaml, line 2: not valid YAML"),
        ("a: 1\nb: \x07\n", "x.yaml, line 2: the character U+0007 is not allowed"),
        ('a: "\\ud800"', "x.yaml, line 1: half of a surrogate pair is not a character"),
        ('a: "\\UFFFFFFFF"', "x.yaml: not valid YAML"),
        ("a: 1\nb: 1e999\n", "x.yaml, line 2: the number '1e999' is too large"),
        (f"a: {'9' * 5000}", "x.yaml, line 1: the number 9999999999… has too many digits"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_text(text, file="x.yaml")
    assert str(caught.value).startswith(message)


def test_files(recipe_file: RecipeFile, tmp_path: Path) -> None:
    assert read_document(recipe_file(b"\xef\xbb\xbfname: x\r\n")).values == {"name": "x"}
    with pytest.raises(InputError, match=r"^recipes/x\.yaml, line 2: expected UTF-8, found the byte 0xe9$"):
        read_document(recipe_file("a: 1\nb: é\n".encode("latin-1")))
    with pytest.raises(InputError, match=r"^recipes/x\.yaml, line 1: expected UTF-8, found the byte 0xff$"):
        read_document(recipe_file("a: 1".encode("utf-16")))
    with pytest.raises(InputError, match=r"^recipes/y\.yaml: no such file$"):
        read_document("recipes/y.yaml")
    with pytest.raises(InputError, match=r"^recipes: is a folder, expected a recipe file$"):
        read_document("recipes")
    (tmp_path / "recipe.yaml").write_text("name: x")
    with pytest.raises(
        InputError, match=r"is a folder, expected a recipe file; did you mean '.*recipe\.yaml'\?"
    ):
        read_document(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_document("a\0b")
    read_document(recipe_file("a: 1\n" + "#" * (1_000_000 - 5)))
    with pytest.raises(InputError, match="larger than 1,000,000 bytes"):
        read_document(recipe_file("a: 1\n" + "#" * (1_000_000 - 4)))


def test_numbers_are_written_as_they_are_read() -> None:
    values = {"lr": 2e-5, "big": 1e300, "small": 5e-324, "whole": 3.0, "third": 1 / 3, "zero": -0.0}
    back = read_text(written(values)).values
    assert back == values
    assert math.copysign(1, back["zero"]) == -1
