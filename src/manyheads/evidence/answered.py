"""What runs answer on the splits of their recipe, a split at a time: the ground that scores and matrices stand on.

Knows runs, their models and kinds. Must not know how anything is printed or drawn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyheads.data.encode import TokenCache
from manyheads.errors import InputError
from manyheads.evidence.ensemble import Ensemble
from manyheads.model import Model
from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.tasks import Kind
from manyheads.tasks.documents import DocumentKind
from manyheads.tasks.head import Rows
from manyheads.training.evaluate import outputs_of, score, tallies_of
from manyheads.training.splits import Split, TaskData, load_task

__all__ = ["Answered", "Confusion", "answered", "evaluate_runs", "splits_of"]


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each label was taken for each."""

    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    """[labels, labels] rows with the label of the first axis of which the label of the second was said."""

    @property
    def recall(self) -> NDArray[np.float64]:
        """[labels] the share of a label's rows of which it was said; NaN without rows."""
        return _shares(self.counts.diagonal(), self.counts.sum(1))

    @property
    def precision(self) -> NDArray[np.float64]:
        """[labels] the share of right ones where a label was said; NaN where it never was."""
        return _shares(self.counts.diagonal(), self.counts.sum(0))

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"labels": list(self.labels), "counts": self.counts.tolist()}


@dataclass(frozen=True, eq=False)
class Answered:
    """A split by which a task can be measured, and what was answered."""

    split: str
    task: str
    kind: Kind
    scores: dict[str, float]
    """The kind's measures."""
    rows: Split | None = None
    """None for a task on documents, whose questions are drawn and whose answers are not kept."""
    outputs: Rows | None = None

    @property
    def confusion(self) -> Confusion | None:
        """Which label was taken for which; None for a task whose answer is not one label of a fixed set."""
        if self.rows is None:
            return None
        predictions = self.kind.predictions(self.outputs, self.rows.examples)
        first = predictions[0].probabilities
        if first is None or predictions[0].shares:
            return None
        labels = tuple(first)
        number = {label: at for at, label in enumerate(labels)}
        assert self.rows.targets is not None
        gold = self.rows.targets.astype(np.int64)
        said = np.array([number[str(one.label)] for one in predictions])
        size = len(labels)
        counts = np.bincount(gold * size + said, minlength=size * size).reshape(size, size)
        return Confusion(labels, counts.astype(np.int64))


def answered(
    runs: Sequence[Run],
    splits: Sequence[str] | None = None,
    *,
    models: Sequence[Model] | None = None,
    overrides: Sequence[str] = (),
    cache: TokenCache | None = None,
) -> Iterator[Answered]:
    """The labelled splits of a trained run, or of several that answer together, each with the answers.

    The files are those of the first run's recipe; `splits` default to all that have labels, but train; a task without
    one of them is passed over.
    """
    together = Ensemble(models or [run.model() for run in runs], [str(run.folder) for run in runs])
    recipe = runs[0].recipe.with_overrides(overrides)
    known = {split for section in recipe.tasks.values() for split in section.split_names}
    for split in splits or ():
        if split not in known:
            raise InputError(f"no task has a split {split!r}; there are {', '.join(sorted(known))}")
    for name, section in recipe.tasks.items():
        kind = _kind(together, name, runs[0])
        if section.read_with is not None:  # comes with that task
            continue
        wanted = [
            one for one in section.split_names if (one in splits if splits is not None else one != "train")
        ]
        each = [_load(name, recipe, model, wanted, cache, alone=len(runs) == 1) for model in together.models]
        if each[0].spans and len(runs) > 1:
            raise InputError(f"task {name!r} learns from documents, and is measured one run at a time")
        for split, spans in each[0].spans.items():
            for one, tallies in tallies_of(together.models[0].network, each[0], spans).items():
                its = together.task(one).kind
                assert isinstance(its, DocumentKind)
                yield Answered(split, one, its, its.totals(tallies.sum(0)))
        for split, rows in each[0].splits.items():
            if rows.targets is not None:
                found = [
                    (outputs_of(model.network, name, one.splits[split]), one.splits[split].rows.layout)
                    for model, one in zip(together.models, each, strict=True)
                ]
                outputs = together.mean(kind, name, found)
                yield Answered(split, name, kind, score(kind, outputs, rows), rows, outputs)


def evaluate_runs(
    runs: Sequence[Run],
    splits: Sequence[str] | None = None,
    *,
    models: Sequence[Model] | None = None,
    overrides: Sequence[str] = (),
    cache: TokenCache | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """{split: {task: {measure: value}}} of what `answered` gives."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for one in answered(runs, splits, models=models, overrides=overrides, cache=cache):
        found.setdefault(one.split, {})[one.task] = one.scores
    return found


def splits_of(
    run: Run, model: Model, *, overrides: Sequence[str] = (), cache: TokenCache | None = None
) -> Iterator[TaskData]:
    """Every task of a run that has rows, with all splits of its recipe, training rows included, as the model reads
    them."""
    recipe = run.recipe.with_overrides(overrides)
    together = Ensemble([model], [str(run.folder)])
    for name, section in recipe.tasks.items():
        if isinstance(_kind(together, name, run), DocumentKind):
            continue
        yield _load(name, recipe, model, section.split_names, cache, alone=True)


def _kind(together: Ensemble, name: str, run: Run) -> Kind:
    if name not in together.models[0].tasks:
        raise InputError(f"the run's recipe has a task {name!r} that its model has not", file=run.folder)
    return together.task(name).kind


def _load(
    name: str, recipe: Recipe, model: Model, splits: list[str], cache: TokenCache | None, *, alone: bool
) -> TaskData:
    beside = [
        TaskData(other, section, model.task(other).kind, {})
        for other, section in recipe.tasks.items()
        if section.read_with == name
    ]
    return load_task(
        name,
        recipe,
        model.tokenizer,
        positions=model.network.encoder.shape.positions,
        kind=model.task(name).kind,
        splits=splits,
        max_length=None if alone else model.task(name).max_length,
        cache=cache or TokenCache(),
        beside=beside,
    )


def _shares(some: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        return np.asarray(some / whole, dtype=np.float64)
