"""AdamW by the C++ kernels of `adamw.cpp`: addresses in, weights and moments moved in place.

Knows tensors' dtypes, shapes and addresses. Must not know optimisers, models or which other ways there are.
All tensors are contiguous float32 on the CPU; `numbers` are those of a step, as `numbers_of` gives them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from manyheads.native.library import INTEGER, POINTER, REAL, Library, threads

__all__ = ["NUMBERS", "adamw", "adamw_rows", "numbers_of", "takes"]

NUMBERS = 7
"""How many numbers a step has."""

_ADAMW = (POINTER, INTEGER, POINTER, REAL, INTEGER)
_ROWS = (*(POINTER,) * 6, INTEGER, INTEGER, POINTER, INTEGER, INTEGER, REAL, INTEGER)


def numbers_of(
    step: float, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> list[float]:
    """What step number `step` (from 1) multiplies by and adds, in the order of the source."""
    first, second = betas
    return [
        1 - lr * weight_decay,
        1 - first,
        second,
        1 - second,
        lr / (1 - first**step),
        1 / math.sqrt(1 - second**step),
        eps,
    ]


def takes(weight: Tensor) -> bool:
    """Whether the kernels move such a weight."""
    return weight.device.type == "cpu" and weight.dtype is torch.float32 and weight.is_contiguous()


def adamw(
    library: Library,
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    numbers: Sequence[float],
    scale: float,
) -> None:
    """One step of all these weights, with their gradients times `scale`."""
    addresses = []
    for each in zip(weights, gradients, means, squares, strict=True):
        _check(*each)
        addresses += [*(one.data_ptr() for one in each), each[0].numel()]
    table = torch.tensor(addresses, dtype=torch.int64)
    constants = torch.tensor(numbers, dtype=torch.float64)
    library.function("mh_adamw", *_ADAMW)(
        table.data_ptr(), len(weights), constants.data_ptr(), scale, threads()
    )


def adamw_rows(
    library: Library,
    weight: Tensor,
    means: Tensor,
    squares: Tensor,
    seen: Tensor,
    rows: Tensor | None,
    gradients: Tensor | None,
    numbers: Tensor,
    first: int,
    scale: float = 1.0,
) -> None:
    """Move rows of a table [V, N] through the steps that each has not `seen` [V] int64, up to the last of `numbers`.

    `rows` [R] int64, each once and within the table, or None for all. `numbers` [K, NUMBERS] float64 are those of
    steps first + 1 … first + K. The last step has `gradients` [R, N], times `scale`; where there are none, and in the
    steps before, the gradient is 0.
    """
    _check(weight, means, squares)
    count, width = (weight if rows is None else rows).shape[0], weight.numel() // max(1, len(weight))
    if gradients is not None:
        if gradients.shape != (count, *weight.shape[1:]):
            raise ValueError(f"gradients {list(gradients.shape)} for {count} rows of {list(weight.shape)}")
        _check(gradients)
    if seen.dtype is not torch.int64 or seen.shape != weight.shape[:1] or not seen.is_contiguous():
        raise ValueError(f"seen: expected [{len(weight)}] int64, found {list(seen.shape)}, {seen.dtype}")
    if rows is not None and (rows.dtype is not torch.int64 or rows.dim() != 1 or not rows.is_contiguous()):
        raise ValueError(f"rows: expected contiguous [R] int64, found {list(rows.shape)}, {rows.dtype}")
    if numbers.dtype is not torch.float64 or numbers.shape[1:] != (NUMBERS,) or not numbers.is_contiguous():
        raise ValueError(f"numbers: expected [K, {NUMBERS}] float64, found {list(numbers.shape)}")
    if count == 0 or len(numbers) == 0:
        return
    low, high = torch.aminmax(seen if rows is None else rows)
    if rows is not None and not (int(low) >= 0 and int(high) < len(weight)):
        raise IndexError(f"rows {int(low)} to {int(high)} of a table of {len(weight)}")
    library.function("mh_adamw_rows", *_ROWS)(
        weight.data_ptr(),
        means.data_ptr(),
        squares.data_ptr(),
        seen.data_ptr(),
        None if rows is None else rows.data_ptr(),
        None if gradients is None else gradients.data_ptr(),
        count,
        width,
        numbers.data_ptr(),
        first,
        first + len(numbers),
        scale,
        threads(),
    )


def _check(*given: Tensor) -> None:
    """The kernels write to memory by these; a wrong one would write to somebody else's."""
    for x in given:
        if not takes(x) or x.numel() != given[0].numel():
            raise ValueError(
                f"expected contiguous float32 {list(given[0].shape)} on the CPU, found {list(x.shape)}, {x.dtype}"
            )
