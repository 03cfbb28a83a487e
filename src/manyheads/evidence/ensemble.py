"""Models that answer together: the mean of what they say (row B10).

Knows models and their tasks. Must not know runs, files or how a model is trained.
"""

from collections.abc import Sequence

import numpy as np
import torch

from manyheads.encoder.layout import Layout
from manyheads.errors import InputError
from manyheads.model import Model, Task, predictions_of
from manyheads.tasks import Kind, Prediction
from manyheads.tasks.head import Rows

__all__ = ["Ensemble"]


class Ensemble:
    """Models that have the same tasks with the same labels; one alone answers as itself.

    The mean is taken of probabilities and of values (of a span's raw scores), each model reading the texts with its own
    tokenizer and lengths (Devlin et al. 2019 report such ensembles of seven runs in table 2). Kinds that answer for
    pieces of a text need models that cut it into the same pieces.
    """

    def __init__(self, models: Sequence[Model], names: Sequence[str], *, raw: bool = False) -> None:
        """`names` are what errors call the models; with `raw` one model's probabilities are not calibrated either.

        Those of several are not: the mean of what they say has no temperature that was ever fitted.
        """
        self.models = list(models)
        self.names = list(names)
        self.raw = raw or len(self.models) > 1

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
        outputs = self.mean(kind, task, found)
        return predictions_of(kind, outputs, found[0][1], inputs, raw=self.raw)

    def mean(self, kind: Kind, task: str, found: Sequence[tuple[Rows, Layout]]) -> Rows:
        """The outputs that say what all models say on average, from each one's and how it laid the examples out."""
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
