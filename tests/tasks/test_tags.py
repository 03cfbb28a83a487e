"""Tags: schemes by hand and there and back, Viterbi against every sequence, align against transformers."""

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.bert.tokenization_bert import BertTokenizerFast

from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.formulas.metrics.entities import Entity, entities
from manyheads.tasks.tags import (
    SCHEMES,
    Scheme,
    align,
    convert,
    detect,
    labels_of,
    moves,
    pieces_of,
    types_of,
    viterbi,
    written,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz.,-'&0123456789"
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS if letter.isalnum()),
    *("the", "said", "##ing", "你", "好"),
]


def tokenizer() -> Tokenizer:
    return Tokenizer(VOCABULARY)


# ---- schemes ----

SENTENCE: dict[Scheme, list[str]] = {
    "iob1": ["I-PER", "I-PER", "B-PER", "I-LOC", "O", "I-ORG", "O", "I-creative-work", "I-creative-work"],
    "iob2": ["B-PER", "I-PER", "B-PER", "B-LOC", "O", "B-ORG", "O", "B-creative-work", "I-creative-work"],
    "bioes": ["B-PER", "E-PER", "S-PER", "S-LOC", "O", "S-ORG", "O", "B-creative-work", "E-creative-work"],
}


@pytest.mark.parametrize("source", SCHEMES)
@pytest.mark.parametrize("target", SCHEMES)
def test_one_sentence_in_every_scheme(source: Scheme, target: Scheme) -> None:
    assert convert(SENTENCE[source], source, target) == SENTENCE[target]


def test_a_long_entity_has_an_inside() -> None:
    assert convert(["B-X", "I-X", "I-X", "I-X"], "iob2", "bioes") == ["B-X", "I-X", "I-X", "E-X"]
    assert convert(["B", "I", "I", "B"], "iob2", "bioes") == ["B", "I", "E", "S"]  # a type without a name


def any_entities() -> st.SearchStrategy[tuple[list[Entity], int]]:
    """Entities apart from each other in a sentence, some of them touching, and the sentence's length."""

    def laid(pieces: list[tuple[int, int, str]]) -> tuple[list[Entity], int]:
        found, place = [], 0
        for gap, size, type_ in pieces:
            found.append(Entity(type_, place + gap, place + gap + size))
            place += gap + size
        return found, place + 1

    piece = st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["A", "B-B", ""]))
    return st.lists(piece, max_size=5).map(laid)


@settings(max_examples=200, deadline=None)
@given(any_entities(), st.sampled_from(SCHEMES), st.sampled_from(SCHEMES))
def test_entities_survive_every_scheme(
    made: tuple[list[Entity], int], source: Scheme, target: Scheme
) -> None:
    found, words = made
    tags = written(found, words, source)
    assert len(tags) == words
    assert entities(tags, source) == found
    assert entities(convert(tags, source, target), target) == found
    assert convert(convert(tags, source, target), target, source) == tags


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_cannot_be_written_comes_out_as_it_is_read(scheme: Scheme) -> None:
    tags = ["I-A", "B-A", "I-B", "O", "I-B"]
    if scheme == "bioes":
        tags = ["I-A", "S-A", "E-B", "O", "B-B"]
    assert convert(tags, scheme, "iob2") == ["B-A", "B-A", "B-B", "O", "B-B"]


