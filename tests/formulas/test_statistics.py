"""The tests of significance against scipy, whole enumerations, published tables and their own promises."""

import itertools
import math
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from manyheads.formulas.statistics import (
    Result,
    cliffs_delta,
    holm,
    mann_whitney,
    mcnemar,
    paired_bootstrap,
    permutation,
    seeds_needed,
)

Array = NDArray[Any]

# Few different values, so that ties are common; quarters, so that sums of them are exact.
coarse = st.lists(st.integers(-8, 8).map(lambda number: number / 4), min_size=1, max_size=6)
coin = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)
# Hollander and Wolfe, Nonparametric Statistical Methods (1973), p. 69: permeability of a membrane.
AT_TERM = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
EARLY = [1.15, 0.88, 0.90, 0.74, 1.21]


def mirrored(result: Result) -> Result:
    low, high = result.interval
    return Result(result.p, -result.statistic, -result.difference, (-high, -low))


def same(left: tuple[float, float], right: tuple[float, float]) -> bool:
    return bool(np.array_equal(left, right, equal_nan=True))


def within(count: int, cases: int, share: float) -> bool:
    """Whether so many of so many cases are what the share gives but once in a million tries."""
    low, high = scipy.stats.binom.ppf([5e-7, 1 - 5e-7], cases, share)
    return bool(low <= count <= high)


def f1(sums: Array) -> Array:
    hits, false, missed = np.moveaxis(sums, -1, 0)
    return np.asarray(2 * hits / (2 * hits + false + missed))


def tallies(gold: Array, said: Array) -> Array:
    return np.stack([gold & said, ~gold & said, gold & ~said], axis=1).astype(float)


def answers(n: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Gold labels and two classifiers' answers, right in 80% and 75% of cases."""
    generator = np.random.default_rng(seed)
    gold = generator.random(n) < 0.3
    return gold, gold ^ (generator.random(n) < 0.2), gold ^ (generator.random(n) < 0.25)


# --- paired bootstrap -------------------------------------------------------------------------------------


def every_resample(differences: Array) -> Array:
    """The mean of each of the n^n resamples of n differences."""
    n = len(differences)
    return np.asarray(differences[np.array(list(itertools.product(range(n), repeat=n)))].mean(1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bootstrap_comes_near_the_whole_enumeration(seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.normal(0.5, 1, 6), generator.normal(size=6)
    whole = every_resample(a - b)
    d = (a - b).mean()
    share = np.mean(np.abs(whole - d) >= abs(d) - 1e-12)
    assert 2**-5 < share < 0.6  # above what six examples can show at all: the bound has a test of its own
    found = paired_bootstrap(a, b, resamples=20_000)
    assert within(round(found.p * 20_001) - 1, 20_000, share)
    assert found.difference == found.statistic == pytest.approx(d)
    below = np.count_nonzero(whole <= found.interval[0]) / whole.size
    above = np.count_nonzero(whole >= found.interval[1]) / whole.size
    assert 0.02 < below < 0.03
    assert 0.02 < above < 0.03


def test_bootstrap_of_right_and_wrong_follows_the_multinomial() -> None:
    n, ahead, behind = 120, 14, 6
    a = np.repeat([1, 0, 1, 0], [ahead, behind, 70, 30])
    b = np.repeat([0, 1, 1, 0], [ahead, behind, 70, 30])
    more, fewer = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    possible = more + fewer <= n
    more, fewer = more[possible], fewer[possible]
    outcomes = np.stack([more, fewer, n - more - fewer], axis=1)
    chance = scipy.stats.multinomial.pmf(outcomes, n, [ahead / n, behind / n, (n - ahead - behind) / n])
    share = chance[np.abs(more - fewer - (ahead - behind)) >= ahead - behind].sum()
    found = paired_bootstrap(a, b, resamples=200_000)
    assert within(round(found.p * 200_001) - 1, 200_000, share)
    cumulated = [chance[more - fewer <= round(end * n)].sum() for end in found.interval]
    before = [chance[more - fewer < round(end * n)].sum() for end in found.interval]
    for quantile, low, high in zip((0.025, 0.975), before, cumulated, strict=True):
        assert low - 0.002 <= quantile <= high + 0.002


@pytest.mark.parametrize("few", [True, False], ids=["few rows", "all rows differ"])
def test_bootstrap_interval_is_that_of_scipy(few: bool) -> None:
    generator = np.random.default_rng(3)
    a, b = generator.normal(0.1, 1, 150), generator.normal(size=150)
    if few:
        a, b = np.round(a), np.clip(np.round(b), -1, 1)
    ours = paired_bootstrap(a, b, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (a, b),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    )
    # An end of 20,000 resamples has a standard error of about 0.02 standard deviations of the mean.
    tolerance = 0.1 * theirs.standard_error
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval), abs=tolerance)


def test_bootstrap_of_a_measure_is_that_of_scipy() -> None:
    gold, a, b = answers(200)
    ours = paired_bootstrap(tallies(gold, a), tallies(gold, b), measure=f1, resamples=20_000)

    def difference(true: Array, x: Array, y: Array, axis: int) -> Array:
        def score(said: Array) -> Array:
            wrong = np.sum(true ^ said, axis=axis)
            hits = np.sum(true & said, axis=axis)
            return np.asarray(2 * hits / (2 * hits + wrong))

        return score(x) - score(y)

    theirs = scipy.stats.bootstrap(
        (gold, a, b),
        difference,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    )
    d = float(difference(gold, a, b, -1))
    assert ours.difference == pytest.approx(d)
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval), abs=0.1 * theirs.standard_error)
    far = np.mean(np.abs(theirs.bootstrap_distribution - d) >= abs(d))
    assert ours.p == pytest.approx(far, abs=0.02)


