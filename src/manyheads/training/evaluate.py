"""Scoring: a split's outputs from the model as it is, measures, the predictions file.

Knows networks, splits and kinds. Must not know optimisers, checkpoints or where a run's files lie.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from manyheads.encoder.ragged import Ragged
from manyheads.errors import WorkError
from manyheads.files import replacing, write_json
from manyheads.model import Network, ragged_batches
from manyheads.tasks import Kind
from manyheads.tasks.head import Rows, joined, ordered, plain
from manyheads.training.frozen import Vectors
from manyheads.training.splits import Split, TaskData

__all__ = ["goodness", "outputs_of", "score", "tune", "write_predictions", "write_tallies"]


@torch.no_grad()
def outputs_of(
    network: Network,
    task: str,
    split: Split,
    vectors: Vectors | None = None,
    progress: Callable[[int], None] | None = None,
) -> Rows:
    """The head's outputs for a whole split, in its order, in eval mode, on the CPU in float32 (or float64).

    `vectors`, where the encoder is frozen, are what the head reads of it.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    order, batches = ragged_batches(split.rows.lengths)
    found: list[Rows] = []
    for begin, end in batches:
        if vectors is None:
            layout = split.rows.batch(order[begin:end])
            ragged = Ragged.of_layout(layout).to(device)
            outputs = network(ragged, [(task, 0, len(layout.lengths))])[0]
        else:
            outputs = network.head(task)(vectors.take(order[begin:end]).to(device))
        found.append(outputs.cpu())
        if progress is not None:
            progress(end - begin)
    network.train(was_training)
    if not all(bool(plain(one).isfinite().all()) for one in found):
        raise WorkError(
            f"task {task}: the model answers with numbers that are not finite; a smaller optimizer.lr may help"
        )
    return ordered(joined(found), np.argsort(order, kind="stable"))


def score(kind: Kind, outputs: Rows, split: Split) -> dict[str, float]:
    """The kind's measures of a split's outputs against its targets (which it must have)."""
    return kind.measures(outputs, _targets(split), split.examples)


def tune(kind: Kind, outputs: Rows, split: Split) -> None:
    """Let the kind choose what is chosen on a split with targets."""
    kind.tune(outputs, _targets(split), split.examples)


def _targets(split: Split) -> torch.Tensor:
    assert split.targets is not None
    return torch.from_numpy(split.targets)


def write_tallies(path: Path, kind: Kind, split: Split, outputs: Rows) -> None:
    """The kind's tallies [n, k] of a split with targets, as `.npy`: what significance is computed from."""
    with replacing(path) as beside, open(beside, "wb") as file:
        np.save(file, kind.tallies(outputs, _targets(split), split.examples))


def goodness(tasks: Sequence[TaskData], scores: Mapping[str, Mapping[str, float]]) -> float:
    """The number that chooses the best checkpoint: the mean over tasks of the first measure, each from 0 to 1."""
    each = [
        task.kind.goodness(next(iter(scores[task.name].values()))) for task in tasks if task.name in scores
    ]
    return float(np.mean(each))


def write_predictions(path: Path, kind: Kind, split: Split, outputs: Rows) -> None:
    """`row, gold, …` for each row of a split as csv, with the kind's columns; a benchmark's own files beside."""
    predictions = kind.predictions(outputs, split.examples)
    values, places = split.rows.values, split.rows.places
    with replacing(path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        several = len({place.file for place in places}) > 1
        names = list(kind.cells(predictions[0])[0])
        head = (["file"] if several else []) + ["row"] + (["gold"] if values is not None else [])
        writer.writerow([*head, *names, "truncated"])
        for i, (place, prediction) in enumerate(zip(places, predictions, strict=True)):
            cells = kind.cells(prediction)
            gold = [[]] * len(cells) if values is None else [[one] for one in kind.told(values[i])]
            members = [place.row] if split.rows.members is None else split.rows.members[i]
            if len(members) != len(cells):  # a row that holds a list of candidates
                members = [place.row] * len(cells)
            dropped = split.rows.dropped_of(i)
            if len(dropped) != len(cells):
                dropped = [sum(dropped)] * len(cells)
            for row, one, meant, lost in zip(members, cells, gold, dropped, strict=True):
                start: list[object] = ([place.file] if several else []) + [row]
                cut = str(lost > 0).lower()
                writer.writerow([*start, *meant, *(one[name] for name in names), cut])
    for ending, content in kind.official(predictions, split.examples).items():
        write_json(path.with_name(path.stem + ending), content)
