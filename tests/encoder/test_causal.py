"""Causal attention against torch and transformers' decoder: no state knows what comes later, and files keep it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, BertConfig, BertModel

from manyheads.encoder.attention import BACKENDS, attend, attention_weights
from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.precision import bfloat16_is_fast
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.reduced import reduced
from manyheads.errors import InputError

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=9)


def batch(lengths: list[int]) -> Ragged:
    return Ragged.of([[1] * length for length in lengths])


def rows(lengths: list[int], seed: int = 1) -> list[list[int]]:
    """Random token ids, a list a sequence."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 90, (length,), generator=generator).tolist() for length in lengths]


def random(tokens: int, heads: int, width: int) -> Tensor:
    """[T, 3, heads, d] queries, keys and values in float64."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(tokens, 3, heads, width, generator=generator, dtype=torch.float64)


def reference(qkv: Tensor, lengths: list[int]) -> Tensor:
    """[T, heads, d] by torch's own causal function, sequence by sequence."""
    parts = []
    for part in torch.split(qkv, lengths):
        q, k, v = part.permute(1, 2, 0, 3)
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1))
    return torch.cat(parts)


# ---- attention ----


def equals_reference(name: str, lengths: list[int], heads: int, width: int) -> None:
    """The backend's values and its gradients for an uneven weighting of them."""
    ours = random(sum(lengths), heads, width).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    left, right = BACKENDS[name](ours, batch(lengths), 0.0, True), reference(theirs, lengths)
    torch.testing.assert_close(left, right, atol=1e-12, rtol=0)
    above = torch.linspace(-1, 1, left.numel(), dtype=left.dtype).view_as(left)
    torch.autograd.backward([left, right], [above, above])
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-12, rtol=0)


@settings(deadline=None)
@given(lengths=LENGTHS, heads=st.integers(1, 4), width=st.sampled_from([1, 2, 7, 16]))
def test_any_causal_batch_equals_torch(backend: str, lengths: list[int], heads: int, width: int) -> None:
    equals_reference(backend, lengths, heads, width)


@pytest.mark.parametrize("lengths", [[1], [512], [97, 96, 95, 1], [300, 5, 5, 5, 290], [8] * 16])
def test_causal_lengths_of_real_texts_equal_torch(backend: str, lengths: list[int]) -> None:
    equals_reference(backend, lengths, 3, 32)


def test_causal_gradient_under_dropout_by_finite_differences() -> None:
    def seeded(qkv: Tensor) -> Tensor:
        torch.manual_seed(3)
        return attend(qkv, batch([2, 5, 4, 1]), 0.4, causal=True)

    assert torch.autograd.gradcheck(seeded, (random(12, 2, 3).requires_grad_(),))


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("lengths", [[9, 30, 1, 28], [130, 97, 128]], ids=["short", "long"])
def test_causal_attention_in_lower_precision_stays_close(
    dtype: torch.dtype, atol: float, lengths: list[int]
) -> None:
    low = random(sum(lengths), 4, 16).to(dtype)
    exact = low.double().requires_grad_()
    low = low.requires_grad_()
    left, right = attend(low, batch(lengths), causal=True), reference(exact, lengths)
    assert left.dtype is dtype
    torch.testing.assert_close(left.double(), right, atol=atol, rtol=0)
    torch.autograd.backward([left.sum(), right.sum()])
    assert low.grad is not None
    torch.testing.assert_close(low.grad.double(), exact.grad, atol=2 * atol, rtol=2 * atol)


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_the_causal_weights_themselves(lengths: list[int]) -> None:
    qkv = random(sum(lengths), 3, 5)
    weights = attention_weights(qkv, batch(lengths), causal=True)
    longest = max(lengths)
    assert weights.shape == (len(lengths), 3, longest, longest)
    assert not weights.triu(1).any()
    for row, part in zip(weights, torch.split(qkv, lengths), strict=True):
        q, k, _ = part.permute(1, 2, 0, 3)
        n = len(part)
        scores = (q @ k.transpose(1, 2) / math.sqrt(5)).exp().tril()
        expected = torch.zeros(3, longest, longest, dtype=torch.float64)
        expected[:, :n, :n] = scores / scores.sum(-1, keepdim=True)
        torch.testing.assert_close(row, expected, atol=1e-12, rtol=0)


