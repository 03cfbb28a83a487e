"""Which vector stands for a sequence.

Knows states. Must not know tasks or heads.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from manyheads.encoder.bert import States
from manyheads.encoder.reading import Reads

__all__ = ["POOLINGS", "READ_BY", "Pooling"]

Pooling = Literal["pooled", "cls", "mean", "last"]

POOLINGS: dict[Pooling, Callable[[States], Tensor]] = {
    "pooled": States.pooled,
    "cls": States.first,
    "mean": States.mean,
    "last": States.last,
}

READ_BY: dict[Pooling, Reads] = {"pooled": "first", "cls": "first", "mean": "tokens", "last": "last"}
"""Which tokens' states each of them takes."""
