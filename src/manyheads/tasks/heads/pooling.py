"""Which vector stands for a sequence.

Knows states. Must not know tasks or heads.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from manyheads.encoder.bert import States

__all__ = ["POOLINGS", "Pooling"]

Pooling = Literal["pooled", "cls", "mean", "last"]

POOLINGS: dict[Pooling, Callable[[States], Tensor]] = {
    "pooled": States.pooled,
    "cls": States.first,
    "mean": States.mean,
    "last": States.last,
}
