"""What heads read of a frozen encoder: computed once for every row, without dropout, and kept on disk.

Knows networks and encoded splits. Must not know losses, optimisers or the loop.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manyheads.encoder.grouped import Grouped
from manyheads.encoder.ragged import Ragged
from manyheads.model import Network
from manyheads.passes import ragged_batches
from manyheads.tasks.head import Rows, plain
from manyheads.training.splits import Split

__all__ = ["Vectors", "vectors_of"]


@dataclass(frozen=True, eq=False)
class Vectors:
    """What a head read of each example of a split."""

    rows: NDArray[Any]
    """[R, width] memory-mapped, the examples' rows in the order they were read."""
    starts: NDArray[np.int64]
    """[n] the first row of each example."""
    counts: NDArray[np.int64]
    """[n] rows of each example."""
    groups: list[NDArray[np.int64]] | None
    """Sizes of the groups of each example; None where the head reads a plain tensor."""
    several: bool
    """Whether an example may have several groups."""

    def take(self, examples: NDArray[np.int64]) -> Rows:
        """What it read of some examples, in that order."""
        counts = self.counts[examples]
        begins = np.cumsum(counts) - counts
        places = np.repeat(self.starts[examples] - begins, counts) + np.arange(int(counts.sum()))
        rows = torch.from_numpy(np.ascontiguousarray(self.rows[places]))
        if self.groups is None:
            return rows
        groups = [self.groups[i] for i in examples.tolist()]
        each = np.array([len(one) for one in groups], dtype=np.int64) if self.several else None
        return Grouped(rows, np.concatenate(groups), each)


@torch.no_grad()
def vectors_of(
    network: Network, task: str, split: Split, path: Path, progress: Callable[[int], None] | None = None
) -> Vectors:
    """What the task's head reads of each example of a split; its rows are a memory-mapped file at `path`.

    Computed in eval mode with the network's own precision, kept in float32 (float64 for a float64 network).
    """
    was_training = network.training
    network.eval()
    parameter = next(network.parameters())
    dtype = np.float64 if parameter.dtype is torch.float64 else np.float32
    head = network.head(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    n = len(split)
    starts, counts = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    groups: list[NDArray[np.int64]] | None = None
    several = False
    width = total = 0
    order, batches = ragged_batches(split.rows.lengths)
    with open(path, "wb") as file:
        for begin, end in batches:
            which = order[begin:end]
            layout = split.rows.batch(which)
            ragged = Ragged.of_layout(layout).to(parameter.device)
            deep = head.all_layers
            some = None if deep else network.rows_read(ragged, [(task, 0, len(ragged))])
            read = head.read(network.encoder.encode(ragged, all_layers=deep, rows=some))
            if isinstance(read, Grouped):
                each = read.rows_of_examples
                groups = groups or [np.zeros(0, dtype=np.int64)] * n
                several = read.counts is not None
                bounds = np.cumsum(np.ones(len(which), np.int64) if read.counts is None else read.counts)
                for at, sizes in zip(which.tolist(), np.split(read.sizes, bounds[:-1]), strict=True):
                    groups[at] = sizes
            else:
                each = layout.counts.astype(np.int64) * len(read) // len(layout.lengths)
            counts[which] = each
            starts[which] = total + np.cumsum(each) - each
            found = plain(read).cpu().numpy().astype(dtype)
            total, width = total + len(found), found.shape[1]
            found.tofile(file)
            if progress is not None:
                progress(end - begin)
    network.train(was_training)
    rows: NDArray[Any] = np.memmap(path, dtype=dtype, mode="r", shape=(total, width))
    return Vectors(rows, starts, counts, groups, several)
