"""A finished run as evidence: its scores, its speed, and what it said of each example.

Knows the files of a run folder. Must not know studies, statistics or how a run is trained. The model is never
loaded: a run whose model was not kept is as good as another.
"""

import csv
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyheads.errors import InputError
from manyheads.run import Run
from manyheads.tasks import KINDS, Kind

__all__ = ["Outcome", "Speed", "is_finished", "records"]

Example = tuple[str, str, str]
"""(file, row, gold label) of one example; the file's name without its folder, empty where a split has one file."""


@dataclass(frozen=True)
class Speed:
    """How long a run took."""

    seconds: float
    """Of training, evaluations included."""
    seconds_per_epoch: float
    """Inside training steps alone; NaN where the log does not say."""
    examples_per_second: float
    """Examples trained on in a second of training steps; NaN where the log does not say."""


class Outcome:
    """What a finished run tells. Each file is read when it is first asked for, and once."""

    def __init__(self, folder: str | Path) -> None:
        self.run = Run(folder)
        self.folder = self.run.folder
        self._digests: dict[tuple[str, str], bytes] = {}

    @classmethod
    def open(cls, folder: str | Path) -> "Outcome":
        """A finished run; InputError where the folder is none, or the run has not ended."""
        outcome = cls(folder)
        if not outcome.folder.is_dir():
            raise InputError("no such run folder", file=outcome.folder)
        if not (outcome.folder / "recipe.yaml").is_file():
            raise InputError("not a run folder (it has no recipe.yaml)", file=outcome.folder)
        outcome.run.all_scores  # noqa: B018 (says that there are none yet)
        return outcome

    @property
    def has_model(self) -> bool:
        """Whether the model was kept."""
        return (self.run.model_folder / "heads.json").is_file()

    @property
    def splits(self) -> list[str]:
        """The splits that were scored."""
        return list(self._all_scores)

    def scores(self, split: str) -> dict[str, dict[str, float]]:
        """{task: {measure: value}} on a split, in the order they were written; NaN where undefined."""
        return {
            task: {name: math.nan if value is None else float(value) for name, value in measures.items()}
            for task, measures in self._all_scores.get(split, {}).items()
            if measures
        }

    def first(self, task: str, split: str) -> tuple[str, float] | None:
        """The task's deciding measure and its value on a split; None where the run has no such score."""
        measures = self.scores(split).get(task)
        return None if measures is None else next(iter(measures.items()))

    def kind(self, task: str) -> Kind:
        """The task's kind as it was trained, with the labels it learnt where the model was kept."""
        section = self._recipe.tasks[task]
        return KINDS[section.kind](section, self._facts.get(task))

    def tallies(self, task: str, split: str) -> NDArray[np.float64]:
        """[n, k] of the split's n examples, whose sums give the task's first measure (`Kind.measure_of`)."""
        path = self.folder / "predictions" / f"{task}-{split}.npy"
        try:
            found = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise InputError("no such file; the run has no tallies of this split", file=path) from None
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"cannot be read as a numpy array ({error})", file=path) from None
        if (
            not isinstance(found, np.ndarray)
            or found.ndim != 2
            or found.dtype != np.float64
            or not len(found)
        ):
            raise InputError("expected numbers [examples, tallies] in float64", file=path)
        return found

    def has_tallies(self, task: str, split: str) -> bool:
        """Whether the run wrote what it said of each example of the split."""
        return (self.folder / "predictions" / f"{task}-{split}.npy").is_file()

    def examples(self, task: str, split: str) -> list[Example]:
        """Which examples the split has, in order."""
        path = self.folder / "predictions" / f"{task}-{split}.csv"
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file)
                if "row" not in (rows.fieldnames or ()):
                    raise InputError("expected a column 'row'", file=path)
                # The data may have moved between two runs: the folder says nothing of the examples.
                return [
                    (Path(row.get("file") or "").name, row["row"], row.get("gold") or row.get("span") or "")
                    for row in rows
                ]
        except FileNotFoundError:
            raise InputError("no such file; the run has no predictions of this split", file=path) from None
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"cannot be read as csv ({error})", file=path) from None

    def examples_digest(self, task: str, split: str) -> bytes:
        """A name for `examples`, kept: the same for the same ones in the same order."""
        key = task, split
        if key not in self._digests:
            told = json.dumps(self.examples(task, split), ensure_ascii=False).encode()
            self._digests[key] = hashlib.blake2b(told, digest_size=16).digest()
        return self._digests[key]

    @cached_property
    def speed(self) -> Speed:
        """How long the training took, from the log."""
        end: dict[str, Any] = {}
        epochs, trained = 0.0, 0
        for record in records(self.folder):
            if record.get("event") == "step":
                epochs = record.get("epoch") or epochs
                trained += sum((record.get("examples") or {}).values())
            elif record.get("event") == "end":
                end = record
        seconds = float(end.get("seconds") or math.nan)
        inside = float(end.get("step_seconds") or seconds)
        examples = end.get("examples")
        count = examples if isinstance(examples, int) else trained
        return Speed(
            seconds,
            inside / epochs if epochs else math.nan,
            count / inside if count and inside else math.nan,
        )

    @cached_property
    def _all_scores(self) -> dict[str, dict[str, dict[str, float]]]:
        return self.run.all_scores

    @cached_property
    def _recipe(self) -> Any:
        return self.run.recipe

    @cached_property
    def _facts(self) -> dict[str, Any]:
        """Task → what its kind learnt; empty where the model was not kept."""
        try:
            described = json.loads((self.run.model_folder / "heads.json").read_text(encoding="utf-8"))
            return {task: told.get("facts") for task, told in described["tasks"].items()}
        except (OSError, ValueError, KeyError, AttributeError):
            return {}


def is_finished(folder: Path) -> bool:
    """Whether the run in `folder` has ended: its log says so, and its scores are there."""
    if not (folder / "scores.json").is_file():
        return False
    return any(record.get("event") == "end" for record in records(folder, only="end"))


def records(folder: Path, only: str = "") -> Iterator[dict[str, Any]]:
    """The records of a run's log, with `only` those in which that word stands; a line cut in two is passed over."""
    try:
        with (folder / "log.jsonl").open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if only not in line:
                    continue
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if isinstance(record, dict):
                    yield record
    except OSError:
        return
