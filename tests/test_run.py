"""The run folder, opened again."""

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import manyheads as mh
from manyheads.model import Model
from manyheads.run import Run

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_a_run_knows_its_recipe_its_scores_and_its_model(tiny: "Tiny", tiny_run: Path) -> None:
    run = Run.open(tiny_run)
    assert run.recipe == mh.Recipe.parse(tiny.recipe())
    assert run.all_scores == json.loads((tiny_run / "scores.json").read_text())
    assert run.scores == run.all_scores["dev"]
    model = run.model("float32")
    assert isinstance(model, Model)
    assert list(model.tasks) == ["mood", "pairs"]
    assert not model.network.training
    assert str(tiny_run) in repr(run)


def test_load_takes_a_run_or_its_model_folder(tiny_run: Path) -> None:
    text = ["a good film"]
    whole, bare = mh.load(tiny_run, "float32"), mh.load(str(tiny_run / "model"), "float32")
    assert whole.predict("mood", text) == bare.predict("mood", text)


def test_train_answers_with_the_run(tiny: "Tiny", tmp_path: Path) -> None:
    recipe = mh.Recipe.load(tiny.write(tmp_path / "r.yaml", schedule={"steps": 1}), [f"data={tiny.folder}"])
    run = mh.train(recipe, out=tmp_path / "run", quiet=True)
    assert isinstance(run, mh.Run)
    assert run.scores["mood"]["accuracy"] == run.all_scores["dev"]["mood"]["accuracy"]


@pytest.mark.parametrize(
    ("without", "told"),
    [
        (".", "no such run folder"),
        ("recipe.yaml", "not a run folder"),
        ("model", "no model yet; finish it with --resume"),
    ],
)
def test_a_folder_that_is_no_finished_run_is_refused(
    tiny_run: Path, tmp_path: Path, without: str, told: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    if (folder / without).is_dir():
        shutil.rmtree(folder / without)
    else:
        (folder / without).unlink()
    with pytest.raises(mh.InputError, match=told) as caught:
        Run.open(folder)
    assert str(caught.value).startswith(f"{folder}: ")


def test_scores_that_are_no_json_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(mh.InputError, match=r"scores\.json: the run has no scores yet"):
        _ = run.all_scores
    (tmp_path / "scores.json").write_text("{,}")
    with pytest.raises(mh.InputError, match=r"scores\.json: cannot be read as JSON"):
        _ = run.scores


def test_a_measure_that_is_no_number_is_null(tmp_path: Path) -> None:
    Run(tmp_path).write_scores({"dev": {"pairs": {"pearson": math.nan, "mse": math.inf, "loss": 1.5}}})
    assert json.loads((tmp_path / "scores.json").read_text()) == {
        "dev": {"pairs": {"pearson": None, "mse": None, "loss": 1.5}}
    }
