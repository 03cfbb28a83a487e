"""The kind `tagging`: its layout word by word, its numbers against torch and conlleval's, its answers by hand."""

import json
import math
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import rel_entr
from torch.nn import functional as F

from manyheads.encoder.bert import States
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.formulas.metrics.entities import entity_f1
from manyheads.tasks.classification import Classification, ClassificationSettings
from manyheads.tasks.heads.bilstm import BiLSTMHead
from manyheads.tasks.heads.tokens import TokenHead
from manyheads.tasks.kind import ColumnError, Example, examples_of
from manyheads.tasks.tagging import Tagging, TaggingSettings
from manyheads.tasks.tags import align, convert

LETTERS = "abcdefghijklmnopqrstuvwxyz.,-'0123456789"
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS if letter.isalnum()),
    *("the", "paris", "in", "你", "好", "北", "京"),
]
TOKENIZER = Tokenizer(VOCABULARY)

TRAIN = [["B-PER", "I-PER", "O"], ["O", "B-LOC"], ["B-PER"]]
LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def kind(facts: dict[str, Any] | None = None, **chosen: Any) -> Tagging:
    return Tagging(TaggingSettings(**chosen), facts)


def learnt(**chosen: Any) -> Tagging:
    made = kind(**chosen)
    made.learn(TRAIN)
    return made


def tokens(layout: Layout) -> list[list[str | None]]:
    """The tokens of each sequence."""
    ends = np.cumsum(layout.lengths)
    return [
        [TOKENIZER.id_to_token(one) for one in layout.ids[begin:end].tolist()]
        for begin, end in zip(ends - layout.lengths, ends, strict=True)
    ]


def marked(layout: Layout) -> list[list[str | None]]:
    """The marked tokens of each sequence."""
    assert layout.marks is not None
    ends = np.cumsum(layout.lengths)
    return [
        [TOKENIZER.id_to_token(one) for one in layout.ids[begin:end][layout.marks[begin:end]].tolist()]
        for begin, end in zip(ends - layout.lengths, ends, strict=True)
    ]


# ---- settings ----


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"labels": ["O", "PER"]}, "'labels' expects tags such as O and B-PER, found 'PER'"),
        ({"labels": ["O", "B-PER", "O"]}, "'labels' names 'O' twice"),
        ({"labels": ["O"]}, "'labels' expects tags such as O and B-PER, found none of an entity"),
        ({"scheme": "bilou"}, "Input should be 'auto', 'iob1', 'iob2' or 'bioes'"),
        ({"dropout": 1.0}, "less than 1"),
        ({"width": 4}, "'width' has no meaning for 'head: linear'"),
        ({"max_length": 2}, "greater than or equal to 3"),
        ({"text": "sentence"}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_do_not_fit(chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TaggingSettings(**chosen)


def test_every_setting_says_what_it_means() -> None:
    assert all(field.description for field in TaggingSettings.model_fields.values())


# ---- inputs ----


def test_columns() -> None:
    named = kind(words="tokens", tags="ner_tags")
    assert (named.columns, named.also, named.target_column, named.reads) == (("tokens",), (), "ner_tags", 1)
    assert kind(context="document", document="page").also == ("page",)


def test_inputs_are_words_or_a_text() -> None:
    tagging = kind()
    assert tagging.input({"words": ["a", "b"], "tags": ["O", "O"]}) == ["a", "b"]
    assert tagging.input({"words": ("a", "")}) == ["a", ""]
    assert tagging.input({"words": "a b"}) == "a b"
    assert tagging.given("a b") == {"words": "a b"}
    assert tagging.given(("a", "b")) == {"words": ["a", "b"]}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "found null, expected a list of words or a text"),
        (3, "found 3, expected a list of words or a text"),
        ({"a": 1}, "found {'a': 1}, expected a list of words or a text"),
        (["a", None], "word 2: found null, expected a text"),
        ([3], "word 1: found 3, expected a text"),
    ],
)
def test_what_is_no_sentence_is_refused_with_its_column(value: object, said: str) -> None:
    with pytest.raises(ColumnError) as caught:
        kind(words="w").input({"w": value})
    assert (str(caught.value), caught.value.column) == (said, "w")


@pytest.mark.parametrize("one", [3, None, ["a", 3], {"words": ["a"]}])
def test_what_a_caller_may_not_give(one: object) -> None:
    with pytest.raises(ValueError, match=r"^expected a text or a list of words, found "):
        kind().given(one)


# ---- layout ----


