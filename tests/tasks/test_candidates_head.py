"""The head that scores candidates: one vector, in groups of any size, and the softmax that a bias could not move."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.tasks.heads.pooling import POOLINGS, Pooling

WIDTH = 6


def grouped_states(make: Callable[..., States], counts: list[int], *lengths: int) -> States:
    states = make(*lengths)
    return replace(states, ragged=replace(states.ragged, counts=np.array(counts)))


def head(pooling: Pooling = "pooled", dropout: float = 0.0) -> CandidatesHead:
    torch.manual_seed(0)
    return CandidatesHead(WIDTH, pooling=pooling, dropout=dropout).double()


@pytest.mark.parametrize("pooling", ["pooled", "cls", "mean"])
def test_it_is_a_linear_layer_without_a_bias(make_states: Callable[..., States], pooling: Pooling) -> None:
    states, one = grouped_states(make_states, [2, 1, 3], 3, 4, 2, 5, 1, 2), head(pooling)
    read = one.read(states)
    assert read.rows.shape == (6, WIDTH)
    said = one(read)
    assert said.sizes.tolist() == [2, 1, 3]
    assert len(said) == 3
    layer = nn.Linear(WIDTH, 1, bias=False).double()
    layer.load_state_dict({"weight": one.vector})
    torch.testing.assert_close(said.rows, layer(POOLINGS[pooling](states)))


def test_it_adds_one_vector(make_states: Callable[..., States]) -> None:
    assert {name: tuple(p.shape) for name, p in head().named_parameters()} == {"vector": (1, WIDTH)}


def test_scores_do_not_depend_on_the_other_candidates(make_states: Callable[..., States]) -> None:
    states, one = grouped_states(make_states, [2, 3], 3, 4, 2, 5, 1), head()
    whole = one(one.read(states))
    alone = one(one.read(states.of_sequences(2, 5)))
    assert alone.sizes.tolist() == [3]
    torch.testing.assert_close(alone.rows, whole.rows[2:])


def test_without_counts_every_sequence_is_an_example(make_states: Callable[..., States]) -> None:
    one = head()
    assert one(one.read(make_states(3, 2))).sizes.tolist() == [1, 1]


def test_dropout_is_drawn_while_training_alone(make_states: Callable[..., States]) -> None:
    one, read = head(dropout=0.5), Grouped(torch.ones(4, WIDTH).double(), np.array([2, 2]))
    one.eval()
    torch.testing.assert_close(one(read).rows, one.vector.sum().expand(4, 1))
    one.train()
    torch.manual_seed(1)
    assert len(one(read).rows.unique()) > 1


def test_it_learns_in_its_own_precision(make_states: Callable[..., States]) -> None:
    one = CandidatesHead(WIDTH, pooling="cls", dropout=0.0)
    said = one(Grouped(torch.ones(2, WIDTH, dtype=torch.bfloat16), np.array([2])))
    assert said.rows.dtype is torch.float32
