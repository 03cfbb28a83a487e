"""A run finds its temperatures at the end, keeps them, and everything that tells probabilities uses them."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from manyheads.evidence.answered import evaluate_runs
from manyheads.evidence.ensemble import Ensemble
from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.training.evaluate import outputs_of
from manyheads.training.loop import train
from manyheads.training.splits import load_task

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny

TEXTS = ["a fine film", "the plot was dull", "music and story", "very sad end", "it was a great scene"]


@pytest.fixture(scope="module")
def run(tiny: "Tiny", tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Too short a training to be right of everything."""
    recipe = Recipe.parse(tiny.recipe(optimizer={"lr": 1e-4}))
    return train(recipe, tmp_path_factory.mktemp("calibrated") / "run", quiet=True)


def test_the_temperature_is_that_of_the_dev_outputs(tiny: "Tiny", run: Run) -> None:
    model = run.model()
    mood, pairs = model.task("mood").kind, model.task("pairs").kind
    assert mood.temperature != 1.0
    assert pairs.temperature == 1.0
    told = json.loads((run.model_folder / "heads.json").read_text(encoding="utf-8"))["tasks"]
    assert told["mood"]["facts"]["temperature"] == mood.temperature
    assert "temperature" not in told["pairs"]["facts"]
    data = load_task("mood", run.recipe, model.tokenizer, positions=64, kind=mood, splits=["dev"])
    split = data.splits["dev"]
    outputs = outputs_of(model.network, "mood", split)
    import torch

    assert split.targets is not None
    found = mood.fitted_temperature(outputs, torch.from_numpy(split.targets))
    assert found == pytest.approx(mood.temperature, rel=1e-3)


def test_scores_do_not_know_it(run: Run) -> None:
    assert evaluate_runs([run])["dev"]["mood"] == pytest.approx(run.scores["mood"])


def test_predictions_are_calibrated_unless_raw_is_asked(run: Run) -> None:
    model = run.model()
    kind = model.task("mood").kind
    calibrated, raw = model.predict("mood", TEXTS), model.predict("mood", TEXTS, raw=True)
    assert [one.label for one in calibrated] == [one.label for one in raw]
    assert calibrated != raw
    for one, other in zip(calibrated, raw, strict=True):
        odds = [(p["good"] / p["bad"]) for p in (one.probabilities or {}, other.probabilities or {})]
        assert odds[0] ** kind.temperature == pytest.approx(odds[1], rel=1e-4)
    assert [one["mood"] for one in model.analyze(TEXTS)] == calibrated
    assert [one["mood"] for one in model.analyze(TEXTS, raw=True)] == raw
    assert list(model.stream("mood", TEXTS, raw=True)) == raw


def test_the_predictions_file_says_what_the_model_says(run: Run, tiny: "Tiny") -> None:
    with open(run.folder / "predictions" / "mood-dev.csv", encoding="utf-8", newline="") as file:
        said = [float(row["score"]) for row in csv.DictReader(file)]
    with open(tiny.folder / "mood-dev.csv", encoding="utf-8", newline="") as file:
        texts = [row["sentence"] for row in csv.DictReader(file)]
    assert [one.score for one in run.model().predict("mood", texts)] == pytest.approx(said, rel=1e-4)


def test_several_models_together_are_raw(run: Run) -> None:
    model = run.model()
    inputs = [model.task("mood").kind.input({"sentence": text}) for text in TEXTS]
    alone = Ensemble([model], ["a"]).answer("mood", inputs)
    assert alone == model.predict("mood", TEXTS)
    assert Ensemble([model], ["a"], raw=True).answer("mood", inputs) == model.predict("mood", TEXTS, raw=True)
    together = [one.score for one in Ensemble([model, model], ["a", "b"]).answer("mood", inputs)]
    assert together == pytest.approx([one.score for one in model.predict("mood", TEXTS, raw=True)], rel=1e-5)


def test_the_commands_have_a_switch(run: Run, tiny: "Tiny", command: "Command", tmp_path: Path) -> None:
    model = run.model()
    for switch, expected in (
        ((), model.predict("mood", TEXTS)),
        (("--raw",), model.predict("mood", TEXTS, raw=True)),
    ):
        ended = command("ask", run.folder, TEXTS[0], "--json", *switch)
        assert ended.status == 0, ended
        assert json.loads(ended.out)["mood"]["score"] == pytest.approx(expected[0].score, rel=1e-4)
        source = tiny.csv(tmp_path / "in.csv", ["sentence"], [[text] for text in TEXTS])
        out = tmp_path / "out.csv"
        ended = command("predict", run.folder, "--task", "mood", source, "--out", out, "--quiet", *switch)
        assert ended.status == 0, ended
        with out.open(encoding="utf-8", newline="") as file:
            said = [float(row["score"]) for row in csv.DictReader(file)]
        assert said == pytest.approx([one.score for one in expected], rel=1e-4)


def test_a_temperature_that_is_none_is_refused(run: Run, tmp_path: Path) -> None:
    import shutil

    from manyheads.errors import InputError
    from manyheads.model import Model

    shutil.copytree(run.model_folder, tmp_path / "model")
    path = tmp_path / "model" / "heads.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["tasks"]["mood"]["facts"]["temperature"] = 0
    path.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(InputError, match="'mood' is not described as expected"):
        Model.load(tmp_path / "model")
