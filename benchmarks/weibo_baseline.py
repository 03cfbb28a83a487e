"""Claim: an encoder beats letters and a linear model on Weibo posts (recipes/weibo_small.yaml).

Character n-grams with TF-IDF weights under a multinomial logistic regression, both scikit-learn's, on the rows of the
recipe: the same files, the texts cleaned by the same function. Strength of the penalty and class weights are chosen by
macro-F1 on the general dev set, once for both sets, so that the general dev figure flatters a little, and the test and
epidemic figures do not. Runs of the recipe are loaded, answer the same rows and are scored by the same code; accuracies
are compared by McNemar's exact test, macro-F1 by a paired bootstrap of the rows.

    python benchmarks/weibo_baseline.py --runs runs/weibo/general/seed-1 runs/weibo/both/seed-1
    python benchmarks/weibo_baseline.py --rows 500      # does it run at all? The record is called …-partial.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from side_by_side import record
from side_by_side.machine import describe, machine
from side_by_side.rows import data_folder
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

import manyheads as mh
from manyheads.encoder.clean import weibo
from manyheads.formulas.statistics import mcnemar, paired_bootstrap

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
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="trained runs to stand beside it")
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
    dev = {name: scores(sets["general"]["dev"][1], one["dev"]) for name, one in tried.items()}
    chosen = max(dev, key=lambda one: dev[one]["macro_f1"])
    settings = [(penalty, weights) for penalty in PENALTIES for weights in WEIGHTS]
    penalty, weights = settings[list(tried).index(chosen)]
    linear = {"general": tried[chosen], "epidemic": fit("epidemic", sets["epidemic"], penalty, weights)}
    rows = [
        {"model": "linear", "set": name, "split": split, **scores(sets[name][split][1], answers)}
        for name, answered in linear.items()
        for split, answers in answered.items()
    ]
    for folder in said.runs:
        model = mh.load(folder)
        for name in model.tasks:
            for split in linear.get(name, ()):
                posts, gold = sets[name][split]
                answers = [str(one.label) for one in model.predict(name, posts)]
                beside = against(gold, answers, linear[name][split])
                rows.append(
                    {"model": f"{folder}", "set": name, "split": split, **scores(gold, answers), **beside}
                )
                print(f"{folder}: {name} {split}: macro-F1 {rows[-1]['macro_f1']:.4f}", flush=True)
    result = {
        "what": "character TF-IDF and logistic regression on SMP2020-EWECT",
        "grams": GRAMS,
        "chosen": chosen,
        "tried": {name: one["macro_f1"] for name, one in dev.items()},
        "rows": {
            name: {split: len(rows[0]) for split, rows in splits.items()} for name, splits in sets.items()
        },
        "scores": rows,
        "claims": [
            record.claim(
                f"{row['model']}, {row['set']} {row['split']}: macro-F1 above the linear model's", gained, 0
            )
            for row in rows
            if (gained := row.get("macro_f1_gained")) is not None
        ],
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


def fit(name: str, splits: dict[str, Rows], penalty: float, weights: str | None) -> dict[str, list[str]]:
    """Split → what a model says that was fitted to the set's training rows."""
    grams = TfidfVectorizer(**GRAMS)
    posts, labels = splits["train"]
    model = LogisticRegression(C=penalty, class_weight=weights, max_iter=1000)
    model.fit(grams.fit_transform(posts), labels)
    said: dict[str, list[str]] = {
        split: model.predict(grams.transform(rows[0])).tolist()
        for split, rows in splits.items()
        if split != "train"
    }
    told = ", ".join(
        f"{split} {scores(splits[split][1], one)['macro_f1']:.4f}" for split, one in said.items()
    )
    print(f"{name}: C={penalty:g}, class_weight={weights}: macro-F1 {told}", flush=True)
    return said


def against(gold: Sequence[str], ours: Sequence[str], linear: Sequence[str]) -> dict[str, Any]:
    """What was gained over the linear model on the same rows, with p-values and the interval of the macro-F1."""
    right = [np.array([a == b for a, b in zip(gold, said, strict=True)]) for said in (ours, linear)]
    accuracy = mcnemar(*right)
    macro = paired_bootstrap(tallies(gold, ours), tallies(gold, linear), measure=macro_f1)
    return {
        "accuracy_gained": round(accuracy.difference, 4),
        "accuracy_p": accuracy.p,
        "macro_f1_gained": round(macro.difference, 4),
        "macro_f1_p": macro.p,
        "macro_f1_interval": [round(end, 4) for end in macro.interval],
    }


def tallies(gold: Sequence[str], said: Sequence[str]) -> NDArray[np.float64]:
    """[n, 3 · labels] of each row: true positives, gold and said of each label."""
    marks = [np.array([[one == label for label in LABELS] for one in each], float) for each in (gold, said)]
    return np.concatenate([marks[0] * marks[1], *marks], axis=1)


def macro_f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[...] of sums of tallies [..., 3 · labels]."""
    right, gold, said = np.split(sums, 3, axis=-1)
    return np.asarray(np.mean(2 * right / np.maximum(gold + said, 1), axis=-1))


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
            f"{row['set']} {row['split']}",
            row["model"],
            f"{row['accuracy']:.4f}",
            f"{row['macro_f1']:.4f}",
            *(f"{row['f1'][label]:.3f}" for label in LABELS),
            gained(row),
        ]
        for row in sorted(result["scores"], key=lambda row: (row["set"] != "general", row["split"]))
    ]
    head = [
        "set",
        "model",
        "accuracy",
        "macro-F1",
        *(f"F1 {label}" for label in LABELS),
        "over the linear model",
    ]
    return (
        "# Weibo emotion: letters and a linear model, and encoders\n\n"
        "Linear: character 1- to 3-grams with TF-IDF weights, multinomial logistic regression "
        f"(scikit-learn {result['scikit_learn']}), texts cleaned as by `clean: weibo`. {result['chosen']}, chosen by "
        "macro-F1 on the general dev set. Over it: accuracy with McNemar's p, macro-F1 with the p and the 95% interval "
        "of a paired bootstrap of the rows.\n\n"
        f"{record.table(head, lines)}\n{record.told(result['claims'])}\n{machine_told}\n"
    )


def gained(row: dict[str, Any]) -> str:
    """`+0.031 (p = 0.0001), +0.042 (p = 0.0002, +0.024 to +0.060)`."""
    if "accuracy_p" not in row:
        return ""
    low, high = row["macro_f1_interval"]
    return (
        f"{row['accuracy_gained']:+.3f} (p = {row['accuracy_p']:.2g}), "
        f"{row['macro_f1_gained']:+.3f} (p = {row['macro_f1_p']:.2g}, {low:+.3f} to {high:+.3f})"
    )


if __name__ == "__main__":
    main()
