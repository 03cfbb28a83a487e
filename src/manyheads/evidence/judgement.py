"""Is one set of runs better than another: the tests, their correction, and a plain sentence.

Knows finished runs and statistics. Must not know studies, tables or how a run is trained.

Two questions are asked of each task. *Between the methods*, the seeds answer: would other seeds give the same order?
Mann–Whitney's U over the seeds' scores, with the exact permutation test of the means beside it. *Between these
trained runs*, the examples answer: would other examples? The paired bootstrap over the examples of the split, of the
measure's mean over the seeds that both sides have. The rule for the verdict:

1. With 4 seeds or more on either side, Mann–Whitney's p after Holm below 0.05 decides: better or worse.
2. Otherwise, where the seeds could have decided, the comparison is undecided. They could where the smallest p that so
   many seeds can give, 2 / C(n + m, n), times the number of comparisons, is below 0.05.
3. Otherwise the seeds cannot decide, whatever they are, and the sentence says so. The bootstrap's p after Holm below
   0.05 then decides, about these trained runs only, and the sentence says that too.

Holm's correction is over all comparisons of one call, for each test by itself; the two tests over seeds count only
the comparisons with 4 seeds or more on either side. How many seeds would decide is `seeds_needed` at 0.05 divided by
that number.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from manyheads.errors import InputError
from manyheads.evidence.outcome import Outcome
from manyheads.formulas import statistics
from manyheads.tasks import Kind

__all__ = [
    "ALPHA",
    "FEWEST_SEEDS",
    "Finding",
    "Judgement",
    "Side",
    "compared",
    "digits_of",
    "judged",
    "number",
    "p_value",
]

ALPHA = 0.05
"""A p below it decides."""
FEWEST_SEEDS = 4
"""With fewer on either side the seeds do not decide: 3 against 3 cannot give a p below 0.1."""

Verdict = Literal["better", "worse", "undecided", "not comparable"]


@dataclass(frozen=True)
class Side:
    """Runs of one method: its name, and a finished run for each seed (any word that tells the runs apart)."""

    name: str
    runs: Mapping[str, Outcome]


@dataclass(frozen=True)
class Finding:
    """The outcome of one test of a against b."""

    p: float
    """Two-sided, before any correction."""
    statistic: float
    difference: float
    """a − b."""
    interval: tuple[float, float]
    """95%, not corrected; NaN where the test has none."""
    adjusted: float = math.nan
    """p after Holm."""
    comparisons: int = 1
    """Over how many comparisons the correction is."""

    @property
    def corrected(self) -> float:
        """p after Holm or, of a test that does not count for it, as it is."""
        return self.p if self.adjusted != self.adjusted else self.adjusted

    @classmethod
    def of(cls, result: statistics.Result) -> "Finding":
        """A result before the correction."""
        return cls(result.p, result.statistic, result.difference, result.interval)


@dataclass(frozen=True)
class Judgement:
    """One side against the reference on one task."""

    name: str
    reference: str
    task: str
    split: str
    measure: str
    scores: tuple[float, ...] = ()
    """The side's, a seed each; what is undefined is left out."""
    reference_scores: tuple[float, ...] = ()
    medians: tuple[float, float] = (math.nan, math.nan)
    """The side's and the reference's."""
    means: tuple[float, float] = (math.nan, math.nan)
    """Over the runs that the bootstrap compares."""
    difference: float = math.nan
    """Of the medians, the side's less the reference's."""
    undefined: tuple[int, int] = (0, 0)
    """Runs of either side whose measure is undefined."""
    examples: int | None = None
    """How many examples the bootstrap draws from; None where the runs have no tallies."""
    seeds: tuple[int, int] = (0, 0)
    """How many runs of either side have a score."""
    bootstrap: Finding | None = None
    mcnemar: Finding | None = None
    """Only of one run against one, where an example is right or wrong."""
    mann_whitney: Finding | None = None
    permutation: Finding | None = None
    verdict: Verdict = "undecided"
    decided_by: Literal["seeds", "examples"] | None = None
    seeds_needed: int | None = None
    """Of an undecided comparison: how many seeds each would decide it, at the spread of these."""
    sentence: str = ""
    # 1 or −1: whether a higher measure is the better one.
    upwards: int = field(default=1, repr=False)

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


# ---- one comparison ----