def test_the_first_piece_of_a_word_is_marked() -> None:
    layout = kind().lay([["The", "abc", "."], ["x"]], TOKENIZER, 16)
    assert tokens(layout) == [["[CLS]", "the", "a", "##b", "##c", ".", "[SEP]"], ["[CLS]", "x", "[SEP]"]]
    assert marked(layout) == [["the", "a", "."], ["x"]]
    assert layout.offsets is not None
    assert layout.offsets.tolist() == [[0, 3], [4, 7], [8, 9], [0, 1]]
    assert layout.counts.tolist() == [1, 1]
    assert layout.dropped.tolist() == [0, 0]
    assert not layout.segments.any()
    dtypes = [array.dtype for array in (layout.ids, layout.segments, layout.lengths, layout.dropped)]
    assert dtypes == [np.int32, np.uint8, np.int32, np.int32]
    assert [array.dtype for array in (layout.counts, layout.offsets)] == [np.int32, np.int32]


def test_words_of_nothing_are_marked_too() -> None:
    layout = kind().lay([["a", "", "\x07\u200b", "b"]], TOKENIZER, 16)
    assert tokens(layout) == [["[CLS]", "a", "[UNK]", "[UNK]", "b", "[SEP]"]]
    assert marked(layout) == [["a", "[UNK]", "[UNK]", "b"]]
    assert layout.offsets is not None
    assert layout.offsets.tolist() == [[0, 1], [2, 2], [3, 5], [6, 7]]


@pytest.mark.parametrize("empty", [[], "", " \x07", {"words": [], "before": "a", "after": "b"}])
def test_a_sentence_without_words(empty: object) -> None:
    layout = kind().lay([empty, ["a"]], TOKENIZER, 16)
    assert tokens(layout)[0] == ["[CLS]", "[SEP]"]
    assert marked(layout) == [[], ["a"]]
    assert layout.counts.tolist() == [1, 1]
    nothing = kind().lay([empty], TOKENIZER, 16)
    assert nothing.offsets is not None
    assert nothing.offsets.shape == (0, 2)


def test_a_long_sentence_goes_over_several_sequences() -> None:
    words = ["a", "bc", "d", "ef", "g", "hij", "k"]
    layout = kind().lay([words, ["x"]], TOKENIZER, 6)
    assert layout.counts.tolist() == [3, 1]
    assert marked(layout) == [["a", "b", "d"], ["e", "g"], ["h", "k"], ["x"]]
    # What a sequence leaves free is filled with the words on both sides.
    assert tokens(layout) == [
        ["[CLS]", "a", "b", "##c", "d", "[SEP]"],
        ["[CLS]", "d", "e", "##f", "g", "[SEP]"],
        ["[CLS]", "h", "##i", "##j", "k", "[SEP]"],
        ["[CLS]", "x", "[SEP]"],
    ]
    assert layout.dropped.tolist() == [0, 0, 0, 0]


def test_a_word_longer_than_a_sequence_is_cut_and_counted() -> None:
    layout = kind().lay([["a", "bcdefgh", "i"]], TOKENIZER, 5)
    assert marked(layout) == [["a"], ["b"], ["i"]]
    assert tokens(layout)[1] == ["[CLS]", "b", "##c", "##d", "[SEP]"]
    assert layout.dropped.tolist() == [0, 4, 0]


def test_a_length_without_room() -> None:
    with pytest.raises(InputError, match="found max_length 2, expected 3 or more"):
        kind().lay([["a"]], TOKENIZER, 2)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.text(LETTERS + "你É \x07", max_size=7), max_size=9), min_size=1, max_size=4),
    st.lists(st.text("abc ", max_size=12), min_size=2, max_size=2),
    st.integers(3, 20),
)
def test_every_word_is_asked_once(sentences: list[list[str]], sides: list[str], max_length: int) -> None:
    inputs = [{"words": words, "before": sides[0], "after": sides[1]} for words in sentences]
    layout = kind().lay(inputs, TOKENIZER, max_length)
    assert layout.marks is not None
    assert layout.offsets is not None
    assert layout.lengths.max() <= max_length
    assert layout.lengths.sum() == len(layout.ids) == len(layout.marks)
    for sequence in tokens(layout):
        assert (sequence[0], sequence[-1]) == ("[CLS]", "[SEP]")
    firsts = [
        TOKENIZER.id_to_token(align([word], [0], TOKENIZER)[0][1]) for words in sentences for word in words
    ]
    assert [token for sequence in marked(layout) for token in sequence] == firsts
    lost = 0
    for example, words in zip(examples_of(layout, inputs, None), sentences, strict=True):
        assert example.sizes.sum() == len(words)
        text = " ".join(words)
        assert [text[start:end] for start, end in example.offsets.tolist()] == words
        for word in words:
            lost += max(0, len(align([word], [0], TOKENIZER)[0]) - max_length)
    assert layout.dropped.sum() == lost