def test_a_measure_may_be_the_correlation_of_moments() -> None:
    generator = np.random.default_rng(5)
    gold = generator.normal(size=300)
    a, b = gold + generator.normal(size=300), gold + 1.3 * generator.normal(size=300)

    def moments(said: Array) -> Array:
        return np.stack([np.ones_like(gold), gold, said, gold**2, said**2, gold * said], axis=1)

    def pearson(sums: Array) -> Array:
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        return np.asarray((n * xy - x * y) / np.sqrt((n * xx - x**2) * (n * yy - y**2)))

    found = paired_bootstrap(moments(a), moments(b), measure=pearson, resamples=2_000)
    expected = scipy.stats.pearsonr(gold, a).statistic - scipy.stats.pearsonr(gold, b).statistic
    assert found.difference == pytest.approx(expected)
    assert found.interval[0] < expected < found.interval[1]
    # Steiger's Z for two dependent correlations with one variable in common.
    r = np.corrcoef([gold, a, b])
    x, y, between = r[0, 1], r[0, 2], r[1, 2]
    mean = (x + y) / 2
    psi = between * (1 - 2 * mean**2) - mean**2 * (1 - 2 * mean**2 - between**2) / 2
    z = (math.atanh(x) - math.atanh(y)) * math.sqrt(297 / (2 - 2 * psi / (1 - mean**2) ** 2))
    assert found.p == pytest.approx(2 * scipy.stats.norm.sf(abs(z)), abs=0.03)


@given(coin, st.booleans())
def test_equal_systems_are_certainly_not_different(rows: list[tuple[bool, bool]], tallied: bool) -> None:
    a = np.array(rows, dtype=float)
    found = (
        paired_bootstrap(a, a, measure=lambda sums: sums[..., 0] / (1 + sums[..., 1]), resamples=50)
        if tallied
        else paired_bootstrap(a[:, 0], a[:, 0], resamples=50)
    )
    assert found == Result(1.0, 0.0, 0.0, (0.0, 0.0))


@given(coin)
def test_bootstrap_is_symmetric(rows: list[tuple[bool, bool]]) -> None:
    a, b = np.array(rows, dtype=float).T
    forth, back = paired_bootstrap(a, b, resamples=60), paired_bootstrap(b, a, resamples=60)
    assert (forth.p, forth.difference) == (back.p, -back.difference)
    assert forth.interval == pytest.approx(mirrored(back).interval, abs=1e-15)
    assert 0 < forth.p <= 1
    assert forth.interval[0] <= forth.interval[1]


def test_bootstrap_of_a_measure_is_symmetric() -> None:
    gold, a, b = answers(150)
    x, y = tallies(gold, a), tallies(gold, b)
    forth, back = (paired_bootstrap(*pair, measure=f1, resamples=300) for pair in ((x, y), (y, x)))
    assert (forth.p, forth.difference) == (back.p, -back.difference)
    assert forth.interval == pytest.approx(mirrored(back).interval, abs=1e-15)


def test_p_does_not_depend_on_the_scale_of_the_scores() -> None:
    # Rounding must not part resamples that lie exactly as far from the difference as the difference from 0.
    _, a, b = answers(90)
    expected = paired_bootstrap(a, b, resamples=2_000).p
    for factor, shift in ((0.1, 0.0), (1 / 3, 0.7), (1e-6, 0.8)):
        scaled = paired_bootstrap(factor * a + shift, factor * b + shift, resamples=2_000)
        assert scaled.p == expected


