"""Which states a head reads: the six choices of BERT's table 7, written out, and encoders that are too small."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from manyheads.encoder.bert import Encoder, Shape, States
from manyheads.encoder.ragged import Ragged
from manyheads.errors import InputError
from manyheads.tasks.heads.layer_choice import LAYERS, Layers, chosen
from manyheads.tasks.heads.linear import LinearHead
from manyheads.tasks.heads.pooling import Pooling
from manyheads.tasks.heads.tokens import TokenHead

Make = Callable[..., States]
LENGTHS = (3, 1, 4)


def with_layers(states: States, layers: int) -> States:
    """The same states above `layers` − 1 others and the embeddings, all at random."""
    generator = torch.Generator().manual_seed(7)
    below = torch.randn(layers, *states.tokens.shape, generator=generator, dtype=torch.float64)
    return replace(states, layers=(*below, states.tokens))


def by_hand(layers: Layers, states: list[Tensor]) -> Tensor:
    """The choice of the states h₀ (embeddings) to h_L, token by token."""
    rows = []
    for vectors in zip(*[one.tolist() for one in states], strict=True):
        match layers:
            case "last":
                row = vectors[-1]
            case "embeddings":
                row = vectors[0]
            case "second_to_last":
                row = vectors[len(vectors) - 2]
            case "sum_last_four":
                row = [a + b + c + d for a, b, c, d in zip(*vectors[-4:], strict=True)]
            case "concat_last_four":
                row = vectors[-4] + vectors[-3] + vectors[-2] + vectors[-1]
            case "sum_all":
                row = [sum(values) for values in zip(*vectors[1:], strict=True)]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("count", [4, 6, 12])
def test_the_choice(make_states: Make, layers: Layers, count: int) -> None:
    states = with_layers(make_states(*LENGTHS), count)
    found = chosen(states, layers)
    torch.testing.assert_close(found.tokens, by_hand(layers, list(states.layers)), rtol=1e-14, atol=1e-14)
    assert found.tokens.shape == (8, 6 * LAYERS[layers].width)
    assert found.ragged is states.ragged


def test_every_name_has_a_choice() -> None:
    assert tuple(LAYERS) == get_args(Layers)


@pytest.mark.parametrize("layers", LAYERS)
def test_an_encoders_own_states(layers: Layers) -> None:
    shape = Shape(layers=4, hidden=8, heads=2, intermediate=16, vocabulary=20, positions=9)
    encoder = Encoder(shape).double().eval()
    states = encoder.encode(Ragged.of([[1, 2, 3], [4, 5]]), all_layers=True)
    padded = encoder(
        torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]), output_hidden_states=True
    ).hidden_states
    assert padded is not None
    keep = torch.tensor([[True, True, True], [True, True, False]])
    expected = by_hand(layers, [one[keep] for one in padded])
    torch.testing.assert_close(chosen(states, layers).tokens, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layers", "count"), [("sum_last_four", 3), ("concat_last_four", 2), ("second_to_last", 1)]
)
def test_an_encoder_with_too_few_layers(make_states: Make, layers: Layers, count: int) -> None:
    least = LAYERS[layers].least
    message = f"layers: {layers}: expected an encoder of {least} or more layers, found {count}$"
    with pytest.raises(InputError, match=message):
        chosen(with_layers(make_states(*LENGTHS), count), layers)
    chosen(with_layers(make_states(*LENGTHS), least), layers)


def test_states_without_their_layers(make_states: Make) -> None:
    states = make_states(*LENGTHS)
    assert chosen(states, "last") is states
    with pytest.raises(ValueError, match="'layers: sum_all' needs the states of all layers"):
        chosen(states, "sum_all")


@pytest.mark.parametrize("layers", LAYERS)
def test_a_head_asks_for_all_layers_where_it_reads_them(layers: Layers) -> None:
    heads = (
        LinearHead(6, 2, pooling="mean", layers=layers, dropout=0.0),
        TokenHead(6, 2, layers=layers, dropout=0.0),
    )
    for head in heads:
        assert head.all_layers is (layers != "last")
        assert head.output.weight.shape == (2, 24 if layers == "concat_last_four" else 6)


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_vector_of_a_sequence_is_drawn_from_the_choice(
    make_states: Make, layers: Layers, pooling: Pooling
) -> None:
    states = with_layers(make_states(*LENGTHS), 5)
    sequences = torch.split(by_hand(layers, list(states.layers)), list(LENGTHS))
    vectors = torch.stack([one[0] if pooling == "cls" else one.mean(0) for one in sequences])
    head = LinearHead(6, 3, pooling=pooling, layers=layers, dropout=0.5).double().eval()
    expected = vectors @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head(head.read(states)), expected)


@pytest.mark.parametrize("layers", LAYERS)
def test_the_tokens_that_are_marked(make_states: Make, layers: Layers) -> None:
    states = with_layers(make_states(*LENGTHS), 4)
    marks = torch.tensor([0, 1, 0, 0, 1, 0, 1, 1]).bool()
    counts = torch.tensor([1, 2]).numpy()
    states = replace(states, ragged=replace(states.ragged, marks=marks, counts=counts))
    head = TokenHead(6, 3, layers=layers, dropout=0.5).double().eval()
    read = head.read(states)
    assert read.sizes.tolist() == [1, 0, 3]
    assert read.counts is not None
    assert read.counts.tolist() == [1, 2]
    torch.testing.assert_close(read.rows, by_hand(layers, list(states.layers))[[1, 4, 6, 7]])
    outputs = head(read)
    torch.testing.assert_close(outputs.rows, read.rows @ head.output.weight.T + head.output.bias)
    assert outputs.sizes is read.sizes
    assert len(outputs) == 2


def test_dropout_of_a_tokens_state_in_training_only(make_states: Make) -> None:
    states = make_states(*LENGTHS)
    states = replace(states, ragged=replace(states.ragged, marks=torch.ones(8, dtype=torch.bool)))
    head = TokenHead(6, 3, dropout=0.5).double()
    calm = head.eval()(head.read(states)).rows
    torch.testing.assert_close(head(head.read(states)).rows, calm)
    torch.manual_seed(0)
    assert not torch.allclose(head.train()(head.read(states)).rows, calm)


def test_gradients_reach_every_layer_that_is_read(make_states: Make) -> None:
    states = with_layers(make_states(*LENGTHS), 6)
    layers = tuple(layer.detach().requires_grad_() for layer in states.layers)
    states = replace(states, layers=layers, tokens=layers[-1])
    for choice, reached in (
        ("embeddings", [0]),
        ("second_to_last", [5]),
        ("sum_last_four", [3, 4, 5, 6]),
        ("concat_last_four", [3, 4, 5, 6]),
        ("sum_all", [1, 2, 3, 4, 5, 6]),
    ):
        found = chosen(states, choice)  # type: ignore[arg-type]
        gradients = torch.autograd.grad(found.tokens.sum(), layers, allow_unused=True)
        assert [i for i, gradient in enumerate(gradients) if gradient is not None] == reached
