"""What heads read of a frozen encoder: computed once for every row, without dropout, and kept on disk.

Knows networks and encoded splits. Must not know losses, optimisers or the loop.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from manyheads.encoder.ragged import Ragged
from manyheads.model import Network, ragged_batches
from manyheads.training.splits import Split

__all__ = ["taken", "vectors_of"]

Vectors = NDArray[Any]


@torch.no_grad()
def vectors_of(
    network: Network, task: str, split: Split, path: Path, progress: Callable[[int], None] | None = None
) -> Vectors:
    """What the task's head reads of each sequence of a split, [n · k, H]: a memory-mapped file at `path`.

    Computed in eval mode with the network's own precision, kept in float32 (float64 for a float64 network).
    """
    was_training = network.training
    network.eval()
    parameter = next(network.parameters())
    dtype = np.float64 if parameter.dtype is torch.float64 else np.float32
    k, head = split.rows.sequences_per_example, network.head(task)
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (len(split) * k, network.encoder.shape.hidden)
    found: Vectors = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    order, batches = ragged_batches(split.rows.lengths)
    for begin, end in batches:
        ids, segments, lengths = split.rows.batch(order[begin:end])
        ragged = Ragged.of_flat(ids, segments, lengths).to(parameter.device)
        vectors = head.read(network.encoder.encode(ragged))
        which = (order[begin:end, None] * k + np.arange(k)).ravel()
        found[which] = vectors.cpu().numpy()
        if progress is not None:
            progress(end - begin)
    network.train(was_training)
    return found


def taken(vectors: Vectors, rows: NDArray[np.int64], k: int) -> torch.Tensor:
    """The vectors [len(rows) · k, H] of some examples."""
    return torch.from_numpy(np.ascontiguousarray(vectors[(rows[:, None] * k + np.arange(k)).ravel()]))