def test_p_is_never_smaller_than_the_resamples_can_say() -> None:
    a, b = np.repeat([1, 0], [180, 20]), np.repeat([0, 1], [180, 20])
    assert paired_bootstrap(a, b, resamples=99).p == 0.01


def test_few_differing_examples_cannot_decide() -> None:
    # Five against none: every resample is on one side, yet a fair coin falls so in 1 of 16 cases.
    a, b = np.repeat([1, 0], [5, 95]), np.zeros(100)
    assert paired_bootstrap(a, b).p == 0.0625 == mcnemar(a, b).p
    assert paired_bootstrap([1.0], [0.0]).p == 1.0
    assert paired_bootstrap([1.0, 2.0], [0.0, 0.5]).p == 0.5


def test_bootstrap_holds_its_level() -> None:
    """Two systems as good as each other: p < 0.05 in about 5% of 1,500 test sets."""
    generator = np.random.default_rng(0)
    cases, n = 1_500, 400
    right = generator.random((2, cases, n)) < 0.8
    found = sum(
        paired_bootstrap(a, b, resamples=400, seed=case).p < 0.05
        for case, (a, b) in enumerate(zip(*right, strict=True))
    )
    assert within(found, cases, 0.05)


def test_the_seed_is_all_that_chance_knows() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 60))
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)
    assert paired_bootstrap(a, b) == paired_bootstrap(a, b, seed=0)
    assert permutation(a, b, seed=3) == permutation(a, b, seed=3)
    assert permutation(a, b, seed=3) != permutation(a, b, seed=4)


@pytest.mark.parametrize("few", [True, False], ids=["few rows", "all rows differ"])
def test_bootstrap_needs_little_memory(few: bool) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random((2, 40_000))
    if few:
        a, b = a < 0.8, b < 0.79
    paired_bootstrap(a[:10], b[:10], resamples=2)
    tracemalloc.start()
    try:
        paired_bootstrap(a, b, resamples=10_000 if few else 600)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # the whole table of counts of 600 resamples would have 192 MB


def test_bootstrap_of_a_large_test_set_takes_seconds() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 40_000))
    start = time.process_time()
    paired_bootstrap(a < 1, b < 1)
    assert time.process_time() - start < 5  # measured: 0.04
    start = time.process_time()
    paired_bootstrap(a, b, resamples=1_000)
    assert time.process_time() - start < 5  # measured: 0.2


@pytest.mark.filterwarnings("error")
def test_an_undefined_measure_is_nan_and_undefined_resamples_do_not_count() -> None:
    nothing = np.zeros((30, 3))
    some = nothing.copy()
    some[0, 0] = 1  # one true positive: about a third of the resamples lack it
    undefined = paired_bootstrap(nothing, some, measure=f1, resamples=200)
    assert all(math.isnan(x) for x in (undefined.p, undefined.difference, *undefined.interval))
    ones = np.ones((30, 2))
    unbounded = paired_bootstrap(
        ones * [1, 0], ones, measure=lambda sums: sums[:, 0] / sums[:, 1], resamples=200
    )
    assert math.isnan(unbounded.difference)
    found = paired_bootstrap(some, some, measure=f1, resamples=200)
    assert found == Result(1.0, 0.0, 0.0, (0.0, 0.0))
    # Defined as a whole, but not in the single resample there is.
    lost = next(
        result
        for result in (paired_bootstrap(some, some, measure=f1, resamples=1, seed=seed) for seed in range(50))
        if math.isnan(result.p)
    )
    assert lost.difference == 0.0
    assert math.isnan(lost.interval[0])


# --- McNemar ----------------------------------------------------------------------------------------------


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[Array, Array]:
    counts = [both, only_a, only_b, neither]
    return np.repeat([1, 1, 0, 0], counts), np.repeat([1, 0, 1, 0], counts)


def test_mcnemar_of_published_tables() -> None:
    # Bentur et al. (2009), in Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables, ch. 8:
    # exact conditional p 0.0703, Newcombe's interval -0.507 to -0.026.
    found = mcnemar(*table(1, 1, 7, 12))
    assert found.p == pytest.approx(0.0703125)
    assert found.statistic == 1
    assert found.difference == pytest.approx(-6 / 21)
    assert found.interval == pytest.approx((-0.507, -0.026), abs=5e-4)


