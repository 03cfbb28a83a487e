"""Runs that answer together: the mean of what their models say, as predictions and as scores (rows B10).

Knows finished runs, their models and their recipes. Must not know how a run is trained.
"""

from collections.abc import Sequence

import numpy as np
import torch

from manyheads.data.encode import TokenCache
from manyheads.encoder.layout import Layout
from manyheads.errors import InputError
from manyheads.model import Model, Task, predictions_of
from manyheads.run import Run
from manyheads.tasks import Kind, Prediction
from manyheads.tasks.head import Rows
from manyheads.training.evaluate import outputs_of, score
from manyheads.training.splits import load_task

__all__ = ["Ensemble", "evaluate_runs"]

Scores = dict[str, dict[str, dict[str, float]]]


class Ensemble:
    """Models that have the same tasks with the same labels; one alone answers as itself.

    The mean is taken of probabilities and of values (of a span's raw scores), each model reading the texts with its own tokenizer and lengths
    (Devlin et al. 2019 report such ensembles of seven runs in table 2). Kinds that answer for pieces of a text need
    models that cut it into the same pieces.
    """

    def __init__(self, models: Sequence[Model], names: Sequence[str]) -> None:
        """`names` are what errors call the models."""
        self.models = list(models)
        self.names = list(names)

    def task(self, name: str) -> Task:
        """The task, which every model must have; it is the first model's."""
        tasks = []
        for model, called in zip(self.models, self.names, strict=True):
            try:
                tasks.append(model.task(name))
            except InputError as error:
                raise InputError(str(error), file=called) from None
        for other, called in zip(tasks[1:], self.names[1:], strict=True):
            _fits(tasks[0].kind, other.kind, called)
        return tasks[0]

    def answer(self, task: str, inputs: Sequence[object]) -> list[Prediction]:
        """Predictions for inputs as the task's kind makes them of rows (`Kind.input`), held in memory together."""
        kind = self.task(task).kind
        if not inputs:
            return []
        found = [model.outputs(task, inputs) for model in self.models]
        outputs = self._mean(kind, task, found)
        return predictions_of(kind, outputs, found[0][1], inputs)

    def _mean(self, kind: Kind, task: str, found: Sequence[tuple[Rows, Layout]]) -> Rows:
        first, layout = found[0]
        if len(found) == 1:
            return first
        for (_, its), called in zip(found, self.names, strict=True):
            if not _same_pieces(layout, its):
                raise InputError(
                    f"task {task!r} answers for pieces of a text, and {called} cuts it into others than "
                    f"{self.names[0]} (another vocabulary or other lengths)"
                )
        kinds = [model.task(task).kind for model in self.models]
        outputs = [(its, one) for its, (one, _) in zip(kinds, found, strict=True)]
        return kind.mean(outputs)  # type: ignore[no-any-return]


def evaluate_runs(
    runs: Sequence[Run],
    splits: Sequence[str] | None = None,
    *,
    models: Sequence[Model] | None = None,
    overrides: Sequence[str] = (),
    cache: TokenCache | None = None,
) -> Scores:
    """{split: {task: {measure: value}}} of a trained run, or of several that answer together, scored anew.

    The files are those of the first run's recipe; `splits` default to all that have labels, but train; a task without
    one of them is passed over. Labels outside the runs' are refused.
    """
    together = Ensemble(models or [run.model() for run in runs], [str(run.folder) for run in runs])
    recipe = runs[0].recipe.with_overrides(overrides)
    found: Scores = {}
    known = {split for section in recipe.tasks.values() for split in section.split_names}
    for split in splits or ():
        if split not in known:
            raise InputError(f"no task has a split {split!r}; there are {', '.join(sorted(known))}")
    for name, section in recipe.tasks.items():
        if name not in together.models[0].tasks:
            raise InputError(
                f"the run's recipe has a task {name!r} that its model has not", file=runs[0].folder
            )
        kind = together.task(name).kind
        named = section.split_names
        wanted = [one for one in named if (one in splits if splits is not None else one != "train")]
        each = [
            load_task(
                name,
                recipe,
                model.tokenizer,
                positions=model.network.encoder.shape.positions,
                kind=model.task(name).kind,
                splits=wanted,
                max_length=None if len(runs) == 1 else model.task(name).max_length,
                cache=cache or TokenCache(),
            ).splits
            for model in together.models
        ]
        for split, rows in each[0].items():
            if rows.targets is not None:
                outputs = [
                    (outputs_of(model.network, name, one[split]), one[split].rows.layout)
                    for model, one in zip(together.models, each, strict=True)
                ]
                mean = together._mean(kind, name, outputs)
                found.setdefault(split, {})[name] = score(kind, mean, rows)
    return found


def _fits(kind: Kind, other: Kind, called: str) -> None:
    """InputError where the answers of two models' tasks cannot be averaged."""
    try:
        kind.aligned(torch.zeros(0, other.width), other)
    except ValueError as error:
        raise InputError(str(error), file=called) from None


def _same_pieces(a: Layout, b: Layout) -> bool:
    if a.marks is None or b.marks is None or a.offsets is None or b.offsets is None:
        return len(a) == len(b)
    return np.array_equal(a.counts, b.counts) and np.array_equal(a.offsets, b.offsets)