@settings(max_examples=150, deadline=None)
@given(st.text(LETTERS + "你Éé\u0301 _\x07\u200b", max_size=30))
def test_a_text_is_laid_out_as_the_tokenizer_reads_it(text: str) -> None:
    layout = kind().lay([text], TOKENIZER, 100)
    assert layout.ids.tolist() == TOKENIZER([text]).input_ids[0]
    assert marked(layout)[0] == [
        token for token in tokens(layout)[0][1:-1] if token is not None and not token.startswith("##")
    ]


def test_words_of_a_text() -> None:
    text = "in Paris, l'e\u0301te\u0301\u0301 你好"
    layout = kind().lay([text], TOKENIZER, 100)
    assert layout.offsets is not None
    said = [text[start:end] for start, end in layout.offsets.tolist()]
    assert said == ["in", "Paris", ",", "l", "'", "e\u0301te\u0301\u0301", "你", "好"]
    spaced = kind(split="spaces").lay([text], TOKENIZER, 100)
    assert spaced.offsets is not None
    assert [text[a:b] for a, b in spaced.offsets.tolist()] == [
        "in",
        "Paris,",
        "l'e\u0301te\u0301\u0301",
        "你好",
    ]
    assert marked(spaced) == [["in", "paris", "l", "你"]]


def test_characters() -> None:
    tagging = kind(split="characters")
    layout = tagging.lay(["在北京 a"], TOKENIZER, 100)
    assert tokens(layout) == [["[CLS]", "[UNK]", "北", "京", "[UNK]", "a", "[SEP]"]]
    assert marked(layout) == [["[UNK]", "北", "京", "[UNK]", "a"]]
    assert layout.offsets is not None
    assert layout.offsets.tolist() == [[place, place + 1] for place in range(5)]
    (example,) = examples_of(layout, ["在北京 a"], None)
    tagging.learn([["O", "B-LOC", "I-LOC", "O", "O"]])
    assert tagging.target(["O", "B-LOC", "I-LOC", "O", "O"], example) == [0, 1, 2, 0, 0]


# ---- context ----


