"""The two recurrent layers against torch's own, sentence by sentence."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layers import Masks
from manyheads.tasks.heads.bilstm import BiLSTMHead

Make = Callable[..., States]
HIDDEN, WIDTH = 6, 5


def make_head(pool: bool, dropout: float = 0.0, width: int = WIDTH) -> BiLSTMHead:
    torch.manual_seed(5)
    return BiLSTMHead(HIDDEN, 3, pool=pool, width=width, dropout=dropout).double()


def rows_of(sizes: Sequence[int], seed: int = 0) -> Grouped:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(sizes), HIDDEN, generator=generator, dtype=torch.float64)
    return Grouped(rows, np.array(sizes, dtype=np.int64))


def by_hand(head: BiLSTMHead, sequences: Sequence[Tensor]) -> list[Tensor]:
    """What the head's weights give in torch's LSTM of two layers, one sequence at a time: [size, outputs] each, or
    [outputs] of the greatest values."""
    whole = nn.LSTM(HIDDEN, WIDTH, num_layers=2, bidirectional=True, batch_first=True).double()
    named = {}
    for number, lstm in enumerate(head.lstms):
        for name, weight in lstm.state_dict().items():
            named[name.replace("_l0", f"_l{number}")] = weight
    whole.load_state_dict(named)
    found = []
    for rows in sequences:
        if not len(rows):
            found.append(torch.zeros(0, 3, dtype=torch.float64))
            continue
        both = whole(rows[None])[0][0]
        seen = torch.tensor([max(column) for column in both.T.tolist()], dtype=both.dtype)[None]
        outputs = (seen if head.pool else both) @ head.output.weight.T + head.output.bias
        found.append(outputs[0] if head.pool else outputs)
    return found


@pytest.mark.parametrize(
    "sizes", [(3,), (1, 1, 1), (2, 5, 3, 5, 1), (4, 0, 2, 0), (0, 0, 7), (9, 8, 7, 1, 2, 3)]
)
def test_a_row_for_each_token(sizes: tuple[int, ...]) -> None:
    head, rows = make_head(pool=False).eval(), rows_of(sizes)
    found = head(rows)
    assert isinstance(found, Grouped)
    for one, other in zip(found.split(), by_hand(head, rows.split()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8).filter(any), st.integers(0, 99))
def test_tokens_keep_their_places(sizes: list[int], seed: int) -> None:
    head, rows = make_head(pool=False), rows_of(sizes, seed)
    expected = torch.cat(by_hand(head, rows.split()))
    torch.testing.assert_close(head(rows).rows, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", [(3,), (1, 1, 1), (2, 5, 3, 5, 1), (1, 9, 1)])
def test_a_row_for_each_sequence(sizes: tuple[int, ...]) -> None:
    head, rows = make_head(pool=True).eval(), rows_of(sizes)
    found = head(rows)
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, torch.stack(by_hand(head, rows.split())), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pool", [False, True])
def test_an_answer_does_not_depend_on_its_neighbours(pool: bool) -> None:
    head, rows = make_head(pool=pool), rows_of((4, 2, 6, 3))
    together = head(rows)
    for number in range(4):
        alone = head(rows.take(np.array([number])))
        if pool:
            torch.testing.assert_close(alone[0], together[number], rtol=1e-12, atol=1e-12)
        else:
            torch.testing.assert_close(alone.rows, together.split()[number], rtol=1e-12, atol=1e-12)
    twice = head(rows)
    assert torch.equal(*[one if isinstance(one, Tensor) else one.rows for one in (together, twice)])


def test_a_batch_without_a_marked_token() -> None:
    head = make_head(pool=False)
    found = head(Grouped(torch.zeros(0, HIDDEN), np.zeros(2, dtype=np.int64), np.array([1, 1])))
    assert isinstance(found, Grouped)
    assert found.rows.shape == (0, 3)
    assert len(found) == 2
    torch.autograd.backward(found.rows.sum())


def test_it_reads_the_marked_tokens_or_all(make_states: Make) -> None:
    states = make_states(3, 1, 4)
    marks = torch.tensor([0, 1, 0, 0, 1, 0, 1, 1]).bool()
    counts = np.array([1, 2])
    states = replace(states, ragged=replace(states.ragged, marks=marks, counts=counts))
    read = make_head(pool=False).read(states)
    torch.testing.assert_close(read.rows, states.tokens[[1, 4, 6, 7]])
    assert (read.sizes.tolist(), read.counts is counts) == ([1, 0, 3], True)
    whole = make_head(pool=True).read(states)
    assert whole.rows is states.tokens
    assert whole.sizes.tolist() == [3, 1, 4]


def test_the_concatenation_of_four_layers(make_states: Make) -> None:
    states = make_states(3, 2)
    states = replace(states, layers=tuple(states.tokens * k for k in range(1, 6)))
    head = BiLSTMHead(HIDDEN, 2, layers="concat_last_four", pool=True, width=4, dropout=0.0).double()
    assert head.all_layers
    assert head.lstms[0].input_size == 24
    assert head(head.read(states)).shape == (2, 2)


@pytest.mark.parametrize("pool", [False, True])
def test_gradients_are_those_of_finite_differences(pool: bool) -> None:
    head, rows = make_head(pool=pool, width=2), rows_of((2, 3, 1))

    def outputs(x: Tensor, *weights: Tensor) -> Tensor:
        named = dict(zip(names, weights, strict=True))
        found = torch.func.functional_call(head, named, (rows.with_rows(x),))
        return found if pool else found.rows  # type: ignore[no-any-return]

    names = ["output.weight", "output.bias"]
    weights = [dict(head.named_parameters())[name] for name in names]
    assert torch.autograd.gradcheck(outputs, (rows.rows.requires_grad_(), *weights))


def test_every_weight_learns() -> None:
    head = make_head(pool=True)
    torch.autograd.backward(head(rows_of((3, 5))).square().sum())
    silent = [
        name for name, weight in head.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert silent == []
    assert len(list(head.parameters())) == 2 * 8 + 2


@pytest.mark.parametrize(("read", "held"), [("float32", "float64"), ("bfloat16", "float32")])
def test_it_computes_in_the_dtype_of_its_weights(read: str, held: str) -> None:
    head, rows = make_head(pool=True).to(getattr(torch, held)), rows_of((3, 5))
    low = rows.with_rows(rows.rows.to(getattr(torch, read)))
    found = head(low)
    assert found.dtype is getattr(torch, held)
    same = rows.with_rows(low.rows.to(found.dtype))
    assert torch.equal(found, head(same))


def test_dropout_in_training_only_and_replayed() -> None:
    rows = rows_of((4, 2, 6))
    head = make_head(pool=False, dropout=0.5)
    calm = head.eval()(rows).rows
    assert torch.equal(head(rows).rows, calm)
    torch.manual_seed(0)
    masks = Masks()
    with masks.recorded():
        first = head.train()(rows).rows
    assert not torch.allclose(first, calm)
    with masks.replayed():
        assert torch.equal(head(rows).rows, first)
    assert not torch.allclose(head(rows).rows, first)


def test_a_copy_is_its_own() -> None:
    head, rows = make_head(pool=True), rows_of((4, 2))
    other = copy.deepcopy(head)
    before = head(rows)
    assert torch.equal(other(rows), before)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    assert torch.equal(head(rows), before)
    assert not torch.allclose(other(rows), before)