@given(st.tuples(*[st.integers(0, 30)] * 4).filter(any))
def test_mcnemar_by_definition(counts: tuple[int, int, int, int]) -> None:
    _, only_a, only_b, _ = counts
    found = mcnemar(*table(*counts))
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1)) / 2**discordant
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert found.statistic == min(only_a, only_b)
    assert found.difference == pytest.approx((only_a - only_b) / sum(counts))
    assert -1 <= found.interval[0] <= found.difference <= found.interval[1] <= 1


def wilson(count: int, n: int) -> tuple[float, float]:
    z = scipy.stats.norm.ppf(0.975)
    centre, half = count + z**2 / 2, z * math.sqrt(count * (n - count) / n + z**2 / 4)
    return (centre - half) / (n + z**2), (centre + half) / (n + z**2)


@given(st.tuples(*[st.integers(0, 30)] * 4).filter(any))
def test_the_interval_is_newcombes_tenth(counts: tuple[int, int, int, int]) -> None:
    e, f, g, h = counts
    n = sum(counts)
    (l1, u1), (l2, u2) = wilson(e + f, n), wilson(e + g, n)
    p1, p2 = (e + f) / n, (e + g) / n
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    phi = 0.0
    if margins:
        raw = e * h - f * g
        phi = (raw if raw < 0 else max(0.0, raw - n / 2)) / math.sqrt(margins)
    low = p1 - p2 - math.sqrt(max(0.0, (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2))
    high = p1 - p2 + math.sqrt(max(0.0, (p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2))
    assert mcnemar(*table(*counts)).interval == pytest.approx((low, high), abs=1e-7)


@given(coin)
def test_mcnemar_is_symmetric_and_takes_any_truth(rows: list[tuple[bool, bool]]) -> None:
    a, b = np.array(rows).T
    forth, back = mcnemar(a, b), mcnemar(b, a)
    assert (forth.p, forth.statistic, forth.difference) == (back.p, back.statistic, -back.difference)
    assert forth.interval == pytest.approx(mirrored(back).interval, abs=1e-15)
    assert mcnemar(a.tolist(), torch.tensor(b.astype(int).tolist())) == forth
    assert mcnemar(a, a).p == 1.0


def test_mcnemar_never_exceeds_its_level() -> None:
    for discordant in range(1, 60):
        ps = [mcnemar(*table(3, only_a, discordant - only_a, 2)).p for only_a in range(discordant + 1)]
        chance = scipy.stats.binom.pmf(np.arange(discordant + 1), discordant, 0.5)
        for level in (0.01, 0.05, 0.1):
            assert chance[np.array(ps) <= level].sum() <= level + 1e-12


# --- Mann and Whitney -------------------------------------------------------------------------------------


def test_mann_whitney_of_a_published_example() -> None:
    found = mann_whitney(AT_TERM, EARLY)
    assert found.statistic == 35
    assert found.p == pytest.approx(2 * 0.1272, abs=1e-4)  # Hollander and Wolfe: 0.1272 one-sided
    assert found.difference == pytest.approx(0.305)


@given(st.permutations(range(11)), st.integers(1, 10))
def test_mann_whitney_without_ties_is_scipys_exact_test(order: list[int], n: int) -> None:
    a, b = order[:n], order[n:]
    theirs = scipy.stats.mannwhitneyu(a, b, method="exact")
    found = mann_whitney(a, b)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert found.statistic == theirs.statistic


@settings(deadline=None, max_examples=60)
@given(coarse.filter(lambda a: len(a) > 1), coarse.filter(lambda b: len(b) > 1))
def test_mann_whitney_with_ties_goes_through_every_division(a: list[float], b: list[float]) -> None:
    # The reference has no warnings: scipy's own test of U divides by 0 where all values are equal.
    def u(x: Array, y: Array) -> float:
        return float(np.sum(x[:, None] > y) + np.sum(x[:, None] == y) / 2)

    found = mann_whitney(a, b)
    pooled, n = np.array(a + b), len(a)
    chosen = [list(c) for c in itertools.combinations(range(len(pooled)), n)]
    us = np.array([u(pooled[c], np.delete(pooled, c)) for c in chosen])
    assert found.statistic == u(np.array(a), np.array(b))
    tail = min(np.mean(us <= found.statistic), np.mean(us >= found.statistic))
    assert found.p == pytest.approx(min(1.0, 2 * tail), abs=1e-12)


def test_mann_whitney_with_ties_is_scipys_permutation_of_u() -> None:
    a, b = [3, 3, 4, 5, 5, 6], [1, 2, 3, 3, 5]
    theirs = scipy.stats.mannwhitneyu(a, b, method=scipy.stats.PermutationMethod(n_resamples=10**6))
    assert mann_whitney(a, b).p == pytest.approx(theirs.pvalue, abs=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_large_samples_take_the_normal_distribution(tied: bool) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.15, 1, 300), generator.normal(size=250)
    if tied:
        a, b = np.round(2 * a), np.round(2 * b)
    theirs = scipy.stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=True)
    found = mann_whitney(a, b)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-12)
    assert found.statistic == theirs.statistic
    assert mann_whitney(np.ones(400), np.ones(500)).p == 1.0


