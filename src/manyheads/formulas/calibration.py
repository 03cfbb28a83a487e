"""Does a probability of 0.8 come true in 80% of cases: temperature scaling, reliability, calibration errors.

Knows logits, label numbers and groups of scores as plain tensors. Must not know tasks, files or recipes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyheads.formulas.metrics.paired import Values

__all__ = [
    "COLDEST",
    "HOTTEST",
    "Reliability",
    "classwise_calibration_error",
    "expected_calibration_error",
    "reliability",
    "temperature",
    "temperature_of_groups",
]

COLDEST, HOTTEST = 0.05, 20.0
"""The lowest and the highest temperature that is ever found."""

_STEPS = 200  # halvings of the interval alone need 60


# ---- temperature ----


def temperature(logits: Tensor, targets: Tensor) -> float:
    """The T > 0 for which softmax(logits / T) makes the targets most likely (Guo et al. 2017, section 4.2).

    `logits` [B, C] are those of C labels, or [B, 1] log-odds of the second of two labels against the first; `targets`
    [B] are label numbers, or [B, C] probabilities (a row of zeros does not count). The negative log-likelihood is
    convex in 1/T, so that the minimum is the only one; it is looked for from `COLDEST` to `HOTTEST`. Where the
    targets are answered without any error it lies at no finite place and the result is `COLDEST`; where nothing
    depends on T (no rows, logits that are all equal) the result is 1. ValueError for shapes that do not fit, targets
    that are no labels, or logits that are not finite.
    """
    if logits.ndim != 2:
        raise ValueError(f"'logits' expects a row for each example, found the shape {tuple(logits.shape)}")
    exact = logits.detach().double()
    if exact.shape[1] == 1:
        exact = torch.cat([torch.zeros_like(exact), exact], 1)
    count, labels = exact.shape
    if targets.shape == (count,):
        numbers = targets.detach().to(exact.device).long()
        if count and not (int(numbers.min()) >= 0 and int(numbers.max()) < labels):
            raise ValueError(f"'targets' expects label numbers below {labels}, found {targets.tolist()[:8]}")
        shares = torch.zeros_like(exact).scatter(1, numbers[:, None], 1.0)
    elif targets.shape == exact.shape:
        shares = targets.detach().to(exact)
    else:
        raise ValueError(
            f"'targets' expects {count} label numbers or probabilities {tuple(exact.shape)}, "
            f"found the shape {tuple(targets.shape)}"
        )
    owners = torch.arange(count, device=exact.device).repeat_interleave(labels)
    return _temperature(exact.reshape(-1, 1), shares.reshape(-1, 1), owners)


def temperature_of_groups(scores: Tensor, shares: Tensor, owners: Tensor) -> float:
    """`temperature` where a distribution is the softmax over the rows of a group: candidates, places in a text.

    `scores` [R, C] have a softmax in each column, over the rows r with the same `owners` [R]; `shares` [R, C] are the
    targets, which add up to 1 over a group, or to 0 where nothing is known of it.
    """
    if scores.ndim != 2 or shares.shape != scores.shape or owners.shape != scores.shape[:1]:
        raise ValueError(
            f"'scores' and 'shares' expect the same shape and 'owners' one number a row, found "
            f"{tuple(scores.shape)}, {tuple(shares.shape)} and {tuple(owners.shape)}"
        )
    exact = scores.detach().double()
    return _temperature(exact, shares.detach().to(exact), owners.to(exact.device).long())


def _temperature(scores: Tensor, shares: Tensor, owners: Tensor) -> float:
    """Newton's method on the derivative by β = 1/T of Σ (w · logΣexp(β·x) − β·Σ p·x), w = Σ p over each group.

    The derivative Σ (w·q − p)·x, with q the softmax, rises with β; its own is Σ w·Var_q(x). A step that leaves the
    interval in which the sign changes is replaced by halving it.
    """
    if not bool(scores.isfinite().all()) or not bool(shares.isfinite().all()):
        raise ValueError("expected finite logits and targets")
    if not len(scores):
        return 1.0
    shape = (int(owners.max()) + 1, scores.shape[1])
    places = owners[:, None].expand_as(scores)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(shape).index_add(0, owners, values)

    def extreme(which: str) -> Tensor:
        found = scores.new_zeros(shape).scatter_reduce(0, places, scores, which, include_self=False)
        return found.index_select(0, owners)

    weights = total(shares).index_select(0, owners)
    x = scores - extreme("amax")  # no term overflows, and only differences count
    if not bool(((weights > 0) & (extreme("amin") < extreme("amax"))).any()):
        return 1.0
    wanted = float((shares * x).sum())

    def slopes(beta: float) -> tuple[float, float]:
        raised = (beta * x).exp()
        q = raised / total(raised).index_select(0, owners)
        mean = total(q * x).index_select(0, owners)
        return float((weights * q * x).sum()) - wanted, float((weights * q * (x - mean) ** 2).sum())

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slopes(high)[0] <= 0:
        return COLDEST
    if slopes(low)[0] >= 0:
        return HOTTEST
    beta = 1.0
    for _ in range(_STEPS):
        first, second = slopes(beta)
        if first == 0:
            break
        low, high = (low, beta) if first > 0 else (beta, high)
        step = beta - first / second if second > 0 else math.inf
        following = step if low < step < high else (low + high) / 2
        done = abs(following - beta) <= 1e-14 * beta
        beta = following
        if done:
            break
    return 1 / beta


# ---- reliability ----


@dataclass(frozen=True, eq=False)
class Reliability:
    """Answers sorted into M bins of equal width by how probable they were said to be (a reliability diagram)."""

    counts: NDArray[np.int64]
    """[M] answers in each bin."""
    confidence: NDArray[np.float64]
    """[M] the mean of the probabilities that were said; NaN in an empty bin."""
    accuracy: NDArray[np.float64]
    """[M] the share of answers that are right; NaN in an empty bin."""

    @property
    def edges(self) -> NDArray[np.float64]:
        """[M + 1] where the bins begin and end; a bin has its upper end and not its lower one, the first has both."""
        return np.linspace(0, 1, len(self.counts) + 1)

    @property
    def error(self) -> float:
        """The expected calibration error: the mean of |accuracy − confidence| over all answers; NaN without any."""
        filled = self.counts > 0
        if not filled.any():
            return math.nan
        gaps = np.abs(self.accuracy[filled] - self.confidence[filled])
        return float((gaps * self.counts[filled]).sum() / self.counts.sum())


def reliability(confidence: Values, right: Values, bins: int = 15) -> Reliability:
    """How often answers were right among those that were said with about the same probability.

    `confidence` [n] are probabilities of the answers, `right` [n] says of each whether it is right (1 or True) or not.
    ValueError for lengths that differ, probabilities outside 0 to 1, and fewer bins than one.
    """
    if bins < 1:
        raise ValueError(f"'bins' expects a number of at least 1, found {bins!r}")
    said, came = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if said.ndim != 1 or said.shape != came.shape:
        raise ValueError(
            f"'confidence' and 'right' expect the same answers, found {said.shape} and {came.shape}"
        )
    # A sum of rounded probabilities may lie a little above 1.
    if said.size and not (said.min() >= -1e-9 and said.max() <= 1 + 1e-9):
        raise ValueError("'confidence' expects probabilities from 0 to 1")
    if not np.isin(came, (0, 1)).all():
        raise ValueError("'right' expects 0 or 1 for each answer")
    number = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], said, side="left")
    counts = np.bincount(number, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            counts.astype(np.int64),
            np.bincount(number, weights=said, minlength=bins) / counts,
            np.bincount(number, weights=came, minlength=bins) / counts,
        )


def expected_calibration_error(confidence: Values, right: Values, bins: int = 15) -> float:
    """Σ |B| / n · |accuracy(B) − confidence(B)| over bins B of equal width (Guo et al. 2017, equation 3; Naeini et al.
    2015); NaN without answers. See `reliability`."""
    return reliability(confidence, right, bins).error


def classwise_calibration_error(probabilities: Values, targets: Values, bins: int = 15) -> float:
    """The mean over labels of the calibration error of each one's probability (Kull et al. 2019, equation 1).

    `probabilities` [n, C], `targets` [n] label numbers. NaN without answers.
    """
    said, gold = np.asarray(probabilities, dtype=np.float64), np.asarray(targets)
    if said.ndim != 2 or gold.shape != said.shape[:1]:
        raise ValueError(
            f"expected probabilities [n, labels] and n label numbers, found {said.shape} and {gold.shape}"
        )
    each = [expected_calibration_error(said[:, label], gold == label, bins) for label in range(said.shape[1])]
    return float(np.mean(each)) if each else math.nan
