"""Rows in groups: each group as if it stood alone."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from manyheads.encoder.grouped import Grouped

SIZES = st.lists(st.integers(0, 4), min_size=1, max_size=6)


def grouped(sizes: list[int], columns: int = 2, counts: list[int] | None = None) -> Grouped:
    generator = torch.Generator().manual_seed(sum(sizes) + len(sizes))
    rows = torch.randn(sum(sizes), columns, generator=generator, dtype=torch.float64)
    return Grouped(rows, np.array(sizes), None if counts is None else np.array(counts))


@given(SIZES)
@settings(deadline=None, max_examples=50)
def test_a_softmax_is_that_of_each_group_alone(sizes: list[int]) -> None:
    some = grouped(sizes)
    wanted = [one.log_softmax(0) for one in some.split()]
    torch.testing.assert_close(some.log_softmax(), torch.cat(wanted))
    torch.testing.assert_close(some.total(some.rows), torch.stack([one.sum(0) for one in some.split()]))


def test_large_numbers_neither_overflow_nor_vanish() -> None:
    some = Grouped(torch.tensor([[1e4], [1e4 - 1], [-1e4], [-1e4]]), np.array([2, 2]))
    wanted = torch.tensor([[1.0], [0.0]]).log_softmax(0)
    found = some.log_softmax()
    torch.testing.assert_close(found[:2], wanted, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[2:], torch.full((2, 1), -0.693147), atol=1e-5, rtol=0)


def test_gradients_through_the_softmax() -> None:
    sizes = np.array([3, 1, 2])

    def probability(rows: Tensor) -> Tensor:
        return Grouped(rows, sizes).log_softmax()[:, 0].exp()[[0, 4]]

    rows = grouped([3, 1, 2], 1).rows.requires_grad_()
    assert torch.autograd.gradcheck(probability, (rows,))
    assert torch.autograd.gradgradcheck(probability, (rows,))


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=5), st.randoms())
@settings(deadline=None, max_examples=50)
def test_examples_with_several_groups_are_taken_whole(examples: list[list[int]], random: Any) -> None:
    sizes = [size for one in examples for size in one]
    some = grouped(sizes, counts=[len(one) for one in examples])
    ends = np.cumsum([sum(one) for one in examples])
    assert len(some) == len(examples)
    assert some.rows_of_examples.tolist() == [sum(one) for one in examples]
    order = [random.randrange(len(examples)) for _ in range(4)]
    taken = some.take(np.array(order))
    assert taken.sizes.tolist() == [size for i in order for size in examples[i]]
    assert taken.counts is not None
    assert taken.counts.tolist() == [len(examples[i]) for i in order]
    wanted = [some.rows[ends[i] - sum(examples[i]) : ends[i]] for i in order]
    torch.testing.assert_close(taken.rows, torch.cat(wanted))
    again = Grouped.joined([some.take(np.array([i])) for i in order])
    torch.testing.assert_close(again.rows, taken.rows)
    assert again.sizes.tolist() == taken.sizes.tolist()


def test_groups_that_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="groups of 3 rows together, but 2 rows"):
        Grouped(torch.zeros(2, 1), np.array([1, 2]))
    with pytest.raises(ValueError, match="examples of 3 groups together, but 2 groups"):
        Grouped(torch.zeros(3, 1), np.array([1, 2]), np.array([3]))


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=16, max_size=16),
)
@settings(deadline=None, max_examples=60)
def test_pieces_of_examples_are_put_together(examples: list[list[int]], cuts: list[bool]) -> None:
    """Cut before any of its groups or nowhere, an example is whole again; with a group an example as well."""
    whole = grouped([size for one in examples for size in one], counts=[len(one) for one in examples])
    counts, pieces = list[int](), list[int]()
    for one in examples:
        before = len(counts)
        for place in range(len(one)):
            if place == 0 or cuts[(before + place) % len(cuts)]:
                counts.append(0)
            counts[-1] += 1
        pieces.append(len(counts) - before)
    found = Grouped(whole.rows, whole.sizes, np.array(counts)).merged(np.array(pieces))
    assert found.counts is not None
    assert found.counts.tolist() == [len(one) for one in examples]
    assert found.rows is whole.rows
    assert found.sizes.tolist() == whole.sizes.tolist()
    flat = Grouped(whole.rows, whole.sizes).merged(np.array([len(one) for one in examples]))
    assert (flat.counts, flat.sizes.tolist()) == (None, [sum(one) for one in examples])
