"""Baseline: what letters and a linear model reach on Weibo posts; an encoder must beat it (recipes/weibo_small.yaml).

Character n-grams with TF-IDF weights under a multinomial logistic regression, both scikit-learn's, on the rows of the
recipe: the same files, the texts cleaned by the same function. Strength of the penalty and class weights are chosen by
macro-F1 on the general dev set, once for both sets, so that the general dev figure flatters a little, and the test and
epidemic figures do not.

    python benchmarks/weibo_baseline.py
    python benchmarks/weibo_baseline.py --rows 500      # does it run at all? The record is called …-partial.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sklearn
from side_by_side import record
from side_by_side.machine import describe, machine
from side_by_side.rows import data_folder
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from manyheads.encoder.clean import weibo

LABELS = ("happy", "angry", "sad", "fear", "surprise", "neutral")
FILES = {
    "general": {"train": "usual_train", "dev": "usual_eval_labeled", "test": "usual_test_labeled"},
    "epidemic": {"train": "virus_train", "dev": "virus_eval_labeled"},
}
GRAMS = {"analyzer": "char", "ngram_range": (1, 3), "min_df": 2, "sublinear_tf": True}
PENALTIES = (1.0, 4.0, 16.0)
WEIGHTS = (None, "balanced")

Rows = tuple[list[str], list[str]]
"""Clean posts, and their labels."""


def main() -> None:
    """Fit, score and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the folder of data sets")
    parser.add_argument("--rows", type=int, help="only so many rows of every file")
    said = parser.parse_args()
    told = machine()
    folder = data_folder(said.data) / "smp2020" / "raw"
    began = time.perf_counter()
    sets = {
        name: {split: read(folder / f"{file}.txt", said.rows) for split, file in files.items()}
        for name, files in FILES.items()
    }
    tried = {
        f"C={penalty:g}, class_weight={weights}": fit("general", sets["general"], penalty, weights)
        for penalty in PENALTIES
        for weights in WEIGHTS
    }
    chosen = max(tried, key=lambda one: tried[one]["dev"]["macro_f1"])
    settings = [(penalty, weights) for penalty in PENALTIES for weights in WEIGHTS]
    penalty, weights = settings[list(tried).index(chosen)]
    found = {"general": tried[chosen], "epidemic": fit("epidemic", sets["epidemic"], penalty, weights)}
    result = {
        "what": "character TF-IDF and logistic regression on SMP2020-EWECT",
        "grams": GRAMS,
        "chosen": chosen,
        "tried": {name: {split: one[split]["macro_f1"] for split in one} for name, one in tried.items()},
        "rows": {
            name: {split: len(rows[0]) for split, rows in splits.items()} for name, splits in sets.items()
        },
        "scores": found,
        "labels": LABELS,
        "scikit_learn": sklearn.__version__,
        "seconds": round(time.perf_counter() - began, 1),
        "machine": told,
    }
    name = "weibo_baseline" + ("-partial" if said.rows else "")
    record.write_json(record.RESULTS / f"{name}.json", result)
    record.write_text(record.RESULTS / f"{name}.md", page(result, describe(told)))


def read(path: Path, count: int | None) -> Rows:
    """A file's posts, cleaned, and their labels; a post that cleaning empties stays, as it does for an encoder."""
    rows = json.loads(path.read_text(encoding="utf-8"))[:count]
    return [weibo(row["content"]) for row in rows], [row["label"] for row in rows]


def fit(name: str, splits: dict[str, Rows], penalty: float, weights: str | None) -> dict[str, dict[str, Any]]:
    """Split → the scores of a model that was fitted to the set's training rows."""
    grams = TfidfVectorizer(**GRAMS)
    posts, labels = splits["train"]
    model = LogisticRegression(C=penalty, class_weight=weights, max_iter=1000)
    model.fit(grams.fit_transform(posts), labels)
    found = {
        split: scores(rows[1], model.predict(grams.transform(rows[0]))) for split, rows in splits.items()
    }
    told = ", ".join(f"{split} {one['macro_f1']:.4f}" for split, one in found.items())
    print(f"{name}: C={penalty:g}, class_weight={weights}: macro-F1 {told}", flush=True)
    return {split: one for split, one in found.items() if split != "train"}


def scores(gold: Sequence[str], said: Sequence[str]) -> dict[str, Any]:
    """The two measures, F1 of each label and the matrix of gold by said."""
    each = f1_score(gold, said, labels=LABELS, average=None, zero_division=0)
    return {
        "accuracy": round(float(accuracy_score(gold, said)), 4),
        "macro_f1": round(float(f1_score(gold, said, average="macro", zero_division=0)), 4),
        "f1": {label: round(float(one), 4) for label, one in zip(LABELS, each, strict=True)},
        "confusion": confusion_matrix(gold, said, labels=LABELS).tolist(),
    }


def page(result: dict[str, Any], machine_told: str) -> str:
    """The table for people."""
    lines = [
        [
            f"{name} {split}",
            f"{result['rows'][name][split]:,}",
            f"{one['accuracy']:.4f}",
            f"{one['macro_f1']:.4f}",
            *(f"{one['f1'][label]:.3f}" for label in LABELS),
        ]
        for name, splits in result["scores"].items()
        for split, one in splits.items()
    ]
    head = ["set", "rows", "accuracy", "macro-F1", *(f"F1 {label}" for label in LABELS)]
    return (
        "# Weibo emotion: letters and a linear model\n\n"
        "Character 1- to 3-grams with TF-IDF weights, multinomial logistic regression "
        f"(scikit-learn {result['scikit_learn']}), texts cleaned as by `clean: weibo`. {result['chosen']}, chosen by "
        "macro-F1 on the general dev set.\n\n"
        f"{record.table(head, lines)}\n{machine_told}\n"
    )


if __name__ == "__main__":
    main()