@pytest.mark.parametrize(
    ("tags", "scheme", "said"),
    [
        (["O", "PER"], "iob2", "word 2: found 'PER', expected O, or B- or I- and a type"),
        (["S-PER"], "iob1", "word 1: found 'S-PER', expected O, or B- or I- and a type; E- and S- belong to"),
        (["O", "O", "L-PER"], "bioes", "word 3: found 'L-PER', expected O, or B-, I-, E- or S- and a type"),
    ],
)
def test_what_is_no_tag_is_refused(tags: list[str], scheme: Scheme, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        convert(tags, scheme, "iob2")


@pytest.mark.parametrize(
    ("sentences", "scheme"),
    [
        ([SENTENCE["iob1"]], "iob1"),
        ([SENTENCE["iob2"]], "iob2"),
        ([SENTENCE["bioes"]], "bioes"),
        ([["O", "I-A"], ["I-A", "I-B"]], "iob1"),
        ([["O", "B-A"], ["B-A", "B-B"]], "iob2"),
        ([["B-A", "I-A", "O"], ["O", "S-A"]], "bioes"),
        ([["O"], []], "iob2"),
        ([], "iob2"),
        ([["I-A", "B-A", "B-A"]], "iob1"),
        ([["B-A", "B-A"], ["I-A"]], "iob2"),  # a slip in an IOB2 file
    ],
)
def test_the_scheme_is_seen(sentences: list[list[str]], scheme: Scheme) -> None:
    assert detect(sentences) == scheme


def test_types_and_labels() -> None:
    assert types_of(["O", "B-LOC", "I-PER", "I-LOC"], "iob2") == ["LOC", "PER"]
    assert labels_of(["LOC", "PER"], "iob2") == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert labels_of(["X"], "bioes") == ("O", "B-X", "I-X", "E-X", "S-X")
    assert labels_of([""], "iob2") == ("O", "B", "I")


# ---- which tag follows which ----


@pytest.mark.parametrize("scheme", SCHEMES)
def test_allowed_are_the_sequences_that_some_entities_write(scheme: Scheme) -> None:
    """Every sequence of four labels: allowed if, and only if, it is what its own entities are written as."""
    labels = labels_of(["A", "B"], scheme)
    allowed = moves(labels, scheme)
    count = 0
    for numbers in itertools.product(range(len(labels)), repeat=4):
        tags = [labels[number] for number in numbers]
        well_formed = written(entities(tags, scheme), 4, scheme) == tags
        may = allowed.begin[numbers[0]] and allowed.end[numbers[-1]]
        may &= all(allowed.follow[a, b] for a, b in itertools.pairwise(numbers))
        assert may == well_formed, tags
        count += well_formed
    assert count > 50


def best_of_all(scores: np.ndarray[Any, Any], labels: tuple[str, ...], scheme: Scheme) -> list[int]:
    """The best well-formed sequence by looking at every sequence, the sums exactly rounded."""
    words = len(scores)
    ranked = [
        (math.fsum(scores[place, number] for place, number in enumerate(numbers)), numbers)
        for numbers in itertools.product(range(len(labels)), repeat=words)
        if written(entities([labels[n] for n in numbers], scheme), words, scheme)
        == [labels[n] for n in numbers]
    ]
    return list(max(ranked)[1])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_viterbi_finds_the_best_of_all_sequences(scheme: Scheme) -> None:
    labels = labels_of(["A", "B"], scheme)
    generator = np.random.default_rng(5)
    lengths = np.array([3, 0, 5 if scheme != "bioes" else 4, 1, 4, 0, 2, 4], dtype=np.int64)
    scores = generator.normal(size=(int(lengths.sum()), len(labels))) * 2
    found = viterbi(scores, lengths, moves(labels, scheme))
    plain = scores.argmax(1)
    expected = [
        number
        for part in np.split(scores, np.cumsum(lengths)[:-1])
        if len(part)
        for number in best_of_all(part, labels, scheme)
    ]
    assert found.tolist() == expected
    assert found.tolist() != plain.tolist()  # it had to change something


def test_viterbi_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = labels_of(["A", "B"], "iob2")
    generator = np.random.default_rng(6)
    lengths = generator.integers(0, 9, size=50)
    scores = generator.normal(size=(int(lengths.sum()), len(labels)))
    whole = viterbi(scores, lengths, moves(labels, "iob2"))
    monkeypatch.setattr("manyheads.tasks.tags._NUMBERS_AT_ONCE", 3 * len(labels) ** 2)
    assert viterbi(scores, lengths, moves(labels, "iob2")).tolist() == whole.tolist()


def test_viterbi_where_the_likely_is_impossible() -> None:
    labels = labels_of(["A"], "iob2")
    sure = np.array([[-np.inf, -np.inf, 0.0]] * 2)  # I-A, and nothing else, twice
    assert [labels[n] for n in viterbi(sure, np.array([2]), moves(labels, "iob2"))] == ["B-A", "I-A"]
    close = np.log(np.array([[0.5, 0.1, 0.4], [0.1, 0.1, 0.8]]))
    assert [labels[n] for n in viterbi(close, np.array([2]), moves(labels, "iob2"))] == ["B-A", "I-A"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SCHEMES))
def test_viterbi_gives_well_formed_sequences_and_no_worse_ones(seed: int, scheme: Scheme) -> None:
    generator = np.random.default_rng(seed)
    labels = labels_of(["A", "B-C", "D"], scheme)
    lengths = generator.integers(0, 15, size=6)
    scores = generator.normal(size=(int(lengths.sum()), len(labels)))
    numbers = viterbi(scores, lengths, moves(labels, scheme))
    for own, found in zip(
        np.split(scores, np.cumsum(lengths)[:-1]), np.split(numbers, np.cumsum(lengths)[:-1]), strict=True
    ):
        tags = [labels[number] for number in found.tolist()]
        assert written(entities(tags, scheme), len(tags), scheme) == tags
        free = own.argmax(1) if len(own) else np.zeros(0, np.int64)
        freely = [labels[number] for number in free.tolist()]
        if written(entities(freely, scheme), len(freely), scheme) == freely:
            assert freely == tags


