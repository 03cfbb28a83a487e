"""MT-DNN's answer network against its equations, written out for one pair and one token at a time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layers import Masks
from manyheads.encoder.ragged import Ragged
from manyheads.tasks.heads.answer_network import AnswerNetworkHead

Make = Callable[..., States]
HIDDEN = 6
PAIRS = ((3, 2), (5, 1), (2, 4), (1, 1))


def make_head(outputs: int = 3, **settings: Any) -> AnswerNetworkHead:
    """A head whose weights are large enough for every step to say something else."""
    head = AnswerNetworkHead(HIDDEN, outputs, **{"dropout": 0.0, **settings}).double()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for weight in head.parameters():
            weight.copy_(0.7 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return head


def memories(pairs: Sequence[tuple[int, int]] = PAIRS, seed: int = 0) -> Grouped:
    generator = torch.Generator().manual_seed(seed)
    sizes = np.array(pairs, dtype=np.int64).ravel()
    rows = torch.randn(int(sizes.sum()), HIDDEN, generator=generator, dtype=torch.float64)
    return Grouped(rows, sizes, np.full(len(pairs), 2))


def softmax(scores: Sequence[float]) -> list[float]:
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def weighed(weights: Sequence[float], rows: Tensor) -> Tensor:
    total = torch.zeros(rows.shape[1], dtype=rows.dtype)
    for weight, row in zip(weights, rows, strict=True):
        total = total + weight * row
    return total


def gru(head: AnswerNetworkHead, x: Tensor, s: Tensor) -> Tensor:
    """One step of a gated recurrent unit (Cho et al. 2014, in torch's order of gates)."""
    of_x = head.recur.weight_ih @ x + head.recur.bias_ih
    of_s = head.recur.weight_hh @ s + head.recur.bias_hh
    n = HIDDEN
    reset = torch.sigmoid(of_x[:n] + of_s[:n])
    update = torch.sigmoid(of_x[n : 2 * n] + of_s[n : 2 * n])
    new = torch.tanh(of_x[2 * n :] + reset * of_s[2 * n :])
    return (1 - update) * new + update * s


@torch.no_grad()
def steps_by_hand(head: AnswerNetworkHead, first: Tensor, second: Tensor) -> list[Tensor]:
    """The z of every step, for one pair."""
    s = weighed(softmax([float(head.begin @ row) for row in second]), second)
    found = []
    for step in range(head.steps):
        x = weighed(softmax([float(s @ head.attend @ row) for row in first]), first)
        if step > 0:
            # The equations' x of this step is what the state before it reads.
            s = gru(head, x, s)
        found.append(head.output.weight @ torch.cat([s, x, (s - x).abs(), s * x]) + head.output.bias)
    return found


def by_hand(head: AnswerNetworkHead, read: Grouped) -> Tensor:
    groups = read.split()
    rows = []
    for first, second in zip(groups[0::2], groups[1::2], strict=True):
        steps = steps_by_hand(head, first, second)
        if head.numbers:
            rows.append(torch.stack(steps).mean(0))
        else:
            shares = [softmax(step.tolist()) for step in steps]
            logs = [math.log(sum(each) / len(each)) for each in zip(*shares, strict=True)]
            rows.append(torch.tensor(logs, dtype=torch.float64))
    return torch.stack(rows)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("numbers", [False, True])
def test_the_equations(steps: int, numbers: bool) -> None:
    head, read = make_head(steps=steps, numbers=numbers).eval(), memories()
    torch.testing.assert_close(head(read), by_hand(head, read), rtol=1e-12, atol=1e-12)


def test_every_step_says_something_else() -> None:
    head, read = make_head(), memories()
    first, second = read.split()[:2]
    steps = torch.stack(steps_by_hand(head, first, second))
    assert float((steps[1:] - steps[:-1]).abs().amax(1).min()) > 1e-3


def test_the_outputs_are_logarithms_of_probabilities() -> None:
    found = make_head().eval()(memories())
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(found.log_softmax(1), found)


def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    head, read = make_head(), memories()
    together = head.eval()(read)
    for number in range(len(PAIRS)):
        alone = head(read.take(np.array([number])))
        torch.testing.assert_close(alone[0], together[number], rtol=1e-12, atol=1e-12)
    backwards = head(read.take(np.array([3, 2, 1, 0])))
    torch.testing.assert_close(backwards.flip(0), together, rtol=1e-12, atol=1e-12)


def test_what_it_reads(make_states: Make) -> None:
    states = make_states(5, 6, 2)
    segments = [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1], [0, 1]]
    ragged = Ragged.of([[1] * len(one) for one in segments], segments)
    read = make_head().read(replace(states, ragged=ragged))
    assert read.rows is states.tokens
    assert read.sizes.tolist() == [3, 2, 2, 4, 1, 1]
    assert read.counts is not None
    assert read.counts.tolist() == [2, 2, 2]