# ---- the encoder against transformers' ----


def right(*lengths: int) -> Tensor:
    """[B, L] mask of rows that are filled up at the right."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def ids(size: int, length: int) -> Tensor:
    return torch.tensor(rows([length] * size))


MIXED = (3, 17, 1, 9, 16, 40, 2, 39)
BATCHES: dict[str, dict[str, Tensor]] = {
    "no mask": {"input_ids": ids(3, 9)},
    "one token": {"input_ids": ids(2, 1)},
    "mixed lengths": {"input_ids": ids(8, 40), "attention_mask": right(*MIXED)},
    "left padding": {"input_ids": ids(4, 12), "attention_mask": right(5, 12, 2, 11).flip(1)},
    "holes": {
        "input_ids": ids(3, 7),
        "attention_mask": torch.tensor([[1, 1, 0, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0, 0], [1] * 7]),
    },
    # The order is that of the tokens, whatever their positions are called.
    "positions": {
        "input_ids": ids(2, 4),
        "position_ids": torch.tensor([[3, 2, 1, 0], [10, 30, 11, 31]]),
        "attention_mask": right(4, 3),
    },
    "token types": {
        "input_ids": ids(3, 8),
        "token_type_ids": torch.arange(24).view(3, 8) % 2,
        "attention_mask": right(8, 5, 2),
    },
}
SHAPES: dict[str, dict[str, int]] = {
    "plain": {},
    "one head": {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1},
    "deep": {"num_hidden_layers": 5, "hidden_size": 24, "num_attention_heads": 3},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_equal_those_of_transformers_decoder(make_twins: Callable[..., Any], shape: str) -> None:
    twins = make_twins(**SHAPES[shape], is_decoder=True).double()
    assert twins.theirs.config.is_decoder
    assert twins.ours.shape.causal
    for given_batch in BATCHES.values():
        twins.agree(given_batch, 1e-10)


@pytest.mark.parametrize("name", BATCHES)
def test_gradients_equal_those_of_transformers_decoder(make_twins: Callable[..., Any], name: str) -> None:
    make_twins(**SHAPES["deep"], is_decoder=True).double().gradients_agree(BATCHES[name], 1e-10)


def test_it_is_another_function_than_the_bidirectional_one(make_twins: Callable[..., Any]) -> None:
    folder = make_twins().folder
    states = [
        Encoder.from_pretrained(folder, causal=causal).encode(batch([5, 9])).tokens for causal in (None, True)
    ]
    assert float((states[0] - states[1]).detach().abs().max()) > 0.01


# ---- what no batch may change ----


def small(**sizes: int) -> Encoder:
    torch.manual_seed(0)
    shape = Shape(layers=3, hidden=16, heads=4, intermediate=32, vocabulary=90, positions=40, causal=True)
    encoder = Encoder(shape, dropout=0.3).double().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(std=0.3)
    return encoder


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, data=st.data())
def test_no_state_depends_on_a_later_token(lengths: list[int], data: st.DataObject) -> None:
    encoder, ragged = small(), Ragged.of(rows(lengths))
    one = data.draw(st.integers(0, len(lengths) - 1), label="sequence")
    place = data.draw(st.integers(0, lengths[one] - 1), label="place")
    words = encoder.embeddings.word(ragged.token_ids).detach().requires_grad_()
    begin = sum(lengths[:one])
    states = encoder.encode(ragged, words=words).tokens
    torch.autograd.backward((states[begin + place] * torch.linspace(1, 2, 16, dtype=torch.float64)).sum())
    assert words.grad is not None
    seen = words.grad.abs().sum(1) > 0
    expected = torch.zeros(len(words), dtype=torch.bool)
    expected[begin : begin + place + 1] = True
    assert torch.equal(seen, expected)


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS)
def test_the_beginning_of_a_text_reads_as_if_it_were_all(lengths: list[int]) -> None:
    encoder, texts = small(), rows(lengths)
    whole = encoder.encode(Ragged.of(texts), all_layers=True)
    halves = [text[: (len(text) + 1) // 2] for text in texts]
    half = encoder.encode(Ragged.of(halves), all_layers=True)
    places = torch.cat(
        [torch.arange(len(text)) < len(part) for text, part in zip(texts, halves, strict=True)]
    )
    for left, other in zip(whole.layers, half.layers, strict=True):
        torch.testing.assert_close(left[places], other, atol=1e-12, rtol=0)


def test_a_token_that_is_changed_while_training_changes_nothing_before_it() -> None:
    encoder, texts = small().train(), rows([12, 7, 12])
    changed = [list(text) for text in texts]
    changed[0][5] += 1
    drawn = []
    for each in (texts, changed):
        torch.manual_seed(4)
        drawn.append(encoder.encode(Ragged.of(each)).tokens)
    differs = (drawn[0] != drawn[1]).any(1)
    assert differs.tolist() == [False] * 5 + [True] * 7 + [False] * 19


@pytest.mark.skipif(not bfloat16_is_fast(), reason="this processor has no bfloat16 arithmetic")
def test_prepared_weights_in_bfloat16_keep_it() -> None:
    encoder, texts = small().float(), rows([25, 3, 9])
    changed = [[*text[:-1], text[-1] + 1] for text in texts]
    with torch.no_grad():
        exact = encoder.encode(Ragged.of(texts)).tokens
        encoder.use(compute=torch.bfloat16)
        low, other = (encoder.encode(Ragged.of(each)).tokens for each in (texts, changed))
    assert not torch.equal(low, exact)
    assert torch.cosine_similarity(low, exact).min() > 0.99
    last = torch.zeros(37, dtype=torch.bool)
    last[[24, 27, 36]] = True
    assert torch.equal((low != other).any(1), last)


# ---- vectors of a text ----


def test_the_last_token_stands_for_the_text_and_the_first_is_refused() -> None:
    states = small().encode(Ragged.of(rows([3, 5, 1])), all_layers=True)
    assert torch.equal(states.last(), states.tokens[[2, 7, 8]])
    for each in (states, states.of_sequences(1, 3), states.select(torch.tensor([2, 0]).numpy(), None, None)):
        for vector in (each.first, each.pooled):
            with pytest.raises(
                InputError, match=r"attention is causal, so \[CLS\] has seen nothing but itself"
            ):
                vector()
        assert torch.isfinite(each.mean()).all()


def test_the_last_token_of_a_bidirectional_encoder(make_twins: Callable[..., Any]) -> None:
    states = make_twins().ours.encode(batch([3, 5, 1]))
    assert torch.equal(states.last(), states.tokens[[2, 7, 8]])
    assert torch.equal(states.first(), states.tokens[[0, 3, 8]])


# ---- files ----


def test_a_folder_says_that_it_is_causal_and_transformers_reads_it_so(tmp_path: Path) -> None:
    ours = small().float()
    ours.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["is_decoder"] is True
    again = Encoder.from_pretrained(tmp_path)
    assert again.shape == ours.shape
    theirs, report = AutoModel.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values())
    tokens = ids(3, 11)
    with torch.no_grad():
        expected = theirs.eval()(tokens).last_hidden_state
        torch.testing.assert_close(ours(tokens).last_hidden_state, expected, atol=1e-5, rtol=0)
        assert torch.equal(again(tokens).last_hidden_state, ours(tokens).last_hidden_state)


def test_a_bidirectional_folder_says_nothing_of_it(make_twins: Callable[..., Any], tmp_path: Path) -> None:
    ours = make_twins().ours
    ours.save_pretrained(tmp_path / "ours")
    assert "is_decoder" not in json.loads((tmp_path / "ours" / "config.json").read_text())
    assert not Encoder.from_pretrained(tmp_path / "ours").shape.causal


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("asked", [None, False, True])
def test_who_loads_weights_may_say_otherwise(
    make_twins: Callable[..., Any], trained: bool, asked: bool | None
) -> None:
    twins = make_twins(is_decoder=trained)
    ours = Encoder.from_pretrained(twins.folder, causal=asked)
    causal = trained if asked is None else asked
    assert ours.shape.causal is causal
    theirs: Any = BertModel
    config = BertConfig.from_pretrained(twins.folder, is_decoder=causal)
    model = theirs.from_pretrained(twins.folder, config=config, attn_implementation="eager").eval()
    twins._replace(ours=ours, theirs=model).agree(BATCHES["mixed lengths"], 1e-5)


def test_a_smaller_encoder_of_it_is_causal_too() -> None:
    assert reduced(small(), layers=[1, 3]).shape.causal
