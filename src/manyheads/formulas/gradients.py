"""What tasks want of the weights they share: do their gradients agree, and what to do where they do not.

Knows the gradients of m tasks as the rows of a matrix, and their losses as numbers. Must not know tasks,
models, the training loop or recipes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["cosines", "pcgrad", "uncertainty_loss"]


def cosines(gradients: Tensor) -> Tensor:
    """The cosine of the angle between each two rows of `gradients` [m, n]; symmetric [m, m], from -1 to 1.

    A gradient of zero has no direction: its row and column are NaN, its own place on the diagonal too. So is
    one so small that its square is zero in the dtype.
    """
    products = _products(gradients)
    lengths = products.diagonal().sqrt()
    # 0/0 is NaN, and clamp leaves it so; it only takes back what rounding put beyond 1.
    return (products / lengths.outer(lengths)).clamp(-1, 1).to(gradients.dtype)


def pcgrad(
    gradients: Tensor,
    *,
    generator: torch.Generator | None = None,
    order: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """One direction [n] for all the rows of `gradients` [m, n], without what works against another task.

    Gradient surgery (Yu et al., 2020, arXiv 2001.06782, algorithm 1): each task's gradient meets the original
    gradients of the others in random order, and loses its component along every one that it still conflicts
    with (a negative dot product); the result is the sum of what is left. Without conflicts that is the sum of
    the gradients.

    `generator` draws the orders, one permutation of all m tasks for each task in turn; `order` gives them
    instead: item i lists the tasks that task i meets, itself left out or passed over. ValueError where `order`
    does not hold each other task once.
    """
    products = _products(gradients).cpu()
    tasks = len(products)
    # Whatever is left of a gradient is a mixture of the originals, so that all dot products follow from those
    # of the originals and the long vectors are touched twice, not m² times. Row i: the mixture for task i.
    shares = torch.eye(tasks, dtype=products.dtype)
    for task, others in enumerate(_orders(tasks, generator, order)):
        for other in others:
            along = shares[task] @ products[:, other]
            if other != task and along < 0 < products[other, other]:
                shares[task, other] -= along / products[other, other]
    return shares.sum(0).to(gradients) @ gradients


def _products(gradients: Tensor) -> Tensor:
    """All dot products of the rows [m, n], as float64; symmetric [m, m]."""
    if gradients.dim() != 2:
        raise ValueError(f"expected one gradient a row, [m, n], found the shape {tuple(gradients.shape)}")
    products = (gradients @ gradients.T).double()
    return (products + products.T) / 2  # a matrix product need not round both halves alike


def _orders(
    tasks: int, generator: torch.Generator | None, order: Sequence[Sequence[int]] | None
) -> list[list[int]]:
    """For each task, the tasks that it meets."""
    if order is None:
        place = "cpu" if generator is None else generator.device
        draw = [torch.randperm(tasks, generator=generator, device=place) for _ in range(tasks)]
        return [[int(other) for other in drawn.tolist()] for drawn in draw]
    given = [[int(other) for other in others] for others in order]
    full = [sorted({*others, task}) == list(range(tasks)) for task, others in enumerate(given)]
    if len(given) != tasks or not all(full) or any(len(others) != len(set(others)) for others in given):
        raise ValueError(f"'order' expects, for each of {tasks} tasks, each other task once, found {given!r}")
    return given


def uncertainty_loss(
    losses: Sequence[Tensor] | Tensor, log_variances: Tensor, halves: Sequence[bool]
) -> Tensor:
    """Each task's loss, weighted by a variance that is learnt with it; [m], whose sum is the objective.

    With s = log σ² of a task (`log_variances` [m]) and L its loss (`losses`, m scalars or [m]): ½·e^(−s)·L + ½·s
    where `halves` is true (squared errors of a regression), e^(−s)·L + ½·s where not (cross entropies); Kendall
    et al. (2018), arXiv 1705.07115, equations 7 and 10. ValueError unless all three have m items.
    """
    stacked = losses if isinstance(losses, Tensor) else torch.stack(list(losses))
    if stacked.dim() != 1 or stacked.shape != log_variances.shape or len(stacked) != len(halves):
        found = f"{tuple(stacked.shape)}, {tuple(log_variances.shape)} and {len(halves)}"
        raise ValueError(f"expected a loss, a log variance and a kind for each task, found {found}")
    factors = torch.tensor([0.5 if half else 1.0 for half in halves]).to(log_variances)
    return factors * torch.exp(-log_variances) * stacked + 0.5 * log_variances