def compared(
    side: Side, reference: Side, task: str, split: str, *, resamples: int = 10_000
) -> Judgement | None:
    """The tests of one task, not yet corrected nor decided; None where either side has no score of it.

    Raises InputError where the two sides measure the task differently or were not asked the same examples.
    """
    ours, theirs = _scores(side, task, split), _scores(reference, task, split)
    if not ours or not theirs:
        return None
    measures = {measure for measure, _ in (*ours.values(), *theirs.values())}
    if len(measures) > 1:
        raise InputError(f"task {task!r} is not measured alike: {' and '.join(sorted(measures))}")
    same_examples([side, reference], task, split)
    kind = next(iter(reference.runs.values())).kind(task)
    defined = [
        {seed: value for seed, (_, value) in scores.items() if value == value} for scores in (ours, theirs)
    ]
    a, b = (np.array(list(scores.values())) for scores in defined)
    found = Judgement(
        side.name,
        reference.name,
        task,
        split,
        measures.pop(),
        tuple(a.tolist()),
        tuple(b.tolist()),
        seeds=(len(a), len(b)),
        undefined=(len(ours) - len(a), len(theirs) - len(b)),
        upwards=_upwards(kind, [*a, *b]),
    )
    if not len(a) or not len(b):
        return found
    medians = float(np.median(a)), float(np.median(b))
    found = replace(
        found,
        medians=medians,
        difference=medians[0] - medians[1],
        mann_whitney=Finding.of(statistics.mann_whitney(a, b)),
        permutation=Finding.of(statistics.permutation(a, b)),
    )
    return _on_examples(found, side, reference, defined[0], defined[1], kind, resamples)


def _scores(side: Side, task: str, split: str) -> dict[str, tuple[str, float]]:
    """Seed → the first measure of the task and its value."""
    firsts = {seed: outcome.first(task, split) for seed, outcome in side.runs.items()}
    return {seed: first for seed, first in firsts.items() if first is not None}


def _upwards(kind: Kind, scores: Sequence[float]) -> int:
    """Whether a higher measure is the better one, on the scale of these scores."""
    low, high = min(scores, default=0.0), max(scores, default=1.0)
    return -1 if kind.goodness(high) < kind.goodness(low) else 1