def test_exact_and_normal_meet() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(0.4, 1, 50), generator.normal(size=50)
    exact = mann_whitney(a, b)
    assert exact.p == pytest.approx(scipy.stats.mannwhitneyu(a, b, method="exact").pvalue, abs=1e-12)
    normal = scipy.stats.mannwhitneyu(a, b, method="asymptotic").pvalue
    assert exact.p != normal
    assert exact.p == pytest.approx(normal, rel=0.06)


distinct = st.tuples(
    st.lists(st.integers(-500, 500).map(lambda i: 2.0 * i), min_size=1, max_size=8, unique=True),
    st.lists(st.integers(-500, 500).map(lambda i: 2.0 * i + 1), min_size=1, max_size=8, unique=True),
)


@settings(deadline=None)
@given(distinct)
def test_the_interval_holds_the_shifts_that_are_not_rejected(
    samples: tuple[list[float], list[float]],
) -> None:
    a, b = np.array(samples[0]), np.array(samples[1])
    found = mann_whitney(a, b)
    differences = np.subtract.outer(a, b)
    assert found.difference == np.median(differences)
    if math.isnan(found.interval[0]):
        assert 2 / math.comb(len(a) + len(b), len(a)) > 0.05
        return
    low, high = found.interval
    assert low in differences
    assert high in differences
    # The samples are even and odd: half a step away from a difference nothing is tied.
    for shift, kept in ((low - 0.5, False), (low + 0.5, True), (high - 0.5, True), (high + 0.5, False)):
        if low == high and kept:
            continue
        shifted = scipy.stats.mannwhitneyu(a - shift, b, method="exact").pvalue
        assert bool(shifted > 0.05) is kept


def test_the_normal_interval_continues_the_exact_one() -> None:
    """Just beyond what is counted exactly, the ends move by a difference or two, not more."""
    generator = np.random.default_rng(4)
    a, b = generator.normal(size=(2, 400))
    found = mann_whitney(a, b)
    differences = np.sort(np.subtract.outer(a, b).ravel())
    spread = math.sqrt(400 * 400 * 801 / 12)
    cut = 400 * 400 / 2 - 1.959964 * spread
    assert np.searchsorted(differences, found.interval[0]) == pytest.approx(cut, abs=2)
    assert differences.size - 1 - np.searchsorted(differences, found.interval[1]) == pytest.approx(cut, abs=2)


def test_very_large_samples_are_thinned() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.normal(0.3, 1, 20_000), generator.normal(size=30_000)
    tracemalloc.start()
    try:
        found = mann_whitney(a, b)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200e6  # all the differences would have 4.8 GB
    # For normal samples the estimate scatters by about √(π/3) standard errors of the mean.
    error = math.sqrt(math.pi / 3 * (1 / 20_000 + 1 / 30_000))
    assert found.difference == pytest.approx(0.3, abs=4 * error)
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * error, rel=0.1)


# --- permutation ------------------------------------------------------------------------------------------


def test_permutation_of_a_hand_worked_example() -> None:
    # Of the 20 ways only the observed one and its opposite lie so far out.
    found = permutation([7.0, 8.0, 9.0], [1.0, 2.0, 3.0])
    assert found.p == pytest.approx(2 / 20)
    assert found.difference == found.statistic == 6
    assert math.isnan(found.interval[0])
    # 4 against 4: the widest interval, from the smallest to the largest difference of equal parts.
    found = permutation([5.0, 6.0, 7.0, 9.0], [1.0, 2.0, 3.0, 4.0])
    assert found.p == pytest.approx(2 / 70)
    assert found.interval == (1.0, 8.0)


@settings(deadline=None, max_examples=60)
@given(coarse.filter(lambda a: len(a) > 1), coarse.filter(lambda b: len(b) > 1))
def test_permutation_is_scipys_exact_test(a: list[float], b: list[float]) -> None:
    theirs = scipy.stats.permutation_test(
        (a, b),
        lambda x, y, axis: np.mean(x, axis) - np.mean(y, axis),
        vectorized=True,
        n_resamples=10**6,
    )
    found = permutation(a, b)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)
    assert found.statistic == pytest.approx(theirs.statistic)