def rows(*documents: list[list[str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for document, sentences in enumerate(documents):
        for words in sentences:
            yield number, {"words": words, "tags": ["O"] * len(words), "document": document}
            number += 1


def test_context_fills_the_window() -> None:
    tagging = kind(context="document", max_length=9)
    found = list(tagging.gather(rows([[*"abc"], [*"de"], [*"fgh"]], [["x"]])))
    assert [place for place, _ in found] == [0, 1, 2, 3]
    assert found[1][1]["tags"] == ["O", "O"]
    inputs = [tagging.input(values) for _, values in found]
    assert inputs[1]["words"] == ["d", "e"]
    layout = tagging.lay(inputs, TOKENIZER, 9)
    assert [sequence[1:-1] for sequence in tokens(layout)] == [
        [*"abcdefg"],
        [*"bcdefgh"],
        [*"bcdefgh"],
        ["x"],
    ]
    assert marked(layout) == [[*"abc"], [*"de"], [*"fgh"], ["x"]]
    assert layout.offsets is not None
    assert layout.offsets.tolist()[3:5] == [[0, 1], [2, 3]]


def widest(sizes: list[int], first: int, last: int, room: int) -> tuple[int, int]:
    """Which words the window of one whole sentence reads, written out word by word."""
    free = room - sum(sizes[first:last])
    for_left = free // 2
    begin, end = first, last
    for_right = free - for_left
    while end < len(sizes) and sizes[end] <= for_right:
        for_right -= sizes[end]
        end += 1
    for_left += for_right
    while begin and sizes[begin - 1] <= for_left:
        begin -= 1
        for_left -= sizes[begin]
    while end < len(sizes) and sizes[end] <= for_left:
        for_left -= sizes[end]
        end += 1
    return begin, end


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(
            st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4), min_size=1, max_size=8
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(14, 30),
)
def test_context_is_that_of_the_whole_document(documents: list[list[list[str]]], max_length: int) -> None:
    """What streams through `gather` leaves out nothing that a window of the whole document would have."""
    tagging = kind(context="document", max_length=max_length)
    inputs = [tagging.input(values) for _, values in tagging.gather(rows(*documents))]
    layout = tagging.lay(inputs, TOKENIZER, max_length)
    expected = []
    for sentences in documents:
        flat = [word for words in sentences for word in words]
        place = 0
        for words in sentences:
            begin, end = widest([len(word) for word in flat], place, place + len(words), max_length - 2)
            expected.append(align(flat[begin:end], [0] * (end - begin), TOKENIZER)[0])
            place += len(words)
    found = np.split(layout.ids, np.cumsum(layout.lengths)[:-1])
    assert [one.tolist() for one in found] == expected


def test_context_streams() -> None:
    """Of one endless document no more is read ahead, and held, than fills a window."""
    seen = 0

    def endless() -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal seen
        while True:
            yield seen, {"words": ["a", "b", "c"], "document": 1}
            seen += 1

    tagging = kind(context="document", max_length=32)
    for number, (place, values) in enumerate(tagging.gather(endless())):
        assert place == number
        assert seen - number <= 12
        assert len(tagging.input(values)["before"].split()) <= 30
        if number == 200:
            break


def test_context_of_texts() -> None:
    tagging = kind(context="document", max_length=8, split="characters")
    given_rows = [(1, {"words": "北京", "document": "x"}), (2, {"words": "a 好", "document": "x"})]
    inputs = [tagging.input(values) for _, values in tagging.gather(iter(given_rows))]
    assert inputs[0] == {"words": "北京", "before": "", "after": "a 好"}
    assert tokens(tagging.lay(inputs, TOKENIZER, 8))[0] == ["[CLS]", "北", "京", "a", "好", "[SEP]"]
    plain = kind(context="document", max_length=8)
    inputs = [plain.input(values) for _, values in plain.gather(iter(given_rows))]
    assert inputs[1]["before"] == "北 京"


def test_context_needs_documents() -> None:
    with pytest.raises(ColumnError, match="'context: document' needs this column") as caught:
        list(kind(context="document").gather(iter([(1, {"words": ["a"]})])))
    assert caught.value.column == "document"


def test_context_leaves_bad_rows_to_their_own_turn() -> None:
    tagging = kind(context="document")
    given_rows: list[tuple[int, dict[str, Any]]] = [
        (1, {"words": ["a"], "document": 1}),
        (2, {"words": None, "document": 1}),
    ]
    found = tagging.gather(iter(given_rows))
    assert tagging.input(next(found)[1])["words"] == ["a"]
    with pytest.raises(ColumnError, match="found null"):
        tagging.input(next(found)[1])


def test_rows_without_context_pass_as_they_are() -> None:
    given_rows = iter([(1, {"words": ["a"]})])
    assert kind().gather(given_rows) is given_rows


def test_the_layout_depends_on_what_it_says() -> None:
    assert kind().laid_by == kind(dropout=0.3, decode="valid", inside="bioes").laid_by
    others = [kind(split="spaces"), kind(words="w"), kind(context="document")]
    assert all(other.laid_by != kind().laid_by for other in others)
    wide, narrow = (kind(context="document", max_length=length) for length in (64, 32))
    assert wide.laid_by != narrow.laid_by
    json.dumps(wide.laid_by)


# ---- labels ----


@pytest.mark.parametrize(
    ("values", "chosen", "labels", "scheme"),
    [
        (TRAIN, {}, LABELS, "iob2"),
        ([["I-PER", "I-PER", "B-PER"], ["O", "I-LOC"]], {}, LABELS, "iob1"),
        ([["B-PER", "E-PER"], ["S-LOC"]], {}, LABELS, "bioes"),
        (["O B-PER I-PER", "B-LOC"], {}, LABELS, "iob2"),
        (
            [["B-A", "I-A"]],
            {"inside": "bioes"},
            ("O", "B-A", "I-A", "E-A", "S-A"),
            "iob2",
        ),
        (
            TRAIN,
            {"labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]},
            ("O", *LABELS[3:], *LABELS[1:3]),
            "iob2",
        ),
        ([["I-A"]], {"labels": ["I-A", "O", "B-A"]}, ("I-A", "O", "B-A"), "iob1"),
        ([["O"]], {"labels": ["B-X"]}, ("O", "B-X", "I-X"), "iob2"),
        ([["I-A", "O"]], {"scheme": "iob2"}, ("O", "B-A", "I-A"), "iob2"),
        (
            [None, ["X-A"], 3, ["B-A"]],
            {},
            ("O", "B-A", "I-A"),
            "iob2",
        ),  # what is no tag is refused in its row
    ],
)
def test_labels_are_learnt(
    values: list[object], chosen: dict[str, Any], labels: tuple[str, ...], scheme: str
) -> None:
    tagging = kind(**chosen)
    tagging.learn(values)
    assert (tagging.labels, tagging.scheme) == (labels, scheme)
    facts = json.loads(json.dumps(tagging.facts()))
    again = kind(facts, **chosen)
    again.learn([["B-OTHER"]])
    assert (again.labels, again.scheme, again.facts()) == (labels, scheme, facts)


@pytest.mark.parametrize(
    ("values", "index", "word", "said"),
    [
        ([], None, None, "expected tags such as O and B-PER, found none of an entity"),
        ([["O", "O"]], None, None, "expected tags such as O and B-PER, found none of an entity"),
        (
            [["O", "O"], ["O", "PER"], [3]],
            1,
            1,
            "word 2: found 'PER', expected O, or B-, I-, E- or S- and a type",
        ),
        (
            [[0, 1], ["O"]],
            0,
            0,
            "word 1: found 0, expected a tag such as O or B-PER ('labels' names numbers)",
        ),
        (
            ["O", '["O", "B-PER"]', "X"],
            1,
            None,
            'found \'["O", "B-PER"]\', a list as text; expected tags with spaces between them',
        ),
        (["O", "O O", 0.5], 2, None, "found 0.5, expected a list of tags"),
    ],
)
def test_nothing_to_learn(values: list[object], index: int | None, word: int | None, said: str) -> None:
    """The error has the number of the first bad value, so that its row can be named."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$") as caught:
        kind().learn(values)
    assert (getattr(caught.value, "index", None), getattr(caught.value, "word", None)) == (index, word)


def test_a_column_of_something_else() -> None:
    with pytest.raises(ValueError, match=r"^expected tags, found 1001 different types such as '0'$"):
        kind().learn([[f"B-{number}"] for number in range(1001)])


def example(words: list[str] | str) -> Example:
    layout = kind().lay([words], TOKENIZER, 64)
    (found,) = examples_of(layout, [words], None)
    return found


def test_targets_are_numbers_of_labels() -> None:
    tagging = learnt()
    assert tagging.target(["B-PER", "I-PER", "O"]) == [3.0, 4.0, 0.0]
    assert tagging.target("O B-LOC", example(["a", "b"])) == [0.0, 1.0]
    assert tagging.target(["I-PER", "I-LOC"]) == [3.0, 1.0]  # as conlleval reads it
    assert tagging.target([]) == []
    bioes = learnt(inside="bioes")
    assert [bioes.labels[int(n)] for n in bioes.target(["B-PER", "I-PER", "B-LOC"])] == [
        "B-PER",
        "E-PER",
        "S-LOC",
    ]
    assert all(isinstance(number, float) for number in tagging.target(["B-PER", "O"]))


def test_numbers_are_tags_by_the_order_of_labels() -> None:
    tagging = kind(labels=["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], tags="ner_tags")
    tagging.learn([[1, 2, 0], [0, 3]])
    assert tagging.scheme == "iob2"
    assert tagging.target([0, 3, 4]) == [0.0, 3.0, 4.0]
    with pytest.raises(ValueError, match=r"^word 2: found 5, expected a number below 5$"):
        tagging.target([0, 5])
    with pytest.raises(ValueError, match=r"^word 1: found -1, expected a number below 5$"):
        tagging.target([-1])


@pytest.mark.parametrize(
    ("value", "chosen", "said"),
    [
        (["O", "X-PER"], {}, "word 2: found 'X-PER', expected O, or B- or I- and a type"),
        (
            ["E-PER"],
            {},
            "word 1: found 'E-PER', expected O, or B- or I- and a type; E- and S- belong to the scheme",
        ),
        (
            ["O", "B-PERS"],
            {},
            "word 2: found 'B-PERS', expected one of the types LOC, PER; did you mean 'PER'?",
        ),
        (None, {}, "found null, expected a list of tags"),
        (0.5, {}, "found 0.5, expected a list of tags"),
        (["O", None, "O"], {}, "word 2: found null, expected a tag such as O or B-PER"),
        ([0, 0, 0], {}, "word 1: found 0, expected a tag such as O or B-PER ('labels' names numbers)"),
        ([True, "O", "O"], {"labels": LABELS}, "word 1: found True, expected a"),
        (" ['O' 'O']", {}, "found \" ['O' 'O']\", a list as text; expected tags with spaces between them"),
    ],
)
def test_what_is_no_target_is_refused(value: object, chosen: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}") as caught:
        learnt(**chosen).target(value)
    counted = re.match(r"word (\d+)", said)
    assert getattr(caught.value, "word", None) == (int(counted[1]) - 1 if counted else None)


def test_as_many_tags_as_words() -> None:
    with pytest.raises(ValueError, match=r"^found 2 tags for 3 words, expected one each$"):
        learnt().target(["O", "B-PER"], example(["a", "b", "c"]))
    with pytest.raises(ValueError, match=r"^found 1 tag for 2 words, expected one each$"):
        learnt().target(["O"], example(["a", "b"]))
    with pytest.raises(ValueError, match=r"^found 2 tags for 1 word, expected one each$"):
        learnt().target(["O", "O"], example(["a"]))


@pytest.mark.parametrize(
    ("text", "tags", "split", "hint"),
    [
        ("john 's", "B-PER O", "words", "; `split: spaces` would give as many words"),
        ("a bc", "O O O B-PER", "words", "; `split: characters` would give as many words"),
        ("a b.", "O O", "characters", "; `split: spaces` would give as many words"),
        ("a b.", "O O O O", "spaces", "; `split: characters` would give as many words"),
        ("a b.", "O O O", "spaces", ""),
        (["john 's", "a", "b"], "O O", "words", ""),  # a list is cut already
    ],
)
def test_the_split_that_would_fit_is_named(text: list[str] | str, tags: str, split: Any, hint: str) -> None:
    tagging = learnt(split=split)
    layout = tagging.lay([text], TOKENIZER, 64)
    (one,) = examples_of(layout, [tagging.kept(text)], None)
    with pytest.raises(ValueError, match=f"expected one each{re.escape(hint)}$"):
        tagging.target(tags, one)
    fitting = hint.split()[2].rstrip("`") if hint else ""
    if fitting:  # and it does
        other = learnt(split=fitting)
        (again,) = examples_of(other.lay([text], TOKENIZER, 64), [text], None)
        assert len(other.target(tags, again)) == len(tags.split())


def test_gold_is_told_as_it_was_learnt() -> None:
    assert learnt().told(["I-PER", "I-PER", "O"]) == ["B-PER I-PER O"]
    assert learnt(inside="bioes").told(["I-PER", "I-PER", "O"]) == ["B-PER E-PER O"]


# ---- numbers ----


def outputs(sizes: list[int], counts: list[int] | None = None, seed: int = 0, labels: int = 5) -> Grouped:
    generator = torch.Generator().manual_seed(seed)
    rows = 2 * torch.randn(sum(sizes), labels, generator=generator, dtype=torch.float64)
    return Grouped(rows, np.array(sizes), None if counts is None else np.array(counts))


def test_loss_is_the_cross_entropy_of_words() -> None:
    tagging, found = learnt(), outputs([3, 0, 4])
    targets = torch.tensor([0.0, 3, 4, 1, 2, 0, 0], dtype=torch.float64)
    expected = -found.rows.log_softmax(1)[range(7), targets.long()].mean()
    assert float(tagging.loss(found, targets)) == pytest.approx(float(expected), rel=1e-12)
    soft = tagging.soft(targets, found)
    assert soft.tolist() == np.eye(5)[targets.long()].tolist()
    assert float(tagging.loss(found, soft)) == pytest.approx(float(expected), rel=1e-12)
    even = torch.full((7, 5), 0.2, dtype=torch.float64)
    assert float(tagging.loss(found, even)) == pytest.approx(
        float(-found.rows.log_softmax(1).mean()), rel=1e-12
    )


def test_a_batch_without_words_costs_nothing() -> None:
    tagging, nothing = learnt(), outputs([0, 0])
    nothing.rows.requires_grad_()
    loss = tagging.loss(nothing, torch.zeros(0, dtype=torch.float64))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert float(tagging.distance(nothing, nothing).detach()) == 0
    assert [one.spans for one in tagging.predictions(nothing, [example([])] * 2)] == [(), ()]


def test_answers_there_and_back() -> None:
    tagging, found = learnt(), outputs([2, 3], [1, 1])
    answers = tagging.answers(found)
    torch.testing.assert_close(answers, F.softmax(found.rows, 1))
    back = tagging.from_answers(answers, found)
    torch.testing.assert_close(tagging.answers(back), answers)
    assert back.counts is found.counts
    cooled = tagging.tempered(found, 2.0)
    torch.testing.assert_close(cooled.rows, found.rows / 2)
    assert cooled.sizes is found.sizes


def test_a_teacher_with_labels_in_another_order() -> None:
    tagging = learnt()
    teacher = learnt(labels=["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    answers = torch.tensor([[0.5, 0.2, 0.1, 0.15, 0.05]])
    torch.testing.assert_close(tagging.aligned(answers, teacher), torch.tensor([[0.5, 0.15, 0.05, 0.2, 0.1]]))
    with pytest.raises(ValueError, match="has the labels O, B-X, I-X, expected O, B-LOC"):
        tagging.aligned(answers, kind(labels=["B-X"]))
    other = Classification(ClassificationSettings(text="a", labels=("x", "y")))
    with pytest.raises(ValueError, match="is of kind classification, expected tagging"):
        tagging.aligned(answers, other)


def test_distance_is_the_symmetric_kl_of_words() -> None:
    p, q = outputs([2, 3], seed=1), outputs([2, 3], seed=2)
    a, b = (F.softmax(one.rows, 1).numpy() for one in (p, q))
    expected = (rel_entr(a, b) + rel_entr(b, a)).sum(1).mean()
    assert float(learnt().distance(p, q)) == pytest.approx(expected, rel=1e-12)


# ---- predictions ----


def sure(tags: list[str], probability: float = 0.9, labels: tuple[str, ...] = LABELS) -> torch.Tensor:
    """Logits [words, labels] that give each tag this probability."""
    rest = (1 - probability) / (len(labels) - 1)
    rows = torch.full((len(tags), len(labels)), rest, dtype=torch.float64)
    rows[range(len(tags)), [labels.index(tag) for tag in tags]] = probability
    return rows.log()


def test_spans_point_into_the_text() -> None:
    tagging = learnt()
    words = ["Zoë", "Müller", "in", "北京", "🙂🙂", "x"]
    rows = torch.cat([sure(["B-PER"], 0.9), sure(["I-PER"], 0.5), sure(["O", "B-LOC", "I-LOC", "O"], 0.8)])
    layout = tagging.lay([words], TOKENIZER, 9)
    (found,) = tagging.predictions(
        Grouped(rows, np.array([6]), np.array([1])), examples_of(layout, [words], None)
    )
    text = "Zoë Müller in 北京 🙂🙂 x"
    assert [(one.start, one.end, one.text, one.label) for one in found.spans] == [
        (0, 10, "Zoë Müller", "PER"),
        (14, 19, "北京 🙂🙂", "LOC"),
    ]
    assert [one.score for one in found.spans] == pytest.approx([0.7, 0.8])
    assert all(text[one.start : one.end] == one.text for one in found.spans)
    assert all(text[one.start : one.end] == one.text for one in found.tokens)
    assert [one.text for one in found.tokens] == words
    assert [one.label for one in found.tokens] == ["B-PER", "I-PER", "O", "B-LOC", "I-LOC", "O"]
    assert found.tokens[1].score == pytest.approx(0.5)
    assert (found.label, found.score, found.value) == (None, None, None)


def test_spans_go_over_the_sequences_of_a_sentence() -> None:
    tagging = learnt()
    words = ["a", "bcd", "ef", "g"]
    layout = tagging.lay([["x"], words, ["y"]], TOKENIZER, 5)
    assert layout.counts.tolist() == [1, 3, 1]
    inputs = [["x"], words, ["y"]]
    rows = sure(["O", "B-PER", "I-PER", "I-PER", "O", "B-LOC"])
    grouped = Grouped(rows, np.array([1, 1, 1, 2, 1]), np.array([1, 3, 1]))
    found = tagging.predictions(grouped, examples_of(layout, inputs, None))
    assert [[span.text for span in one.spans] for one in found] == [[], ["a bcd ef"], ["y"]]


def test_a_text_keeps_its_own_spaces() -> None:
    tagging = learnt()
    text = "in   Paris ,\tl'e\u0301te\u0301"
    layout = tagging.lay([text], TOKENIZER, 64)
    tags = ["O", "B-LOC", "O", "O", "O", "B-PER"]
    (found,) = tagging.predictions(Grouped(sure(tags), np.array([6])), examples_of(layout, [text], None))
    assert [(one.start, one.end, one.text) for one in found.spans] == [
        (5, 10, "Paris"),
        (15, 20, "e\u0301te\u0301"),
    ]


def test_context_is_not_part_of_the_text() -> None:
    tagging = learnt(context="document")
    one = {"words": ["b", "c"], "before": "a", "after": "d"}
    layout = tagging.lay([one], TOKENIZER, 64)
    (found,) = tagging.predictions(
        Grouped(sure(["O", "B-LOC"]), np.array([2])), examples_of(layout, [one], None)
    )
    assert [(span.start, span.text) for span in found.spans] == [(2, "c")]


def test_free_and_valid_decoding() -> None:
    rows = sure(["O", "I-PER", "I-PER", "I-LOC"], 0.6)
    rows[1, 3] += 1e-6  # B-PER next
    grouped = Grouped(rows, np.array([4]))
    words = [example(["a", "b", "c", "d"])]
    (free,) = learnt().predictions(grouped, words)
    assert [one.label for one in free.tokens] == ["O", "I-PER", "I-PER", "I-LOC"]
    assert [(span.text, span.label) for span in free.spans] == [("b c", "PER"), ("d", "LOC")]
    (valid,) = learnt(decode="valid").predictions(grouped, words)
    assert [one.label for one in valid.tokens][:3] == ["O", "B-PER", "I-PER"]
    assert valid.tokens[3].label in ("O", "B-LOC", "B-PER", "I-PER")
    assert valid.tokens[1].score == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize("inside", ["iob2", "bioes"])
def test_valid_decoding_is_well_formed_over_sequences(inside: Any) -> None:
    tagging = learnt(decode="valid", inside=inside)
    found = outputs([2, 3, 0, 4, 1], [2, 1, 2], labels=len(tagging.labels))
    words = [example(["a"] * size) for size in (5, 0, 5)]
    for one in tagging.predictions(found, words):
        tags = [word.label for word in one.tokens]
        assert convert(tags, inside, inside) == tags


def test_cells() -> None:
    tagging = learnt()
    grouped = Grouped(sure(["B-PER", "I-PER", "O"]), np.array([3]))
    (found,) = tagging.predictions(grouped, [example(["Zoë", "b", "c"])])
    (cells,) = tagging.cells(found)
    assert cells["tags"] == "B-PER I-PER O"
    (span,) = json.loads(cells["spans"])
    assert span.pop("score") == pytest.approx(0.9)
    assert span == {"start": 0, "end": 5, "text": "Zoë b", "label": "PER"}
    assert "ë" in cells["spans"]


def test_predictions_need_the_words() -> None:
    with pytest.raises(ValueError, match="the examples are not known"):
        learnt().predictions(outputs([1]))


# ---- measures ----


@pytest.mark.parametrize("decode", ["free", "valid"])
@pytest.mark.parametrize("inside", ["iob2", "bioes"])
def test_measures_and_tallies(decode: Any, inside: Any) -> None:
    tagging = learnt(decode=decode, inside=inside)
    chance = random.Random(4)
    sizes = [chance.randint(0, 7) for _ in range(60)]
    counts = [2] * 30
    found = outputs(sizes, counts, labels=len(tagging.labels))
    lengths = [a + b for a, b in zip(sizes[::2], sizes[1::2], strict=True)]
    gold = [
        tagging.told([chance.choice(("O", "O", "B-PER", "I-PER", "B-LOC")) for _ in range(length)])[0].split()
        for length in lengths
    ]
    targets = torch.tensor([tagging.labels.index(tag) for tags in gold for tag in tags], dtype=torch.float64)
    said = [
        [word.label for word in one.tokens]
        for one in tagging.predictions(found, [example(["a"] * length) for length in lengths])
    ]
    expected = entity_f1(gold, said, inside)
    measures = tagging.measures(found, targets)
    assert list(measures) == ["f1", "precision", "recall", "accuracy", "loss"]
    assert 0 < measures["f1"] < 1
    for name, value in expected.items():
        assert measures[name] == pytest.approx(value, rel=1e-12)
    pairs = [(a, b) for one, other in zip(gold, said, strict=True) for a, b in zip(one, other, strict=True)]
    assert measures["accuracy"] == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    assert measures["loss"] == pytest.approx(float(tagging.loss(found, targets)))

    tallies = tagging.tallies(found, targets)
    assert tallies.shape == (30, 5)
    assert tallies.dtype == np.float64
    assert tallies[:, 0].tolist() == [1.0] * 30
    whole = [
        entity_f1([a], [b], inside)["f1"] == 1 or (not any(x != "O" for x in (*a, *b)))
        for a, b in zip(gold, said, strict=True)
    ]
    assert tallies[:, 1].tolist() == [float(right) for right in whole]
    assert float(tagging.measure_of(tallies.sum(0))) == pytest.approx(measures["f1"], rel=1e-12)
    some = np.array([3, 3, 7, 20])
    picked = entity_f1([gold[i] for i in some], [said[i] for i in some], inside)["f1"]
    assert tagging.measure_of(tallies[some].sum(0)) == pytest.approx(picked)
    assert tagging.measure_of(np.stack([tallies.sum(0), np.zeros(5)])).tolist() == [measures["f1"], 0.0]


def test_goodness() -> None:
    assert (learnt().goodness(0.7), learnt().goodness(math.nan)) == (0.7, 0.0)


def test_measures_where_nothing_is_right() -> None:
    tagging = learnt()
    found = Grouped(sure(["O", "O"]), np.array([2]))
    measures = tagging.measures(found, torch.tensor([0.0, 0.0], dtype=torch.float64))
    assert (measures["f1"], measures["precision"], measures["recall"], measures["accuracy"]) == (0, 0, 0, 1)
    nothing = tagging.measures(outputs([0]), torch.zeros(0, dtype=torch.float64))
    assert math.isnan(nothing["accuracy"])


# ---- heads ----


def test_heads(make_states: Callable[..., States]) -> None:
    linear = learnt().build_head(6, 0.25)
    assert isinstance(linear, TokenHead)
    assert (linear.dropout, linear.output.weight.shape) == (0.25, (5, 6))
    assert learnt(dropout=0.0).build_head(6, 0.25).dropout == 0.0
    lstm = learnt(head="bilstm", width=4, layers="concat_last_four").build_head(6, 0.1)
    assert isinstance(lstm, BiLSTMHead)
    assert (lstm.layers, lstm.pool, lstm.output.weight.shape, lstm.all_layers) == (
        "concat_last_four",
        False,
        (5, 8),
        True,
    )


def test_a_relation_layer_is_not_for_words() -> None:
    from manyheads.tasks.heads.relation import Relation

    with pytest.raises(ValueError, match="a relation layer is for tasks on pairs"):
        learnt().build_head(6, 0.1, Relation(6, 0.01))
