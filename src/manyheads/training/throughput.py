"""How much of what the machine can do a training uses: operations of its products, and those that are possible.

Knows shapes, batches and devices. Must not know tasks, losses or the loop.
"""

import time
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from manyheads.encoder.products import times
from manyheads.encoder.ragged import Ragged
from manyheads.model import Network
from manyheads.training.objective import Part

__all__ = ["operations", "possible"]

# Dense bfloat16 or float16 products without sparsity, in operations a second, from the makers' data sheets.
_SHEETS = {
    "NVIDIA H200": 989.4e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A10": 125e12,
    "Tesla T4": 65e12,
    "Tesla V100": 125e12,
}
_WIDTH = {"cpu": 1536, "cuda": 8192}  # of the square product that a device is measured by


def operations(network: Network, ragged: Ragged, parts: Sequence[Part]) -> float:
    """The floating point operations of a step's products, forward and backward, where no token is padding.

    6 for each weight of the layers and each token, 12 · layers · H for each pair of tokens that attend to each other
    (Chowdhery et al. 2022, "PaLM", appendix B), and 6 for each weight of a head that is as large, and each of its
    rows; less what the last layer leaves out for tokens that no head reads. What is computed besides (embeddings,
    norms, other passes of a regularizer) does not count.
    """
    shape = network.encoder.shape
    weights = shape.layers * (4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate)
    squares = float((ragged.lengths.astype(np.float64) ** 2).sum())
    counted = 6.0 * weights * ragged.tokens + 12.0 * shape.layers * shape.hidden * squares
    if not any(network.head(part.task).all_layers for part in parts):
        read = network.rows_read(ragged, [(part.task, part.begin, part.end) for part in parts])
        unread = 0 if read is None else ragged.tokens - len(read)
        counted -= 6.0 * (shape.hidden**2 + 2 * shape.hidden * shape.intermediate) * unread
    for part in parts:
        counted += 6.0 * network.head(part.task).weights_a_row * len(part.targets)
    return counted


@lru_cache
def possible(device: str, compute: torch.dtype) -> tuple[float, str]:
    """The operations a second of the device's products in that dtype, and whence the number is: `data sheet`, or
    `measured` as the best of some square products."""
    place = torch.device(device)
    if place.type == "cuda":
        name = torch.cuda.get_device_name(place)
        for known, peak in _SHEETS.items():
            if name.startswith(known) and compute in (torch.bfloat16, torch.float16):
                return peak, "data sheet"
    width = _WIDTH.get(place.type, 1536)
    a = torch.ones(width, width, dtype=compute, device=place)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        product = times(a, a)
        float(product[0, 0])  # a device works on its own until something is asked of it
        best = min(best, time.perf_counter() - began)
    return 2.0 * width**3 / best, "measured"
