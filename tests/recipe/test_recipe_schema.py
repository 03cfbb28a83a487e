"""A recipe's checks, paths and round trips."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyheads.data.mixing import SCHEDULES
from manyheads.data.mixing import schedule as mixing_schedule
from manyheads.data.read import Dialect
from manyheads.errors import InputError
from manyheads.formulas.optim import OptimizerSettings
from manyheads.recipe import Recipe, ScheduleSettings
from manyheads.recipe.document import written
from manyheads.recipe.schema import SECTIONS, Mixing, Sequential, Stage
from manyheads.tasks import KINDS

RecipeFile = Callable[[str | bytes], Path]

SPEC = """\
name: three-tasks
seed: 11711
encoder:
  from: minilm
  freeze: false
  dropout: 0.1
data: data
tasks:
  sst:
    kind: classification
    files: {train: [sst5/sst5-train.tsv], dev: sst5/sst5-dev.tsv}
    text: sentence
    label: label
    labels: ["0", "1", "2", "3", "4"]
    max_length: 128
  para: {kind: classification, pair: [q1, q2], encode: siamese, features: [u, v], files: {train: q.csv}}
  sts: {kind: regression, pair: [s1, s2], encode: siamese, head: cosine, range: [0, 5], files: {train: s.csv}}
mixing: {schedule: round_robin, combine: true}
optimizer: {name: adamw, lr: 2e-5, weight_decay: 0.01, layer_decay: 1.0, clip: 1.0}
schedule: {epochs: 3, batch_size: 32, warmup: 0.1, decay: linear}
"""


def minimal(**more: Any) -> dict[str, Any]:
    task = {"kind": "classification", "files": {"train": "a.tsv"}, "text": "sentence"}
    return {"name": "x", "tasks": {"sst": task}, **more}


def refusal(values: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        Recipe.parse(values, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_contract_s_example(recipe_file: RecipeFile) -> None:
    recipe = Recipe.load(recipe_file(SPEC))
    assert list(recipe.tasks) == ["sst", "para", "sts"]
    sst, sts = recipe.tasks["sst"], recipe.tasks["sts"]
    assert sst.files == {"train": ("sst5/sst5-train.tsv",), "dev": ("sst5/sst5-dev.tsv",)}
    assert isinstance(sst, KINDS["classification"].Settings)
    assert isinstance(sts, KINDS["regression"].Settings)
    assert sts.model_dump()["range"] == (0.0, 5.0)
    assert (recipe.optimizer.lr, recipe.schedule.epochs, recipe.sums_rounds) == (2e-5, 3.0, True)


def test_defaults() -> None:
    recipe = Recipe.parse(minimal())
    assert recipe.seed == 11711
    assert recipe.encoder.from_ == "minilm"
    assert recipe.encoder.attention_dropout == recipe.encoder.dropout == 0.1
    assert recipe.mixing.schedule == "proportional"
    assert not recipe.sums_rounds
    assert recipe.optimizer == OptimizerSettings()
    task = recipe.tasks["sst"]
    assert (task.read, task.max_length, task.batch_size, task.weight, task.blank_labels) == (
        *(Dialect(), 128, None, 1.0, 0.01),
    )
    schedule = recipe.schedule
    assert (schedule.epochs, schedule.steps, schedule.batch_size, schedule.accumulate) == (3, None, 32, 1)
    assert (schedule.evaluate_every, schedule.patience, schedule.checkpoint_every) == ("epoch", None, None)


def test_attention_dropout_follows_dropout_until_it_is_said() -> None:
    recipe = Recipe.parse(minimal(encoder={"dropout": 0.3}))
    assert recipe.encoder.attention_dropout == 0.3
    assert recipe.with_overrides(["encoder.dropout=0.2"]).encoder.attention_dropout == 0.2
    said = Recipe.parse(minimal(encoder={"dropout": 0.3, "attention_dropout": 0.0}))
    assert said.with_overrides(["encoder.dropout=0.2"]).encoder.attention_dropout == 0.0


def test_labels_that_look_like_booleans_and_numbers_stay_names(recipe_file: RecipeFile) -> None:
    path = recipe_file(
        "name: x\ntasks:\n  t: {kind: classification, files: {train: a}, text: s, labels: [no, yes, 1]}"
    )
    recipe = Recipe.load(path)
    assert recipe.tasks["t"].model_dump()["labels"] == ("no", "yes", "1")
    assert Recipe.parse(_values(recipe)) == recipe


def _values(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True)


# --- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label: label", "lable: label", "line 13: tasks.sst.lable: unknown key; did you mean 'label'?"),
        ("optimizer:", "optimiser:", "line 19: optimiser: unknown key; did you mean 'optimizer'?"),
        ("lr: 2e-5", "lr: fast", "line 19: optimizer.lr: expected a number greater than 0, found 'fast'"),
        ("lr: 2e-5", "lr: -1", "line 19: optimizer.lr: expected a number greater than 0, found -1"),
        ("lr: 2e-5", "lr: true", "line 19: optimizer.lr: expected a number greater than 0, found true"),
        ("lr: 2e-5", "lr: '2e-5'", "line 19: optimizer.lr: expected a number greater than 0, found '2e-5'"),
        ("seed: 11711", "seed: 1.5", "line 2: seed: expected a whole number of at least 0 and below"),
        ("seed: 11711", "seed: -1", "line 2: seed: expected a whole number of at least 0 and below"),
        ("freeze: false", "freeze: no", "line 5: encoder.freeze: expected true or false, found 'no'"),
        (
            "dropout: 0.1",
            "dropout: 1",
            "line 6: encoder.dropout: expected a number of at least 0 and below 1, found 1",
        ),
        (
            "max_length: 128",
            "max_length: 1",
            "line 15: tasks.sst.max_length: expected a whole number of at least 2",
        ),
        ("epochs: 3", "epochs: 0", "line 20: schedule.epochs: expected a number greater than 0, found 0"),
        (
            "decay: linear",
            "decay: liner",
            "line 20: schedule.decay: expected one of linear, constant, cosine, "
            "found 'liner'; did you mean 'linear'?",
        ),
        (
            "warmup: 0.1",
            "warmup: 1.5",
            "line 20: schedule: 'warmup' expects a share from 0 to 1 or a whole number",
        ),
        (
            "kind: classification\n",
            "kind: clasification\n",
            "line 10: tasks.sst.kind: expected one of "
            "classification, regression, tagging, span, choice, ranking, mlm, nsp, found 'clasification'; did you mean "
            "'classification'?",
        ),
        (
            "    kind: classification\n",
            "",
            "line 9: tasks.sst: missing key 'kind', one of classification, regression, tagging, span, choice, "
            "ranking, mlm, nsp",
        ),
        ("kind: classification\n", "kind: 3\n", "line 10: tasks.sst.kind: expected one of"),
        (
            "range: [0, 5]",
            "range: [5, 0]",
            "line 17: tasks.sts: 'range' expects [least, greatest], found [5.0, 0.0]",
        ),
        (
            "range: [0, 5]",
            "range: 5",
            "line 17: tasks.sts.range: expected a list of 2: a number, a number, found 5",
        ),
        (
            "range: [0, 5]",
            "range: [0]",
            "line 17: tasks.sts.range: expected a list of 2: a number, a number, found a list of 1",
        ),
        ("    text: sentence\n", "", "line 9: tasks.sst: expected either 'text: COLUMN' or 'pair:"),
        (
            "text: sentence",
            "range: [0, 1]",
            "line 12: tasks.sst.range: unknown key; it belongs to regression",
        ),
        ("text: sentence", "text: [a]", "line 12: tasks.sst.text: expected a text, found a list of 1"),
        (
            'labels: ["0", "1", "2", "3", "4"]',
            "labels: [a]",
            "line 14: tasks.sst: 'labels' expects two or more",
        ),
        (
            "  sst:",
            "  s.st:",
            "line 9: tasks.s.st: expected a plain name of letters, digits, _ -, found 's.st'",
        ),
        ("dev: sst5", "de/v: sst5", "line 11: tasks.sst.files.de/v: expected a split's name of letters"),
        ("[sst5/sst5-train.tsv]", "[]", "line 11: tasks.sst.files.train: expected a list that is not empty"),
        ("[sst5/sst5-train.tsv]", "[1]", "line 11: tasks.sst.files.train.0: expected a text, found 1"),
        ("[sst5/sst5-train.tsv]", "''", "line 11: tasks.sst.files.train.0: expected a path, found ''"),
        (
            "max_length: 128",
            "read: {format: tvs}",
            "line 15: tasks.sst.read.format: expected one of auto, csv, tsv, "
            "jsonl, json, parquet, conll, squad, found 'tvs'; did you mean 'tsv'?",
        ),
        (
            "max_length: 128",
            "read: {header: false}",
            "line 15: tasks.sst.read: `header: false` needs `columns: […]`",
        ),
        (
            "max_length: 128",
            "hub: {path: a, splits: {train: b}}",
            "line 9: tasks.sst: expected either 'files' or 'hub'",
        ),
        (
            "max_length: 128",
            "weight: 0",
            "line 15: tasks.sst.weight: expected a number greater than 0, found 0",
        ),
        (
            "max_length: 128",
            "blank_labels: 2",
            "line 15: tasks.sst.blank_labels: expected a number of at least 0 and",
        ),
        (
            "schedule: round_robin",
            "schedule: round-robin",
            "line 18: mixing.schedule: expected one of proportional, sqrt, power, annealed, shuffled, "
            "round_robin, interleaved, sequential, found 'round-robin'; did you mean 'round_robin'?",
        ),
        (
            "schedule: round_robin",
            "schedul: round_robin",
            "line 18: mixing.schedul: unknown key; did you mean 'schedu",
        ),
        (
            "schedule: round_robin",
            "schedule: proportional",
            "line 18: mixing.combine: unknown key; it belongs to round_robin and interleaved",
        ),
        (
            "mixing: {schedule: round_robin, combine: true}",
            "mixing: fast",
            "line 18: mixing: expected a mapping, found",
        ),
        (
            "mixing: {schedule: round_robin, combine: true}",
            "mixing: {schedule: sequential, stages: [{tasks: [sts], epochs: 1}, {tasks: [sst, prara]}]}",
            "line 18: mixing.stages.1.tasks.1: expected one of the tasks sst, para,"
            " sts, found 'prara'; did you mean 'para'?",
        ),
        (
            "mixing: {schedule: round_robin, combine: true}",
            "mixing: {schedule: sequential, stages: [{tasks: [sts]}, {epochs: 1}]}",
            "line 18: mixing.stages.0: missing key 'epochs'; only the last stage may be without",
        ),
        (
            "mixing: {schedule: round_robin, combine: true}",
            "mixing: {schedule: sequential, stages: [{tasks: [sts, sts]}]}",
            "line 18: mixing.stages.0.tasks.1: 'sts' stands twice",
        ),
        *(
            ("mixing: {schedule: round_robin, combine: true}", f"mixing: {{{found}}}", f"line 18: {message}")
            for found, message in {
                "schedule: power, exponent: 1.5": (
                    "mixing.exponent: expected a number of at least 0 and of at most 1, found 1.5"
                ),
                "schedule: power, exponet: 1": "mixing.exponet: unknown key; did you mean 'exponent'?",
                "schedule: sqrt, exponent: 1": "mixing.exponent: unknown key; it belongs to power",
                "schedule: power, combine: true": (
                    "mixing.combine: unknown key; it belongs to round_robin and interleaved"
                ),
                "schedule: annealed, end: -0.5": (
                    "mixing.end: expected a number of at least 0 and of at most 1, found -0.5"
                ),
                "schedule: annealed, start: much": (
                    "mixing.start: expected a number of at least 0 and of at most 1, found 'much'"
                ),
                "schedule: annealed, epochs: 0": (
                    "mixing.epochs: expected a number greater than 0 and of at most 10000, found 0"
                ),
                "schedule: shuffled, in_batch: 1": "mixing.in_batch: expected true or false, found 1",
                "schedule: round_robin, in_batch: true": (
                    "mixing.in_batch: unknown key; it belongs to proportional and sqrt and power and annealed"
                    " and shuffled"
                ),
                "schedule: sequential, stages: [{schedule: sqrt, exponent: 1}]": (
                    "mixing.stages.0.exponent: unknown key; it belongs to power"
                ),
                "schedule: sequential, stages: [{in_batch: false}]": (
                    "mixing.stages.0.in_batch: unknown key; it belongs to proportional and sqrt and power and"
                    " annealed and shuffled"
                ),
                "schedule: sequential, stages: [{schedule: power, exponent: 2}]": (
                    "mixing.stages.0.exponent: expected a number of at least 0 and of at most 1, found 2"
                ),
                "schedule: sequential, stages: [{schedule: annealed}]": (
                    "mixing.stages.0: missing key 'epochs'; an annealed stage must know its end"
                ),
            }.items()
        ),
        ("name: three-tasks", "nam: x", "line 1: missing key 'name' (and 1 more)"),
        (
            "name: three-tasks",
            "name: ../x",
            "line 1: name: expected a plain name of letters, digits, . _ -, found",
        ),
        (
            "name: three-tasks",
            "name: a..b",
            "line 1: name: expected a plain name of letters, digits, . _ -, found",
        ),
        ("name: three-tasks", "name: ''", "line 1: name: expected a plain name"),
        ("name: three-tasks", 'name: "x\\n"', "line 1: name: expected a plain name"),
        ("name: three-tasks", "name: 2024", "line 1: name: expected a text, found 2024"),
        (
            "encoder:",
            "precision: float16\nencoder:",
            "line 3: precision: expected one of auto, float32, bf16, float64",
        ),
        (
            "  from: minilm",
            "  size: {layers: 2, hidden: 130, heads: 4, intermediate: 8}\n  vocab: v",
            "line 4: encoder.size: 'hidden' expects a multiple of heads (4), found 130",
        ),
        (
            "  from: minilm",
            "  size: {layers: 2, hidden: 128, heads: 4, intermediate: 8}",
            "line 4: encoder: 'size' needs 'vocab'",
        ),
        (
            "  from: minilm",
            "  from: minilm\n  size: {layers: 2, hidden: 8, heads: 4, intermediate: 8}\n  vocab: v",
            "line 4: encoder: 'from' and 'size' exclude each other",
        ),
        ("  from: minilm", "  vocab: v", "line 4: encoder: 'vocab' belongs to 'size'"),
        ("  from: minilm", "  from: null", "line 3: encoder: expected either 'from' or 'size'"),
    ],
)
def test_errors_name_file_line_and_setting(recipe_file: RecipeFile, old: str, new: str, message: str) -> None:
    assert SPEC.count(old) >= 1
    path = recipe_file(SPEC.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        Recipe.load(path)
    assert str(caught.value).startswith(f"recipes/x.yaml, {message}")
    assert "\n" not in str(caught.value)


def test_the_first_of_several_errors_by_line_and_how_many_more(recipe_file: RecipeFile) -> None:
    path = recipe_file(
        "name: x\nepoch: 3\nseed: a\ntasks:\n  t: {kind: regression, text: a, files: {train: b}, x: 1}\n"
    )
    with pytest.raises(InputError) as caught:
        Recipe.load(path)
    assert str(caught.value) == "recipes/x.yaml, line 2: epoch: unknown key (and 2 more)"


def test_an_error_that_follows_from_another_is_not_counted() -> None:
    assert refusal(minimal(encoder={"dropout": 2})).endswith("below 1, found 2")


def test_the_members_of_a_union_complain_once() -> None:
    assert refusal(minimal(schedule={"evaluate_every": "epch"})) == (
        "schedule.evaluate_every: expected epoch or a whole number of at least 1, found 'epch'"
    )
    assert Recipe.parse(minimal(schedule={"evaluate_every": 50})).schedule.evaluate_every == 50


def test_an_error_in_an_override_names_the_override(recipe_file: RecipeFile) -> None:
    path = recipe_file(SPEC)
    for override, message in {
        "optimizer.lr=fast": "optimizer.lr: expected a number greater than 0, found 'fast'",
        "optimzer.lr=1": "optimzer: unknown key; did you mean 'optimizer'?",
        "tasks.sst.labels=[a]": "tasks.sst: 'labels' expects two or more names, found 1",
        "tasks.new.kind=regression": "tasks.new: expected either 'files' or 'hub'",
        "mixing={stages: []}": "mixing.stages: unknown key; it belongs to sequential",
    }.items():
        with pytest.raises(InputError) as caught:
            Recipe.load(path, [override])
        assert str(caught.value) == f"--set {override}: {message}"
    with pytest.raises(InputError, match=r"^--seed -1: seed: expected a whole number"):
        Recipe.load(path, seed=-1)


def test_keys_of_mixing_without_a_schedule_are_checked_as_proportional(recipe_file: RecipeFile) -> None:
    assert Recipe.parse(minimal(mixing={})).mixing.schedule == "proportional"
    path = recipe_file(SPEC.replace("schedule: round_robin, combine", "schedules: a, combine"))
    with pytest.raises(
        InputError, match=r"line 18: mixing\.schedules: unknown key; did you mean 'schedule'\?"
    ):
        Recipe.load(path)


def test_sections_that_are_nothing() -> None:
    assert refusal(minimal(tasks={})) == "tasks: expected a mapping that is not empty, found a mapping"
    assert refusal(minimal(tasks=None)) == "tasks: expected a mapping that is not empty, found nothing"
    assert refusal(minimal(tasks={"a": None})) == "tasks.a: expected a mapping, found nothing"
    assert (
        refusal(minimal(tasks={"a": {}}))
        == "tasks.a: missing key 'kind', one of classification, regression, tagging, span, choice, ranking, mlm, nsp"
    )
    assert refusal(minimal(optimizer=None)) == "optimizer: expected a mapping, found nothing"
    assert refusal({}) == "missing key 'name' (and 1 more)"


def test_values_that_no_file_could_hold() -> None:
    assert "found a set" not in refusal(minimal(seed=object()))
    assert refusal(minimal(optimizer={"lr": float("inf")})).startswith(
        "optimizer.lr: expected a number greater than 0"
    )
    with pytest.raises(InputError, match=r"^a recipe is a mapping of settings, found"):
        Recipe.parse([1])  # type: ignore[arg-type]


def test_a_hub_task_has_no_dialect() -> None:
    hub = {"path": "a/b", "splits": {"train": "train", "dev": "validation"}}
    task = {"kind": "classification", "hub": hub, "text": "s"}
    loaded = Recipe.parse({"name": "x", "tasks": {"t": task}}).tasks["t"].hub
    assert loaded is not None
    assert loaded.splits == {"train": "train", "dev": "validation"}
    assert refusal({"name": "x", "tasks": {"t": {**task, "read": {"header": True, "format": "csv"}}}}) == (
        "tasks.t: 'read' belongs to 'files'"
    )
    assert "missing key 'splits'" in refusal({"name": "x", "tasks": {"t": {**task, "hub": {"path": "a"}}}})


# --- paths -----------------------------------------------------------------------------------------------


def test_data_is_looked_for_here_then_beside_the_recipe(recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(SPEC)
    assert Recipe.load(path).data == str(tmp_path / "data")  # in neither: as from here
    (tmp_path / "recipes" / "data").mkdir()
    assert Recipe.load(path).data == str(tmp_path / "recipes" / "data")
    (tmp_path / "data").mkdir()
    assert Recipe.load(path).data == str(tmp_path / "data")
    up = Recipe.load(path, ["data=recipes/../data"])
    assert up.data == str(tmp_path / "data")


def test_without_data_the_first_file_says_where(recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(SPEC.replace("data: data\n", ""))
    assert Recipe.load(path).data == str(tmp_path)
    beside = tmp_path / "recipes" / "sst5"
    beside.mkdir()
    (beside / "sst5-train.tsv").touch()
    assert Recipe.load(path).data == str(tmp_path / "recipes")
    (tmp_path / "sst5").mkdir()
    (tmp_path / "sst5" / "sst5-train.tsv").touch()
    assert Recipe.load(path).data == str(tmp_path)


def test_who_wins_over_the_data_of_the_file(recipe_file: RecipeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe_file(SPEC)
    monkeypatch.setenv("MANYHEADS_DATA", "/from/variable")
    assert Recipe.load(path).data == "/from/variable"
    assert Recipe.load(path, ["data=/from/set"]).data == "/from/set"
    assert Recipe.load(path, ["data=/from/set"], data="/from/keyword").data == "/from/keyword"
    assert Recipe.parse(minimal(data="as/said")).data == "as/said"


def test_an_encoder_beside_the_recipe(recipe_file: RecipeFile, tmp_path: Path) -> None:
    def source(name: str) -> str | None:
        return Recipe.load(recipe_file(SPEC.replace("from: minilm", f"from: {name}"))).encoder.from_

    (tmp_path / "recipes" / "minilm").mkdir(parents=True)
    (tmp_path / "recipes" / "local").mkdir()
    assert source("minilm") == "minilm"
    assert source("./minilm") == str(tmp_path / "recipes" / "minilm")
    assert source("local") == str(tmp_path / "recipes" / "local")
    assert source("owner/model") == "owner/model"


def test_from_scratch(recipe_file: RecipeFile, tmp_path: Path) -> None:
    size = "size: {layers: 2, hidden: 128, heads: 2, intermediate: 512}\n  vocab: vocab.txt"
    path = recipe_file(SPEC.replace("from: minilm", size))
    (tmp_path / "recipes" / "vocab.txt").touch()
    encoder = Recipe.load(path).encoder
    assert encoder.from_ is None
    assert encoder.size is not None
    assert (encoder.size.hidden, encoder.size.max_positions) == (128, 512)
    assert encoder.vocab == str(tmp_path / "recipes" / "vocab.txt")


# --- round trips -----------------------------------------------------------------------------------------


def test_a_dump_loads_as_an_equal_recipe_from_anywhere(
    recipe_file: RecipeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = "size: {layers: 2, hidden: 128, heads: 2, intermediate: 512}\n  vocab: vocab.txt"
    for text in (SPEC, SPEC.replace("from: minilm", size)):
        recipe = Recipe.load(recipe_file(text))
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        (elsewhere / "recipe.yaml").write_text(recipe.dump_yaml())
        monkeypatch.chdir(elsewhere)
        again = Recipe.load("recipe.yaml")
        assert again == recipe
        assert again.dump_yaml() == recipe.dump_yaml()
        assert list(again.tasks) == list(recipe.tasks)
        monkeypatch.chdir(tmp_path)


COLUMNS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
LABELS = st.lists(
    COLUMNS | st.sampled_from(["no", "yes", "true", "1", "2e-5", "~"]), min_size=2, max_size=4, unique=True
)
RATES = st.floats(1e-12, 1.0, allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(COLUMNS, LABELS, RATES, st.integers(0, 2**63 - 1), st.floats(0, 0.99))
def test_any_recipe_round_trips_and_set_says_the_same(
    column: str, labels: list[str], rate: float, seed: int, dropout: float
) -> None:
    base = Recipe.parse(minimal())
    said = {"tasks.sst.text": column, "tasks.sst.labels": labels, "optimizer.lr": rate, "seed": seed}
    said["encoder.dropout"] = dropout
    overrides = [f"{path}={written(value, inline=True)}" for path, value in said.items()]
    recipe = base.with_overrides(overrides)
    dumped = recipe.model_dump()
    assert (dumped["tasks"]["sst"]["text"], dumped["tasks"]["sst"]["labels"]) == (column, tuple(labels))
    assert (recipe.optimizer.lr, recipe.seed, recipe.encoder.attention_dropout) == (rate, seed, dropout)
    assert Recipe.parse(minimal(), overrides) == recipe
    assert Recipe.parse(_values(recipe)) == recipe
    assert base == Recipe.parse(minimal())
    assert recipe.with_overrides([]) == recipe


def test_overrides_of_a_recipe_built_in_python() -> None:
    task = SECTIONS["regression"].model_validate({"files": {"train": "a"}, "text": "s"})
    recipe = Recipe(
        name="x", tasks={"t": task}, mixing=Sequential(schedule="sequential", stages=(Stage(epochs=2),))
    )
    assert recipe.with_overrides(["tasks.t.weight=2"]).tasks["t"].weight == 2.0


# --- tables ----------------------------------------------------------------------------------------------


def test_every_schedule_has_its_settings_here() -> None:
    members = {get_args(model.model_fields["schedule"].annotation)[0]: model for model in get_args(Mixing)}
    assert set(members) == set(SCHEDULES)
    for name, model in members.items():
        assert set(model.model_fields) - {"schedule", "combine"} == set(SCHEDULES[name].settings)
        if name != "sequential":
            assert set(SCHEDULES[name].settings) <= set(Stage.model_fields)
    assert set(get_args(Stage.model_fields["schedule"].annotation)) == set(SCHEDULES)


def test_the_settings_of_mixing_build_its_schedule() -> None:
    stages = [{"tasks": ["a"], "epochs": 2}, {"schedule": "round_robin"}]
    values = minimal(mixing={"schedule": "sequential", "stages": stages})
    values["tasks"] = {"a": values["tasks"]["sst"], "b": values["tasks"]["sst"]}
    mixing = Recipe.parse(values).mixing
    built = mixing_schedule(mixing.schedule, {"a": 64, "b": 64}, 32, **mixing.settings)
    assert [built[step].task for step in range(8)] == ["a"] * 4 + ["a", "b", "a", "b"]
    assert Recipe.parse(minimal(mixing={"schedule": "round_robin", "combine": True})).mixing.settings == {}


@pytest.mark.parametrize(
    ("mixing", "settings"),
    [
        ({"schedule": "sqrt"}, {"in_batch": False}),
        ({"schedule": "power"}, {"exponent": 0.75, "in_batch": False}),
        ({"schedule": "power", "exponent": 0, "in_batch": True}, {"exponent": 0.0, "in_batch": True}),
        ({"schedule": "annealed"}, {"start": 1.0, "end": 0.0, "in_batch": False}),
        (
            {"schedule": "annealed", "end": 0.2, "epochs": 2},
            {"start": 1.0, "end": 0.2, "epochs": 2.0, "in_batch": False},
        ),
        ({"schedule": "shuffled"}, {"in_batch": False}),
        ({"schedule": "proportional", "in_batch": True}, {"in_batch": True}),
        (
            {"schedule": "sequential", "stages": [{"schedule": "power", "exponent": 0.5, "in_batch": True}]},
            {"stages": [{"schedule": "power", "exponent": 0.5, "in_batch": True}]},
        ),
        (
            {"schedule": "sequential", "stages": [{"schedule": "annealed", "start": 0.5, "epochs": 2}]},
            {"stages": [{"schedule": "annealed", "start": 0.5, "epochs": 2}]},
        ),
    ],
    ids=str,
)
def test_what_a_recipe_says_of_mixing_reaches_its_schedule(
    mixing: dict[str, Any], settings: dict[str, Any]
) -> None:
    recipe = Recipe.parse(minimal(mixing=mixing))
    assert recipe.mixing.settings == settings
    built = mixing_schedule(recipe.mixing.schedule, {"a": 64, "b": 20}, 8, **recipe.mixing.settings)
    assert built.in_batch is ("'in_batch': True" in str(mixing))
    assert Recipe.parse(minimal(mixing=recipe.mixing.model_dump(mode="json"))).mixing == recipe.mixing


def test_a_section_holds_the_kind_s_settings_and_the_common_ones() -> None:
    assert set(SECTIONS) == set(KINDS)
    for name, model in SECTIONS.items():
        assert issubclass(model, KINDS[name].Settings)
        assert {"files", "hub", "read", "weight"} < set(model.model_fields)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 0), (0.1, 10), (1, 100), (5, 5), (500, 100)])
def test_warmup_is_a_share_or_a_number_of_steps(warmup: float, steps: int) -> None:
    assert ScheduleSettings(warmup=warmup).warmup_steps(100) == steps
