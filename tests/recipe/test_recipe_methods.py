"""The recipe's sections for methods: what they take, what they refuse in one line, where teachers are looked for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manyheads.errors import InputError
from manyheads.recipe import Recipe

RecipeFile = Callable[[str | bytes], Path]

FILES = {"train": "a.tsv", "test": "b.tsv"}
SST = {"kind": "classification", "files": FILES, "text": "sentence"}
PARA = {
    "kind": "classification",
    "files": FILES,
    "pair": ["a", "b"],
    "encode": "siamese",
    "features": ["u", "v"],
}
STS = {
    "kind": "regression",
    "files": FILES,
    "pair": ["a", "b"],
    "encode": "siamese",
    "head": "cosine",
    "range": [0, 5],
}


def values(**more: Any) -> dict[str, Any]:
    return {"name": "x", "tasks": {"sst": SST, "para": PARA, "sts": STS}, **more}


def of_task(**more: Any) -> dict[str, Any]:
    return values(tasks={"sst": {**SST, **more}})


def smart(**more: Any) -> dict[str, Any]:
    return values(regularize={"smart": more})


def distill(**more: Any) -> dict[str, Any]:
    return values(distill={"teachers": {"sst": "runs/a"}, **more})


FROZEN = {"freeze": True}
COMBINED = {"schedule": "round_robin", "combine": True}

# ---- what they take ----


def test_all_sections_at_once_and_back_again() -> None:
    tasks = {
        "sst": {**SST, "hold_out": {"dev": 0.1, "by": "id"}, "sample": {"train": 0.001, "dev": 7}},
        "para": {**PARA, "sample": {"train": 1.0}, "sample_seed": 3},
        "sts": STS,
        "left": SST,
    }
    recipe = Recipe.parse(
        values(
            tasks=tasks,
            use=["sst", "para", "sts"],
            encoder={"from": "runs/big", "layers": [1, 3], "hidden": 24, "intermediate": 30},
            mixing=COMBINED,
            regularize={"smart": {"weight": 2.5, "norm": 2, "steps": 2, "mu": 0}},
            relation={"tasks": ["para", "sts"], "negative_slope": 0.2},
            distill={"teachers": {"sst": "runs/a"}, "anneal": "constant:0.3", "temperature": 2.0},
            gradients={"affinity_every": 10, "surgery": "pcgrad", "weighting": "uncertainty"},
        )
    )
    assert list(recipe.tasks) == ["sst", "para", "sts"]
    assert recipe.tasks["sst"].split_names == ["train", "test", "dev"]
    assert recipe.tasks["sst"].sample == {"train": 0.001, "dev": 7}
    assert isinstance(recipe.tasks["para"].sample["train"], float)  # all rows, not one
    assert recipe.encoder.layers == (1, 3)
    assert recipe.regularize.smart is not None
    assert (recipe.regularize.smart.norm, recipe.regularize.smart.mu) == ("2", 0)
    again = Recipe.parse(recipe.model_dump(mode="json", by_alias=True))
    assert again == recipe
    assert isinstance(again.tasks["para"].sample["train"], float)


def test_a_written_recipe_loads_as_an_equal_one(recipe_file: RecipeFile) -> None:
    recipe = Recipe.parse(
        values(
            use=["sst", "sts"],
            encoder={"layers": [2]},
            data="/data",
            distill={"teachers": {"sst": "/runs/a"}, "anneal": "none"},
            tasks={"sst": {**SST, "sample": {"train": 1.0, "test": 1}}, "para": PARA, "sts": STS},
        )
    )
    assert Recipe.load(recipe_file(recipe.dump_yaml())) == recipe


def test_nothing_is_asked_by_default() -> None:
    recipe = Recipe.parse(values())
    assert recipe.use is None
    assert recipe.regularize.smart is None
    assert recipe.relation is None
    assert recipe.distill is None
    assert recipe.gradients.model_dump() == {
        "affinity_every": None,
        "surgery": "none",
        "weighting": "fixed",
    }
    assert (recipe.encoder.layers, recipe.encoder.hidden, recipe.encoder.intermediate) == (None,) * 3
    assert (recipe.tasks["sst"].hold_out, recipe.tasks["sst"].sample) == (None, {})


def test_the_contract_s_sections() -> None:
    """As SPEC.md 1.3 writes them."""
    contract = {
        "weight": 5,
        "epsilon": 1e-5,
        "sigma": 1e-5,
        "eta": 1e-3,
        "steps": 1,
        "momentum": 0.995,
        "mu": 1,
    }
    recipe = Recipe.parse(
        values(
            regularize={"smart": contract},
            relation={"tasks": ["para", "sts"], "negative_slope": 0.01},
            distill={"teachers": {"sst": "runs/sst"}, "anneal": "linear"},
        )
    )
    assert recipe.relation is not None
    assert recipe.relation.tasks == ("para", "sts")
    assert recipe.distill is not None
    assert recipe.distill.temperature == 1


def test_tasks_that_are_not_used_are_not_looked_at(recipe_file: RecipeFile) -> None:
    broken = {"kind": "nonsense", "fils": 1}
    recipe = Recipe.parse(values(tasks={"sst": SST, "broken": broken}, use=["sst"]))
    assert list(recipe.tasks) == ["sst"]
    # In the recipe's order, whatever that of `use`.
    recipe = Recipe.parse(values(use=["sts", "sst"]))
    assert list(recipe.tasks) == ["sst", "sts"]
    assert list(recipe.with_overrides(["seed=3"]).tasks) == ["sst", "sts"]
    path = recipe_file(Recipe.parse(values()).dump_yaml())
    assert list(Recipe.load(path, ["use=[para]"]).tasks) == ["para"]
    assert list(Recipe.load(path, ["use=[para]", "tasks.para.sample.train=0.1"]).tasks) == ["para"]


@pytest.mark.parametrize("surgery", [COMBINED, {"schedule": "interleaved", "combine": True}])
def test_surgery_where_a_step_has_several_tasks(surgery: dict[str, Any]) -> None:
    recipe = Recipe.parse(values(mixing=surgery, gradients={"surgery": "pcgrad"}))
    assert recipe.gradients.surgery == "pcgrad"


# ---- what they refuse ----


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (values(use=[]), "use: expected a list that is not empty"),
        (values(use=["sts", "sts"]), "use.1: 'sts' stands twice"),
        (
            values(use=["stss"]),
            "use.0: expected one of the tasks sst, para, sts, found 'stss'; did you mean 'sts'?",
        ),
        (values(use="sst"), "use: expected a list that is not empty, each item a text, found 'sst'"),
        (values(use=[1]), "use.0: expected a text, found 1"),
        (of_task(sample={"train": 0}), "tasks.sst.sample.train: expected a whole number of at least 1 or"),
        (of_task(sample={"train": 1.5}), "tasks.sst.sample.train: expected a whole number of at least 1 or"),
        (of_task(sample={"train": -0.1}), "tasks.sst.sample.train: expected a whole number of at least 1"),
        (of_task(sample={"train": "all"}), "tasks.sst.sample.train: expected a whole number of at least 1"),
        (of_task(sample={"train": True}), "tasks.sst.sample.train: expected a whole number of at least 1"),
        (of_task(sample=3), "tasks.sst.sample: expected a mapping, found 3"),
        (
            of_task(sample={"trian": 3}),
            "tasks.sst.sample.trian: there is no such split; did you mean 'train'?",
        ),
        (of_task(sample={"dev": 3}), "tasks.sst.sample.dev: there is no such split"),
        (of_task(sample_seed=-1), "tasks.sst.sample_seed: expected a whole number of at least 0, found -1"),
        (of_task(hold_out={}), "tasks.sst.hold_out: expected 'dev', 'test' or both"),
        (of_task(hold_out=0.1), "tasks.sst.hold_out: expected a mapping, found 0.1"),
        (
            of_task(hold_out={"dev": 0}),
            "tasks.sst.hold_out.dev: expected a number greater than 0 and below 1",
        ),
        (
            of_task(hold_out={"dev": 1}),
            "tasks.sst.hold_out.dev: expected a number greater than 0 and below 1",
        ),
        (of_task(hold_out={"train": 0.1}), "tasks.sst.hold_out.train: unknown key"),
        (
            of_task(hold_out={"dev": 0.1, "by": ""}),
            "tasks.sst.hold_out.by: expected a text that is not empty",
        ),
        (
            of_task(hold_out={"test": 0.1}),
            "tasks.sst.hold_out.test: the task has a file for 'test' already",
        ),
        (
            of_task(files={"dev": "a"}, hold_out={"test": 0.1}),
            "tasks.sst.hold_out.test: there is no 'train' to cut it from",
        ),
        (
            of_task(files={"train": "a"}, hold_out={"dev": 0.5, "test": 0.5}),
            "tasks.sst.hold_out: 'dev' and 'test' leave no rows to train on",
        ),
        (smart(weight=-1), "regularize.smart.weight: expected a number of at least 0, found -1"),
        (smart(epsilon=0), "regularize.smart.epsilon: expected a number greater than 0, found 0"),
        (smart(sigma=-1e-5), "regularize.smart.sigma: expected a number of at least 0, found -1e-05"),
        (smart(eta=0), "regularize.smart.eta: expected a number greater than 0, found 0"),
        (smart(steps=0), "regularize.smart.steps: expected a whole number of at least 1, found 0"),
        (smart(steps=1.5), "regularize.smart.steps: expected a whole number of at least 1, found 1.5"),
        (
            smart(share=0),
            "regularize.smart.share: expected a number greater than 0 and of at most 1, found 0",
        ),
        (smart(share=1.1), "regularize.smart.share: expected a number greater than 0 and of at most 1"),
        (smart(norm="1"), "regularize.smart.norm: expected one of inf, 2, found '1'"),
        (
            smart(momentum=1),
            "regularize.smart.momentum: expected a number of at least 0 and below 1, found 1",
        ),
        (smart(mu=-1), "regularize.smart.mu: expected a number of at least 0, found -1"),
        (smart(wieght=1), "regularize.smart.wieght: unknown key; did you mean 'weight'?"),
        (values(regularize={"smrt": {}}), "regularize.smrt: unknown key; did you mean 'smart'?"),
        (values(relation={}), "relation: missing key 'tasks'"),
        (values(relation={"tasks": []}), "relation.tasks: expected a list that is not empty"),
        (
            values(relation={"tasks": ["para", "st"]}),
            "relation.tasks.1: expected one of the tasks sst, para, sts, found 'st'; did you mean 'sts'?",
        ),
        (values(relation={"tasks": ["para", "para"]}), "relation.tasks.1: 'para' stands twice"),
        (
            values(relation={"tasks": ["para", "sst"]}),
            "relation.tasks.1: task 'sst' gives no two vectors of the encoder's width, as 'encode: siamese' does",
        ),
        (
            values(relation={"tasks": ["sts"]}, tasks={"sts": {**SST, "text": None, "pair": ["a", "b"]}}),
            "relation.tasks.0: task 'sts' gives no two vectors of the encoder's width",
        ),
        (
            values(
                relation={"tasks": ["sts"]},
                tasks={
                    "sts": {**SST, "text": None, "pair": ["a", "b"], "encode": "siamese", "layers": "sum_all"}
                },
            ),
            "relation.tasks.0: task 'sts' has 'layers', and a relation layer reads the last one",
        ),
        (
            values(relation={"tasks": ["para"], "negative_slope": 1}),
            "relation.negative_slope: expected a number of at least 0 and below 1, found 1",
        ),
        (
            values(relation={"tasks": ["para"]}, use=["sst"]),
            "relation.tasks.0: expected one of the tasks sst",
        ),
        (values(distill={}), "distill: missing key 'teachers'"),
        (values(distill={"teachers": {}}), "distill.teachers: expected a mapping that is not empty"),
        (values(distill={"teachers": ["runs/a"]}), "distill.teachers: expected a mapping"),
        (values(distill={"teachers": {"sst": ""}}), "distill.teachers.sst: expected a path, found ''"),
        (values(distill={"teachers": {"sst": 1}}), "distill.teachers.sst: expected a text, found 1"),
        (
            values(distill={"teachers": {"ss": "runs/a"}}),
            "distill.teachers.ss: expected one of the tasks sst, para, sts, found 'ss'; did you mean 'sts'?",
        ),
        (
            distill(anneal="constant:1.5"),
            "distill.anneal: 'constant:' expects a share from 0 to 1 after it, found '1.5'",
        ),
        (distill(anneal="constant:"), "distill.anneal: 'constant:' expects a share from 0 to 1 after it"),
        (
            distill(anneal="lineer"),
            "distill.anneal: no annealing 'lineer', expected one of linear, none, gold, constant:0.5; "
            "did you mean 'linear'?",
        ),
        (distill(temperature=0), "distill.temperature: expected a number greater than 0, found 0"),
        (distill(anneal=0.5), "distill.anneal: expected a text, found 0.5"),
        (
            values(gradients={"affinity_every": 0}),
            "gradients.affinity_every: expected a whole number of at least 1, found 0",
        ),
        (
            values(gradients={"surgery": "pcgard"}, mixing=COMBINED),
            "gradients.surgery: expected one of none, pcgrad, found 'pcgard'; did you mean 'pcgrad'?",
        ),
        (
            values(gradients={"surgery": "pcgrad"}),
            "gradients.surgery: needs several tasks in a step: mixing.combine or mixing.in_batch",
        ),
        (
            values(gradients={"weighting": "uncertain"}),
            "gradients.weighting: expected one of fixed, uncertainty, found 'uncertain'; "
            "did you mean 'uncertainty'?",
        ),
        (values(gradients={"sugery": "none"}), "gradients.sugery: unknown key; did you mean 'surgery'?"),
        (
            values(encoder=FROZEN, regularize={"smart": {}}),
            "regularize.smart: a frozen encoder has nothing to smooth; leave this or 'encoder.freeze' out",
        ),
        (
            values(encoder=FROZEN, gradients={"affinity_every": 2}),
            "gradients: a frozen encoder has no gradients to compare",
        ),
        (
            values(encoder=FROZEN, gradients={"surgery": "pcgrad"}, mixing=COMBINED),
            "gradients: a frozen encoder has no gradients to compare",
        ),
        (values(encoder={"layers": []}), "encoder.layers: expected a list that is not empty"),
        (values(encoder={"layers": 3}), "encoder.layers: expected a list that is not empty"),
        (values(encoder={"layers": [0]}), "encoder.layers.0: expected a whole number of at least 1, found 0"),
        (values(encoder={"layers": [1.5]}), "encoder.layers.0: expected a whole number of at least 1"),
        (
            values(encoder={"layers": [2, 1]}),
            "encoder: 'layers' expects each layer once, lowest first, found [2, 1]",
        ),
        (
            values(encoder={"layers": [1, 1]}),
            "encoder: 'layers' expects each layer once, lowest first, found [1, 1]",
        ),
        (values(encoder={"hidden": 0}), "encoder.hidden: expected a whole number of at least 1, found 0"),
        (values(encoder={"intermediate": 0}), "encoder.intermediate: expected a whole number of at least 1"),
        (
            values(
                encoder={
                    "size": {"layers": 2, "hidden": 8, "heads": 2, "intermediate": 8},
                    "vocab": "v.txt",
                    "hidden": 4,
                }
            ),
            "encoder: 'hidden' belongs to 'from'; 'size' has its own",
        ),
    ],
)
def test_one_line_names_the_place(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.parse(given)
    assert str(caught.value).startswith(told), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("use: [sst, stss]", "line 5: use.1: expected one of the tasks sst, sts, found 'stss'"),
        ("use: [sst, sst]", "line 5: use.1: 'sst' stands twice"),
        ("relation: {tasks: [sst]}", "line 5: relation.tasks.0: task 'sst' gives no two vectors"),
        ("distill: {teachers: {st: runs/a}}", "line 5: distill.teachers.st: expected one of the tasks"),
        ("distill: {teachers: {1: runs/a}}", "line 5: expected a name as key, found 1; put it in quotes"),
        ("encoder: {layers: [1, x]}", "line 5: encoder.layers.1: expected a whole number of at least 1"),
    ],
)
def test_a_file_s_line_is_named(recipe_file: RecipeFile, line: str, told: str) -> None:
    tasks = """\
