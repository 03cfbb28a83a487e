"""Finished runs made by hand: folders with the files that evidence is read from, without any training."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.tasks import KINDS

Answers = tuple[Sequence[float], Sequence[float]]
"""(what the run says of each example, gold); labels as 0 and 1."""

TASKS: dict[str, dict[str, Any]] = {
    "mood": {
        "kind": "classification",
        "files": {"train": "mood.csv", "dev": "mood-dev.csv"},
        "text": "sentence",
        "labels": ["bad", "good"],
    },
    "pairs": {
        "kind": "regression",
        "files": {"train": "pairs.csv", "dev": "pairs-dev.csv"},
        "pair": ["a", "b"],
        "label": "score",
    },
}
MakeRun = Callable[..., Path]


def made_run(
    folder: Path,
    answers: Mapping[str, Answers],
    *,
    split: str = "dev",
    rows: Sequence[int] | None = None,
    seconds: float = 30.0,
    tallies: bool = True,
) -> Path:
    """A run folder whose scores, tallies and predictions follow from its answers, through the tasks' kinds."""
    recipe = Recipe.parse({"name": "made", "tasks": {task: TASKS[task] for task in answers}})
    run = Run(folder)
    (folder / "predictions").mkdir(parents=True)
    run.write_recipe(recipe)
    scores: dict[str, dict[str, float]] = {}
    for task, (said, gold) in answers.items():
        section = recipe.tasks[task]
        kind = KINDS[section.kind](section)
        values = torch.tensor(list(said), dtype=torch.float64)
        outputs = torch.stack([-values, values], 1) if task == "mood" else values[:, None]
        if task == "mood":
            outputs = outputs - torch.tensor([-0.5, 0.5])  # 0 is said as bad, 1 as good
        targets = torch.tensor(list(gold), dtype=torch.float64)
        scores[task] = kind.measures(outputs, targets)
        if tallies:
            np.save(folder / "predictions" / f"{task}-{split}.npy", kind.tallies(outputs, targets))
        with (folder / "predictions" / f"{task}-{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", "gold", "said"])
            numbers = rows or range(1, len(said) + 1)
            writer.writerows([row, value, one] for row, value, one in zip(numbers, gold, said, strict=True))
    run.write_scores({split: scores})
    log = [
        {"event": "start", "step": 0, "steps": 10},
        *({"event": "step", "step": i, "epoch": i / 5, "examples": {"mood": 8}} for i in range(1, 11)),
        {"event": "end", "step": 10, "seconds": seconds, "step_seconds": seconds * 0.8, "examples": 80},
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in log))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`made_run` in a folder of the test's own, by its name."""

    def make(name: str, answers: Mapping[str, Answers], **given: Any) -> Path:
        return made_run(tmp_path / name, answers, **given)

    return make
