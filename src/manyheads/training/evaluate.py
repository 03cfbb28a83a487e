"""Scoring: a split's outputs from the model as it is, measures, the predictions file.

Knows networks, splits and kinds. Must not know optimisers, checkpoints or where a run's files lie.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from manyheads.encoder.ragged import Ragged
from manyheads.errors import WorkError
from manyheads.files import replacing, write_json
from manyheads.model import Network
from manyheads.passes import ragged_batches, read_in_pieces, whole
from manyheads.tasks import Kind
from manyheads.tasks.head import Rows, joined, ordered, plain
from manyheads.training.documents import Spans
from manyheads.training.frozen import Vectors
from manyheads.training.objective import Part
from manyheads.training.splits import Split, TaskData

__all__ = [
    "Running",
    "calibrate",
    "goodness",
    "outputs_of",
    "score",
    "tallies",
    "tallies_of",
    "tune",
    "write_predictions",
    "write_spans",
    "write_tallies",
]


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
    rows, pieces = split.rows, None
    if vectors is None:
        cut, pieces = read_in_pieces(rows.layout, [network.head(task)])
        rows = replace(rows, layout=cut)
    ended = np.ones(len(rows.lengths), dtype=np.int64)  # how many examples are done with a piece
    if pieces is not None:
        ended[:] = 0
        ended[np.cumsum(pieces) - 1] = 1
    order, batches = ragged_batches(rows.lengths)
    found: list[Rows] = []
    for begin, end in batches:
        if vectors is None:
            layout = rows.batch(order[begin:end])
            ragged = Ragged.of_layout(layout).to(device)
            outputs = network(ragged, [(task, 0, len(layout.lengths))])[0]
        else:
            outputs = network.head(task)(vectors.take(order[begin:end]).to(device))
        found.append(outputs.cpu())
        if progress is not None:
            progress(int(ended[order[begin:end]].sum()))
    network.train(was_training)
    if not all(bool(plain(one).isfinite().all()) for one in found):
        raise WorkError(_not_finite(task))
    return whole(ordered(joined(found), np.argsort(order, kind="stable")), pieces)


@torch.no_grad()
def tallies_of(
    network: Network, task: TaskData, spans: Spans, progress: Callable[[int], None] | None = None
) -> dict[str, NDArray[np.float64]]:
    """{task: its kind's tallies [n, k]} of all spans of a split, for the task and for those that read with it.

    In eval mode, and batch by batch: outputs as wide as a vocabulary are not kept.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    several = (task, *task.beside)
    found: dict[str, list[NDArray[np.float64]]] = {one.name: [] for one in several}
    for block in spans.blocks():
        order, batches = ragged_batches(block.layout.lengths_of_examples)
        of_block: dict[str, list[NDArray[np.float64]]] = {one.name: [] for one in several}
        for begin, end in batches:
            drawn = block.take(order[begin:end])
            ragged = Ragged.of_layout(drawn.layout).to(device)
            outputs = network(ragged, [(one.name, 0, len(ragged)) for one in several])
            for one, said, answers in zip(several, outputs, drawn.answers, strict=True):
                if not bool(plain(said).isfinite().all()):
                    raise WorkError(_not_finite(one.name))
                numbers = one.kind.tallies(said.cpu(), torch.from_numpy(answers.targets))
                of_block[one.name].append(numbers)
            if progress is not None:
                progress(end - begin)
        back = np.argsort(order, kind="stable")
        for name, parts in of_block.items():
            found[name].append(np.concatenate(parts)[back])
    network.train(was_training)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _not_finite(task: str) -> str:
    return f"task {task}: the model answers with numbers that are not finite; a smaller optimizer.lr may help"


def score(kind: Kind, outputs: Rows, split: Split) -> dict[str, float]:
    """The kind's measures of a split's outputs against its targets (which it must have)."""
    return kind.measures(outputs, _targets(split), split.examples)


def tune(kind: Kind, outputs: Rows, split: Split) -> None:
    """Let the kind choose what is chosen on a split with targets."""
    kind.tune(outputs, _targets(split), split.examples)


def calibrate(kind: Kind, outputs: Rows, split: Split) -> None:
    """Let the kind find its temperature on a split with targets."""
    kind.calibrate(outputs, _targets(split))


def _targets(split: Split) -> torch.Tensor:
    assert split.targets is not None
    return torch.from_numpy(split.targets)


def tallies(kind: Kind, outputs: Rows, split: Split) -> NDArray[np.float64]:
    """The kind's tallies [n, k] of a split's outputs against its targets (which it must have)."""
    return kind.tallies(outputs, _targets(split), split.examples)


def write_tallies(path: Path, tallies: NDArray[np.float64]) -> None:
    """Tallies [n, k] as `.npy`: what significance is computed from."""
    with replacing(path) as beside, open(beside, "wb") as file:
        np.save(file, tallies)


class Running:
    """What a training's own batches say of its tasks between two evaluations: answers given with dropout, by weights
    that moved meanwhile.

    Of kinds whose answer is one row an example; others would have to look back at their texts in every step, or at
    as many numbers as a vocabulary has words.
    """

    def __init__(self) -> None:
        self._said: dict[str, tuple[Kind, list[torch.Tensor], list[torch.Tensor]]] = {}

    def note(self, parts: Sequence[Part], outputs: Sequence[Rows]) -> None:
        """Remember what was said of a batch."""
        for part, said in zip(parts, outputs, strict=True):
            one_each = isinstance(said, torch.Tensor) and len(said) == len(part.targets)
            if one_each and not part.kind.keeps_inputs:
                _, rows, targets = self._said.setdefault(part.task, (part.kind, [], []))
                rows.append(plain(said).detach())
                targets.append(part.targets)

    def take(self) -> dict[str, dict[str, float]]:
        """{task: its measures} since the last time, and begin anew."""
        found = {
            task: kind.measures(torch.cat(rows).float().cpu(), torch.cat(targets))
            for task, (kind, rows, targets) in self._said.items()
        }
        self._said = {}
        return found


def write_spans(path: Path, spans: Spans) -> None:
    """`row, span, tokens` for each span of a split of documents as csv: which they are, so that answers to the same
    ones can be compared."""
    with replacing(path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", "span", "tokens"])
        writer.writerows((row, name, tokens) for row, (tokens, name) in enumerate(spans.names(), start=1))


def goodness(tasks: Sequence[TaskData], scores: Mapping[str, Mapping[str, float]]) -> float:
    """The number that chooses the best checkpoint: the mean over tasks of the first measure, each from 0 to 1."""
    each = [
        task.kind.goodness(next(iter(scores[task.name].values()))) for task in tasks if task.name in scores
    ]
    return float(np.mean(each))


def write_predictions(path: Path, kind: Kind, split: Split, outputs: Rows) -> None:
    """`row, gold, …` for each row of a split as csv, with the kind's columns; a benchmark's own files beside."""
    predictions = kind.predictions(kind.calibrated(outputs), split.examples)
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
