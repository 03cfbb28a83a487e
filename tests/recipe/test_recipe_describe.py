"""The JSON schema and the table of settings say everything that the models say."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from manyheads.data.mixing import SCHEDULES
from manyheads.recipe import Recipe, describe_settings, json_schema
from manyheads.recipe.schema import SECTIONS
from manyheads.tasks import KINDS


def paths(values: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield f"{prefix}{key}"
            yield from paths(value, f"{prefix}{key}.")


def models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """Every model that can be reached, found through pydantic's own core schema rather than our walk."""
    seen.add(model)

    def visit(part: Any) -> None:
        if isinstance(part, dict):
            if part.get("type") == "model":
                seen.add(part["cls"])
            for key, value in part.items():
                if key != "metadata":
                    visit(value)
        elif isinstance(part, list | tuple):
            for item in part:
                visit(item)

    visit(model.__pydantic_core_schema__)
    return seen


def test_the_table_is_complete() -> None:
    told = [setting.path for setting in describe_settings()]
    recipe = {
        "name": "x",
        "encoder": {"size": {"layers": 1, "hidden": 2, "heads": 1, "intermediate": 2}, "vocab": "v"},
        "mixing": {"schedule": "sequential", "stages": [{"epochs": 1}]},
    }
    least: dict[str, dict[str, Any]] = {
        "classification": {"text": "a", "files": {"train": "b"}},
        "regression": {"text": "a", "files": {"train": "b"}},
        "tagging": {"files": {"train": "b"}},
        "span": {"files": {"train": "b"}},
        "choice": {"text": "a", "choices": ["c", "d"], "files": {"train": "b"}},
        "ranking": {"query": "a", "candidate": "c", "relevance": "d", "files": {"train": "b"}},
        "mlm": {"files": {"train": "b"}},
        "nsp": {"files": {"train": "b"}},
    }
    assert set(least) == set(KINDS), "say the least that the new kind needs"
    for kind, section in least.items():
        values = Recipe.parse({**recipe, "tasks": {"NAME": {"kind": kind, **section}}}).model_dump(
            by_alias=True
        )
        del values["tasks"]["NAME"]["files"]["train"]
        assert set(paths(values)) <= {*told, "tasks.NAME"}
    for model in models(Recipe, set()):
        for name, field in model.model_fields.items():
            assert any(path.rpartition(".")[2] == (field.alias or name) for path in told), (model, name)
    shared = [path for path in told if told.count(path) > 1]
    assert set(shared) <= {f"tasks.NAME.{name}" for model in SECTIONS.values() for name in model.model_fields}


def test_every_setting_has_a_meaning_a_type_and_a_default() -> None:
    for setting in describe_settings():
        assert len(setting.meaning) > 5, setting
        assert setting.type, setting
        assert "another kind" not in setting.type, setting
        assert setting.default, setting
        assert "\n" not in "".join(setting), setting


def test_lines_of_the_table() -> None:
    table = {setting.path: setting for setting in describe_settings()}
    assert table["optimizer.lr"][1:3] == ("a number greater than 0", "2.0e-05")
    assert table["tasks.NAME.kind"][1:3] == (
        "one of classification, regression, tagging, span, choice, ranking, mlm, nsp",
        "required",
    )
    assert table["tasks.NAME.range"].meaning.startswith("(kind: regression) ")
    assert table["mixing.schedule"].default == "proportional"
    assert table["mixing.combine"].meaning.startswith("(schedule: round_robin, interleaved) ")
    assert table["mixing.stages.0.epochs"].type == "a whole number of at least 1"
    assert table["encoder.from"].default == "minilm"


def test_the_json_schema_tells_the_kinds_apart_and_describes_every_property() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert set(schema["properties"]) == {field.alias or name for name, field in Recipe.model_fields.items()}
    definitions = schema["$defs"]
    for holder, table in (
        (schema["properties"]["tasks"]["additionalProperties"], set(KINDS)),
        (schema["properties"]["mixing"], set(SCHEDULES)),
    ):
        assert set(holder["discriminator"]["mapping"]) == table
        assert {item["$ref"] for item in holder["oneOf"]} == set(holder["discriminator"]["mapping"].values())
    for name, model in SECTIONS.items():
        reference = schema["properties"]["tasks"]["additionalProperties"]["discriminator"]["mapping"][name]
        assert "kind" in definitions[reference.rpartition("/")[2]]["required"]
        assert set(definitions[reference.rpartition("/")[2]]["properties"]) == set(model.model_fields)
    # A recipe may leave `mixing.schedule` out; exactly one alternative allows that.
    free = [
        value
        for value, reference in schema["properties"]["mixing"]["discriminator"]["mapping"].items()
        if "schedule" not in definitions[reference.rpartition("/")[2]].get("required", [])
    ]
    assert free == ["proportional"]
    for part in (schema, *definitions.values()):
        assert part["additionalProperties"] is False
        for name, property_ in part["properties"].items():
            # pydantic leaves a description out that its model's definition repeats word for word.
            whole = definitions.get(property_.get("$ref", "").rpartition("/")[2], property_)
            assert property_.get("description") or whole.get("description"), name
    files = definitions["ClassificationSection"]["properties"]["files"]["anyOf"][0]["additionalProperties"]
    assert {option["type"] for option in files["anyOf"]} == {"string", "array"}
