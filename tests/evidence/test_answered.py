"""What runs answer on their splits: the matrix is scikit-learn's, the scores are those of `evaluate_runs`."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from manyheads.errors import InputError
from manyheads.evidence.answered import Confusion, answered, evaluate_runs, splits_of
from manyheads.run import Run

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_the_matrix_of_a_run_is_that_of_its_predictions(tiny_run: Path) -> None:
    found = {(one.split, one.task): one for one in answered([Run(tiny_run)])}
    assert set(found) == {("dev", "mood"), ("test", "mood"), ("dev", "pairs")}
    assert found["dev", "pairs"].confusion is None
    for split in ("dev", "test"):
        matrix = found[split, "mood"].confusion
        assert matrix is not None
        assert matrix.labels == ("bad", "good")
        with open(tiny_run / "predictions" / f"mood-{split}.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        gold, said = [row["gold"] for row in rows], [row["label"] for row in rows]
        assert matrix.counts.tolist() == confusion_matrix(gold, said, labels=matrix.labels).tolist()
        expected = recall_score(gold, said, average=None, labels=matrix.labels, zero_division=np.nan)
        assert matrix.recall == pytest.approx(expected, nan_ok=True)
        expected = precision_score(gold, said, average=None, labels=matrix.labels, zero_division=np.nan)
        assert matrix.precision == pytest.approx(expected, nan_ok=True)
        assert matrix.as_json() == {"labels": ["bad", "good"], "counts": matrix.counts.tolist()}


def test_a_label_without_rows_has_no_recall() -> None:
    matrix = Confusion(("a", "b"), np.array([[3, 1], [0, 0]]))
    assert matrix.recall == pytest.approx([0.75, np.nan], nan_ok=True)
    assert matrix.precision == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("splits", [None, ["train", "dev"]])
def test_the_scores_are_those_of_evaluate(tiny_run: Path, splits: list[str] | None) -> None:
    run = Run(tiny_run)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for one in answered([run, run], splits):
        found.setdefault(one.split, {})[one.task] = one.scores
    assert found == evaluate_runs([run, run], splits)
    with pytest.raises(InputError, match="no task has a split 'tset'"):
        list(answered([run], ["tset"]))


def test_all_splits_are_there_training_too(tiny: "Tiny", tiny_run: Path) -> None:
    run = Run(tiny_run)
    found = {data.name: data.splits for data in splits_of(run, run.model())}
    assert {name: set(splits) for name, splits in found.items()} == {
        "mood": {"train", "dev", "test"},
        "pairs": {"train", "dev"},
    }
    assert len(found["mood"]["train"]) == 48
