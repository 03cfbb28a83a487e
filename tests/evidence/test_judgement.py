"""Better, worse, undecided: the rule, the numbers behind it, and the sentences word for word."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from manyheads.errors import InputError
from manyheads.evidence.judgement import Judgement, Side, compared, judged, smallest_p
from manyheads.evidence.outcome import Outcome
from manyheads.formulas import statistics
from manyheads.tasks.classification import Classification

if TYPE_CHECKING:
    from tests.evidence.conftest import Answers, MakeRun


def labels(right: float, *, count: int = 200, start: int = 0) -> "Answers":
    """Answers to `count` examples of which all but a share `right` are wrong, one after another from `start`."""
    gold = np.arange(count) % 2
    said = gold.copy()
    wrong = (start + np.arange(round(count * (1 - right)))) % count
    said[wrong] = 1 - said[wrong]
    return said.tolist(), gold.tolist()


def numbers(noise: float, *, count: int = 120, seed: int = 0) -> "Answers":
    """Numbers that follow the gold ones but for normal noise of that size."""
    gold: NDArray[np.float64] = np.linspace(0, 5, count)
    return (gold + noise * np.random.default_rng(seed).normal(size=count)).tolist(), gold.tolist()


def side(make_run: "MakeRun", name: str, *runs: "Answers", task: str = "mood") -> Side:
    """A side whose seeds 1, 2, … gave these answers."""
    made = {
        str(seed): make_run(f"{name}/seed-{seed}", {task: answers}) for seed, answers in enumerate(runs, 1)
    }
    return Side(name, {seed: Outcome.open(folder) for seed, folder in made.items()})


def scored(make_run: "MakeRun", name: str, *rights: float) -> Side:
    return side(make_run, name, *(labels(right, start=7 * seed) for seed, right in enumerate(rights)))


def one(a: Side, b: Side, task: str = "mood", resamples: int = 2_000) -> Judgement:
    found = compared(a, b, task, "dev", resamples=resamples)
    assert found is not None
    return judged([found])[0]


def test_five_seeds_that_all_lie_above_are_better_and_the_other_way_round_worse(make_run: "MakeRun") -> None:
    smart = scored(make_run, "smart", 0.70, 0.72, 0.71, 0.73, 0.74)
    plain = scored(make_run, "plain", 0.60, 0.62, 0.61, 0.63, 0.64)
    found = one(smart, plain)
    assert (found.verdict, found.decided_by) == ("better", "seeds")
    assert found.medians == (0.72, 0.62)
    assert found.difference == pytest.approx(0.1)
    assert found.mann_whitney is not None
    reference = scipy.stats.mannwhitneyu(found.scores, found.reference_scores, method="exact")
    assert found.mann_whitney.adjusted == found.mann_whitney.p == pytest.approx(reference.pvalue)
    assert found.bootstrap is not None
    low, high = found.bootstrap.interval
    assert found.sentence == (
        "smart is better than plain on mood (accuracy 0.720 against 0.620, +0.100; Mann–Whitney p = 0.008, 5 seeds "
        f"each; on the dev examples the bootstrap interval is +{low:.3f} to +{high:.3f})."
    )
    back = one(plain, smart)
    assert (back.verdict, back.decided_by) == ("worse", "seeds")
    assert back.sentence.startswith(
        "plain is worse than smart on mood (accuracy 0.620 against 0.720, −0.100;"
    )


def test_a_measure_that_falls_as_things_get_better_turns_the_verdict(
    make_run: "MakeRun", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classification, "goodness", lambda self, measure: 1 - measure)
    many = (
        scored(make_run, "many", 0.70, 0.72, 0.71, 0.73, 0.74),
        scored(make_run, "few", 0.6, 0.61, 0.62, 0.63, 0.64),
    )
    assert one(*many).verdict == "worse"
    single = scored(make_run, "b/many", 0.9), scored(make_run, "b/few", 0.6)
    assert (one(*single).verdict, one(*single).decided_by) == ("worse", "examples")


def test_three_seeds_cannot_decide_and_the_examples_decide_about_these_runs(make_run: "MakeRun") -> None:
    found = one(scored(make_run, "smart", 0.90, 0.91, 0.92), scored(make_run, "plain", 0.60, 0.61, 0.62))
    assert (found.verdict, found.decided_by) == ("better", "examples")
    assert found.mann_whitney is not None
    assert found.mann_whitney.p == pytest.approx(0.1)
    assert math.isnan(found.mann_whitney.adjusted)
    assert found.sentence.startswith(
        "smart against plain on mood: accuracy 0.910 against 0.610, +0.300. 3 seeds each cannot decide between the "
        "methods (the smallest possible p is 0.1); of these trained runs only: the runs of smart are better (200 dev "
        "examples: paired bootstrap p < 0.001; interval +0.2"
    )


def test_one_run_each_is_told_in_the_singular_with_mcnemar(make_run: "MakeRun") -> None:
    found = one(scored(make_run, "b", 0.60), scored(make_run, "a", 0.90))
    assert found.verdict == "worse"
    assert "1 seed each cannot decide between the methods (the smallest possible p is 1)" in found.sentence
    assert "the run of b is worse (200 dev examples: paired bootstrap p < 0.001" in found.sentence
    assert found.sentence.endswith("; McNemar p < 0.001).")


def test_a_few_seeds_that_do_not_differ_stay_undecided_in_both_respects(make_run: "MakeRun") -> None:
    found = one(scored(make_run, "b", 0.70, 0.72, 0.71), scored(make_run, "a", 0.71, 0.70, 0.715))
    assert (found.verdict, found.decided_by) == ("undecided", None)
    assert "and between these trained runs it is undecided too (200 dev examples: paired bootstrap p = " in (
        found.sentence
    )
    needed = statistics.seeds_needed(found.scores, found.reference_scores)
    assert needed is not None
    assert found.sentence.endswith(f"at this spread about {needed} seeds each would decide.")


def test_an_undecided_comparison_says_how_many_seeds_would_decide(make_run: "MakeRun") -> None:
    a = scored(make_run, "a", 0.70, 0.74, 0.72, 0.76, 0.73)
    b = scored(make_run, "b", 0.71, 0.72, 0.70, 0.75, 0.73)
    found = one(a, b)
    assert (found.verdict, found.decided_by) == ("undecided", None)
    assert found.seeds_needed == statistics.seeds_needed(found.scores, found.reference_scores)
    assert found.sentence.startswith(
        "a is undecided against b on mood: accuracy 0.730 against 0.720, +0.010 (Mann–Wh"
    )
    assert found.sentence.endswith(f"); at this spread about {found.seeds_needed} seeds each would decide.")


def test_equal_means_are_not_decided_by_any_number_of_seeds(make_run: "MakeRun") -> None:
    a, b = (scored(make_run, name, 0.7, 0.8, 0.7, 0.8, 0.75) for name in "ab")
    assert one(a, b).sentence.endswith("; the means are equal, so that no number of seeds would decide.")


def test_holm_counts_all_comparisons_and_too_many_of_them_take_the_decision_from_the_seeds(
    make_run: "MakeRun",
) -> None:
    a = scored(make_run, "a", 0.90, 0.91, 0.92, 0.93, 0.94)
    b = scored(make_run, "b", 0.60, 0.61, 0.62, 0.63, 0.64)
    found = compared(a, b, "mood", "dev", resamples=2_000)
    assert found is not None
    six, seven = judged([found] * 6), judged([found] * 7)
    assert {one.verdict for one in (*six, *seven)} == {"better"}
    assert {one.decided_by for one in six} == {"seeds"}  # 6 · 2 / 252 < 0.05
    assert {one.decided_by for one in seven} == {"examples"}
    assert six[0].mann_whitney is not None
    assert six[0].mann_whitney.adjusted == pytest.approx(6 * 2 / 252)
    assert "Mann–Whitney p = 0.048 after Holm over 6 comparisons, 5 seeds each" in six[0].sentence
    assert (
        "5 seeds each cannot decide between the methods (the smallest possible p is 0.0079, after Holm over 7 "
        "comparisons 0.056); of these trained runs only: the runs of a are better" in seven[0].sentence
    )
    assert seven[0].bootstrap is not None
    assert seven[0].bootstrap.adjusted == pytest.approx(7 * seven[0].bootstrap.p)


def test_comparisons_with_too_few_seeds_take_nothing_from_the_others(make_run: "MakeRun") -> None:
    many = compared(
        scored(make_run, "a", 0.9, 0.91, 0.92, 0.93),
        scored(make_run, "b", 0.6, 0.61, 0.62, 0.63),
        "mood",
        "dev",
    )
    few = compared(scored(make_run, "c", 0.9, 0.91), scored(make_run, "d", 0.6, 0.61), "mood", "dev")
    assert many is not None
    assert few is not None
    decided, *rest = judged([many, few, few, few])
    assert decided.mann_whitney is not None
    assert decided.mann_whitney.comparisons == 1
    assert (decided.verdict, decided.decided_by) == ("better", "seeds")
    assert {one.decided_by for one in rest} == {"examples"}
    assert decided.bootstrap is not None
    assert decided.bootstrap.comparisons == 4


def test_the_smallest_p_is_what_full_separation_gives() -> None:
    for n in range(1, 7):
        for m in range(1, 7):
            apart = scipy.stats.mannwhitneyu(np.arange(n), np.arange(m) + 10, method="exact").pvalue
            assert smallest_p(n, m) == pytest.approx(apart)


def test_the_bootstrap_is_of_the_mean_over_the_seeds(make_run: "MakeRun") -> None:
    """Of accuracies that mean is the mean over examples of how many seeds were right: an easier road to it."""
    a = scored(make_run, "a", 0.70, 0.80, 0.75)
    b = scored(make_run, "b", 0.65, 0.78, 0.70)
    found = one(a, b, resamples=10_000)
    right = [
        np.mean([run.tallies("mood", "dev")[:, 1] for run in several.runs.values()], axis=0)
        for several in (a, b)
    ]
    reference = statistics.paired_bootstrap(*right)
    assert found.bootstrap is not None
    assert found.examples == 200
    assert found.bootstrap.difference == pytest.approx(reference.difference, abs=1e-12)
    assert found.bootstrap.interval == pytest.approx(reference.interval, abs=0.003)
    assert found.bootstrap.difference == pytest.approx(found.means[0] - found.means[1])


def test_the_bootstrap_of_a_correlation_equals_one_that_is_written_out(make_run: "MakeRun") -> None:
    a = side(make_run, "a", numbers(1.0, seed=1), numbers(1.2, seed=2), task="pairs")
    b = side(make_run, "b", numbers(1.5, seed=3), numbers(1.6, seed=4), task="pairs")
    found = one(a, b, "pairs", resamples=4_000)
    gold = np.array(numbers(0)[1])
    said = {
        (n, s): np.array(numbers(noise, seed=s)[0])
        for n, noise, s in [("a", 1.0, 1), ("a", 1.2, 2), ("b", 1.5, 3), ("b", 1.6, 4)]
    }
    chance, drawn = np.random.default_rng(5), []
    for _ in range(4_000):
        rows = chance.integers(len(gold), size=len(gold))
        r = {key: np.corrcoef(gold[rows], values[rows])[0, 1] for key, values in said.items()}
        drawn.append((r["a", 1] + r["a", 2] - r["b", 3] - r["b", 4]) / 2)
    assert found.bootstrap is not None
    assert found.measure == "pearson"
    assert found.bootstrap.interval == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.006)
    assert found.mcnemar is None


def test_seed_is_paired_with_seed_and_other_numbers_of_runs_are_averaged(make_run: "MakeRun") -> None:
    a = scored(make_run, "a", 0.70, 0.80, 0.90)
    b = Side("b", {"2": scored(make_run, "b", 0.5).runs["1"]})
    assert one(a, b).means == pytest.approx((0.80, 0.5))
    apart = Side("c", {"x": b.runs["2"], "y": a.runs["1"]})
    found = one(a, apart)  # 3 runs against 2, none of the same name
    assert found.means == pytest.approx((0.80, 0.60))
    assert found.bootstrap is not None
    assert found.bootstrap.difference == pytest.approx(0.20)


def test_runs_without_tallies_leave_it_to_the_seeds(make_run: "MakeRun") -> None:
    runs = [
        make_run(f"{name}/{seed}", {"mood": labels(right + seed / 100)}, tallies=False)
        for name, right in (("a", 0.9), ("b", 0.6))
        for seed in range(4)
    ]
    a, b = (
        Side("a", {str(n): Outcome(run) for n, run in enumerate(runs[:4])}),
        Side("b", {str(n): Outcome(run) for n, run in enumerate(runs[4:])}),
    )
    assert one(a, b).sentence.endswith("Mann–Whitney p = 0.029, 4 seeds each).")
    few = one(Side("a", {"0": a.runs["0"]}), Side("b", {"0": b.runs["0"]}))
    assert few.verdict == "undecided"
    assert few.sentence.endswith(
        "and the runs have no tallies of their examples: undecided; how many seeds would decide cannot be told from "
        "one."
    )


def test_an_undefined_score_is_left_out_and_said(make_run: "MakeRun") -> None:
    flat: Answers = ([2.5] * 120, numbers(0)[1])
    a = side(make_run, "a", numbers(1, seed=1), flat, numbers(1.1, seed=2), task="pairs")
    b = side(make_run, "b", numbers(1, seed=3), numbers(1.2, seed=4), numbers(1.1, seed=5), task="pairs")
    found = one(a, b, "pairs")
    assert found.seeds == (2, 3)
    assert found.undefined == (1, 0)
    assert found.sentence.endswith(" Left out, as their pearson is undefined: 1 of a.")
    nothing = one(side(make_run, "c", flat, task="pairs"), b, "pairs")
    assert nothing.verdict == "undecided"
    assert nothing.sentence == "c is undecided against b on pairs: the pearson of c is undefined."
    json.dumps(nothing.as_json())


def test_other_examples_are_refused_with_the_first_that_differs(make_run: "MakeRun") -> None:
    first = Side("a", {"": Outcome(make_run("a", {"mood": labels(0.7, count=10)}))})
    moved = make_run("b", {"mood": labels(0.7, count=10)}, rows=[1, 2, 3, 4, 6, 7, 8, 9, 10, 11])
    with pytest.raises(
        InputError, match=r"task 'mood': the dev examples of .*b and .*a differ: example 5 is row 6 "
    ):
        compared(Side("b", {"": Outcome(moved)}), first, "mood", "dev")
    said, gold = labels(0.7, count=10)
    relabelled = make_run("c", {"mood": (said, [1 - gold[0], *gold[1:]])})
    with pytest.raises(
        InputError, match=r"example 1 is row 1 \(gold '1'\) and row 1 \(gold '0'\); only answers to"
    ):
        compared(Side("c", {"": Outcome(relabelled)}), first, "mood", "dev")
    fewer = make_run("d", {"mood": (said[:-2], gold[:-2])})
    with pytest.raises(InputError, match="differ: 8 examples and 10"):
        compared(Side("d", {"": Outcome(fewer)}), first, "mood", "dev")


def test_tallies_that_do_not_belong_to_the_examples_are_refused(make_run: "MakeRun") -> None:
    a, b = (Side(name, {"": Outcome(make_run(name, {"mood": labels(0.7, count=10)}))}) for name in "ab")
    path = a.runs[""].folder / "predictions" / "mood-dev.npy"
    np.save(path, np.ones((9, 8)))
    with pytest.raises(
        InputError, match=r"mood-dev.npy: expected 9 examples|mood-dev.npy: expected 10 examples"
    ):
        compared(a, b, "mood", "dev")
    for content, told in (
        (b"x", "cannot be read as a numpy array"),
        (b"", "cannot be read as a numpy array"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=told):
            compared(a, b, "mood", "dev")
    np.save(path, np.ones(10))
    with pytest.raises(InputError, match=r"mood-dev.npy: expected numbers \[examples, tallies\]"):
        compared(a, b, "mood", "dev")


def test_a_task_that_only_one_side_has_is_not_compared(make_run: "MakeRun", tmp_path: Path) -> None:
    a = side(make_run, "a", labels(0.7))
    b = side(make_run, "b", numbers(1), task="pairs")
    assert compared(a, b, "mood", "dev") is None
