"""The heads of pre-training on states without an encoder: the formula, what is computed, whose the words are."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.tasks.heads.masked_lm import MaskedLMHead
from manyheads.tasks.heads.next_sentence import NextSentenceHead

Make = Callable[..., States]
WIDTH, VOCABULARY = 6, 11


@pytest.fixture
def words() -> nn.Embedding:
    torch.manual_seed(0)
    return nn.Embedding(VOCABULARY, WIDTH).double()


@pytest.fixture
def head(words: nn.Embedding) -> MaskedLMHead:
    made = MaskedLMHead(words, eps=1e-3).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def masked_states(make: Make, marks: list[int], *lengths: int) -> States:
    states = make(*lengths)
    where = torch.zeros(sum(lengths), dtype=torch.bool)
    where[marks] = True
    return replace(states, ragged=replace(states.ragged, marks=where))


def test_the_formula_on_the_marked_tokens_alone(
    make_states: Make, head: MaskedLMHead, words: nn.Embedding
) -> None:
    states = masked_states(make_states, [1, 2, 6], 4, 2, 3)
    read = head.read(states)
    assert read.rows.shape == (3, WIDTH)
    said = head(read)
    assert said.sizes.tolist() == [2, 0, 1]
    x = states.tokens[[1, 2, 6]] @ head.dense.weight.T + head.dense.bias
    x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-3).sqrt()
    x = x * head.norm.weight + head.norm.bias
    torch.testing.assert_close(said.rows, x @ words.weight.T + head.bias, atol=1e-12, rtol=0)


def test_no_marks_give_no_rows(make_states: Make, head: MaskedLMHead) -> None:
    said = head(head.read(masked_states(make_states, [], 3, 2)))
    assert said.rows.shape == (0, VOCABULARY)
    assert said.sizes.tolist() == [0, 0]


def test_the_words_are_not_the_head_s_but_learn(
    make_states: Make, head: MaskedLMHead, words: nn.Embedding
) -> None:
    names = ["bias", "dense.bias", "dense.weight", "norm.bias", "norm.weight"]
    assert sorted(head.state_dict()) == sorted(name for name, _ in head.named_parameters()) == names
    said = head(head.read(masked_states(make_states, [0, 3], 4)))
    torch.autograd.backward(F.cross_entropy(said.rows, torch.tensor([2, 5])))
    assert words.weight.grad is not None
    assert bool((words.weight.grad.abs().sum(1) > 0).all())  # every word is an answer that could be given


def test_a_copy_of_all_shares_a_copy_of_the_words(head: MaskedLMHead, words: nn.Embedding) -> None:
    pair: Any = copy.deepcopy((words, head))
    assert pair[1]._words[0] is pair[0]
    assert pair[0] is not words


def test_half_precision_is_for_the_products_alone(words: nn.Embedding) -> None:
    torch.manual_seed(3)
    single = words.float()
    head = MaskedLMHead(single, eps=1e-12)
    x = torch.randn(5, WIDTH)
    vectors = Grouped(x, np.array([5]))
    exact = head(vectors).rows
    head.use(torch.bfloat16)
    rounded = head(vectors).rows
    assert rounded.dtype is torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.02)
    torch.autograd.backward(rounded.float().sum())
    for one in (single.weight, *head.parameters()):
        assert one.grad is not None
        assert one.grad.dtype is torch.float32
    head.use(None)
    assert torch.equal(head(vectors).rows, exact)


def test_next_sentence_is_a_linear_layer_over_the_pooled_vector(make_states: Make) -> None:
    head, states = NextSentenceHead(WIDTH).double(), make_states(3, 1, 4)
    wanted = states.pooled() @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head.train()(head.read(states)), wanted)
    assert wanted.shape == (3, 2)
