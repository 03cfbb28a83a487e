"""What the heads make of states: the right vectors, in the right order, for the right pairs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.bert import States
from manyheads.tasks import heads
from manyheads.tasks.head import Head
from manyheads.tasks.heads import HEADS
from manyheads.tasks.heads.cosine import CosineHead
from manyheads.tasks.heads.linear import FEATURES, Feature, LinearHead
from manyheads.tasks.heads.pooling import POOLINGS, Pooling


def answer(head: Head, states: States) -> Tensor:
    """What a head makes of what it reads of the states."""
    outputs: Tensor = head(head.read(states))
    return outputs


Make = Callable[..., States]
LENGTHS = (3, 1, 4, 2, 2, 5)


def by_hand(states: States, pooling: Pooling) -> Tensor:
    """[B, 6]: the vectors of the sequences, one sequence at a time."""
    sequences = torch.split(states.tokens, states.ragged.lengths.tolist())
    if pooling == "mean":
        return torch.stack([tokens.mean(0) for tokens in sequences])
    if pooling == "last":
        return torch.stack([tokens[-1] for tokens in sequences])
    first = torch.stack([tokens[0] for tokens in sequences])
    dense = states.pooler.dense
    return first if pooling == "cls" else torch.tanh(first @ dense.weight.T + dense.bias)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_vector_of_a_sequence(make_states: Make, pooling: Pooling) -> None:
    states = make_states(*LENGTHS)
    torch.testing.assert_close(POOLINGS[pooling](states), by_hand(states, pooling))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_one_sequence_an_example(make_states: Make, pooling: Pooling) -> None:
    states = make_states(*LENGTHS)
    head = LinearHead(6, 4, pooling=pooling, dropout=0.5).double().eval()
    expected = by_hand(states, pooling) @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(answer(head, states), expected)
    assert answer(head, states).shape == (6, 4)


@pytest.mark.parametrize(
    "features",
    [
        ("u", "v", "absdiff", "product"),
        ("product", "absdiff", "v", "u"),
        ("u", "v", "absdiff"),
        ("absdiff",),
        ("v",),
    ],
)
def test_features_stand_in_the_order_that_was_asked(make_states: Make, features: tuple[Feature, ...]) -> None:
    states = make_states(*LENGTHS)
    vectors = by_hand(states, "mean")
    # The two sequences of an example lie side by side: 0 with 1, 2 with 3, 4 with 5.
    u, v = vectors[[0, 2, 4]], vectors[[1, 3, 5]]
    known = {"u": u, "v": v, "absdiff": torch.maximum(u - v, v - u), "product": u * v}
    head = LinearHead(6, 2, pooling="mean", features=features, dropout=0.0).double()
    assert head.output.weight.shape == (2, 6 * len(features))
    columns = torch.cat([known[name] for name in features], 1)
    torch.testing.assert_close(answer(head, states), columns @ head.output.weight.T + head.output.bias)


def test_every_feature_and_every_head_is_known() -> None:
    assert list(FEATURES) == ["u", "v", "absdiff", "product"]
    files = {path.stem for path in Path(heads.__file__).parent.glob("*.py")}
    assert set(HEADS) == files - {"__init__", "layer_choice", "pooling"}
    assert all(issubclass(head, Head) for head in HEADS.values())


def test_dropout_in_training_only(make_states: Make) -> None:
    states = make_states(*LENGTHS)
    head = LinearHead(6, 2, pooling="cls", dropout=0.5).double()
    calm = answer(head.eval(), states)
    torch.testing.assert_close(answer(head, states), calm)
    torch.manual_seed(0)
    assert not torch.allclose(answer(head.train(), states), calm)
    none = LinearHead(6, 2, pooling="cls", dropout=0.0).double()
    none.load_state_dict(head.state_dict())
    torch.testing.assert_close(answer(none.train(), states), calm)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_cosine_of_a_pair(make_states: Make, pooling: Pooling) -> None:
    states = make_states(*LENGTHS)
    vectors = by_hand(states, pooling)
    expected = F.cosine_similarity(vectors[[0, 2, 4]], vectors[[1, 3, 5]])[:, None]
    head = CosineHead(pooling=pooling)
    torch.testing.assert_close(answer(head, states), expected)
    assert not list(head.parameters())


def test_cosines_that_are_known(make_states: Make) -> None:
    one = torch.eye(6, dtype=torch.float64)[0]
    other = torch.eye(6, dtype=torch.float64)[1]
    rows = torch.stack([one, 3 * one, one, -one, one, other, one, one + other, 0 * one, one])
    states = make_states(*[1] * 10, tokens=rows)
    found = answer(CosineHead(pooling="cls").train(), states)[:, 0].tolist()
    assert found == pytest.approx([1, -1, 0, 0.5**0.5, 0], abs=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_gradients_reach_every_token_they_should(make_states: Make, pooling: Pooling) -> None:
    tokens = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    head = LinearHead(6, 1, pooling=pooling, features=("u", "v"), dropout=0.0).double()
    answer(head, make_states(2, 3, tokens=tokens)).sum().backward()  # type: ignore[no-untyped-call]
    assert tokens.grad is not None
    reached = tokens.grad.abs().sum(1) > 0
    some = [False, True, False, False, True] if pooling == "last" else [True, False, True, False, False]
    assert reached.tolist() == ([True] * 5 if pooling == "mean" else some)
