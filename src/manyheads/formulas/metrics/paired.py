"""Two sequences side by side: what is true and what was said of it.

Knows lists, numpy arrays and tensors. Must not know what a measure makes of them.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Values", "paired"]

Values: TypeAlias = Sequence[Any] | NDArray[Any] | Tensor
"""One value for each example: any sequence, a one-dimensional array or tensor on any device."""


def paired(gold: Values, predicted: Values) -> tuple[list[Any], list[Any]]:
    """Both as lists of plain Python values; ValueError if they are empty or differ in length."""
    left, right = _listed(gold), _listed(predicted)
    if len(left) != len(right) or not left:
        raise ValueError(
            "gold and predicted expect one value each for every example, at least one; "
            f"found {len(left)} gold and {len(right)} predicted"
        )
    return left, right


def _listed(values: Values) -> list[Any]:
    if isinstance(values, np.ndarray | Tensor):
        if values.ndim != 1:
            raise ValueError(f"expected one value for each example, found the shape {tuple(values.shape)}")
        return list(values.tolist())
    # A tensor inside a list hashes by identity: two ones would count as two labels.
    return [value.item() if isinstance(value, np.generic | Tensor) else value for value in values]
