"""Windows and best spans against loops over everything, written as run_squad writes them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyheads.formulas.spans import best, most_context, nbest, windows


def run_squad_windows(question: int, context: int, max_length: int, stride: int) -> list[tuple[int, int]]:
    room = max_length - question - 3
    found, start = [], 0
    while start < context:
        length = context - start
        if length > room:
            length = room
        found.append((start, length))
        if start + length == context:
            break
        start += min(length, stride)
    return found


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 700), st.integers(44, 400), st.integers(1, 300))
def test_windows_are_run_squads(question: int, context: int, max_length: int, stride: int) -> None:
    found = windows(question, context, max_length, stride)
    assert found == run_squad_windows(question, context, max_length, stride)
    seen = {token for start, length in found for token in range(start, start + length)}
    assert seen == set(range(context))
    assert all(0 < length <= max_length - question - 3 for _, length in found)


def test_windows_by_hand() -> None:
    assert windows(10, 371) == [(0, 371)]
    assert windows(10, 372) == [(0, 371), (128, 244)]
    assert windows(64, 500) == [(0, 317), (128, 317), (256, 244)]
    assert windows(0, 10, max_length=7, stride=6) == [(0, 4), (4, 4), (8, 2)]  # a stride beyond the window
    assert windows(5, 0) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((381, 10), "a question of 381 tokens leaves no room for a context in 384 tokens"),
        ((-1, 10), "expected lengths of 0 or more"),
        ((1, 10, 384, 0), "a stride of 0"),
    ],
)
def test_windows_that_make_no_sense(arguments: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        windows(*arguments)


def run_squad_max_context(spans: list[tuple[int, int]], position: int) -> int:
    best_score, best_index = -math.inf, -1
    for index, (start, length) in enumerate(spans):
        if not start <= position < start + length:
            continue
        left = position - start
        right = start + length - 1 - position
        score = min(left, right) + 0.01 * length
        if score > best_score:
            best_score, best_index = score, index
    return best_index


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(5, 100), st.integers(1, 90))
def test_the_window_of_most_context_is_run_squads(context: int, room: int, stride: int) -> None:
    spans = windows(0, context, room + 3, stride)
    found = most_context(spans)
    assert found.tolist() == [run_squad_max_context(spans, position) for position in range(context)]


def test_the_window_of_most_context_by_hand() -> None:
    # The example of run_squad: "bought" has 1 token at its left in the second window, 4 and 1 in the first's tail.
    assert most_context([(0, 5), (3, 5), (6, 5)]).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert most_context([]).tolist() == []


def every_span(
    starts: list[float], ends: list[float], positions: list[int], longest: int
) -> list[tuple[float, int, int]]:
    found = [
        (starts[i] + ends[j], positions[i], positions[j])
        for i in range(len(positions))
        for j in range(i, len(positions))
        if positions[j] - positions[i] + 1 <= longest
    ]
    return sorted((one for one in found if one[0] > -math.inf), key=lambda one: (-one[0], one[1], one[2]))


SCORE = st.integers(-3, 3).map(float) | st.just(-math.inf)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 14), st.integers(1, 30))
def test_the_best_spans_are_those_of_a_loop(data: st.DataObject, size: int, longest: int, count: int) -> None:
    starts, ends = (data.draw(st.lists(SCORE, min_size=size, max_size=size)) for _ in range(2))
    gaps = data.draw(st.lists(st.integers(1, 3), min_size=size, max_size=size))
    positions = np.cumsum(gaps).tolist()
    expected = every_span(starts, ends, positions, longest)
    found = nbest(starts, ends, positions, longest, count)
    assert [(one.score, one.start, one.end) for one in found] == expected[:count]
    if expected:
        assert best(starts, ends, positions, longest) == found[0]
    else:
        with pytest.raises(ValueError, match="no token may begin or end"):
            best(starts, ends, positions, longest)


def test_scores_of_all_tokens_or_of_the_positions_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    starts, ends = torch.randn(2, 40, generator=generator, dtype=torch.float64)
    inside = range(12, 39)  # what stands outside, [CLS] and the question, may not be pointed at
    starts[3] = ends[5] = 100.0
    of_all = best(starts, ends, inside, 8)
    assert of_all == best(starts[12:39], ends[12:39], inside, 8)
    assert 12 <= of_all.start <= of_all.end < 39
    assert of_all.end - of_all.start < 8
    start, end, score = of_all
    assert score == pytest.approx(float(starts[start] + ends[end]))


def test_the_first_of_equal_spans() -> None:
    assert best([1, 1, 0], [0, 1, 1], range(3)) == (0, 1, 2.0)
    assert [one[:2] for one in nbest([0, 0, 0], [0, 0, 0], range(3), 2, 4)] == [
        (0, 0),
        (0, 1),
        (1, 1),
        (1, 2),
    ]


def test_an_end_never_stands_before_its_start() -> None:
    assert best([0, 9], [9, 0], range(2)) == (0, 0, 9.0)  # and not 18 backwards


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_of_any_type_are_read(kind: torch.dtype) -> None:
    starts, ends = torch.tensor([0.5, 2, -1]).to(kind), torch.tensor([0, 1.5, 3]).to(kind)
    starts.requires_grad_()
    assert best(starts, ends, torch.arange(3)) == (1, 2, 5.0)
    # Numbers that only float64 holds are not rounded on the way.
    precise = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert best(precise, precise, range(2), 1).start == 1
    with pytest.raises(ValueError, match="expected whole numbers"):
        best(starts, ends, torch.arange(3).to(kind))


@pytest.mark.parametrize("count", [0, -1])
def test_no_best_span_at_all_cannot_be_asked_for(count: int) -> None:
    with pytest.raises(ValueError, match=f"count: expected 1 or more, found {count}"):
        nbest([1.0, 2.0], [1.0, 2.0], range(2), count=count)


def test_a_long_sequence_is_searched_whole() -> None:
    generator = np.random.default_rng(0)
    starts, ends = generator.normal(size=(2, 3000))
    found = nbest(starts, ends, range(3000), 30, 20)
    sums = starts[:, None] + ends[None, :]
    i, j = np.indices(sums.shape)
    sums[(j < i) | (j - i >= 30)] = -np.inf
    assert [one.score for one in found] == pytest.approx(np.sort(sums.ravel())[::-1][:20].tolist())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([1.0], [1.0], [0, 1]), "found scores of 1 tokens, but positions from 0 to 1"),
        (([1.0, 2.0], [1.0, 2.0], [1, 0]), "increasing"),
        (([1.0], [math.nan], [0]), "NaN"),
        (([1.0], [1.0], [0.5]), "whole numbers"),
        (([1.0], [1.0], [0], 0), "max_answer_length"),
        (([[1.0]], [[1.0]], [0]), "one number for each token"),
        (([], [], []), "no token may begin"),
    ],
)
def test_scores_that_make_no_sense(arguments: tuple[list[float], list[float], list[int]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        best(*arguments)
