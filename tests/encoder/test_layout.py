"""Examples end to end: what is taken, joined and made a batch of is what was laid out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.layout import Layout, in_pieces, marked, spread, sums
from manyheads.encoder.ragged import Ragged

EXAMPLES = st.lists(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=1, max_size=3), min_size=1, max_size=5
)


def laid(examples: list[list[list[bool]]], marks: bool = True) -> Layout:
    """Examples of sequences of tokens, each told as marked or not; ids count up, and so do offsets."""
    sequences = [one for example in examples for one in example]
    flat = np.array([token for one in sequences for token in one], np.bool_)
    places = np.arange(int(flat.sum()), dtype=np.int32)
    return Layout(
        np.arange(len(flat), dtype=np.int32),
        (np.arange(len(flat)) % 2).astype(np.uint8),
        np.array([len(one) for one in sequences], np.int32),
        np.arange(len(sequences), dtype=np.int32),
        np.array([len(example) for example in examples], np.int32),
        flat if marks else None,
        np.stack([places, places + 1], 1) if marks else None,
    )


@given(EXAMPLES, st.lists(st.integers(0, 100), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_taken_examples_are_those_examples(examples: list[list[list[bool]]], numbers: list[int]) -> None:
    whole = laid(examples)
    chosen = np.array([number % len(examples) for number in numbers], dtype=np.int64)
    found = whole.take(chosen)
    alone = [whole.take(np.array([i])) for i in chosen]
    again = Layout.joined(alone)
    for name in ("ids", "segments", "lengths", "dropped", "counts", "marks", "offsets"):
        assert np.array_equal(getattr(found, name), getattr(again, name)), name
    first = int(chosen[0])
    begin = sum(len(one) for example in examples[:first] for one in example)
    tokens = [token for one in examples[first] for token in one]
    assert alone[0].ids.tolist() == list(range(begin, begin + len(tokens)))
    before = sum(token for example in examples[:first] for one in example for token in one)
    assert alone[0].offsets is not None
    assert alone[0].offsets[:, 0].tolist() == list(range(before, before + sum(tokens)))
    assert found.lengths_of_examples.tolist() == [sum(len(one) for one in examples[i]) for i in chosen]


def test_places_and_sums_by_hand() -> None:
    assert spread(np.array([2, 0, 3]), np.array([2, 1, 0, 2])).tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert sums(np.array([1, 2, 3, 4]), np.array([2, 0, 1, 1])).tolist() == [3, 0, 3, 4]


def test_a_batch_of_marked_and_plain_examples() -> None:
    """Two tasks in one batch: one answers for marked tokens, one for whole sequences."""
    words, plain = laid([[[False, True, True], [True]], [[False, True]]]), laid([[[False] * 3]], marks=False)
    ragged = Ragged.of_layout(Layout.joined(marked([words, plain])))
    assert ragged.marked.tolist() == [2, 1, 1, 0]
    assert ragged.counts is not None
    assert ragged.counts.tolist() == [2, 1, 1]
    encoder = Encoder(Shape(1, 8, 2, 16, 20, 10), dropout=0.0).eval()
    states = encoder.encode(ragged)
    first = states.of_sequences(0, 3)
    assert first.ragged.counts is not None
    assert first.ragged.counts.tolist() == [2, 1]
    found = first.marked()
    torch.testing.assert_close(found.rows, states.tokens[[1, 2, 3, 5]])
    assert found.sizes.tolist() == [2, 1, 1]
    assert found.rows_of_examples.tolist() == [3, 1]
    last = states.of_sequences(3, 4)
    assert last.ragged.counts is not None
    assert last.ragged.counts.tolist() == [1]


def test_some_sequences_of_a_pass_are_what_they_are_alone() -> None:
    whole = laid([[[True, False], [True]], [[True, True, False]]])
    encoder = Encoder(Shape(2, 8, 2, 16, 20, 10), dropout=0.0).eval()
    states = encoder.encode(Ragged.of_layout(whole), all_layers=True)
    chosen = states.select(np.array([2, 0]), None, np.array([1, 1]))
    torch.testing.assert_close(chosen.first(), states.first()[[2, 0]])
    torch.testing.assert_close(chosen.mean(), states.mean()[[2, 0]])
    assert [len(layer) for layer in chosen.layers] == [5, 5, 5]
    assert chosen.ragged.positions.tolist() == [0, 1, 2, 0, 1]
    same = states.select(np.arange(3), torch.tensor([True] * 6), np.array([3]))
    assert same.tokens is states.tokens
    assert same.marked().sizes.tolist() == [2, 1, 3]


def test_a_batch_without_marks_has_no_marked_tokens() -> None:
    with pytest.raises(ValueError, match="no marked tokens"):
        Ragged.of_layout(laid([[[True]]], marks=False)).marked  # noqa: B018


@given(EXAMPLES, st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_long_examples_are_cut_between_their_sequences(examples: list[list[list[bool]]], tokens: int) -> None:
    whole = laid(examples)
    found, pieces = in_pieces(whole, tokens)
    assert [len(pieces), sum(pieces), found.counts.sum()] == [len(whole), len(found), len(whole.lengths)]
    for name in ("ids", "segments", "lengths", "dropped", "marks", "offsets"):
        assert getattr(found, name) is getattr(whole, name)
    at = 0
    for example, count in zip(examples, pieces.tolist(), strict=True):
        lengths, of_pieces = [len(one) for one in example], found.counts[at : at + count].tolist()
        assert count == 1 or sum(lengths) > tokens
        for place, piece in enumerate(of_pieces):
            held, lengths = lengths[:piece], lengths[piece:]
            assert sum(held) <= tokens or piece == 1
            if place + 1 < count:  # what follows would not have fitted
                assert sum(held) + lengths[0] > tokens
        assert lengths == []
        at += count


def test_nothing_in_pieces() -> None:
    nothing = laid([])
    found, pieces = in_pieces(nothing, 5)
    assert (len(found), pieces.tolist()) == (0, [])
