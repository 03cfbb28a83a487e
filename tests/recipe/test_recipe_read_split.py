"""`read_split`: a split whose files are read otherwise than the task's others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manyheads.data.read import Dialect
from manyheads.errors import InputError
from manyheads.recipe import Recipe, TaskSettings

TASK: dict[str, Any] = {
    "kind": "classification",
    "files": {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"},
    "text": "sentence",
}
BARE = {"header": False, "columns": ["label", "sentence"]}


def task(**settings: Any) -> TaskSettings:
    return Recipe.parse({"name": "x", "tasks": {"t": {**TASK, **settings}}}).tasks["t"]


def test_a_split_is_read_as_it_says_and_the_others_as_read_says() -> None:
    found = task(read=BARE, read_split={"test": {"extra_columns": "ignore"}})
    assert (
        found.dialect("train") == found.dialect("dev") == Dialect(header=False, columns=["label", "sentence"])
    )
    # Nothing of `read` is taken over: the test file has a header again.
    assert found.dialect("test") == Dialect(extra_columns="ignore")


def test_without_it_every_split_is_read_alike() -> None:
    found = task(read=BARE)
    assert found.read_split == {}
    assert [found.dialect(split) for split in ("train", "dev", "test")] == [found.read] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"read_split": {"tset": {}}},
            "tasks.t.read_split.tset: there is no file for such a split; did you mean 'test'?",
        ),
        (
            {"read_split": {"test": {"haeder": True}}},
            "tasks.t.read_split.test.haeder: unknown key; did you mean 'header'?",
        ),
        (
            {"read_split": {"test": {"header": False}}},
            "tasks.t.read_split.test: `header: false` needs `columns: […]`, the names of the columns",
        ),
        (
            {"files": {"train": "a.tsv"}, "hold_out": {"dev": 0.2}, "read_split": {"dev": {}}},
            "tasks.t.read_split.dev: the split is cut from the training rows and read as they are",
        ),
        (
            {"files": None, "hub": {"path": "x", "splits": {"train": "train"}}, "read_split": {"train": {}}},
            "tasks.t: 'read_split' belongs to 'files'",
        ),
        ({"read_split": [{}]}, "tasks.t.read_split: expected a mapping, found a list of 1"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        task(**settings)
    assert str(caught.value) == message


def test_an_error_names_the_line_of_the_file(recipe_file: Callable[[str | bytes], Path]) -> None:
    path = recipe_file(
        "name: x\ntasks:\n  t:\n    kind: classification\n    files: {train: a.tsv, test: b.tsv}\n"
        "    text: s\n    read_split: {tets: {}}\n"
    )
    with pytest.raises(InputError) as caught:
        Recipe.load(path)
    assert str(caught.value).startswith("recipes/x.yaml, line 7: tasks.t.read_split.tets: ")
    assert "'test'" in str(caught.value)


def test_it_comes_back_from_a_runs_recipe_and_takes_overrides(tmp_path: Path) -> None:
    plain = {"name": "x", "data": str(tmp_path), "tasks": {"t": {**TASK, "read": BARE}}}
    recipe = Recipe.parse(plain, ["tasks.t.read_split.test={header: true, delimiter: ';'}"])
    assert recipe.tasks["t"].dialect("test") == Dialect(delimiter=";")
    (tmp_path / "kept.yaml").write_text(recipe.dump_yaml(), encoding="utf-8")
    assert Recipe.load(tmp_path / "kept.yaml").tasks["t"] == recipe.tasks["t"]
