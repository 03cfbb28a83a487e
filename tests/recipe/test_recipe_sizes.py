"""A recipe's encoder by the name of its size, its vocabulary in a folder, and the direction of its attention."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyheads.encoder.sizes import NAMED, size_of
from manyheads.errors import InputError
from manyheads.recipe import EncoderSettings, Recipe, describe_settings, json_schema
from manyheads.recipe.schema import SizeSettings

RecipeFile = Callable[[str | bytes], Path]

TASK = {"kind": "classification", "files": {"train": "a.tsv"}, "text": "sentence"}
FILE = """\
name: x
encoder: {size: base, vocab: words}
tasks:
  t: {kind: classification, files: {train: a.tsv}, text: sentence}
"""
SIZES = st.sampled_from([*NAMED, "3x768", "6x768/3"]) | st.builds(
    "{}x{}".format, st.integers(1, 30), st.sampled_from([64, 128, 192, 1024])
)


def recipe(encoder: dict[str, Any], *overrides: str) -> Recipe:
    return Recipe.parse({"name": "x", "encoder": encoder, "tasks": {"t": TASK}}, overrides)


def refusal(encoder: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        recipe(encoder, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=30, deadline=None)
@given(name=SIZES)
def test_a_name_is_the_mapping_that_it_stands_for(name: str) -> None:
    given_name = recipe({"size": name, "vocab": "v"})
    assert given_name == recipe({"size": size_of(name)._asdict(), "vocab": "v"})
    assert given_name == recipe({"vocab": "v"}, f"encoder.size={name}")
    assert given_name.encoder.from_ is None
    assert given_name.encoder.size == SizeSettings(**size_of(name)._asdict())
    assert given_name.with_overrides([]) == given_name
    assert Recipe.parse(given_name.model_dump(mode="json", by_alias=True)) == given_name


def test_a_name_is_written_in_full_and_loads_as_an_equal_recipe(
    recipe_file: RecipeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Recipe.load(recipe_file(FILE))
    assert loaded.encoder.size is not None
    assert loaded.encoder.size.layers == 12
    dumped = loaded.dump_yaml()
    assert re.search("layers: 12, hidden: 768, heads: 12, intermediate: 3072, max_positions: 512", dumped)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("recipe.yaml").write_text(dumped)
    assert Recipe.load("recipe.yaml") == loaded


def test_a_mapping_and_what_overrides_a_part_of_it() -> None:
    size = {"layers": 2, "hidden": 8, "heads": 2, "intermediate": 9, "max_positions": 40}
    changed = recipe({"size": size, "vocab": "v"}, "encoder.size.layers=3").encoder.size
    assert changed == SizeSettings(**{**size, "layers": 3})
    by_name = recipe({"size": "mini", "vocab": "v"}).with_overrides(["encoder.size.layers=3"]).encoder.size
    assert by_name == SizeSettings(layers=3, hidden=256, heads=4, intermediate=1024)
    whole = recipe({"size": size, "vocab": "v"}, "encoder.size=4x256").encoder.size
    assert whole == SizeSettings(**size_of("mini")._asdict())
    assert refusal({"size": "mini", "vocab": "v"}, "encoder.size.layers=3") == (
        "--set encoder.size.layers=3: encoder.size: expected a mapping or a list, found 'mini'"
    )


def test_settings_made_in_python() -> None:
    made = EncoderSettings.model_validate({"size": "tiny", "vocab": "v"})
    assert made.size == SizeSettings(layers=2, hidden=128, heads=2, intermediate=512)
    assert EncoderSettings(size=made.size, vocab="v") == made


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (
            "bass",
            "encoder.size: expected tiny, mini, small, medium, base, large, or layers x width such as 4x256, ",
        ),
        (
            "4x250",
            "encoder.size: expected a width in multiples of 64 (4x192 or 4x256), or with the heads as in ",
        ),
        (12, "encoder.size: expected a name such as base or 4x256, or a mapping, found 12"),
        (True, "encoder.size: expected a name such as base or 4x256, or a mapping, found true"),
        (["base"], "encoder.size: expected a name such as base or 4x256, or a mapping, found a list of 1"),
        ({"layers": 2, "hidden": 8, "heads": 2}, "encoder.size: missing key 'intermediate'"),
        ({"name": "base"}, "encoder.size: missing key 'layers'"),
    ],
    ids=str,
)
def test_what_is_no_size(size: object, said: str) -> None:
    assert refusal({"size": size, "vocab": "v"}).startswith(said)


def test_a_wrong_name_has_its_line_and_a_hint(recipe_file: RecipeFile) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.load(recipe_file(FILE.replace("base", "lagre")))
    assert str(caught.value).startswith("recipes/x.yaml, line 2: encoder.size: expected tiny, ")
    assert str(caught.value).endswith("found 'lagre'; did you mean 'large'?")


def test_a_size_by_name_needs_its_vocabulary_and_no_weights() -> None:
    assert refusal({"size": "base"}).startswith("encoder: 'size' needs 'vocab'")
    assert refusal({"size": "base", "vocab": "v", "from": "minilm"}).startswith(
        "encoder: 'from' and 'size' ex"
    )


def test_the_schema_takes_names_and_mappings() -> None:
    schema = json.loads(json.dumps(json_schema()))["$defs"]["EncoderSettings"]["properties"]["size"]
    text, mapping, nothing = schema["anyOf"]
    for name in (*NAMED, "4x256", "6x768/3"):
        assert re.search(text["pattern"], name), name
    for name in ("bases", "x4x256", "4x256/", "0x64"):
        assert not re.search(text["pattern"], name), name
    assert (mapping, nothing) == ({"$ref": "#/$defs/SizeSettings"}, {"type": "null"})
    told = {setting.path: setting for setting in describe_settings()}
    assert "encoder.size.max_positions" in told
    for name in NAMED:
        assert f"`{name}`" in told["encoder.size"].meaning


def test_a_vocabulary_s_folder_lies_where_a_file_of_it_would(recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(FILE)
    (tmp_path / "recipes" / "words").mkdir()
    assert Recipe.load(path).encoder.vocab == str(tmp_path / "recipes" / "words")


@pytest.mark.parametrize("said", [None, False, True])
def test_the_direction_of_attention(said: bool | None) -> None:
    for source in ({"from": "minilm"}, {"size": "tiny", "vocab": "v"}):
        made = recipe({**source, "causal": said})
        assert made.encoder.causal is said
        assert Recipe.parse(made.model_dump(mode="json", by_alias=True)) == made
    assert recipe({}).encoder.causal is None
    assert recipe({}, f"encoder.causal={json.dumps(said)}").encoder.causal is said


def test_what_is_no_direction() -> None:
    assert refusal({"causal": "left"}) == "encoder.causal: expected true or false, found 'left'"
