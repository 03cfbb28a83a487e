"""Scoring: a split's outputs from the model as it is, measures, the predictions file.

Knows networks, splits and kinds. Must not know optimisers, checkpoints or where a run's files lie.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from manyheads.encoder.ragged import Ragged
from manyheads.errors import WorkError
from manyheads.files import replacing
from manyheads.model import Network, ragged_batches
from manyheads.tasks import Kind
from manyheads.training.frozen import Vectors, taken
from manyheads.training.splits import Split, TaskData

__all__ = ["goodness", "outputs_of", "score", "write_predictions", "write_tallies"]


@torch.no_grad()
def outputs_of(
    network: Network,
    task: str,
    split: Split,
    vectors: Vectors | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """The head's outputs [n, outputs] for a whole split, in eval mode, on the CPU in float32 (or float64).

    `vectors`, where the encoder is frozen, are what the head reads of it.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    order, batches = ragged_batches(split.rows.lengths)
    found = []
    for begin, end in batches:
        if vectors is None:
            ids, segments, lengths = split.rows.batch(order[begin:end])
            ragged = Ragged.of_flat(ids, segments, lengths).to(device)
            outputs = network(ragged, [(task, 0, len(lengths))])[0]
        else:
            read = taken(vectors, order[begin:end], split.rows.sequences_per_example)
            outputs = network.head(task)(read.to(device))
        found.append(outputs.cpu())
        if progress is not None:
            progress(end - begin)
    network.train(was_training)
    if not all(bool(one.isfinite().all()) for one in found):
        raise WorkError(
            f"task {task}: the model answers with numbers that are not finite; a smaller optimizer.lr may help"
        )
    return torch.cat(found)[torch.from_numpy(np.argsort(order, kind="stable"))]


def score(kind: Kind, outputs: Tensor, split: Split) -> dict[str, float]:
    """The kind's measures of outputs [n, …] against the split's targets (which it must have)."""
    assert split.targets is not None
    return kind.measures(outputs, torch.from_numpy(split.targets))


def write_tallies(path: Path, kind: Kind, split: Split, outputs: Tensor) -> None:
    """The kind's tallies [n, k] of a split with targets, as `.npy`: what significance is computed from."""
    assert split.targets is not None
    with replacing(path) as beside, open(beside, "wb") as file:
        np.save(file, kind.tallies(outputs, torch.from_numpy(split.targets)))


def goodness(tasks: Sequence[TaskData], scores: Mapping[str, Mapping[str, float]]) -> float:
    """The number that chooses the best checkpoint: the mean over tasks of the first measure, each from 0 to 1."""
    each = [
        task.kind.goodness(next(iter(scores[task.name].values()))) for task in tasks if task.name in scores
    ]
    return float(np.mean(each))


def write_predictions(path: Path, kind: Kind, split: Split, outputs: Tensor) -> None:
    """`row, gold, …` for each example of a split as csv: label, score and each label's probability, or value."""
    predictions = kind.predictions(outputs)
    dropped = split.rows.dropped.reshape(-1, split.rows.sequences_per_example).sum(1)
    with replacing(path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        several = len({place.file for place in split.rows.places}) > 1
        names = list(predictions[0].probabilities or {})
        labelled = predictions[0].label is not None
        head = (["file"] if several else []) + ["row"] + (["gold"] if split.rows.values is not None else [])
        head += ["label", "score", *(f"p:{name}" for name in names)] if labelled else ["value"]
        writer.writerow([*head, "truncated"])
        for i, (place, prediction) in enumerate(zip(split.rows.places, predictions, strict=True)):
            row: list[object] = ([place.file] if several else []) + [place.row]
            if split.rows.values is not None:
                row.append(split.rows.values[i])
            if labelled:
                shares = prediction.probabilities or {}
                row += [prediction.label, prediction.score, *(shares[name] for name in names)]
            else:
                row.append(prediction.value)
            writer.writerow([*row, str(bool(dropped[i])).lower()])