def _on_examples(
    found: Judgement,
    side: Side,
    reference: Side,
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    kind: Kind,
    resamples: int,
) -> Judgement:
    """`found` with the tests on the examples, where the runs have tallies."""
    task, split = found.task, found.split
    both = [seed for seed in ours if seed in theirs]  # seed is paired with seed
    chosen = (both, both) if both else (list(ours), list(theirs))
    runs = [[one.runs[seed] for seed in seeds] for one, seeds in zip((side, reference), chosen, strict=True)]
    means = (_mean([ours[seed] for seed in chosen[0]]), _mean([theirs[seed] for seed in chosen[1]]))
    if not all(run.has_tallies(task, split) for one in runs for run in one):
        return replace(found, means=means)
    tallies = [[run.tallies(task, split) for run in one] for one in runs]
    n, k = tallies[0][0].shape
    for run, one in zip(itertools.chain(*runs), itertools.chain(*tallies), strict=True):
        if one.shape != (n, k):
            path = run.folder / "predictions" / f"{task}-{split}.npy"
            raise InputError(
                f"expected {n} examples with {k} tallies each, found the shape {one.shape}", file=path
            )
    # Sides with other numbers of runs are repeated to the same number, which leaves each one's mean as it is.
    several = math.lcm(*map(len, tallies))
    a, b = (np.hstack(one * (several // len(one))) for one in tallies)

    def mean_measure(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The measure's mean over the runs, from sums [..., runs · k] of the same examples for all of them."""
        return np.asarray(kind.measure_of(sums.reshape(*sums.shape[:-1], several, k)).mean(-1))

    bootstrap = Finding.of(statistics.paired_bootstrap(a, b, measure=mean_measure, resamples=resamples))
    mcnemar = None
    if len(tallies[0]) == len(tallies[1]) == 1 and all(np.isin(one[:, 1], (0, 1)).all() for one in (a, b)):
        mcnemar = Finding.of(statistics.mcnemar(a[:, 1], b[:, 1]))
    return replace(found, means=means, examples=n, bootstrap=bootstrap, mcnemar=mcnemar)


def same_examples(sides: Sequence[Side], task: str, split: str) -> None:
    """Refuse runs whose predictions of a task are not of the same examples with the same gold labels."""
    runs = [run for side in sides for run in side.runs.values() if run.first(task, split) is not None]
    first, *others = runs
    for other in others:
        if other.examples_digest(task, split) == first.examples_digest(task, split):
            continue
        ours, theirs = first.examples(task, split), other.examples(task, split)
        at = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
        if at is None:
            what = f"{len(ours):,} examples and {len(theirs):,}"
        else:
            what = f"example {at + 1} is {_told(ours[at])} and {_told(theirs[at])}"
        raise InputError(
            f"task {task!r}: the {split} examples of {first.folder} and {other.folder} differ: {what}; "
            "only answers to the same examples can be compared"
        )


def _told(example: tuple[str, str, str]) -> str:
    file, row, gold = example
    place = f"row {row} of {file}" if file else f"row {row}"
    return f"{place} (gold {gold!r})" if gold else place


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


# ---- all comparisons together ----


def judged(found: Sequence[Judgement]) -> list[Judgement]:
    """The comparisons with corrected p-values, verdicts and sentences; all of them count for the correction."""
    found = [
        replace(
            one,
            bootstrap=bootstrap,
            mcnemar=mcnemar,
            mann_whitney=mann_whitney,
            permutation=permutation,
        )
        for one, bootstrap, mcnemar, mann_whitney, permutation in zip(
            found,
            _corrected([one.bootstrap for one in found]),
            _corrected([one.mcnemar for one in found]),
            _corrected([one.mann_whitney for one in found], [_enough(one) for one in found]),
            _corrected([one.permutation for one in found], [_enough(one) for one in found]),
            strict=True,
        )
    ]
    tested = sum(one.mann_whitney is not None for one in found)
    return [_decided(one, tested) for one in found]


def _enough(found: Judgement) -> bool:
    return min(found.seeds) >= FEWEST_SEEDS


def _corrected(tests: Sequence[Finding | None], counts: Sequence[bool] | None = None) -> list[Finding | None]:
    """Each test with Holm's p over those that are there and count; the others stay as they are."""
    counts = counts or [True] * len(tests)
    ps = [
        test.p if test is not None and count else math.nan for test, count in zip(tests, counts, strict=True)
    ]
    size = sum(p == p for p in ps)
    return [
        test if test is None or p != p else replace(test, adjusted=adjusted, comparisons=size)
        for test, p, adjusted in zip(tests, ps, statistics.holm(ps), strict=True)
    ]


def smallest_p(n: int, m: int) -> float:
    """The least two-sided p that a rank test of n against m can give: 2 / C(n + m, n)."""
    return min(1.0, 2 / math.comb(n + m, n))


def _decided(one: Judgement, tested: int) -> Judgement:
    """With verdict and sentence, by the rule that opens this module; `tested` comparisons have scores."""
    if one.verdict == "not comparable":
        return one
    test = one.mann_whitney
    if test is None:
        whose = one.name if not one.seeds[0] else one.reference
        return replace(
            one,
            sentence=f"{one.name} is undecided against {one.reference} on {one.task}: the {one.measure} of {whose} is "
            "undefined.",
        )
    # With more seeds a comparison that does not count yet would count, as would the others.
    family = test.comparisons if _enough(one) else tested
    needed = statistics.seeds_needed(one.scores, one.reference_scores, alpha=ALPHA / family)
    if needed is not None:
        needed = max(needed, min(one.seeds) + 1)
    if _enough(one):
        if test.adjusted < ALPHA:
            # U of the side against the half of all pairs: which side has the higher scores.
            up = (test.statistic > math.prod(one.seeds) / 2) == (one.upwards > 0)
            return _said(replace(one, verdict="better" if up else "worse", decided_by="seeds"))
        if smallest_p(*one.seeds) * test.comparisons < ALPHA:
            return _said(replace(one, seeds_needed=needed))
    drawn = one.bootstrap
    if drawn is not None and drawn.adjusted < ALPHA:
        up = (drawn.difference > 0) == (one.upwards > 0)
        return _said(
            replace(one, verdict="better" if up else "worse", decided_by="examples", seeds_needed=needed)
        )
    return _said(replace(one, seeds_needed=needed))


def _said(one: Judgement) -> Judgement:
    """With its sentence."""
    sentence = _by_seeds(one) if _seeds_could(one) else _by_examples(one)
    left_out = [
        f"{count} of {name}"
        for count, name in zip(one.undefined, (one.name, one.reference), strict=True)
        if count
    ]
    if left_out:
        sentence += f" Left out, as their {one.measure} is undefined: {' and '.join(left_out)}."
    return replace(one, sentence=sentence)


def _seeds_could(one: Judgement) -> bool:
    """Whether the seeds decided, or could have."""
    assert one.mann_whitney is not None
    possible = _enough(one) and smallest_p(*one.seeds) * one.mann_whitney.comparisons < ALPHA
    return possible or one.decided_by == "seeds"


def _by_seeds(one: Judgement) -> str:
    test = one.mann_whitney
    assert test is not None
    reasons = [f"Mann–Whitney {p_value(test)}, {_seeds(one)}"]
    if one.bootstrap is not None:
        reasons.append(
            f"on the {one.split} examples the bootstrap interval is {_interval(one, one.bootstrap)}"
        )
    scores = f"{one.measure} {_against(one.medians, one.difference)}"
    if one.verdict == "undecided":
        text = (
            f"{one.name} is undecided against {one.reference} on {one.task}: {scores} ({'; '.join(reasons)})"
        )
        return f"{text}; {_more_seeds(one)}."
    return (
        f"{one.name} is {one.verdict} than {one.reference} on {one.task} ({'; '.join([scores, *reasons])})."
    )


def _by_examples(one: Judgement) -> str:
    test, drawn = one.mann_whitney, one.bootstrap
    assert test is not None
    difference = one.means[0] - one.means[1]
    text = (
        f"{one.name} against {one.reference} on {one.task}: {one.measure} {_against(one.means, difference)}. "
    )
    least = smallest_p(*one.seeds)
    impossible = f"the smallest possible p is {least:.2g}"
    if _enough(one):
        impossible += (
            f", after Holm over {test.comparisons} comparisons {min(1.0, least * test.comparisons):.2g}"
        )
    text += f"{_seeds(one)} cannot decide between the methods ({impossible})"
    if drawn is None:
        return f"{text}, and the runs have no tallies of their examples: undecided; {_more_seeds(one)}."
    reasons = [f"paired bootstrap {p_value(drawn)}", f"interval {_interval(one, drawn)}"]
    if one.mcnemar is not None:
        reasons.append(f"McNemar {p_value(one.mcnemar)}")
    told = f"{one.examples:,} {one.split} examples: {'; '.join(reasons)}"
    if one.verdict == "undecided":
        return f"{text}, and between these trained runs it is undecided too ({told}); {_more_seeds(one)}."
    whose = f"the run of {one.name} is" if one.seeds[0] == 1 else f"the runs of {one.name} are"
    return f"{text}; of these trained runs only: {whose} {one.verdict} ({told})."


def _more_seeds(one: Judgement) -> str:
    if one.seeds_needed is not None:
        return f"at this spread about {one.seeds_needed} seeds each would decide"
    if min(one.seeds) < 2:
        return "how many seeds would decide cannot be told from one"
    return "the means are equal, so that no number of seeds would decide"


def _seeds(one: Judgement) -> str:
    a, b = one.seeds
    if a == b:
        return f"{a} seed{'s' if a > 1 else ''} each"
    return f"{a} and {b} seeds"


def _against(pair: tuple[float, float], difference: float) -> str:
    digits = digits_of(pair)
    return f"{number(pair[0], digits)} against {number(pair[1], digits)}, {number(difference, digits, sign=True)}"


def _interval(one: Judgement, test: Finding) -> str:
    low, high = (number(end, digits_of(one.means), sign=True) for end in test.interval)
    return f"{low} to {high}"


def digits_of(scores: Iterable[float]) -> int:
    """How many digits stand behind the point: three of a fraction, two of percents and the like."""
    return 3 if max((abs(score) for score in scores if score == score), default=0.0) <= 1.5 else 2


def number(value: float, digits: int, *, sign: bool = False) -> str:
    """A score, or with `sign` a difference of two."""
    if value != value:
        return "undefined"
    return format(value, f"{'+' if sign else ''}.{digits}f").replace("-", "−")


def p_value(test: Finding) -> str:
    """`p = 0.012 after Holm over 8 comparisons`."""
    if test.adjusted != test.adjusted:
        return _p(test.p)
    return _p(test.adjusted) + (
        f" after Holm over {test.comparisons} comparisons" if test.comparisons > 1 else ""
    )


def _p(p: float) -> str:
    if p != p:
        return "p undefined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
