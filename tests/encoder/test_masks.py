"""Dropout masks that are kept and given again: two passes that are one function."""

import pytest
import torch
from torch import Tensor

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.layers import Masks, dropout, keep_mask
from manyheads.encoder.ragged import Ragged

LIKE = torch.empty(0)


def drawn(*shape: int, like: Tensor = LIKE) -> Tensor:
    return keep_mask(torch.Size(shape), 0.5, like)


def test_masks_come_again_in_their_order_and_none_is_drawn() -> None:
    masks = Masks()
    torch.manual_seed(0)
    with masks.recorded():
        kept = [drawn(100), drawn(20, 5), drawn(100)]
    assert not torch.equal(kept[0], kept[2])
    state = torch.get_rng_state()
    for _ in range(2):
        with masks.replayed():
            again = [drawn(100), drawn(20, 5), drawn(100)]
        assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_to_record_draws_what_would_be_drawn() -> None:
    torch.manual_seed(0)
    plain = drawn(1000)
    torch.manual_seed(0)
    with Masks().recorded():
        kept = drawn(1000)
    assert torch.equal(plain, kept)


def test_outside_they_are_drawn_anew_whatever_happened_inside() -> None:
    masks = Masks()
    with masks.recorded():
        kept = drawn(1000)
    assert not torch.equal(drawn(1000), kept)
    with pytest.raises(RuntimeError, match="on purpose"), masks.replayed():
        raise RuntimeError("on purpose")
    assert not torch.equal(drawn(1000), kept)
    with masks.replayed():
        assert torch.equal(drawn(1000), kept)


def test_a_second_record_forgets_the_first() -> None:
    masks = Masks()
    with masks.recorded():
        first = drawn(1000)
    with masks.recorded():
        second = drawn(1000)
    with masks.replayed():
        again = drawn(1000)
    assert torch.equal(again, second)
    assert not torch.equal(again, first)


def test_one_inside_another() -> None:
    outer, inner = Masks(), Masks()
    with outer.recorded():
        a = drawn(1000)
        with inner.recorded():
            b = drawn(1000)
        c = drawn(1000)
    with outer.replayed():
        assert torch.equal(drawn(1000), a)
        with inner.replayed():
            assert torch.equal(drawn(1000), b)
        assert torch.equal(drawn(1000), c)


def test_another_layout_is_refused() -> None:
    masks = Masks()
    with masks.recorded():
        drawn(3, 4)
    with masks.replayed(), pytest.raises(ValueError, match=r"a mask of \[3, 4\] was kept, one of \[4, 3\]"):
        drawn(4, 3)


def test_a_mask_takes_the_dtype_of_what_it_multiplies() -> None:
    masks = Masks()
    with masks.recorded():
        kept = drawn(50)
    with masks.replayed():
        again = drawn(50, like=torch.empty(0, dtype=torch.float64))
    assert again.dtype is torch.float64
    assert torch.equal(again, kept.double())


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    shape = Shape(layers=2, hidden=8, heads=2, intermediate=12, vocabulary=20, positions=9)
    return Encoder(shape, dropout=0.3, attention_dropout=0.2).double().train()


def test_an_encoder_s_passes_are_one_function_of_the_words(encoder: Encoder) -> None:
    ragged = Ragged.of([[1, 5, 7, 2], [1, 2], [1, 9, 9, 9, 9, 2]])
    words = encoder.embeddings.word(ragged.token_ids).detach()
    masks = Masks()
    with masks.recorded():
        kept = encoder.encode(ragged, words=words).pooled()
    assert not torch.equal(encoder.encode(ragged, words=words).pooled(), kept)
    with masks.replayed():
        assert torch.equal(encoder.encode(ragged, words=words).pooled(), kept)

    def replayed(given: Tensor) -> Tensor:
        with masks.replayed():
            return encoder.encode(ragged, words=given).pooled()

    # Dropout's backward uses the mask of its forward: were it another one, differences would not agree.
    assert torch.autograd.gradcheck(replayed, (words.requires_grad_(),), atol=1e-7)


def test_without_gradients_a_pass_replays_too(encoder: Encoder) -> None:
    ragged = Ragged.of([[1, 5, 7, 2], [1, 2]])
    masks = Masks()
    with masks.recorded():
        kept = encoder.encode(ragged).tokens
    with torch.no_grad(), masks.replayed():
        assert torch.equal(encoder.encode(ragged).tokens, kept)


def test_dropout_replays() -> None:
    x = torch.ones(1000)
    masks = Masks()
    with masks.recorded():
        kept = dropout(x, 0.5, True)
        assert dropout(x, 0.0, True) is x  # takes no mask
    with masks.replayed():
        assert torch.equal(dropout(x, 0.5, True), kept)