def test_viterbi_counts_its_words() -> None:
    with pytest.raises(ValueError, match="scores of 2 words for sentences of 3"):
        viterbi(np.zeros((2, 3)), np.array([1, 2]), moves(labels_of(["A"], "iob2"), "iob2"))
    assert viterbi(np.zeros((0, 3)), np.array([0, 0]), moves(labels_of(["A"], "iob2"), "iob2")).tolist() == []


# ---- words as pieces ----


def test_pieces_of_words() -> None:
    ours = tokenizer()
    found = pieces_of(["the", "ab", "", "the", "\x07", "你好", "ü"], ours)
    assert {word: [ours.id_to_token(one) for one in ids] for word, ids in found.items()} == {
        "the": ["the"],
        "ab": ["a", "##b"],
        "": [],
        "\x07": [],
        "你好": ["你", "好"],
        "ü": ["u"],
    }
    assert pieces_of([], ours) == {}


def aligned_by_transformers(
    words: list[str], tags: list[str], max_length: int | None
) -> tuple[list[int], list[str | int]]:
    """The loop of transformers' token classification example, over its word_ids."""
    theirs = BertTokenizerFast(vocab={token: number for number, token in enumerate(VOCABULARY)})
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    found = theirs(words, is_split_into_words=True, **cut)
    labels: list[str | int] = []
    before = None
    for word in found.word_ids():
        labels.append(-100 if word is None or word == before else tags[word])
        before = word
    return found["input_ids"], labels


words_drawn = st.lists(st.text(LETTERS + "ÉÜ你好", min_size=1, max_size=6), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None)
@given(words_drawn, st.none() | st.integers(3, 30))
def test_align_equals_transformers(words: list[str], max_length: int | None) -> None:
    tags = [f"B-{number}" for number in range(len(words))]
    assert align(words, tags, tokenizer(), max_length) == aligned_by_transformers(words, tags, max_length)


def test_align_of_numbers_and_of_words_that_vanish() -> None:
    ours = tokenizer()
    ids, labels = align(["the", "\u200b", "", "ab"], [3, 1, 2, 0], ours)
    assert ids == [
        ours.cls_id,
        ours.token_to_id("the"),
        ours.unk_id,
        ours.unk_id,
        *map(ours.token_to_id, ["a", "##b"]),
        ours.sep_id,
    ]
    assert labels == [-100, 3, 1, 2, 0, -100, -100]
    assert align([], [], ours) == ([ours.cls_id, ours.sep_id], [-100, -100])


def test_align_cuts_at_the_right() -> None:
    ours = tokenizer()
    ids, labels = align(["ab", "cd", "ef"], ["x", "y", "z"], ours, max_length=5)
    assert [ours.id_to_token(one) for one in ids] == ["[CLS]", "a", "##b", "c", "[SEP]"]
    assert labels == [-100, "x", -100, "y", -100]


def test_align_refuses() -> None:
    ours = tokenizer()
    with pytest.raises(ValueError, match=r"^found 2 words and 1 tag, expected as many$"):
        align(["a", "b"], ["O"], ours)
    with pytest.raises(ValueError, match=r"^found 1 word and 0 tags, expected as many$"):
        align(["a"], [], ours)
    with pytest.raises(ValueError, match=r"^expected a list of words, found the text 'ab'$"):
        align("ab", ["O", "O"], ours)
    with pytest.raises(ValueError, match=r"^expected a list of tags, found the text 'OO'$"):
        align(["a", "b"], "OO", ours)
    with pytest.raises(InputError, match="max_length 1"):
        align(["a"], ["O"], ours, max_length=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([1, 2], "word 1: found 1, expected a text"),
        (["a", None], "word 2: found None, expected a text"),
        ([["a"], "b"], "word 1: found ['a'], expected a text"),
        (["a", b"b"], "word 2: found b'b', expected a text"),
    ],
)
def test_align_names_a_word_that_is_no_text(words: list[Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        align(words, [1, 2], tokenizer())


def test_a_text_is_no_list_of_tags() -> None:
    with pytest.raises(ValueError, match=r"^expected a list of tags, found the text 'OO'$"):
        convert("OO", "iob1", "iob2")
