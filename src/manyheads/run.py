"""The run folder: what a training run leaves behind, and how it is opened again.

Knows the files of a run and their names. Must not know how a run is trained.
"""

import json
from pathlib import Path
from typing import Any

from manyheads.errors import InputError
from manyheads.files import write_json, write_text
from manyheads.model import Model
from manyheads.recipe import Recipe

__all__ = ["Run", "load"]

Scores = dict[str, dict[str, dict[str, float]]]


class Run:
    """A run's folder: `recipe.yaml`, `scores.json`, `model/`, `checkpoints/`, `predictions/`, `log.jsonl` …"""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """An existing run; InputError where the folder is none, or its training has not ended."""
        run = cls(folder)
        if not run.folder.is_dir():
            raise InputError("no such run folder", file=run.folder)
        if not (run.folder / "recipe.yaml").is_file():
            raise InputError("not a run folder (it has no recipe.yaml)", file=run.folder)
        if not (run.model_folder / "heads.json").is_file():
            raise InputError("the run has no model yet; finish it with --resume", file=run.folder)
        return run

    @property
    def model_folder(self) -> Path:
        """Where the model is."""
        return self.folder / "model"

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.folder / "checkpoints"

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe the run was trained with."""
        return Recipe.load(self.folder / "recipe.yaml")

    def write_recipe(self, recipe: Recipe) -> None:
        """Keep the resolved recipe."""
        write_text(self.folder / "recipe.yaml", recipe.dump_yaml())

    @property
    def all_scores(self) -> Scores:
        """{split: {task: {measure: value}}} of the best checkpoint."""
        path = self.folder / "scores.json"
        try:
            scores: Scores = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError("the run has no scores yet", file=path) from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"cannot be read as JSON ({error})", file=path) from None
        return scores

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """{task: {measure: value}} on the dev split."""
        return self.all_scores.get("dev", {})

    def write_scores(self, scores: Scores) -> None:
        """Keep the scores of the best checkpoint; a measure that is not a number is written as null."""
        plain: Any = {
            split: {
                task: {name: value if value == value else None for name, value in found.items()}
                for task, found in tasks.items()
            }
            for split, tasks in scores.items()
        }
        write_json(self.folder / "scores.json", plain)

    def model(self, precision: str | None = None) -> Model:
        """The trained model, in the precision it was trained in (bf16 only where this processor has it)."""
        if precision is None:
            precision = "auto" if self.recipe.precision == "bf16" else self.recipe.precision
        return Model.load(self.model_folder, precision)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"


def load(folder: str | Path, precision: str | None = None) -> Model:
    """The model of a run folder (or of a bare model folder), in the run's precision unless another is named."""
    path = Path(folder)
    if (path / "heads.json").is_file():
        return Model.load(path, precision or "auto")
    return Run.open(path).model(precision)