name: x
tasks:
  sst: {kind: classification, files: {train: a}, text: s}
  sts: {kind: classification, files: {train: a}, text: s}
"""
    with pytest.raises(InputError) as caught:
        Recipe.load(recipe_file(tasks + line + "\n"))
    assert f"x.yaml, {told}" in str(caught.value)


def test_an_override_is_named(recipe_file: RecipeFile) -> None:
    path = recipe_file(Recipe.parse(values()).dump_yaml())
    for override, told in [
        ("use=[st]", "use.0: expected one of the tasks sst, para, sts, found 'st'"),
        ("distill.teachers.sts=", "distill.teachers.sts"),
        ("gradients.surgery=pcgrad", "gradients.surgery: needs several tasks in a step"),
        ("tasks.sst.sample.train=1.2", "tasks.sst.sample.train: expected a whole number"),
    ]:
        with pytest.raises(InputError) as caught:
            Recipe.load(path, [override])
        assert told in str(caught.value), str(caught.value)
        assert "--set" in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)


# ---- where teachers are looked for ----


def test_where_teachers_lie(recipe_file: RecipeFile, tmp_path: Path) -> None:
    (tmp_path / "runs" / "here").mkdir(parents=True)
    (tmp_path / "recipes" / "runs" / "beside").mkdir(parents=True)
    (tmp_path / "recipes" / "runs" / "here").mkdir()
    teachers = {"sst": "runs/here", "para": "runs/beside", "sts": "runs/../runs/nowhere"}
    text = Recipe.parse(values(distill={"teachers": teachers})).dump_yaml()
    recipe = Recipe.load(recipe_file(text))
    assert recipe.distill is not None
    assert recipe.distill.teachers == {
        "sst": str(tmp_path / "runs" / "here"),  # the current folder goes before the recipe file's
        "para": str(tmp_path / "recipes" / "runs" / "beside"),
        "sts": str(tmp_path / "runs" / "nowhere"),
    }
    assert Recipe.load(recipe_file(recipe.dump_yaml())) == recipe
    asked = Recipe.load(recipe_file(text), ["distill.teachers.sst=/runs/x"])
    assert asked.distill is not None
    assert asked.distill.teachers["sst"] == "/runs/x"