def test_ties_that_rounding_hides_are_ties() -> None:
    a, b = [0.1 + 0.2, 0.7, 0.1], [0.3, 0.6 + 0.1, 0.3 - 0.2]
    assert permutation(a, b).p == 1.0
    scale = 1e9
    shifted = [x / scale + 0.8 for x in (1, 2, 3, 4)], [x / scale + 0.8 for x in (5, 6, 7, 8)]
    assert permutation(*shifted).p == pytest.approx(2 / 70)


def test_drawn_divisions_come_near_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.8, 1, 8), generator.normal(size=9)
    exact = permutation(a, b)
    monkeypatch.setattr("manyheads.formulas.statistics.ENUMERATED", 0)
    drawn = permutation(a, b)
    assert drawn != exact
    assert drawn.difference == exact.difference
    assert within(round(drawn.p / 2 * 100_001) - 1, 100_000, exact.p / 2)
    assert drawn.interval == pytest.approx(exact.interval, abs=0.03)


def test_many_seeds_are_drawn_and_never_certain() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.5, 1, 25), generator.normal(size=20)
    theirs = scipy.stats.ttest_ind(a, b)
    found = permutation(a, b)
    assert found.p == pytest.approx(theirs.pvalue, abs=0.01)
    assert found.interval == pytest.approx(tuple(theirs.confidence_interval()), abs=0.05)
    assert permutation(a + 100, b).p == 2 / 100_001


@settings(deadline=None, max_examples=60)
@given(distinct.filter(lambda pair: len(pair[0]) + len(pair[1]) <= 12))
def test_the_interval_inverts_the_permutation_test(samples: tuple[list[float], list[float]]) -> None:
    a, b = np.array(samples[0]), np.array(samples[1])
    found = permutation(a, b)
    if math.isnan(found.interval[0]):
        assert 2 / math.comb(len(a) + len(b), len(a)) > 0.05
        return
    step = 1e-6  # differences of means of at most 8 whole numbers lie further apart
    low, high = found.interval
    assert low <= found.difference <= high
    for shift, kept in ((low - step, False), (low + step, True), (high - step, True), (high + step, False)):
        if low < high or not kept:
            assert (permutation(a - shift, b).p > 0.05) is kept


# --- both tests over seeds --------------------------------------------------------------------------------

OVER_SEEDS: list[Callable[..., Result]] = [mann_whitney, permutation]


@pytest.mark.parametrize("test", OVER_SEEDS)
@settings(deadline=None)
@given(a=coarse, b=coarse)
def test_swapping_the_samples_swaps_the_sign(
    test: Callable[..., Result], a: list[float], b: list[float]
) -> None:
    forth, back = test(a, b), test(b, a)
    assert (forth.p, forth.difference) == (back.p, -back.difference)
    assert same(forth.interval, mirrored(back).interval)
    if test is mann_whitney:
        assert forth.statistic == len(a) * len(b) - back.statistic
    assert 0 < forth.p <= 1
    assert test(a[::-1], sorted(b)) == forth or math.isnan(forth.interval[0])


def test_order_changes_nothing_where_divisions_are_drawn() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=15), generator.normal(0.5, 1, 15)
    found = permutation(a, b)
    assert found == mirrored(permutation(b, a))
    assert found == permutation(a[::-1], b)


def test_swapping_is_exact_where_counts_are_rounded() -> None:
    generator = np.random.default_rng(0)
    for _ in range(5):
        a, b = np.round(generator.normal(size=(2, 45)), 1)
        assert mann_whitney(a, b).p == mann_whitney(b, a).p


def test_the_smallest_samples_with_an_interval() -> None:
    for test in OVER_SEEDS:
        # One against 39: the outermost of 40 places has a chance of 2.5%.
        assert test([0.5], range(39)).interval == (0.5 - 38, 0.5)
        assert math.isnan(test([0.5], range(38)).interval[0])
        assert test([0.5, 1.5, 2.5, 3.5], range(4)).interval == (-2.5, 3.5)
        assert math.isnan(test([0.5, 1.5, 2.5], range(3)).interval[1])


