"""What a cheaper graph costs each head: scores on dev of the one and of the other, and which of them answers.

Knows the recipe's rows, kinds and graphs in the hand. Must not know a runtime, or how a graph is made cheaper.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from manyheads.data.encode import TokenCache
from manyheads.errors import InputError
from manyheads.export.graph import EMBEDDING, Graph, GraphModel, arrays_of, form_of
from manyheads.export.onnx import Chosen
from manyheads.model import Model
from manyheads.recipe import Recipe
from manyheads.tasks import Kind
from manyheads.tasks.documents import DocumentKind
from manyheads.training.evaluate import score
from manyheads.training.splits import TaskData, load_task

__all__ = ["Int8", "Verdict", "examples", "judged", "lowest_cosine", "rows_of", "verdicts"]

Arrays = dict[str, NDArray[np.int64]]

_COMPARED = 64  # sequences by which the embeddings of two graphs are compared


@dataclass(frozen=True)
class Int8:
    """What it takes to make int8 of a model, and to know whether that is good enough."""

    recipe: Recipe
    """The recipe it was trained with: its training texts set the scales, its dev rows are the gate."""
    gate: float = 0.5
    """Points (hundredths of the first measure) that a head may lose on dev; one that loses more stays in float32."""
    texts: int = 300
    """Training texts that set the scales, about as many of each task."""
    cache: TokenCache | None = None
    """Where token ids are kept; default: the user's cache."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gate) and self.gate >= 0):
            raise InputError(f"the gate is in points, 0 or more; found {self.gate}")
        if self.texts < 1:
            raise InputError(f"the scales need one training text at least; found {self.texts}")


@dataclass(frozen=True)
class Verdict:
    """What int8 costs a head."""

    passes: bool
    """Whether the head may answer in int8."""
    told: str
    """Why, for a person."""
    measure: str | None = None
    """The measure that was compared; None where nothing could be measured."""
    before: float = math.nan
    after: float = math.nan


def rows_of(model: Model, chosen: Chosen, int8: Int8) -> dict[str, TaskData]:
    """{task: its training and dev rows}, of the tasks that have rows of their own.

    InputError where the data are not there, or no task has training rows.
    """
    found = {}
    for name in chosen.heads:
        kind = model.task(name).kind
        section = int8.recipe.tasks.get(name)
        if section is None:
            raise InputError(f"int8: the recipe has no task {name!r}, whose rows it needs")
        if isinstance(kind, DocumentKind):
            continue
        found[name] = load_task(
            name,
            int8.recipe,
            model.tokenizer,
            positions=model.network.encoder.shape.positions,
            kind=kind,
            splits=[split for split in ("train", "dev") if split in section.split_names],
            cache=int8.cache or TokenCache(),
        )
    if not any(map(_trains, found.values())):
        raise InputError("int8: no task has training texts of its own, by which the scales are set")
    return found


def examples(rows: Mapping[str, TaskData], chosen: Chosen, count: int) -> list[Arrays]:
    """At least `count` training texts (fewer where there are not so many) as a graph takes them."""
    able = [data for data in rows.values() if _trains(data)]
    share = -(-count // len(able))
    return [one for data in able for one in _sequences(data, "train", share, chosen)]


def verdicts(
    chosen: Chosen, rows: Mapping[str, TaskData], plain: GraphModel, small: GraphModel, gate: float
) -> dict[str, Verdict]:
    """{task: what `small` costs it beside `plain`}; a head that cannot be measured does not pass."""
    found = {}
    for name in chosen.heads:
        dev = rows[name].splits.get("dev") if name in rows else None
        if dev is None or dev.targets is None or not len(dev):
            found[name] = Verdict(False, "float32: no dev rows by which int8 could be measured")
            continue
        kind = rows[name].kind
        first, second = (
            score(kind, one.outputs_of_layout(name, dev.rows.layout), dev) for one in (plain, small)
        )
        found[name] = judged(kind, *next(iter(first.items())), next(iter(second.values())), gate)
    return found


def judged(kind: Kind, measure: str, before: float, after: float, gate: float) -> Verdict:
    """Whether the first measure of a head may go from `before` to `after`."""
    # A measure in percent has its best value, 1 of goodness, at 100.
    points = 1.0 if kind.goodness(100.0) == 1.0 else 100.0
    lost = (before - after) * points
    digits = 2 if points == 1.0 else 4
    change = f"{measure} {after:.{digits}f}, float32 {before:.{digits}f}"
    if math.isnan(before):
        return Verdict(False, f"float32: {measure} is undefined on dev, so int8 cannot be measured", measure)
    # What is lost exactly at the gate passes, however the difference was rounded.
    if not lost <= gate + 1e-9:
        told = f"float32: int8 would lose {lost:.2f} points, more than {gate:g} ({change})"
        return Verdict(False, told, measure, before, after)
    return Verdict(True, f"int8: {change}", measure, before, after)


def lowest_cosine(chosen: Chosen, rows: Mapping[str, TaskData], plain: Graph, small: Graph) -> float:
    """The lowest cosine between the embeddings that both graphs give of the same dev texts; NaN without any."""
    able = [data for data in rows.values() if "dev" in data.splits and len(data.splits["dev"])]
    found = [math.nan]
    for data in able:
        for given in _sequences(data, "dev", -(-_COMPARED // len(able)), chosen):
            (one,), (other,) = plain.ask([EMBEDDING], given), small.ask([EMBEDDING], given)
            norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            found.append(float(((one * other).sum(1) / norms).min()))
    return float(np.fmin.reduce(found))


def _trains(data: TaskData) -> bool:
    return "train" in data.splits and len(data.splits["train"]) > 0


def _sequences(data: TaskData, split: str, count: int, chosen: Chosen) -> Iterator[Arrays]:
    """Some sequences of a split, each alone (or the two of a pair): a fixed random draw."""
    layout = data.splits[split].rows.layout
    pairs = form_of(chosen.heads[data.name]) == "pairs"
    if not pairs:
        layout = replace(layout, counts=np.ones(len(layout.lengths), np.int32))
    for one in np.random.default_rng(0).permutation(len(layout))[:count]:
        yield arrays_of(layout.take(np.array([one])), chosen.inputs, pairs=pairs)
