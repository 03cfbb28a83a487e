"""Mixing schedules, each property held against a count made here by hand."""

import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from hashlib import blake2b
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from manyheads.data import mixing
from manyheads.data.mixing import SCHEDULES, Schedule, Share, Step, schedule
from manyheads.errors import InputError

NAMES = sorted(SCHEDULES)
STAGES: list[dict[str, Any]] = [
    {"tasks": ["1"], "epochs": 2},
    {"schedule": "proportional", "epochs": 1},
    {"schedule": "round_robin"},
]
# Every schedule, and the one with stages, over tasks "0" and "1" at least.
WAYS: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in NAMES), ("sequential", {"stages": STAGES})]

size_lists = st.lists(st.integers(1, 60), min_size=2, max_size=5)
batch_sizes = st.integers(1, 20)
seeds = st.integers(0, 2**70)
ways = st.sampled_from(WAYS)
exponents = st.floats(0, 1)
# Every schedule that can put several tasks into a step, and stages of which only the second does.
IN_BATCH: list[tuple[str, dict[str, Any]]] = [
    *((name, {"in_batch": True}) for name in NAMES if "in_batch" in SCHEDULES[name].settings),
    (
        "sequential",
        {
            "stages": [
                {"tasks": ["1"], "epochs": 2},
                {"schedule": "annealed", "end": 0.5, "in_batch": True, "epochs": 2},
                {"schedule": "power", "in_batch": True},
            ]
        },
    ),
]


def steps(plan: Schedule, count: int) -> list[Step]:
    return [plan[k] for k in range(count)]


def drawn(plan: Schedule, first: int, last: int) -> list[Step]:
    """What the steps `first` to `last` - 1 hold, one after the other."""
    return [step for k in range(first, last) for step in plan.draws(k)]


def seen(some: list[Step]) -> dict[str, Counter[int]]:
    """task → row → how often it came."""
    counts: dict[str, Counter[int]] = {}
    for task, rows in some:
        counts.setdefault(task, Counter()).update(rows.tolist())
    return counts


def assert_same(one: Step, other: Step) -> None:
    assert one.task == other.task
    assert_array_equal(one.rows, other.rows)


@pytest.mark.parametrize(
    ("name", "more", "digests"),
    [
        ("round_robin", {}, ["e755a457e014d67c5d95574f", "59cd107849522539e1625d78"]),
        ("interleaved", {}, ["da2fb82b4165d627915ed626", "8f13ca3872149515f4a44514"]),
        ("proportional", {}, ["0b6244c7fad2c7d25cc0003a", "12a93a286088c7383f7f57db"]),
        ("sequential", {}, ["a1d8e04a7854e27157364773", "bea6378e29d6418c4c555850"]),
        ("sequential", {"stages": STAGES}, ["ed804d5add51f574de63a200", "af8fcdaf52dbdef510e11af5"]),
        ("sqrt", {}, ["30e5c2ff2fc8b7e216cba3f8", "a5f3457853b8f1822ce4e0ea"]),
        ("power", {}, ["13ff119ff90582fba251a59a", "b6d00b742704db0c0cd7eb32"]),
        (
            "power",
            {"exponent": 0.3, "in_batch": True},
            ["b60caff180c0fd56e5f0946d", "124667dcc8f2410c27067f11"],
        ),
        ("annealed", {}, ["14c9372ab2e67f06f14104dc", "fc320b0ac2c4dc6c08b4282b"]),
        (
            "annealed",
            {"epochs": 20, "in_batch": True},
            ["60d1d2db647013fcac8a052b", "249a3bf94772fe7a70d68faf"],
        ),
        ("shuffled", {}, ["bcaf61cd4d69d3d1c0827524", "8304d7e12558bd4f946bf3fb"]),
        ("shuffled", {"in_batch": True}, ["9bc21d629be62992e3835dab", "b3f6ea134d59d6770cb51c0d"]),
        ("proportional", {"in_batch": True}, ["e79bb33fbc878b92adb3ba61", "6611ee44c44c86a08c9a7c14"]),
    ],
)
def test_a_seed_gives_the_same_steps_for_ever(name: str, more: dict[str, Any], digests: list[str]) -> None:
    # Written down once; the first five before there were any others. Another digest means that runs begun
    # with an earlier version no longer resume as they would have gone on.
    sizes = {"0": 141, "1": 37, "2": 8, "3": 1}
    batches: list[int | dict[str, int]] = [16, {"0": 5, "1": 4, "2": 3, "3": 2}]
    for batch_size, seed, known in zip(batches, (0, 11711), digests, strict=True):
        plan = schedule(name, sizes, batch_size, seed, **more)
        digest = blake2b(digest_size=12)
        facts = (
            plan.steps_per_epoch,
            plan.total_steps,
            plan.steps_for(2.5),
            plan.describe(0),
            plan.describe(),
        )
        digest.update(repr(facts).encode())
        for k in [*range(400), 10**9, 10**18, 10**30]:
            for task, rows in plan.draws(k):
                digest.update(repr((k, plan.epoch_of(k), task, rows.tolist())).encode())
        assert digest.hexdigest() == known