def test_a_sequence_that_is_no_pair(make_states: Make) -> None:
    states = make_states(5, 6)
    ragged = Ragged.of([[1] * 5, [1] * 6], [[0, 0, 0, 1, 1], [0] * 6])
    with pytest.raises(ValueError, match="expected pairs packed in one sequence each"):
        make_head().read(replace(states, ragged=ragged))


def test_the_concatenation_of_four_layers(make_states: Make) -> None:
    states = make_states(5)
    ragged = Ragged.of([[1] * 5], [[0, 0, 0, 1, 1]])
    states = replace(states, ragged=ragged, layers=tuple(states.tokens * k for k in range(5)))
    head = AnswerNetworkHead(HIDDEN, 2, layers="concat_last_four", dropout=0.0).double()
    assert head.all_layers
    assert head.begin.shape == (24,)
    assert head(head.read(states)).shape == (1, 2)


@pytest.mark.parametrize("numbers", [False, True])
def test_gradients_are_those_of_finite_differences(numbers: bool) -> None:
    head, read = make_head(2, steps=3, numbers=numbers), memories(((2, 1), (1, 3)))
    names = ["begin", "attend", "output.weight"]

    def outputs(x: Tensor, *weights: Tensor) -> Tensor:
        named = dict(zip(names, weights, strict=True))
        found: Tensor = torch.func.functional_call(head.eval(), named, (read.with_rows(x),))
        return found

    weights = [dict(head.named_parameters())[name] for name in names]
    assert torch.autograd.gradcheck(outputs, (read.rows.requires_grad_(), *weights))


def test_every_weight_learns_while_training() -> None:
    head = make_head(prediction_dropout=0.5, dropout=0.1).train()
    torch.autograd.backward(head(memories())[:, 0].sum())
    silent = [
        name for name, weight in head.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert silent == []
    assert all(bool(weight.grad.isfinite().all()) for weight in head.parameters() if weight.grad is not None)


# ---- stochastic prediction dropout ----


def test_a_mean_over_some_of_the_steps() -> None:
    head = make_head(steps=3, prediction_dropout=0.5).train()
    read = memories(PAIRS[:1])
    first, second = read.split()
    shares = torch.stack([step.softmax(0) for step in steps_by_hand(head, first, second)])
    subsets = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
    possible = [shares[which].mean(0).log() for which in subsets]
    torch.manual_seed(1)
    found = head(read.take(np.zeros(2000, dtype=np.int64))).detach()
    apart = torch.stack([(found - one).abs().amax(1) for one in possible], 1)
    assert float(apart.amin(1).max()) < 1e-9
    often = (torch.bincount(apart.argmin(1), minlength=7) / 2000).tolist()
    # Each set of kept steps has the probability 1/8; the empty one's falls to that of all three.
    assert often == pytest.approx([1 / 8] * 6 + [2 / 8], abs=0.04)


def test_each_example_drops_its_own() -> None:
    head = make_head(prediction_dropout=0.5).train()
    read = memories(PAIRS[:1])
    many = read.take(np.zeros(50, dtype=np.int64))
    torch.manual_seed(0)
    first = head(many)[:, 0].tolist()
    assert len({round(one, 9) for one in first}) > 5


@pytest.mark.parametrize("settings", [{"prediction_dropout": 0.0}, {"prediction_dropout": 0.9, "steps": 1}])
def test_nothing_to_drop(settings: dict[str, Any]) -> None:
    head, read = make_head(**settings), memories()
    calm = head.eval()(read)
    torch.testing.assert_close(head.train()(read), calm)


def test_dropout_of_numbers_keeps_their_size() -> None:
    head, read = make_head(1, numbers=True, prediction_dropout=0.9), memories()
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.fill_(2.5)
    torch.manual_seed(0)
    torch.testing.assert_close(head.train()(read), torch.full((4, 1), 2.5, dtype=torch.float64))


def test_what_was_dropped_can_be_replayed() -> None:
    head, read = make_head(prediction_dropout=0.5, dropout=0.3).train(), memories()
    torch.manual_seed(3)
    masks = Masks()
    with masks.recorded():
        first = head(read)
    with masks.replayed():
        assert torch.equal(head(read), first)
    torch.manual_seed(3)
    assert torch.equal(head(read), first)
    assert not torch.allclose(head(read), first)


@pytest.mark.parametrize(("given", "held"), [("float32", "float64"), ("bfloat16", "float32")])
def test_it_computes_in_the_dtype_of_its_weights(given: str, held: str) -> None:
    head, read = make_head().eval().to(getattr(torch, held)), memories()
    low = read.with_rows(read.rows.to(getattr(torch, given)))
    found = head(low)
    assert found.dtype is getattr(torch, held)
    assert torch.equal(found, head(read.with_rows(low.rows.to(found.dtype))))
