"""What the README and the recipes folder say is what the code does."""

import json
import re
from pathlib import Path

import pytest

from manyheads.cli import COMMANDS
from manyheads.recipe import Recipe, describe_settings, json_schema

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
# Their data, or a part of it, is not in the folder of data sets: SWAG, QNLI, the larger sets of GLUE.
ABSENT = {"glue_all", "qnli_ranking", "swag"}


def test_the_readme_lists_every_setting_with_its_default() -> None:
    told = README.split("<!-- settings -->")[1].strip().splitlines()[2:]
    expected = [
        f"| `{one.path}` | `{one.default}` | {one.meaning.replace('|', chr(92) + '|').replace(chr(10), ' ')} |"
        for one in describe_settings()
    ]
    assert told == expected


def test_every_command_in_the_readme_exists() -> None:
    named = set(re.findall(r"^manyheads (\w+)", README, flags=re.MULTILINE))
    assert named
    assert named <= set(COMMANDS)


def test_the_schema_beside_the_recipes_is_the_one_the_code_checks_with() -> None:
    assert json.loads((ROOT / "recipes" / "recipe.schema.json").read_text(encoding="utf-8")) == json_schema()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_opens_with_its_command(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert f"# manyheads train recipes/{path.name}" in text
    assert Recipe.load(path).tasks


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_files_of_a_recipe_are_in_the_data_folder(path: Path, shared_data: Path) -> None:
    recipe = Recipe.load(path, [f"data={shared_data}"])
    named = [
        name for task in recipe.tasks.values() for files in (task.files or {}).values() for name in files
    ]
    assert named
    missing = [name for name in named if not (shared_data / name).is_file()]
    if missing and path.stem in ABSENT:
        pytest.skip(f"data that is not at hand: {', '.join(missing)}")
    assert missing == []