@given(st.sampled_from(WAYS + IN_BATCH), size_lists, batch_sizes, seeds, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_a_step_depends_on_its_number_alone(
    way: tuple[str, dict[str, Any]], sizes: list[int], batch_size: int, seed: int, random: Random
) -> None:
    name, more = way
    plan = schedule(name, sizes, batch_size, seed, **more)
    told = [plan.draws(k) for k in range(40)]
    fresh = schedule(name, sizes, batch_size, seed, **more)
    numbers = list(range(40))
    random.shuffle(numbers)
    for k in numbers:
        for one, other in zip(fresh.draws(k), told[k], strict=True):
            assert_same(one, other)


@pytest.mark.parametrize(("name", "more"), [*((name, {}) for name in NAMES), *IN_BATCH[:-1]])
@given(sizes=size_lists, batch_size=batch_sizes, seed=seeds, count=st.integers(1, 150))
@settings(max_examples=30, deadline=None)
def test_every_row_comes_equally_often_or_once_apart_at_any_prefix(
    name: str, more: dict[str, Any], sizes: list[int], batch_size: int, seed: int, count: int
) -> None:
    plan = schedule(name, sizes, batch_size, seed, **more)
    for task, rows in seen(drawn(plan, 0, count)).items():
        size = sizes[int(task)]
        total = rows.total()
        assert set(rows) <= set(range(size))
        assert {rows[row] for row in range(size)} <= {total // size, -(-total // size)}


@given(
    st.sampled_from(["proportional", "shuffled", "sequential"]),
    size_lists,
    batch_sizes,
    seeds,
    st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_an_aligned_epoch_has_every_row_once(
    name: str, sizes: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    plan = schedule(name, sizes, batch_size, seed)
    assert plan.steps_per_epoch == sum(-(-size // batch_size) for size in sizes)
    first = epoch * plan.steps_per_epoch
    found = seen([plan[first + k] for k in range(plan.steps_per_epoch)])
    assert found == {str(i): Counter(range(size)) for i, size in enumerate(sizes)}


@given(size_lists, batch_sizes, seeds, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_an_interleaved_epoch_covers_the_largest_task_and_shrinks_the_others(
    sizes: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    plan = schedule("interleaved", sizes, batch_size, seed)
    largest = sizes.index(max(sizes))
    rounds = -(-sizes[largest] // batch_size)
    assert plan.steps_per_epoch == len(sizes) * rounds
    first = epoch * plan.steps_per_epoch
    told = [plan[first + k] for k in range(plan.steps_per_epoch)]
    assert [step.task for step in told] == [str(i) for i in range(len(sizes))] * rounds
    assert seen(told)[str(largest)] == Counter(range(sizes[largest]))
    for task, rows in told:
        if task != str(largest):
            size = sizes[int(task)]
            assert len(rows) == min(size, max(1, int(np.floor(batch_size * size / sizes[largest]))))


def test_interleaved_has_the_figures_of_the_seed() -> None:
    plan = schedule("interleaved", {"para": 141_506, "sst": 8_544, "sts": 6_041}, 64)
    assert plan.describe() == [
        Share("para", 141_506, 64, 2_212),
        Share("sst", 8_544, 3, 2_212),
        Share("sts", 6_041, 2, 2_212),
    ]
    assert plan.steps_per_epoch == 3 * 2_212
    assert [(step.task, len(step.rows)) for step in steps(plan, 4)] == [
        ("para", 64),
        ("sst", 3),
        ("sts", 2),
        ("para", 64),
    ]
    assert len(plan[3 * 2_211].rows) == 141_506 - 2_211 * 64  # the last batch of the pass


@given(size_lists, batch_sizes, seeds)
@settings(max_examples=50, deadline=None)
def test_round_robin_takes_turns_with_equal_batches(sizes: list[int], batch_size: int, seed: int) -> None:
    plan = schedule("round_robin", sizes, batch_size, seed)
    for k, (task, rows) in enumerate(steps(plan, 60)):
        assert task == str(k % len(sizes))
        assert len(rows) == min(batch_size, sizes[int(task)])
    shortest = max(1, int(np.floor(min(np.array(sizes) / batch_size))))
    assert plan.steps_per_epoch == len(sizes) * shortest
    assert {share.steps_per_epoch for share in plan.describe()} == {shortest}


def test_a_spanning_batch_goes_on_in_the_next_pass() -> None:
    # 7 rows by 5: elements 0-4, 5-9, 10-13 …; cut at 7 they are whole permutations.
    plan = schedule("round_robin", [7], 5, seed=3)
    stream = np.concatenate([step.rows for step in steps(plan, 7)])
    assert len(stream) == 35
    for turn in stream.reshape(5, 7):
        assert sorted(turn) == list(range(7))


@given(
    st.lists(st.integers(1, 400), min_size=2, max_size=6),
    st.integers(1, 20),
    seeds,
    st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_proportional_keeps_the_shares_at_every_prefix(
    sizes: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    plan = schedule("proportional", sizes, batch_size, seed)
    batches = np.array([-(-size // batch_size) for size in sizes])
    total = plan.steps_per_epoch
    which = [int(plan[epoch * total + k].task) for k in range(total)]
    had = np.cumsum(np.eye(len(sizes))[which], axis=0)
    share = batches / total
    off = np.abs(had - np.arange(1, total + 1)[:, None] * share)
    assert (off <= 1 + share * (len(sizes) - 2) + 1e-9).all()
    if len(sizes) <= 3:
        assert off.max() <= 2


def test_proportional_shuffles_the_turns_of_each_epoch() -> None:
    plan = schedule("proportional", [320, 320], 4)
    first, second = ([plan[e * 160 + k].task for k in range(160)] for e in range(2))
    assert first != second
    assert first != ["0", "1"] * 80  # places are drawn, not merely interleaved


def test_sequential_takes_one_task_after_the_other_in_the_given_order() -> None:
    plan = schedule("sequential", {"b": 10, "a": 3}, {"b": 4, "a": 2})
    assert [step.task for step in steps(plan, 10)] == ["b", "b", "b", "a", "a"] * 2
    assert [len(step.rows) for step in steps(plan, 5)] == [4, 4, 2, 2, 1]
    assert plan.describe() == [Share("b", 10, 4, 3), Share("a", 3, 2, 2)]


@pytest.mark.parametrize(("name", "more"), WAYS)
def test_each_pass_is_drawn_anew(name: str, more: dict[str, Any]) -> None:
    plan = schedule(name, [200, 300], 100, seed=5, **more)
    passes = np.concatenate([step.rows for step in steps(plan, 60) if step.task == "1"])[:900].reshape(3, 300)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (passes[one] != passes[other]).mean() > 0.9
    for turn in passes:  # a permutation, and not the order of the file
        assert sorted(turn) == list(range(300))
        assert (turn != np.arange(300)).mean() > 0.9


@pytest.mark.parametrize(("name", "more"), WAYS)
def test_seeds_and_tasks_have_orders_of_their_own(name: str, more: dict[str, Any]) -> None:
    orders = [
        np.concatenate(
            [s.rows for s in steps(schedule(name, [200, 200], 50, seed, **more), 40) if s.task == task]
        )
        for seed in (0, 1)
        for task in ("0", "1")
    ]
    length = min(map(len, orders))
    assert length >= 200
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one[:length] != other[:length]).mean() > 0.9


def test_another_task_beside_it_leaves_the_order_of_a_task_alone() -> None:
    alone = schedule("round_robin", {"sst": 50}, 8)
    beside = schedule("round_robin", {"para": 90, "sst": 50}, 8)
    for k in range(20):
        assert_array_equal(alone[k].rows, beside[2 * k + 1].rows)


def test_the_order_of_a_seed_never_changes() -> None:
    # Written down once: a changed order would break the resuming of runs begun with an earlier version.
    plan = schedule("proportional", {"sst": 8, "para": 4}, 4, seed=11711)
    assert [(step.task, step.rows.tolist()) for step in steps(plan, 3)] == [
        ("sst", [4, 6, 0, 2]),
        ("sst", [3, 1, 7, 5]),
        ("para", [2, 3, 1, 0]),
    ]


def test_rows_are_spread_uniformly() -> None:
    # Row 0 of 10 stands at each place equally often over 2,000 passes: chi-squared with 9 degrees of freedom
    # lies below 27.9 with probability 0.999.
    plan = schedule("sequential", [10], 10, seed=1)
    places = np.bincount([int(np.flatnonzero(plan[k].rows == 0)[0]) for k in range(2_000)], minlength=10)
    assert ((places - 200) ** 2 / 200).sum() < 27.9


@pytest.mark.parametrize(("name", "more"), WAYS + IN_BATCH)
def test_a_far_step_costs_what_a_near_one_costs(
    name: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[str, int]] = []
    draw = mixing.draw

    def counted(count: int, seed: int, stage: int, purpose: str, number: int) -> Any:
        made.append((purpose, number))
        return draw(count, seed, stage, purpose, number)

    monkeypatch.setattr(mixing, "draw", counted)
    plan = schedule(name, [1_000, 170], 16, **more)
    for k in (10**9, 10**18, 10**30):
        made.clear()
        held = plan.draws(k)
        assert 1 <= sum(len(step.rows) for step in held) <= 16
        # The order of the epoch, and of each task in the step the pass or the two that its rows are from.
        assert 1 <= len(made) <= 1 + 2 * len(held)
        made.clear()
        for again, step in zip(plan.draws(k), held, strict=True):
            assert_same(again, step)
        assert made == []


@pytest.mark.parametrize(("name", "more"), [*((name, {}) for name in NAMES), *IN_BATCH[:-1]])
def test_an_epoch_draws_each_pass_once(
    name: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: Counter[tuple[str, int]] = Counter()
    draw = mixing.draw

    def counted(count: int, seed: int, stage: int, purpose: str, number: int) -> Any:
        made[purpose, number] += 1
        return draw(count, seed, stage, purpose, number)

    monkeypatch.setattr(mixing, "draw", counted)
    plan = schedule(name, [90, 60, 30], 4, **more)
    drawn(plan, 0, 3 * plan.steps_per_epoch)
    assert set(made.values()) == {1}


def test_a_batch_over_the_end_of_a_pass_can_be_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = schedule("round_robin", [7], 5)
    rows = plan[1].rows
    monkeypatch.setattr(mixing, "draw", None)  # both passes are still there
    assert_array_equal(plan[1].rows, rows)


def test_a_caller_may_change_the_rows_it_was_given() -> None:
    for name in NAMES:
        plan = schedule(name, [20, 20], 5)
        rows = plan[0].rows
        assert rows.dtype == np.int64
        kept = rows.copy()
        rows[:] = -1
        assert_array_equal(plan[0].rows, kept)


def test_a_schedule_can_be_sent_to_another_process() -> None:
    for name, more in WAYS + IN_BATCH:
        plan = schedule(name, [20, 30], 5, **more)
        plan.draws(0)
        other = pickle.loads(pickle.dumps(plan))
        for one, same in zip(drawn(other, 0, 30), drawn(plan, 0, 30), strict=True):
            assert_same(one, same)


@given(
    size_lists,
    batch_sizes,
    st.sampled_from([*((name, {}) for name in NAMES), *IN_BATCH[:-1]]),
    st.integers(0, 500),
)
@settings(deadline=None)
def test_epochs_of_a_plain_schedule_are_equally_long(
    sizes: list[int], batch_size: int, way: tuple[str, dict[str, Any]], k: int
) -> None:
    name, more = way
    plan = schedule(name, sizes, batch_size, **more)
    assert plan.epoch_of(k) == divmod(k, plan.steps_per_epoch)
    assert plan.total_steps is None
    assert plan.steps_for(3) == 3 * plan.steps_per_epoch


class TestStages:
    sizes: Mapping[str, int] = {"para": 40, "sst": 12, "sts": 8}

    def test_robin_pre_is_one_task_alone_and_then_all_in_turn(self) -> None:
        stages = [{"tasks": ["para"], "epochs": 2}, {"schedule": "round_robin"}]
        plan = schedule("sequential", self.sizes, 4, stages=stages)
        told = steps(plan, 35)
        assert [step.task for step in told[:20]] == ["para"] * 20
        assert seen(told[:20]) == {"para": Counter(list(range(40)) * 2)}
        assert [step.task for step in told[20:]] == ["para", "sst", "sts"] * 5
        assert plan.steps_per_epoch == 3 * 2  # of the last stage: sts has two batches
        assert plan.total_steps is None
        assert plan.describe() == [Share("para", 40, 4, 2), Share("sst", 12, 4, 2), Share("sts", 8, 4, 2)]

    def test_epochs_are_counted_on_through_the_stages(self) -> None:
        stages = [
            {"tasks": ["para"], "epochs": 2},
            {"tasks": ["sts", "sst"], "schedule": "proportional", "epochs": 3},
            {"schedule": "round_robin", "epochs": 1},
        ]
        plan = schedule("sequential", self.sizes, 4, stages=stages)
        assert plan.total_steps == 2 * 10 + 3 * 5 + 6
        expected = [(e, s) for e, length in enumerate([10, 10, 5, 5, 5, 6]) for s in range(length)]
        assert [plan.epoch_of(k) for k in range(41)] == expected
        assert [[share.task for share in plan.describe(e)] for e in (0, 1, 2, 4, 5)] == [
            ["para"],
            ["para"],
            ["sts", "sst"],
            ["sts", "sst"],
            ["para", "sst", "sts"],
        ]
        assert len(list(plan)) == 41  # type: ignore[call-overload]  # IndexError ends the old protocol's loop
        for beyond in (41, 10**9):
            with pytest.raises(IndexError, match="has 41 steps"):
                plan[beyond]
            with pytest.raises(IndexError, match="has 41 steps"):
                plan.epoch_of(beyond)

    def test_every_step_of_a_stage_is_the_step_of_that_schedule_alone(self) -> None:
        stages = [{"schedule": "interleaved", "epochs": 1}, {"tasks": ["sst"], "epochs": 2}]
        plan = schedule("sequential", self.sizes, 4, stages=stages)
        alone = schedule("interleaved", self.sizes, 4)
        first = [(step.task, len(step.rows)) for step in steps(alone, alone.steps_per_epoch)]
        assert [(step.task, len(step.rows)) for step in steps(plan, len(first))] == first

    def test_a_stage_does_not_repeat_the_orders_of_the_one_before(self) -> None:
        stages = [{"tasks": ["a"], "epochs": 1}, {"tasks": ["a"]}]
        plan = schedule("sequential", {"a": 300}, 300, stages=stages)
        assert (plan[0].rows != plan[1].rows).mean() > 0.9

    @pytest.mark.parametrize(
        ("stages", "message"),
        [
            ([], "stages: found [], expected a list with at least one stage"),
            ("para", "stages: found 'para', expected a list with at least one stage"),
            (["para"], "stage 1: found 'para', expected {tasks, schedule, epochs or steps}"),
            ([{}, {}], "stage 1: epochs missing: only the last stage may be without end"),
            ([{"epochs": 0}], "stage 1: epochs: found 0, expected a whole number of at least 1"),
            ([{"epochs": 1}, {"epoch": 1}], "stage 2: unknown setting 'epoch'; did you mean 'epochs'?"),
            ([{"tasks": ["prara"]}], "stage 1: tasks: there is no task 'prara'; did you mean 'para'?"),
            ([{"tasks": [["para"]]}], "stage 1: tasks: there is no task ['para']; did you mean 'para'?"),
            ([{"tasks": []}], "stage 1: tasks: found [], expected a list of task names"),
            ([{"tasks": "sst"}], "stage 1: tasks: found 'sst', expected a list of task names"),
            (
                [{"tasks": ["sst", "sst"]}],
                "stage 1: tasks: found ['sst', 'sst'], expected each task once",
            ),
            ([{"stages": []}], "stage 1: a stage cannot have stages of its own"),
            (
                [{"schedule": "power", "exponent": 3}],
                "stage 1: exponent: found 3, expected a number from 0 to 1",
            ),
            (
                [{"schedule": "shuffled", "exponent": 1}],
                "stage 1: unknown setting 'exponent'",
            ),
            (
                [{"epochs": 1}, {"schedule": "annealed"}],
                "stage 2: epochs missing: annealed needs to know when it has come to its end",
            ),
            (
                [{"schedule": "robin"}],
                "stage 1: schedule 'robin': expected one of round_robin, interleaved, proportional,"
                " sqrt, power, annealed, shuffled, sequential; did you mean 'round_robin'?",
            ),
            (
                [{"schedule": ["x"], "extra": 1}],
                "stage 1: schedule ['x']: expected one of round_robin, interleaved, proportional, sqrt, power,"
                " annealed, shuffled, sequential",
            ),
        ],
    )
    def test_what_is_wrong_is_said_with_its_stage(self, stages: object, message: str) -> None:
        with pytest.raises(InputError) as caught:
            schedule("sequential", self.sizes, 4, stages=stages)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "roundrobin", "sizes": [1]},
            "schedule 'roundrobin': expected one of round_robin, interleaved, proportional, sqrt, power, annealed,"
            " shuffled, sequential; did you mean 'round_robin'?",
        ),
        (
            {"name": "round_robin", "sizes": [1], "stages": []},
            "schedule 'round_robin' has no setting 'stages' (known: none)",
        ),
        (
            {"name": "sequential", "sizes": [1], "stage": []},
            "schedule 'sequential' has no setting 'stage' (known: stages); did you mean 'stages'?",
        ),
        ({"name": "proportional", "sizes": []}, "there is nothing to mix: expected at least one task"),
        ({"name": "proportional", "sizes": {}}, "there is nothing to mix: expected at least one task"),
        (
            {"name": "proportional", "sizes": {"sst": 5, "sts": 0}},
            "task 'sts': rows: found 0, expected a whole number of at least 1",
        ),
        (
            {"name": "proportional", "sizes": [5, 2.5]},
            "task '1': rows: found 2.5, expected a whole number of at least 1",
        ),
        (
            {"name": "proportional", "sizes": [5], "batch_size": 0},
            "task '0': batch size: found 0, expected a whole number of at least 1",
        ),
        (
            {"name": "proportional", "sizes": [5], "batch_size": True},
            "task '0': batch size: found True, expected a whole number of at least 1",
        ),
        (
            {"name": "proportional", "sizes": {"sst": 5, "sts": 5}, "batch_size": {"sst": 5}},
            "task 'sts': batch size missing",
        ),
        (
            {"name": "proportional", "sizes": {"sst": 5}, "batch_size": {"sst": 5, "sts": 3}},
            "batch size: there is no task 'sts'; did you mean 'sst'?",
        ),
        *(
            (
                {"name": "power", "sizes": [5], "exponent": value},
                f"exponent: found {value!r}, expected a number from 0 to 1",
            )
            for value in (-0.1, 1.01, float("nan"), True, "1", None)
        ),
        (
            {"name": "power", "sizes": [5], "exponents": 1},
            "schedule 'power' has no setting 'exponents' (known: exponent, in_batch); did you mean 'exponent'?",
        ),
        (
            {"name": "annealed", "sizes": [5], "start": 2},
            "start: found 2, expected a number from 0 to 1",
        ),
        ({"name": "annealed", "sizes": [5], "end": -1}, "end: found -1, expected a number from 0 to 1"),
        *(
            (
                {"name": "annealed", "sizes": [5], "epochs": value},
                f"epochs: found {value!r}, expected a number above 0 and up to 10,000",
            )
            for value in (0, -1.0, 10_001, float("inf"), None, False, "3")
        ),
        *(
            (
                {"name": name, "sizes": [5], "in_batch": "yes"},
                "in_batch: found 'yes', expected true or false",
            )
            for name in ("proportional", "sqrt", "power", "annealed", "shuffled")
        ),
        (
            {"name": "round_robin", "sizes": [5], "in_batch": True},
            "schedule 'round_robin' has no setting 'in_batch' (known: none)",
        ),
        (
            {"name": "proportional", "sizes": [5], "seed": -1},
            "seed: found -1, expected a whole number of at least 0",
        ),
    ],
)
def test_wrong_input_is_said_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        schedule(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", NAMES)
def test_only_whole_numbers_from_0_are_steps(name: str) -> None:
    plan = schedule(name, [5, 6], 2)
    assert_same(plan[np.int64(3)], plan[3])  # type: ignore[index]  # numpy's integers have __index__
    with pytest.raises(IndexError, match="step -1: the first step is 0"):
        plan[-1]
    with pytest.raises(TypeError):
        plan[1.0]  # type: ignore[index]
    with pytest.raises(TypeError):
        plan["1"]  # type: ignore[index]


def test_a_batch_size_of_its_own_is_kept() -> None:
    plan = schedule("round_robin", {"a": 100, "b": 100}, {"a": 8, "b": 2})
    assert [len(step.rows) for step in steps(plan, 4)] == [8, 2, 8, 2]
    assert plan.steps_per_epoch == 2 * 12
    larger = schedule("proportional", {"a": 5}, 32)
    assert larger.describe() == [Share("a", 5, 5, 1)]
    assert sorted(larger[0].rows) == [0, 1, 2, 3, 4]


def test_an_open_last_stage_gets_the_epochs_and_the_earlier_ones_all_of_theirs() -> None:
    stages = [{"tasks": ["a"], "epochs": 4}, {"schedule": "round_robin"}]
    plan = mixing.schedule("sequential", {"a": 50, "b": 20}, 10, stages=stages)
    assert plan.steps_for(2) == 4 * 5 + 2 * 2 * 2
    assert {plan[k].task for k in range(20)} == {"a"}
    assert [plan[k].task for k in range(20, 24)] == ["a", "b", "a", "b"]
    assert mixing.schedule("proportional", {"a": 50}, 10).steps_for(0.5) == 2
    ended = [{"tasks": ["a"], "epochs": 4}, {"schedule": "round_robin", "epochs": 1}]
    assert mixing.schedule("sequential", {"a": 50, "b": 20}, 10, stages=ended).steps_for(9) == 24


def due_in_order(shares: Sequence[Sequence[int]], per_epoch: int, units: int) -> list[list[int]]:
    """[units + 1][tasks] the definition of `Apportionment`, walked unit by unit.

    Each task's shares are added up epoch by epoch until half a unit more than a whole number is reached.
    """
    whole, tasks = sum(shares[0]), len(shares[0])
    moments: list[tuple[Fraction, int]] = []
    for task in range(tasks):
        number, epoch, due = 0, 0, Fraction(0)
        while number <= units:
            share = Fraction(shares[min(epoch, len(shares) - 1)][task], whole)
            while number <= units and due + share * per_epoch >= number + Fraction(1, 2):
                moments.append((epoch * per_epoch + (number + Fraction(1, 2) - due) / share, task))
                number += 1
            due += share * per_epoch
            epoch += 1
    found = [[0] * tasks]
    for _, task in sorted(moments)[:units]:
        found.append([count + (which == task) for which, count in enumerate(found[-1])])
    return found


@given(st.data(), st.integers(1, 5), st.integers(1, 4), st.integers(1, 12))
@settings(max_examples=80, deadline=None)
def test_an_apportionment_is_the_order_in_which_units_are_due(
    data: st.DataObject, tasks: int, epochs: int, per_epoch: int
) -> None:
    whole = data.draw(st.integers(tasks, 30))
    shares = []
    for _ in range(epochs):
        cuts = sorted(data.draw(st.permutations(range(1, whole)))[: tasks - 1])
        shares.append([b - a for a, b in zip([0, *cuts], [*cuts, whole], strict=True)])
    made = mixing.Apportionment(shares, per_epoch)
    for unit, counts in enumerate(due_in_order(shares, per_epoch, 60)):
        assert list(made.before(unit)) == counts


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 40), st.integers(0, 10**40))
@settings(max_examples=100, deadline=None)
def test_an_apportionment_is_exact_and_never_far_from_its_due(
    weights: list[int], per_epoch: int, unit: int
) -> None:
    made = mixing.Apportionment([weights], per_epoch)
    counts, later = made.before(unit), made.before(unit + 1)
    assert sum(counts) == unit
    assert sorted(b - a for a, b in zip(counts, later, strict=True)) == [0] * (len(weights) - 1) + [1]
    for weight, count in zip(weights, counts, strict=True):
        share = Fraction(weight, sum(weights))
        assert abs(count - share * unit) <= (1 + share * (len(weights) - 2)) / 2


@given(st.data(), st.integers(1, 5), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_an_apportionment_with_changing_shares_keeps_its_bound(
    data: st.DataObject, tasks: int, unit: int
) -> None:
    rows = data.draw(st.lists(st.integers(1, 5_000), min_size=tasks, max_size=tasks))
    shares = mixing.powers(rows, [1, 0.7, 0.2, 0])
    counts = mixing.Apportionment(shares, per_epoch := 13).before(unit)
    assert sum(counts) == unit
    for task, count in enumerate(counts):
        own = [Fraction(parts[task], sum(parts)) for parts in shares]
        due = sum((own[min(at // per_epoch, 3)] for at in range(unit)), Fraction(0))
        assert abs(count - due) <= (1 + max(own) * tasks) / 2


def test_finding_a_far_unit_takes_as_few_moments_as_a_near_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    when = mixing.Apportionment._when

    def counted(self: mixing.Apportionment, task: int, number: int) -> Fraction:
        asked.append(number)
        return when(self, task, number)

    monkeypatch.setattr(mixing.Apportionment, "_when", counted)
    made = mixing.Apportionment(mixing.powers([400_000, 8_500, 2_490, 634], [1, 0.5, 0]), 12_345)
    for unit in (*range(1, 100), 12_345, *range(10**6, 10**6 + 100), 10**9, *range(10**30, 10**30 + 100)):
        asked.clear()
        made.before(unit)
        assert len(asked) <= 4 + 3  # the next of each task, and less than one a task to put in


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=6), exponents)
@settings(max_examples=100, deadline=None)
def test_shares_are_powers_of_the_rows(sizes: list[int], exponent: float) -> None:
    [parts] = mixing.powers(sizes, [exponent])
    assert sum(parts) == mixing.PARTS
    wanted = np.array(sizes, dtype=float) ** exponent
    np.testing.assert_allclose([part / mixing.PARTS for part in parts], wanted / wanted.sum(), rtol=1e-12)


@given(
    st.lists(st.integers(1, 400), min_size=2, max_size=6),
    st.integers(1, 20),
    exponents,
    seeds,
    st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_power_meets_its_shares_in_every_epoch_and_over_many(
    sizes: list[int], batch_size: int, exponent: float, seed: int, epoch: int
) -> None:
    plan = schedule("power", sizes, batch_size, seed, exponent=exponent)
    total, tasks = plan.steps_per_epoch, len(sizes)
    assert total == sum(-(-size // batch_size) for size in sizes)
    share = np.array(sizes, dtype=float) ** exponent
    share /= share.sum()
    bound = (1 + share * (tasks - 2)) / 2 + 1e-9
    # Over epochs: what is told of each adds up to the shares, and to all steps.
    told = np.array([[one.steps_per_epoch for one in plan.describe(e)] for e in range(epoch + 1)])
    assert (told >= 0).all()
    assert (told.sum(axis=1) == total).all()
    assert (np.abs(told.sum(axis=0) - (epoch + 1) * total * share) <= bound).all()
    # Within this one: exactly what is told, and evenly.
    which = [int(plan[epoch * total + k].task) for k in range(total)]
    had = np.cumsum(np.eye(tasks)[which], axis=0)
    assert_array_equal(had[-1], told[-1])
    off = np.abs(had + told[:-1].sum(axis=0) - (epoch * total + np.arange(1, total + 1)[:, None]) * share)
    assert (off <= bound + 1 + told[-1] / total * (tasks - 2) + 1e-9).all()


def test_a_task_with_a_small_share_is_not_starved() -> None:
    # 10,000 rows and 3: of 101 batches an epoch 0.0303 fall to the small task, one in every 33 epochs.
    plan = schedule("power", {"large": 10_000, "small": 3}, 100, exponent=1)
    assert plan.steps_per_epoch == 101
    had = [epoch for epoch in range(1_000) if plan.describe(epoch)[1].steps_per_epoch]
    assert len(had) == 30
    assert set(np.diff(had)) <= {33, 34}
    assert all(plan.describe(epoch)[1].steps_per_epoch == 1 for epoch in had)
    assert sum(step.task == "small" for step in steps(plan, 101 * 100)) == 3


def test_power_has_the_shares_of_bam() -> None:
    # Rows of the GLUE tasks; the shares are worked out in floats.
    sizes = {"cola": 8_551, "mnli": 392_702, "rte": 2_490}
    plan = schedule("power", sizes, 128)
    told = {share.task: share.steps_per_epoch for share in plan.describe()}
    weights = {task: size**0.75 for task, size in sizes.items()}
    assert plan.steps_per_epoch == 67 + 3_068 + 20
    for task, weight in weights.items():
        assert abs(told[task] - 3_155 * weight / sum(weights.values())) <= 1
    assert told["rte"] == 66  # and not 20, as by rows


@given(size_lists, batch_sizes, seeds, exponents, st.booleans(), st.integers(0, 10**12))
@settings(max_examples=50, deadline=None)
def test_the_ways_to_say_a_power_agree(
    sizes: list[int], batch_size: int, seed: int, exponent: float, in_batch: bool, k: int
) -> None:
    def told(name: str, **more: Any) -> list[tuple[str, list[int]]]:
        plan = schedule(name, sizes, batch_size, seed, in_batch=in_batch, **more)
        return [(task, rows.tolist()) for step in (0, 1, k) for task, rows in plan.draws(step)]

    assert told("sqrt") == told("power", exponent=0.5)
    assert told("power") == told("power", exponent=0.75)
    assert told("annealed", start=exponent, end=exponent) == told("power", exponent=exponent)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, [1, 0.5, 0, 0, 0]),
        ({"epochs": 2.5}, [1, 0.5, 0, 0, 0]),
        ({"epochs": 5, "end": 0.2}, [1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2]),
        ({"epochs": 3, "start": 0, "end": 1}, [0, 0.5, 1, 1]),
        ({"epochs": 2}, [1, 0, 0]),
        ({"epochs": 1}, [1, 0, 0]),
        ({"epochs": 0.5}, [1, 0, 0]),
    ],
)
def test_annealed_moves_its_exponent_from_epoch_to_epoch(more: dict[str, Any], wanted: list[float]) -> None:
    sizes = {"a": 64_000, "b": 4_000, "c": 900}
    plan = schedule("annealed", sizes, 10, **more)
    assert plan.steps_per_epoch == 6_890
    due = np.zeros(3)
    had = np.zeros(3)
    for epoch, exponent in enumerate(wanted):
        weights = np.array([*sizes.values()], dtype=float) ** exponent
        due += 6_890 * weights / weights.sum()
        had += [share.steps_per_epoch for share in plan.describe(epoch)]
        assert np.abs(had - due).max() <= 2  # (1 + 1 · 3) / 2
        first = [plan[epoch * 6_890 + k].task for k in range(0, 6_890, 7)]
        assert abs(first.count("a") / len(first) - weights[0] / weights.sum()) < 0.03
    assert [share.steps_per_epoch for share in plan.describe()] == [
        share.steps_per_epoch for share in plan.describe(wanted.index(wanted[-1]))
    ]


@given(size_lists, batch_sizes, seeds, exponents, exponents, st.floats(0.1, 12), st.integers(0, 14))
@settings(max_examples=60, deadline=None)
def test_an_annealed_epoch_holds_what_is_told_of_it(
    sizes: list[int], batch_size: int, seed: int, start: float, end: float, epochs: float, epoch: int
) -> None:
    plan = schedule("annealed", sizes, batch_size, seed, start=start, end=end, epochs=epochs)
    total = plan.steps_per_epoch
    held = Counter(plan[epoch * total + k].task for k in range(total))
    assert [held[share.task] for share in plan.describe(epoch)] == [
        share.steps_per_epoch for share in plan.describe(epoch)
    ]
    assert {len(step.rows) for step in steps(plan, total)} <= {min(batch_size, size) for size in sizes}


@given(size_lists, batch_sizes, seeds)
@settings(max_examples=30, deadline=None)
def test_shuffled_has_the_same_batches_as_proportional_in_another_order(
    sizes: list[int], batch_size: int, seed: int
) -> None:
    def batches(name: str) -> list[tuple[str, tuple[int, ...]]]:
        plan = schedule(name, sizes, batch_size, seed)
        return [(task, tuple(rows)) for task, rows in steps(plan, plan.steps_per_epoch)]

    assert Counter(batches("shuffled")) == Counter(batches("proportional"))
    assert (
        schedule("shuffled", sizes, batch_size).describe()
        == schedule("proportional", sizes, batch_size).describe()
    )


def test_shuffled_puts_a_batch_at_any_place_of_the_epoch() -> None:
    # The one batch of the small task at each of 10 places equally often in 2,000 epochs: chi-squared with 9
    # degrees of freedom lies below 27.9 with probability 0.999. And it may come in any neighbourhood.
    plan = schedule("shuffled", {"large": 90, "small": 10}, 10, seed=4)
    turns = [[plan[epoch * 10 + k].task for k in range(10)] for epoch in range(2_000)]
    places = np.bincount([turn.index("small") for turn in turns], minlength=10)
    assert ((places - 200) ** 2 / 200).sum() < 27.9
    # Two tasks of two batches each: all six orders come, which `proportional` would never give.
    plan = schedule("shuffled", {"a": 2, "b": 2}, 1, seed=4)
    orders = Counter("".join(plan[epoch * 4 + k].task for k in range(4)) for epoch in range(600))
    assert len(orders) == 6
    assert min(orders.values()) > 60


class TestInBatch:
    @given(st.sampled_from(IN_BATCH[:-1]), size_lists, batch_sizes, seeds, st.integers(0, 3))
    @settings(max_examples=100, deadline=None)
    def test_steps_are_full_and_an_epoch_is_as_long_as_all_rows(
        self, way: tuple[str, dict[str, Any]], sizes: list[int], batch_size: int, seed: int, epoch: int
    ) -> None:
        name, more = way
        plan = schedule(name, sizes, batch_size, seed, **more)
        full = min(batch_size, sum(sizes))
        total = plan.steps_per_epoch
        assert total == -(-sum(sizes) // full)
        lengths = []
        for k in range(epoch * total, (epoch + 1) * total):
            held = plan.draws(k)
            numbers = [int(step.task) for step in held]
            assert numbers == sorted(set(numbers))  # each task once, in the recipe's order
            assert all(len(step.rows) > 0 and step.rows.dtype == np.int64 for step in held)
            lengths.append(sum(len(step.rows) for step in held))
        whole = name in ("proportional", "shuffled")
        assert lengths == [full] * (total - 1) + [sum(sizes) - (total - 1) * full if whole else full]

    @given(st.sampled_from(["proportional", "shuffled"]), size_lists, batch_sizes, seeds, st.integers(0, 3))
    @settings(max_examples=60, deadline=None)
    def test_an_epoch_by_rows_has_every_row_once(
        self, name: str, sizes: list[int], batch_size: int, seed: int, epoch: int
    ) -> None:
        plan = schedule(name, sizes, batch_size, seed, in_batch=True)
        total = plan.steps_per_epoch
        found = seen(drawn(plan, epoch * total, (epoch + 1) * total))
        assert found == {str(i): Counter(range(size)) for i, size in enumerate(sizes)}

    @given(size_lists, batch_sizes, exponents, st.integers(1, 60))
    @settings(max_examples=60, deadline=None)
    def test_after_any_step_the_rows_are_in_proportion(
        self, sizes: list[int], batch_size: int, exponent: float, count: int
    ) -> None:
        plan = schedule("power", sizes, batch_size, exponent=exponent, in_batch=True)
        share = np.array(sizes, dtype=float) ** exponent
        share /= share.sum()
        had = np.zeros(len(sizes))
        for k in range(count):
            for task, rows in plan.draws(k):
                had[int(task)] += len(rows)
            assert (np.abs(had - had.sum() * share) <= (1 + share * (len(sizes) - 2)) / 2 + 1e-9).all()

    def test_a_step_may_hold_many_passes_of_a_tiny_task(self) -> None:
        plan = schedule("power", {"tiny": 2, "large": 100}, 32, exponent=0, in_batch=True)
        for k in range(6):
            tiny, large = plan.draws(k)
            assert Counter(tiny.rows.tolist()) == {0: 8, 1: 8}
            assert len(large.rows) == 16

    def test_a_step_mixes_the_tasks(self) -> None:
        sizes = {"large": 600, "middle": 300, "small": 100}
        for name in ("proportional", "shuffled"):
            held = schedule(name, sizes, 100, in_batch=True).draws(3)
            counts = {step.task: len(step.rows) for step in held}
            assert set(counts) == set(sizes)
            assert all(
                abs(counts[task] - size / 10) <= (1 if name == "proportional" else 20)
                for task, size in sizes.items()
            )
        equal = schedule("power", sizes, 99, exponent=0, in_batch=True)
        assert {len(step.rows) for k in range(20) for step in equal.draws(k)} == {33}

    def test_shuffled_rows_fall_anywhere(self) -> None:
        # Rows of the small task in the first of 10 steps, over 500 epochs: 2 of 20 on average, and from none
        # to many; in proportion it would be 2 in each.
        plan = schedule("shuffled", {"large": 180, "small": 20}, 20, seed=2, in_batch=True)
        counts = [
            sum(len(step.rows) for step in plan.draws(10 * epoch) if step.task == "small")
            for epoch in range(500)
        ]
        # Hypergeometric: variance 20 · 0.1 · 0.9 · 180 / 199, so the mean is within 0.2 (3.5 deviations).
        assert abs(np.mean(counts) - 2) < 0.2
        assert abs(np.var(counts) - 20 * 0.1 * 0.9 * 180 / 199) < 0.4
        assert min(counts) == 0

    def test_which_tasks_a_step_holds_is_the_same_for_every_seed_but_not_which_rows(self) -> None:
        one, other = (schedule("sqrt", [500, 200], 50, seed, in_batch=True) for seed in (1, 2))
        for k in range(20):
            for a, b in zip(one.draws(k), other.draws(k), strict=True):
                assert (a.task, len(a.rows)) == (b.task, len(b.rows))
                assert (a.rows != b.rows).mean() > 0.5

    @pytest.mark.parametrize(("name", "more"), IN_BATCH)
    def test_a_seed_and_a_pass_have_orders_of_their_own(self, name: str, more: dict[str, Any]) -> None:
        def stream(seed: int) -> list[int]:
            plan = schedule(name, [100, 100], 20, seed, **more)
            return [int(row) for task, rows in drawn(plan, 0, 60) if task == "1" for row in rows]

        one, other = stream(0), stream(1)
        assert (np.array(one[:200]) != np.array(other[:200])).mean() > 0.9
        assert sorted(one[:100]) == sorted(one[100:200]) == list(range(100))
        assert (np.array(one[:100]) != np.array(one[100:200])).mean() > 0.9

    def test_the_order_of_a_task_does_not_know_its_neighbours(self) -> None:
        def stream(name: str, sizes: dict[str, int], **more: Any) -> list[int]:
            plan = schedule(name, sizes, 10, **more)
            return [int(row) for task, rows in drawn(plan, 0, 60) if task == "a" for row in rows][:60]

        alone = stream("power", {"a": 40})
        assert stream("power", {"a": 40, "b": 90}) == alone
        assert stream("power", {"a": 40, "b": 90}, in_batch=True) == alone
        assert stream("shuffled", {"b": 20, "a": 40}, in_batch=True) == alone

    @pytest.mark.parametrize(("name", "more"), IN_BATCH)
    def test_a_single_step_has_no_single_task(self, name: str, more: dict[str, Any]) -> None:
        plan = schedule(name, [5, 6], 4, **more)
        assert plan.in_batch
        with pytest.raises(
            InputError, match=r"^a step of this schedule holds rows of several tasks: use draws"
        ):
            plan[0]
        with pytest.raises(IndexError, match="step -1: the first step is 0"):
            plan.draws(-1)
        with pytest.raises(TypeError):
            plan.draws(1.0)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("name", "more"), WAYS)
    def test_a_step_of_one_task_is_drawn_as_it_is(self, name: str, more: dict[str, Any]) -> None:
        plan = schedule(name, [5, 6], 4, **more)
        assert not plan.in_batch
        for k in range(20):
            [step] = plan.draws(k)
            assert_same(step, plan[k])

    def test_batch_sizes_of_their_own_give_way_to_the_largest(self) -> None:
        for name, more in IN_BATCH[:-1]:
            plan = schedule(name, {"a": 100, "b": 60}, {"a": 8, "b": 20}, **more)
            assert plan.steps_per_epoch == 8
            assert {sum(len(step.rows) for step in plan.draws(k)) for k in range(16)} == {20}

    def test_what_is_told_of_an_epoch_is_the_average_of_its_steps(self) -> None:
        for name in ("proportional", "shuffled"):
            told = schedule(name, {"a": 700, "b": 95, "c": 5}, 10, in_batch=True).describe()
            assert told == [Share("a", 700, 9, 80), Share("b", 95, 2, 80), Share("c", 5, 1, 5)]
        told = schedule("power", {"a": 700, "b": 100}, 10, exponent=0, in_batch=True).describe(10**20)
        assert told == [Share("a", 700, 5, 80), Share("b", 100, 5, 80)]

    def test_a_stage_may_mix_inside_its_batches(self) -> None:
        stages = [
            {"tasks": ["a"], "epochs": 2},
            {"schedule": "annealed", "in_batch": True, "epochs": 2},
            {"schedule": "shuffled", "epochs": 1},
        ]
        plan = schedule("sequential", {"a": 90, "b": 10}, 10, stages=stages)
        assert plan.total_steps == 2 * 9 + 2 * 10 + 10
        counts = [{step.task: len(step.rows) for step in plan.draws(k)} for k in range(48)]
        assert counts[:18] == [{"a": 10}] * 18
        # The exponent falls over the stage's own epochs.
        assert counts[18:28] == [{"a": 9, "b": 1}] * 10
        assert counts[28:38] == [{"a": 5, "b": 5}] * 10
        assert Counter(task for held in counts[38:] for task in held) == {"a": 9, "b": 1}
        assert [plan.epoch_of(k) for k in (0, 17, 18, 37, 38)] == [(0, 0), (1, 8), (2, 0), (3, 9), (4, 0)]
        assert plan.describe(2) == [Share("a", 90, 9, 10), Share("b", 10, 1, 10)]
        assert plan.describe(3) == [Share("a", 90, 5, 10), Share("b", 10, 5, 10)]
        with pytest.raises(IndexError, match="has 48 steps"):
            plan.draws(48)
