"""Mixing schedules, each property held against a count made here by hand."""

import pickle
from collections import Counter
from collections.abc import Mapping
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


def steps(plan: Schedule, count: int) -> list[Step]:
    return [plan[k] for k in range(count)]


def seen(some: list[Step]) -> dict[str, Counter[int]]:
    """task → row → how often it came."""
    counts: dict[str, Counter[int]] = {}
    for task, rows in some:
        counts.setdefault(task, Counter()).update(rows.tolist())
    return counts


def assert_same(one: Step, other: Step) -> None:
    assert one.task == other.task
    assert_array_equal(one.rows, other.rows)


@given(ways, size_lists, batch_sizes, seeds, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_step_depends_on_its_number_alone(
    way: tuple[str, dict[str, Any]], sizes: list[int], batch_size: int, seed: int, random: Random
) -> None:
    name, more = way
    told = steps(schedule(name, sizes, batch_size, seed, **more), 40)
    fresh = schedule(name, sizes, batch_size, seed, **more)
    numbers = list(range(40))
    random.shuffle(numbers)
    for k in numbers:
        assert_same(fresh[k], told[k])


@given(st.sampled_from(NAMES), size_lists, batch_sizes, seeds, st.integers(1, 150))
@settings(max_examples=100, deadline=None)
def test_every_row_comes_equally_often_or_once_apart_at_any_prefix(
    name: str, sizes: list[int], batch_size: int, seed: int, count: int
) -> None:
    for task, rows in seen(steps(schedule(name, sizes, batch_size, seed), count)).items():
        size = sizes[int(task)]
        drawn = rows.total()
        assert set(rows) <= set(range(size))
        assert {rows[row] for row in range(size)} <= {drawn // size, -(-drawn // size)}


@given(st.sampled_from(["proportional", "sequential"]), size_lists, batch_sizes, seeds, st.integers(0, 3))
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


@pytest.mark.parametrize(("name", "more"), WAYS)
def test_a_far_step_costs_what_a_near_one_costs(
    name: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, int]] = []
    draw = mixing.draw

    def counted(count: int, seed: int, stage: int, purpose: str, number: int) -> Any:
        drawn.append((purpose, number))
        return draw(count, seed, stage, purpose, number)

    monkeypatch.setattr(mixing, "draw", counted)
    plan = schedule(name, [1_000, 170], 16, **more)
    for k in (10**9, 10**18, 10**30):
        drawn.clear()
        rows = plan[k].rows
        assert 1 <= len(rows) <= 16
        assert 1 <= len(drawn) <= 3
        drawn.clear()
        assert_array_equal(plan[k].rows, rows)
        assert drawn == []


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_draws_each_pass_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter[tuple[str, int]] = Counter()
    draw = mixing.draw

    def counted(count: int, seed: int, stage: int, purpose: str, number: int) -> Any:
        drawn[purpose, number] += 1
        return draw(count, seed, stage, purpose, number)

    monkeypatch.setattr(mixing, "draw", counted)
    plan = schedule(name, [90, 60, 30], 4)
    steps(plan, 3 * plan.steps_per_epoch)
    assert set(drawn.values()) == {1}


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
    for name, more in WAYS:
        plan = schedule(name, [20, 30], 5, **more)
        plan[0]
        other = pickle.loads(pickle.dumps(plan))
        for k in range(30):
            assert_same(other[k], plan[k])


@given(size_lists, batch_sizes, st.sampled_from(NAMES), st.integers(0, 500))
@settings(deadline=None)
def test_epochs_of_a_plain_schedule_are_equally_long(
    sizes: list[int], batch_size: int, name: str, k: int
) -> None:
    plan = schedule(name, sizes, batch_size)
    assert plan.epoch_of(k) == divmod(k, plan.steps_per_epoch)
    assert plan.total_steps is None


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
            (["para"], "stage 1: found 'para', expected {tasks, schedule, epochs}"),
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
                [{"schedule": "robin"}],
                "stage 1: schedule 'robin': expected one of round_robin, interleaved, proportional,"
                " sequential; did you mean 'round_robin'?",
            ),
            (
                [{"schedule": ["x"], "extra": 1}],
                "stage 1: schedule ['x']: expected one of round_robin, interleaved, proportional, sequential",
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
            "schedule 'roundrobin': expected one of round_robin, interleaved, proportional, sequential;"
            " did you mean 'round_robin'?",
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
