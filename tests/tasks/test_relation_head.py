"""The layer that similar tasks share: its formula in numpy, where it begins, whose its parameters are."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyheads.encoder.bert import States
from manyheads.tasks.classification import Classification, ClassificationSettings
from manyheads.tasks.heads.relation import Relation, RelationHead
from manyheads.tasks.regression import Regression, RegressionSettings

Make = Callable[..., States]
PAIR: dict[str, Any] = {"pair": ("a", "b"), "encode": "siamese"}


def relation(slope: float = 0.01) -> Relation:
    """A layer over vectors of width 6 that is no longer where it began."""
    made = Relation(6, slope).double()
    with torch.no_grad():
        made.weight.copy_(torch.randn(12, 6, generator=torch.Generator().manual_seed(3)))
    return made


def by_hand(weight: Tensor, u: Tensor, v: Tensor, slope: float) -> NDArray[np.float64]:
    w, x, y = (one.detach().numpy() for one in (weight, u, v))
    rows = []
    for a, b in zip(x, y, strict=True):
        product = a * b / (np.sqrt((a * a).sum()) * np.sqrt((b * b).sum()) + 1e-8)
        mapped = w @ product
        rows.append(np.where(mapped > 0, mapped, slope * mapped))
    return np.array(rows)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3])
def test_the_formula(slope: float) -> None:
    layer = relation(slope)
    u, v = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    np.testing.assert_allclose(
        layer(u, v).detach().numpy(), by_hand(layer.weight, u, v, slope), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3])
def test_it_begins_as_the_identity_above_its_negative(slope: float) -> None:
    u, v = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    found = Relation(6, slope)(u, v).detach()
    assert found.shape == (4, 12)
    cosine = (found[:, :6] - found[:, 6:]).sum(1) / (1 + slope)
    torch.testing.assert_close(cosine, torch.cosine_similarity(u, v), atol=1e-6, rtol=0)


def test_vectors_of_zeros_give_zeros_and_gradients_that_are_finite() -> None:
    layer = relation()
    u = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    v = torch.ones(2, 6, dtype=torch.float64, requires_grad=True)
    found = layer(u, v)
    assert not found.any()
    torch.autograd.backward(found.sum())
    assert u.grad is not None
    assert v.grad is not None
    assert bool(u.grad.isfinite().all())
    assert bool(v.grad.isfinite().all())


def test_gradients_are_those_of_finite_differences() -> None:
    layer = relation(0.2)
    u, v = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.autograd.gradcheck(layer, (u.requires_grad_(), v.requires_grad_()))


def test_the_head_is_a_linear_layer_over_h_times_r(make_states: Make) -> None:
    layer = relation()
    head = RelationHead(layer, 3, pooling="mean", dropout=0.5).double().eval()
    states = make_states(3, 1, 4, 2)
    vectors = states.mean()
    r = by_hand(layer.weight, vectors[0::2], vectors[1::2], 0.01)
    wanted = 6 * r @ head.output.weight.detach().numpy().T + head.output.bias.detach().numpy()
    found = head(head.read(states))
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-12)
    torch.manual_seed(0)
    assert not torch.allclose(head.train()(head.read(states)), found)


def test_a_range_is_where_it_begins(make_states: Make) -> None:
    """At the cosine, scaled as the cosine head scales it."""
    kind = Regression(RegressionSettings(**PAIR, range=(1, 5)))
    layer = Relation(6, 0.01).double()
    head = kind.build_head(6, 0.0, layer).double()
    tokens = torch.randn(4, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    states = make_states(1, 1, 1, 1, tokens=tokens)
    cosine = torch.cosine_similarity(tokens[0::2], tokens[1::2])
    torch.testing.assert_close(kind.values(head(head.read(states))), 1 + 4 * cosine, atol=1e-7, rtol=0)


def test_its_parameters_are_not_the_head_s() -> None:
    layer = relation()
    heads = [
        Classification(ClassificationSettings(**PAIR, labels=("a", "b", "c"))).build_head(6, 0.1, layer),
        Regression(RegressionSettings(**PAIR, output="sigmoid", range=(0, 1))).build_head(6, 0.1, layer),
    ]
    assert all(isinstance(head, RelationHead) for head in heads)
    for head, outputs in zip(heads, (3, 1), strict=True):
        shapes = {name: list(one.shape) for name, one in head.named_parameters()}
        assert shapes == {"output.weight": [outputs, 12], "output.bias": [outputs]}
        assert list(head.state_dict()) == ["output.weight", "output.bias"]


def test_a_copy_of_all_shares_a_copy_of_the_layer() -> None:
    layer = relation()
    heads: Any = [RelationHead(layer, 1, pooling="mean", dropout=0.0) for _ in range(2)]
    copied, (first, second) = copy.deepcopy((layer, heads))
    assert copied is not layer
    assert first._relation[0] is second._relation[0] is copied