@pytest.mark.parametrize("test", OVER_SEEDS)
@pytest.mark.parametrize("values", [[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 1, 1, 1, 2, 3, 3, 9]])
def test_no_division_is_called_rare_more_often_than_it_is(
    test: Callable[..., Result], values: list[int]
) -> None:
    """The level is kept exactly: over all divisions of the same values, p is at most x in no more than a share x."""
    for n in (2, 4):
        divisions = [set(chosen) for chosen in itertools.combinations(range(9), n)]
        ps = np.array(
            [
                test(
                    [values[i] for i in sorted(chosen)],
                    [value for i, value in enumerate(values) if i not in chosen],
                ).p
                for chosen in divisions
            ]
        )
        for level in ps:
            assert np.mean(ps <= level + 1e-12) <= level + 1e-12


@pytest.mark.parametrize("test", OVER_SEEDS)
def test_tests_over_seeds_hold_their_level(test: Callable[..., Result]) -> None:
    generator = np.random.default_rng(7)
    cases = 1_000
    samples = generator.normal(size=(cases, 12))
    found = [test(row[:6], row[6:]) for row in samples]
    # 6 against 6 has steps of 2 / 924: the permutation test comes to 46 / 924, U to 38 / 924.
    attained = {permutation: 46 / 924, mann_whitney: 38 / 924}[test]
    assert within(sum(result.p < 0.05 for result in found), cases, attained)
    covered = sum(result.interval[0] <= 0 <= result.interval[1] for result in found)
    assert within(covered, cases, 1 - attained)


@given(coarse, coarse)
def test_cliffs_delta_by_definition(a: list[float], b: list[float]) -> None:
    signs = np.sign(np.subtract.outer(a, b))
    assert cliffs_delta(a, b) == pytest.approx(signs.mean())
    assert cliffs_delta(a, b) == pytest.approx(-cliffs_delta(b, a))
    assert cliffs_delta(a, b) == pytest.approx(2 * mann_whitney(a, b).statistic / (len(a) * len(b)) - 1)


# --- Holm -------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.04, 0.001, 0.5]) == pytest.approx([0.08, 0.003, 0.5])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.03, math.nan, 0.02]) == pytest.approx([0.04, math.nan, 0.04], nan_ok=True)


probabilities = st.lists(st.floats(0, 1), max_size=12)


@given(probabilities, st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_procedure_rejects(ps: list[float], level: float) -> None:
    rejected = set()
    for step, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        if ps[index] * (len(ps) - step) > level:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(ps)) if p <= level} == rejected


@given(probabilities.flatmap(lambda ps: st.tuples(st.just(ps), st.permutations(range(len(ps))))))
def test_holm_keeps_order_bounds_and_nan(given_: tuple[list[float], list[int]]) -> None:
    ps, order = given_
    adjusted = holm(ps)
    assert all(p <= q <= min(1.0, p * len(ps)) or q == 1.0 for p, q in zip(ps, adjusted, strict=True))
    assert all(adjusted[i] <= adjusted[j] for i in order for j in order if ps[i] <= ps[j])
    assert holm([ps[i] for i in order]) == [adjusted[i] for i in order]
    with_gap = holm([math.nan, *ps])
    assert math.isnan(with_gap[0])
    assert with_gap[1:] == adjusted


# --- how many seeds ---------------------------------------------------------------------------------------


def standardised(size: int) -> Array:
    """So many values with mean 0 and a standard deviation of exactly 1."""
    values = np.arange(size, dtype=float)
    return np.asarray((values - values.mean()) / values.std(ddof=1))


@pytest.mark.parametrize("d", [0.3, 0.5, 0.8, 1.2])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.01, 0.9)])
def test_seeds_are_those_of_the_t_test_divided_by_the_efficiency(
    d: float, alpha: float, power: float
) -> None:
    def reached(n: int) -> float:
        edge = scipy.stats.t.ppf(1 - alpha / 2, 2 * n - 2)
        return float(scipy.stats.nct.sf(edge, 2 * n - 2, d * math.sqrt(n / 2)))

    by_t = next(n for n in itertools.count(2) if reached(n) >= power)
    found = seeds_needed(standardised(5) + d, standardised(7), alpha=alpha, power=power)
    assert found is not None
    assert abs(found - by_t * math.pi / 3) <= 2


@pytest.mark.parametrize("d", [0.6, 1.0, 1.6])
def test_so_many_seeds_decide_in_four_cases_of_five(d: float) -> None:
    n = seeds_needed(standardised(10) + d, standardised(10))
    assert n is not None
    generator = np.random.default_rng(0)
    a, b = generator.normal(d, 1, (2_000, n)), generator.normal(size=(2_000, n))
    decided = scipy.stats.mannwhitneyu(a, b, axis=1, method="exact").pvalue < 0.05
    assert 0.76 < decided.mean() < 0.86


