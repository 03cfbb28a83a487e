"""What a student is asked to answer: the truth, its teacher's answer, or a mixture that moves between them.

Knows tensors and the progress of training as a number from 0 to 1. Must not know teachers, tasks, the training
loop or recipes.

Clark et al. (2019), "BAM! Born-again multi-task networks for natural language understanding", section 2.2,
arXiv 1907.04829: the student learns from its teacher first and from the truth in the end.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import torch
from numpy.typing import NDArray
from pydantic import AfterValidator
from torch import Tensor

from manyheads.errors import nearest, shown

__all__ = ["ANNEALS", "Anneal", "check_anneal", "gold_share", "mixed_target"]

ANNEALS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "none": lambda progress: 0.0,
    "gold": lambda progress: 1.0,
}
"""Name in a recipe → λ, the share of the truth, at a given progress of training."""

_CONSTANT = "constant:"


def gold_share(progress: float, anneal: str = "linear") -> float:
    """λ, the share of the truth in the target, where `progress` of the training is done (0 to 1, of its steps).

    `linear`: from 0 to 1, as in BAM; `none`: always the teacher; `gold`: always the truth; `constant:0.5`: that
    share throughout. ValueError for a progress outside 0 to 1 or an `anneal` that is none of these.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"'progress' expects a number from 0 to 1, found {progress!r}")
    return float(_rule(anneal)(progress))


def check_anneal(text: str) -> str:
    """`text` itself if `gold_share` understands it, else ValueError."""
    _rule(text)
    return text


Anneal = Annotated[str, AfterValidator(check_anneal)]
"""The type of a setting that says how λ runs."""


def _rule(anneal: str) -> Callable[[float], float]:
    """progress → λ."""
    if anneal in ANNEALS:
        return ANNEALS[anneal]
    if anneal.startswith(_CONSTANT):
        given = anneal.removeprefix(_CONSTANT)
        try:
            share = float(given)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise ValueError(f"{_CONSTANT!r} expects a share from 0 to 1 after it, found {shown(given)}")
        return lambda progress: share
    names = [*ANNEALS, f"{_CONSTANT}0.5"]
    hint = nearest(anneal, names)
    raise ValueError(f"no annealing {shown(anneal)}, expected one of {', '.join(names)}{hint}")


Values: TypeAlias = Tensor | NDArray[Any] | Sequence[Any] | float
"""A tensor, or what torch makes one of."""


def mixed_target(gold: Values, teacher: Values, progress: float, anneal: str = "linear") -> Tensor:
    """λ · gold + (1 − λ) · teacher, of the shape of both; λ as in `gold_share`.

    For classes `gold` is one-hot and `teacher` gives probabilities, [B, C] or any other shape; for numbers both
    are values, [B]. At λ = 0 and λ = 1 the result is exactly the one or the other. ValueError where the shapes
    differ: nothing is broadcast, so class numbers [B] cannot pass for one-hot rows.
    """
    share = gold_share(progress, anneal)
    truth, taught = torch.as_tensor(gold), torch.as_tensor(teacher)
    if truth.shape != taught.shape:
        raise ValueError(
            f"expected gold and teacher of one shape, found {tuple(truth.shape)} and {tuple(taught.shape)}"
        )
    return share * truth + (1 - share) * taught
