"""The pages on methods: every recipe line that they show is a recipe's, every script runs, every setting is named."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from manyheads.recipe import Recipe, describe_settings
from manyheads.recipe.document import read_document

PAGES = Path(__file__).parents[2] / "docs" / "concepts"
METHODS = (
    *("choice", "distillation", "frozen", "glue", "gradients", "heads", "ranking", "relation", "selection"),
    *("pretraining", "smart", "span", "tagging", "weibo"),
)

# What the pages' lines are put into: the task names that they use, and a pair that is encoded apart for the relation.
AROUND: dict[str, Any] = {
    "name": "around",
    "tasks": {
        "sst": {"kind": "classification", "files": {"train": "sst.tsv"}, "text": "sentence"},
        "para": {
            "kind": "classification",
            "files": {"train": "para.tsv"},
            "pair": ["a", "b"],
            "encode": "siamese",
        },
        "sts": {"kind": "regression", "files": {"train": "sts.tsv"}, "pair": ["a", "b"], "encode": "siamese"},
    },
}


def blocks(language: str) -> list[Any]:
    """The fenced blocks of a language on the pages, each under the name of its page."""
    found = []
    for page in METHODS:
        text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
        pattern = rf"^```{language}\n(.*?)^```$"
        for number, match in enumerate(re.findall(pattern, text, flags=re.MULTILINE | re.DOTALL), start=1):
            found.append(pytest.param(match, id=f"{page}-{number}"))
    return found


@pytest.mark.parametrize("shown", blocks("yaml"))
def test_the_recipe_lines_of_a_page_are_a_recipes(shown: str, tmp_path: Path) -> None:
    (tmp_path / "shown.yaml").write_text(shown, encoding="utf-8")
    values = read_document(tmp_path / "shown.yaml").values  # YAML as a recipe's file is read
    assert Recipe.parse({**AROUND, **values}).tasks


@pytest.mark.parametrize("shown", blocks("python"))
def test_the_scripts_of_a_page_run(shown: str) -> None:
    exec(compile(shown, "page", "exec"), {})


def test_every_page_shows_recipe_lines() -> None:
    pages = {str(parameter.id).split("-")[0] for parameter in blocks("yaml")}
    assert pages == set(METHODS)


@pytest.mark.parametrize(
    ("page", "section"),
    [
        ("smart", "regularize.smart."),
        ("distillation", "distill."),
        ("distillation", "encoder.layers"),
        ("distillation", "encoder.hidden"),
        ("distillation", "encoder.intermediate"),
        ("relation", "relation."),
        ("gradients", "gradients."),
        ("selection", "tasks.NAME.hold_out"),
        ("selection", "tasks.NAME.sample"),
    ],
)
def test_a_page_names_every_setting_of_its_section(page: str, section: str) -> None:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    named = {one.path.rpartition(".")[2] for one in describe_settings() if one.path.startswith(section)}
    assert named
    assert [name for name in sorted(named) if not re.search(rf"\b{name}\b", text)] == []


def test_the_examples_of_the_log_are_json() -> None:
    for parameter in blocks("json"):
        for line in str(parameter.values[0]).splitlines():
            assert yaml.safe_load(line)["event"] in ("step", "affinity")
