"""Is a better than b, and how sure is that: tests on examples, tests over seeds, and their corrections.

Knows two rows of numbers. Must not know what they measure, tasks, runs or files. A difference is always a − b
in the units of what was given, p is two-sided, an interval is meant to hold the true difference in 95% of
cases. Swapping a and b leaves p as it is, negates the difference and mirrors the interval. scipy is imported
at the first call.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manyheads.formulas.metrics.paired import Values

__all__ = [
    "Result",
    "cliffs_delta",
    "holm",
    "mann_whitney",
    "mcnemar",
    "paired_bootstrap",
    "permutation",
    "seeds_needed",
]

Floats: TypeAlias = NDArray[np.float64]

TAIL = 0.025
"""What a 95% interval leaves out at each end."""
ENUMERATED = 200_000
"""Up to so many divisions of the seeds, `permutation` goes through all of them; 10 against 10 have 184,756."""
DRAWN = 100_000
"""How many divisions of the seeds it draws where there are more."""

_CELLS = 2**20  # numbers held at once while resampling: 8 MB
_EXACT_WORK = 50_000_000  # additions for an exact distribution of U: about a twentieth of a second
_PAIRS = 10_000_000  # pairwise differences held at once: 80 MB
_THINNED = 3_000  # order statistics that stand for a sample when there are more pairs


@dataclass(frozen=True)
class Result:
    """What a test says of a against b; which test, and what its numbers are, stands with the function."""

    p: float
    """Two-sided p-value."""
    statistic: float
    """The number that the test looks at."""
    difference: float
    """a − b, in the units of what was compared."""
    interval: tuple[float, float]
    """95% confidence interval of the difference, low and high."""


# --- two systems on the same examples --------------------------------------------------------------------


def paired_bootstrap(
    a: Values,
    b: Values,
    *,
    measure: Callable[[Floats], Floats] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Result:
    """Two systems on the same n examples, which are drawn anew with replacement, both systems together.

    `a` and `b` [n] are scores of the examples (say 1 for right and 0 for wrong), compared by their means; or
    tallies [n, k] of the examples with a `measure` that makes scores [...] of their sums [..., k]: accuracy of
    (count, right), F1 of (true positives, false positives, false negatives), Pearson of the moments. Where
    `measure` divides by zero the score is NaN, without a warning.

    `difference` and `statistic` are the difference d of the two measures; `interval` is the percentile
    interval of its resamples d*. p is that of the shifted bootstrap, (1 + #{|d* − d| >= |d|}) / (resamples +
    1): d* scatters around d as d scatters around the truth, so its distances to d are what chance alone does
    (Hall and Wilson, Biometrics 1991, first guideline: resample under the null hypothesis; Noreen 1989;
    Berg-Kirkpatrick et al., EMNLP 2012). The other custom, counting how often d* changes sign, never leaves
    the alternative. With many examples the two agree; where few of them differ the shifted one is the more
    careful: five against none of 100 give the other 0.012, this one 0.034, the exact sign test 0.0625. Nor is
    p ever let below 2^(1−m) for m examples whose rows differ (here the 0.0625): if it is chance which system
    a row belongs to, no outcome is rarer than that. At the border the interval, which comes straight from d*, may
    disagree with p. Meant for test sets, not for seeds: with normal scores and no true difference it has p <
    0.05 in 6% of cases for 50 examples, 7% for 20 and 10% for 10.

    Where the measure is NaN on all examples (F1 without any positive) every number of the result is NaN; of the
    resamples those where it is NaN are left out. Rows that occur often are drawn together: with few different
    rows the cost does not grow with n. ValueError if shapes differ, nothing is there or a number is not finite.
    """
    if resamples < 1:
        raise ValueError(f"'resamples' expects a number of at least 1, found {resamples!r}")
    left, right = _numbers("a", a), _numbers("b", b)
    if left.shape != right.shape:
        raise ValueError(f"a and b expect the same examples, found the shapes {left.shape} and {right.shape}")
    if left.ndim != (1 if measure is None else 2):
        expected = "one score" if measure is None else "a row of tallies for the measure"
        raise ValueError(f"a and b expect {expected} for each example, found the shape {left.shape}")
    n = left.shape[0]
    if measure is None:
        left, right = left[:, None], right[:, None]

    def apart(sums: Floats) -> Floats:
        if measure is None:
            return np.asarray(sums[:, 0] / n)
        with np.errstate(divide="ignore", invalid="ignore"):
            scores = np.asarray(measure(sums), dtype=np.float64)
        if scores.shape != sums.shape[:-1]:
            expected = f"one score for each row of {sums.shape}"
            raise ValueError(f"'measure' expects to return {expected}, found the shape {scores.shape}")
        return np.where(np.isfinite(scores), scores, math.nan)

    observed = float((apart(left.sum(0)[None]) - apart(right.sum(0)[None]))[0])
    if math.isnan(observed):
        return Result(math.nan, math.nan, math.nan, (math.nan, math.nan))

    drawn, scale = [], abs(observed)
    for counts, rows in _resampled(np.hstack([left, right]), resamples, np.random.default_rng(seed)):
        # Two products, not one of both: so that the same rows give the same sums to the last bit.
        first = apart(counts @ np.ascontiguousarray(rows[:, : left.shape[1]]))
        second = apart(counts @ np.ascontiguousarray(rows[:, left.shape[1] :]))
        drawn.append(first - second)
        scale = max(scale, np.nanmax(np.abs([first, second]), initial=0.0))
    resampled = np.concatenate(drawn)
    resampled = resampled[~np.isnan(resampled)]
    if not resampled.size:
        return Result(math.nan, observed, observed, (math.nan, math.nan))

    far = np.count_nonzero(np.abs(resampled - observed) >= abs(observed) - 1e-12 * scale)
    differing = np.count_nonzero((left != right).any(1))
    p = max((1 + far) / (1 + resampled.size), 2.0 ** (1 - differing))
    low, high = np.quantile(resampled, (TAIL, 1 - TAIL))
    return Result(min(1.0, float(p)), observed, observed, (float(low), float(high)))


def _resampled(
    rows: Floats, resamples: int, generator: np.random.Generator
) -> Iterator[tuple[Floats, Floats]]:
    """(how often each row is drawn [r, g], the rows [g, c]) until there are `resamples` draws of n rows [n, c].

    Equal rows are one row that is drawn more often, which changes nothing but the cost. The order is that of
    first appearance: a sorted one would be another one with the columns of a and b swapped.
    """
    n = rows.shape[0]
    _, firsts, sizes = np.unique(rows, axis=0, return_index=True, return_counts=True)
    together = firsts.size * 16 <= n  # a binomial draw costs about as much as 20 indices
    if together:
        order = np.argsort(firsts)
        rows, shares = rows[firsts[order]], sizes[order] / n
    step = max(1, _CELLS // rows.shape[0])
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if together:
            yield generator.multinomial(n, shares, size=size).astype(np.float64), rows
        else:
            counts = np.empty((size, n))
            for row in counts:
                row[:] = np.bincount(generator.integers(n, size=n), minlength=n)
            yield counts, rows


def mcnemar(a: Values, b: Values, *, seed: int = 0) -> Result:
    """Exact test of two classifiers on the same n examples; `a` and `b` [n] say whether each was right.

    p is the two-sided binomial probability of the examples that only one of them gets right falling so
    unevenly if each side were as likely (McNemar 1947, in the exact form); 1 where there is no such example.
    `statistic` is the smaller of the two counts. `difference` is that of the accuracies; `interval` is
    Newcombe's for paired proportions (Statistics in Medicine 1998, method 10: the Wilson intervals of both,
    joined by their correlation), which is close to p but is no inversion of it. Nothing is drawn: `seed` only
    keeps the signature. ValueError for other values than true, false, 1 and 0, and as in `paired_bootstrap`.
    """
    from scipy.stats import binomtest

    left, right = _sample("a", a), _sample("b", b)
    if left.size != right.size:
        raise ValueError(f"a and b expect the same examples, found {left.size} and {right.size}")
    for name, values in (("a", left), ("b", right)):
        wrong = np.flatnonzero((values != 0) & (values != 1))
        if wrong.size:
            found = f"{values[wrong[0]]:g} at position {wrong[0]}"
            raise ValueError(f"{name} expects true or false, found {found} (counted from 0)")
    both, only_a, only_b, neither = (
        int(np.count_nonzero((left == x) & (right == y))) for x, y in ((1, 1), (1, 0), (0, 1), (0, 0))
    )
    discordant = only_a + only_b
    p = float(binomtest(min(only_a, only_b), discordant).pvalue) if discordant else 1.0
    difference = (only_a - only_b) / left.size
    interval = _newcombe(both, only_a, only_b, neither)
    return Result(p, float(min(only_a, only_b)), difference, interval)


def _newcombe(both: int, only_a: int, only_b: int, neither: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    n = both + only_a + only_b + neither
    right = (both + only_a, both + only_b)
    below, above = [], []
    for count in right:
        wilson = binomtest(count, n).proportion_ci(0.95, method="wilson")
        below.append(count / n - wilson.low)
        above.append(wilson.high - count / n)
    margins = math.prod(right) * math.prod(n - count for count in right)
    agreement = float(both * neither - only_a * only_b)
    if agreement > 0:  # the paper's correction for continuity
        agreement = max(agreement - n / 2, 0.0)
    phi = agreement / math.sqrt(margins) if margins else 0.0
    difference = (only_a - only_b) / n

    def reach(mine: float, other: float) -> float:
        return math.sqrt(max(0.0, mine**2 - 2 * phi * mine * other + other**2))

    # The interval may reach past ±1 only by rounding.
    return (
        max(-1.0, difference - reach(below[0], above[1])),
        min(1.0, difference + reach(above[0], below[1])),
    )


# --- two recipes, several seeds of each -------------------------------------------------------------------


def mann_whitney(a: Values, b: Values, *, seed: int = 0) -> Result:
    """The rank-sum test of two samples, `a` [n] and `b` [m], one score for each seed (Mann and Whitney, 1947).

    `statistic` is U of a: in how many of the n·m pairs a is the higher one, ties counting half. p is twice the
    smaller tail of U over all divisions of these n + m values into n and m (at most 1): exact with ties and
    without, up to about 50 against 50; beyond that, of the normal distribution with corrections for ties and
    continuity. The smallest p that 3 against 3 can reach is 0.1, 4 against 4: 0.029.

    `difference` is the estimate of Hodges and Lehmann (1963), the median of the n·m differences between a
    value of a and one of b; it can differ a little from the difference of the medians. `interval` holds the
    shifts of a that the test does not reject at 5%, again differences between two values; with ties it is at
    least as wide as need be. It is (NaN, NaN) where even the widest one falls short of 95%, as with 3 against
    3. Samples with more than 10 million pairs are thinned to 3,000 evenly spaced values each for these two.

    Nothing is drawn: `seed` only keeps the signature. ValueError if a sample is empty or not finite.
    """
    left, right = _sample("a", a), _sample("b", b)
    n, m = left.size, right.size
    p, u = _rank_sum(left, right)

    place = _place_of_the_ends(n, m)
    pairs = n * m
    if pairs > _PAIRS:
        left, right = _thinned(left), _thinned(right)
    differences = np.subtract.outer(left, right).ravel()
    cut = place if pairs == differences.size else round(place / pairs * differences.size)
    middle = (differences.size - 1) // 2, differences.size // 2
    ends = (cut - 1, differences.size - cut) if cut else middle
    differences.partition(sorted({*middle, *ends}))
    shift = float(differences[list(middle)].mean())
    interval = (float(differences[ends[0]]), float(differences[ends[1]])) if cut else (math.nan, math.nan)
    return Result(p, u, shift, interval)


def _rank_sum(a: Floats, b: Floats) -> tuple[float, float]:
    """p and U of a."""
    from scipy.stats import mannwhitneyu, rankdata

    n = a.size
    pooled = np.concatenate([a, b])
    ranks = rankdata(pooled)
    u = float(ranks[:n].sum() - n * (n + 1) / 2)
    if np.ptp(pooled) == 0:
        return 1.0, u
    # Twice the ranks are whole numbers; from 0 in the largest steps that they allow, their sums are few.
    steps = np.rint(2 * ranks).astype(np.int64)
    steps -= steps.min()
    steps //= np.gcd.reduce(steps)
    # Of the two sums, which say the same, one choice for both orders of the samples, to the last bit.
    fewer = min(steps[:n], steps[n:], key=lambda side: (side.size, side.sum()))
    if not _affordable(steps, fewer.size):
        return float(mannwhitneyu(a, b, alternative="two-sided", method="asymptotic").pvalue), u
    subsets, observed = _subsets_by_sum(np.sort(steps), fewer.size), int(fewer.sum())
    tail = min(subsets[: observed + 1].sum(), subsets[observed:].sum())
    return min(1.0, 2 * float(tail / subsets.sum())), u


def _affordable(values: NDArray[np.int64], size: int) -> bool:
    return values.size * (size + 1) * (int(np.sort(values)[-size:].sum()) + 1) <= _EXACT_WORK


def _subsets_by_sum(values: NDArray[np.int64], size: int) -> Floats:
    """How many subsets of `size` of `values` [N] (whole, none negative) have the sum 0, 1, 2, …

    The shift algorithm of Streitberg and Röhmel (1986): the same for every size, one value after the other.
    """
    highest = int(np.sort(values)[-size:].sum())
    subsets = np.zeros((size + 1, highest + 1))
    subsets[0, 0] = 1.0
    for value in values.tolist():
        if value <= highest:
            subsets[1:, value:] += subsets[:-1, : highest + 1 - value]  # numpy copies what overlaps
    return np.asarray(subsets[size])


def _place_of_the_ends(n: int, m: int) -> int:
    """k: the 95% interval runs from the k-th smallest to the k-th largest difference; 0 if there is none."""
    from scipy.special import ndtri

    ranks, size = np.arange(n + m), min(n, m)
    if not _affordable(ranks, size):
        spread = math.sqrt(n * m * (n + m + 1) / 12)
        return max(0, math.floor(n * m / 2 + 0.5 + float(ndtri(TAIL)) * spread))
    tails = np.cumsum(_subsets_by_sum(ranks, size)[size * (size - 1) // 2 :])  # U <= 0, U <= 1, …
    return int(np.searchsorted(tails, TAIL * tails[-1] * (1 + 1e-12), side="right"))


def _thinned(values: Floats) -> Floats:
    if values.size <= _THINNED:
        return values
    places = (np.arange(_THINNED) + 0.5) / _THINNED
    return np.asarray(np.quantile(values, places, method="inverted_cdf"), dtype=np.float64)


def permutation(a: Values, b: Values, *, seed: int = 0) -> Result:
    """The permutation test of the means of two samples, `a` [n] and `b` [m], one score for each seed.

    `difference` and `statistic` are the difference d of the means. Of the C(n+m, n) ways to divide the values
    into n and m (Fisher 1935; Pitman 1937), p is twice the share that gives at least d or the share that
    gives at most d, whichever is smaller, and at most 1. It is exact where there are at most 200,000 ways (10
    against 10); otherwise 100,000 ways are drawn and the one that was observed counts as one more (Phipson and
    Smyth 2010). Differences within rounding of d count as equal to it.

    `interval` holds the shifts of a that the test does not reject at 2.5% on either side; its ends are
    differences between the mean of some values of a and the mean of as many of b (Hartigan 1969; Tritchler
    1984). It is (NaN, NaN) where even the widest one falls short of 95%, as with 3 against 3. The order of the
    values does not matter. ValueError if a sample is empty or not finite.
    """
    left, right = np.sort(_sample("a", a)), np.sort(_sample("b", b))
    n = left.size
    # One order of the two samples for the draws, so that swapping them swaps nothing but the sign.
    if (right.size, right.tolist()) < (n, left.tolist()):
        other = permutation(right, left, seed=seed)
        low, high = other.interval
        return Result(other.p, 0.0 - other.statistic, 0.0 - other.difference, (0.0 - high, 0.0 - low))

    pooled = np.concatenate([left, right])
    moved = []
    for chosen in _divisions(pooled.size, n, np.random.default_rng(seed)):
        exchanged = np.count_nonzero(chosen >= n, axis=1)
        # How far the mean of what leaves a lies above the mean of what comes in for it: the shift of a at
        # which this division would give just the difference that is observed.
        gap = left.sum() - pooled[chosen].sum(1)
        moved.append(gap[exchanged > 0] / exchanged[exchanged > 0])
    shifts = np.concatenate(moved)
    ways = shifts.size + 1  # and the division that moves nothing
    slack = 1e-12 * np.abs(pooled).max()
    above, below = np.count_nonzero(shifts <= slack), np.count_nonzero(shifts >= -slack)
    difference = float(left.mean() - right.mean())
    cut = math.floor(TAIL * ways * (1 + 1e-12))
    interval = (math.nan, math.nan)
    if cut:
        shifts.partition(sorted({cut - 1, shifts.size - cut}))
        interval = (float(shifts[cut - 1]), float(shifts[-cut]))
    return Result(min(1.0, 2 * (1 + int(min(above, below))) / ways), difference, difference, interval)


def _divisions(total: int, size: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Which `size` of `total` positions are chosen [r, size]: every way once, or drawn where they are many."""
    ways = math.comb(total, size)
    if ways <= ENUMERATED:
        every = chain.from_iterable(combinations(range(total), size))
        yield np.fromiter(every, dtype=np.int64, count=ways * size).reshape(ways, size)
        return
    step = max(1, _CELLS // total)
    for start in range(0, DRAWN, step):
        keys = generator.random((min(step, DRAWN - start), total))
        yield np.argpartition(keys, size - 1, axis=1)[:, :size]


def cliffs_delta(a: Values, b: Values) -> float:
    """How much more often a value of `a` [n] lies above one of `b` [m] than below it, -1 to 1 (Cliff 1993).

    1 where every a is above every b, 0 where neither is ahead; (1 + it) / 2 is the chance that a beats b, ties
    counting half. ValueError as in `mann_whitney`.
    """
    from scipy.stats import rankdata

    left, right = _sample("a", a), _sample("b", b)
    ranks = rankdata(np.concatenate([left, right]))
    u = ranks[: left.size].sum() - left.size * (left.size + 1) / 2
    return float(2 * u / (left.size * right.size) - 1)


# --- several tests, and further seeds ---------------------------------------------------------------------


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values of several tests, made larger, so that chance brings any below 0.05 in at most 5% of cases.

    Holm's step-down procedure (Scandinavian Journal of Statistics 1979): the smallest of k p-values is
    multiplied by k, the next by k − 1, and so on; none is let below one before it, nor above 1. In the order
    given. A NaN stays one and does not count as a test. ValueError for what is not between 0 and 1.
    """
    for position, p in enumerate(ps):
        if not (math.isnan(p) or 0 <= p <= 1):
            raise ValueError(f"a p-value lies between 0 and 1, found {p!r} at position {position}")
    tested = sorted((index for index, p in enumerate(ps) if not math.isnan(p)), key=ps.__getitem__)
    adjusted, floor = [math.nan] * len(ps), 0.0
    for done, index in enumerate(tested):
        floor = max(floor, min(1.0, (len(tested) - done) * float(ps[index])))
        adjusted[index] = floor
    return adjusted


def seeds_needed(a: Values, b: Values, *, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """How many seeds of each side would decide the difference that `a` [n] and `b` [m] show, at their spread.

    So many that a two-sided Mann–Whitney test has p < `alpha` with the chance `power`, if the true difference
    of the means is the observed one, in units d of the pooled standard deviation. The number for a t-test is
    2·((z + y) / d)² + z² / 4 with z and y the normal quantiles of 1 − alpha/2 and `power` (Guenther, The American
    Statistician 1981), divided by 3/π, what the rank test is worth beside it on normal values (Lehmann,
    Nonparametrics, 1975). At least 4, and at least as many as can reach p < `alpha` at all: 2 / C(2s, s) is
    the smallest p of s against s. The difference that few seeds show is itself uncertain, and so is this
    number.

    None where the means are equal (to rounding) or a side has fewer than two values. ValueError if a sample is
    empty or not finite, and unless 0 < alpha < power < 1.
    """
    from scipy.special import ndtri

    if not 0 < alpha < power < 1:
        raise ValueError(f"expected 0 < alpha < power < 1, found alpha {alpha!r} and power {power!r}")
    left, right = _sample("a", a), _sample("b", b)
    difference = abs(float(left.mean() - right.mean()))
    scale = float(max(np.abs(left).max(), np.abs(right).max()))
    if min(left.size, right.size) < 2 or difference <= 1e-12 * scale:
        return None
    least = 4
    while 2 / math.comb(2 * least, least) >= alpha:
        least += 1
    squares = float(((left - left.mean()) ** 2).sum() + ((right - right.mean()) ** 2).sum())
    spread = math.sqrt(squares / (left.size + right.size - 2))
    edge, reach = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    by_t = 2 * ((edge + reach) * spread / difference) ** 2 + edge**2 / 4
    return max(least, math.ceil(by_t * math.pi / 3))


# --- what is given ----------------------------------------------------------------------------------------


def _numbers(name: str, values: Values) -> Floats:
    """As an array of float64; ValueError if there is none, or one of them is not a finite number."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" and array.size:
        raise ValueError(f"{name} expects numbers, found {array.dtype}")
    if not array.size:
        raise ValueError(f"{name} expects at least one value, found none")
    array = array.astype(np.float64)
    wrong = np.argwhere(~np.isfinite(array))
    if wrong.size:
        found = f"{array[tuple(wrong[0])]} at position {wrong[0][0]}"
        raise ValueError(f"{name} expects finite numbers, found {found} (counted from 0)")
    return array


def _sample(name: str, values: Values) -> Floats:
    array = _numbers(name, values)
    if array.ndim != 1:
        raise ValueError(f"{name} expects one number for each, found the shape {array.shape}")
    return array