def test_seeds_needed_at_the_edges() -> None:
    assert seeds_needed([1.0, 2.0], [2.0, 1.0]) is None
    assert seeds_needed([0.1 + 0.2, 0.3], [0.3, 0.3]) is None  # rounding is no difference
    assert seeds_needed([1.0], [2.0, 3.0]) is None
    assert seeds_needed([1.0, 2.0], [5.0]) is None
    assert seeds_needed([1.0, 1.0], [2.0, 2.0]) == 4  # no spread: only the number of divisions counts
    assert seeds_needed([1.0, 1.0], [2.0, 2.0], alpha=0.2) == 4
    assert seeds_needed([1.0, 1.0], [2.0, 2.0], alpha=0.01) == 5  # 2 / C(10, 5) = 0.0079
    few, many = seeds_needed([1, 2, 3], [2, 3, 4]), seeds_needed([1, 2, 3], [1.1, 2.1, 3.1])
    assert few is not None
    assert many is not None
    assert many == pytest.approx(100 * few, rel=0.1)
    assert seeds_needed([1, 2, 3], [2, 3, 4]) == seeds_needed([2, 3, 4], [1, 2, 3])


# --- what is given ----------------------------------------------------------------------------------------

PAIRED: list[Callable[..., Any]] = [paired_bootstrap, mcnemar]
UNPAIRED: list[Callable[..., Any]] = [mann_whitney, permutation, cliffs_delta, seeds_needed]


@pytest.mark.parametrize("test", [*PAIRED, *UNPAIRED])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "at least one value"),
        ([1.0, math.nan], r"finite numbers, found nan at position 1"),
        ([math.inf, 0.0], r"finite numbers, found inf at position 0"),
        (["1", "0"], "expects numbers"),
        ([None, 1], "expects numbers"),
        ([[[1.0]]], "found the shape"),
    ],
)
def test_bad_input_is_named(test: Callable[..., Any], bad: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        test(bad, bad)
    with pytest.raises(ValueError, match=r"^b |found the shapes"):
        test([1.0, 0.0], bad)


@pytest.mark.parametrize("test", PAIRED)
def test_pairs_need_the_same_examples(test: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="same examples"):
        test([1, 0, 1], [1, 0])


def test_what_each_alone_refuses() -> None:
    with pytest.raises(ValueError, match=r"true or false, found 0\.5 at position 1"):
        mcnemar([1, 0.5], [1, 0])
    with pytest.raises(ValueError, match="'resamples'"):
        paired_bootstrap([1], [0], resamples=0)
    with pytest.raises(ValueError, match="expect one score"):
        paired_bootstrap([[1, 2]], [[1, 2]])
    with pytest.raises(ValueError, match="row of tallies"):
        paired_bootstrap([1, 2], [1, 2], measure=f1)
    with pytest.raises(ValueError, match="'measure'"):
        paired_bootstrap([[1, 2]], [[1, 2]], measure=np.sum)
    for ps in ([0.1, 1.5], [-0.1]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm(ps)
    for alpha, power in ((0, 0.8), (0.05, 1), (0.5, 0.4), (math.nan, 0.8)):
        with pytest.raises(ValueError, match="alpha"):
            seeds_needed([1, 2], [2, 3], alpha=alpha, power=power)


@pytest.mark.parametrize("test", [*PAIRED, *UNPAIRED])
def test_lists_arrays_and_tensors_are_alike(test: Callable[..., Any]) -> None:
    a, b = [1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0]
    expected = test(a, b)
    assert test(np.array(a, dtype=np.int8), tuple(b)) == expected
    assert test(torch.tensor(a, dtype=torch.bfloat16), torch.tensor(b, dtype=torch.bool)) == expected


@pytest.mark.parametrize("test", [*PAIRED, *UNPAIRED])
def test_what_is_given_stays_as_it_is(test: Callable[..., Any]) -> None:
    a, b = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, 1.0, 1.0])
    test(a, b)
    assert a.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert b.tolist() == [0.0, 1.0, 1.0, 1.0]


def test_results_are_plain_numbers_that_cannot_be_changed() -> None:
    a, b = [1, 0, 1, 1, 1, 0, 1, 1], [0, 0, 1, 0, 0, 0, 1, 0]
    for test in (paired_bootstrap, mcnemar, mann_whitney, permutation):
        found = test(a, b)
        assert {type(x) for x in (found.p, found.statistic, found.difference, *found.interval)} == {float}
        with pytest.raises(AttributeError):
            found.p = 0.5  # type: ignore[misc]
