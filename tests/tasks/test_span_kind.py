"""The kind `span`: windows, targets and answers against run_squad's algorithm written out anew; character exact."""

import json
import math
import random
import unicodedata
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.formulas.metrics.squad import squad_v1, squad_v2
from manyheads.tasks.heads.span import SpanHead
from manyheads.tasks.kind import ColumnError, Example, Kind, examples_of
from manyheads.tasks.span import Answering, SpanSettings

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = (
    "the",
    "cat",
    "sat",
    "on",
    "mat",
    "who",
    "where",
    "café",
    "cafe",
    "north",
    "pole",
    "1990",
    "s",
    "光",
    "荣",
    "!",
    "?",
)
VOCABULARY = list(
    dict.fromkeys(
        (
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            *WORDS,
            *LETTERS,
            *(f"##{letter}" for letter in LETTERS),
            "##pole",
        )
    )
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCABULARY)


def kind(facts: dict[str, Any] | None = None, **given: Any) -> Answering:
    return Answering(SpanSettings(**given), facts)


def row(question: str, context: str, name: str | None = "q1") -> dict[str, Any]:
    return {"question": question, "context": context, "id": name}


def answer(context: str, text: str, start: int | None = None) -> list[dict[str, Any]]:
    return [{"text": text, "answer_start": context.index(text) if start is None else start}]


def laid(
    span: Answering, tokenizer: Tokenizer, rows: Sequence[dict[str, Any]], values: Sequence[Any] | None = None
) -> tuple[Layout, list[Example]]:
    inputs = [span.input(one) for one in rows]
    layout = span.lay(inputs, tokenizer, span.settings.max_length)
    return layout, examples_of(layout, inputs, values)


def outputs_for(examples: Sequence[Example], rows: Tensor) -> Grouped:
    sizes = np.concatenate([example.sizes for example in examples])
    return Grouped(rows, sizes, np.array([len(example.sizes) for example in examples]))


def noise(examples: Sequence[Example], seed: int) -> Grouped:
    count = int(sum(example.sizes.sum() for example in examples))
    generator = torch.Generator().manual_seed(seed)
    return outputs_for(examples, torch.randn(count, 2, generator=generator, dtype=torch.float64) * 3)


# ---- sequences ----


def test_a_question_and_its_context_in_one_sequence(tokenizer: Tokenizer) -> None:
    layout, (example,) = laid(kind(), tokenizer, [row("where?", "The  café!")])
    assert [tokenizer.id_to_token(one) for one in layout.ids.tolist()] == [
        *("[CLS]", "where", "?", "[SEP]", "the", "cafe", "!", "[SEP]")
    ]
    assert layout.segments.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert layout.marks is not None
    assert layout.marks.tolist() == [True, False, False, False, True, True, True, False]
    assert example.offsets.tolist() == [[0, 0], [0, 3], [5, 9], [9, 10]]
    assert (example.sizes.tolist(), layout.counts.tolist(), layout.dropped.tolist()) == ([4], [1], [0])


def test_the_ids_are_those_of_a_pair(tokenizer: Tokenizer) -> None:
    rows = [row("who sat?", "the cat sat on the mat"), row("where", "north pole")]
    layout, _ = laid(kind(), tokenizer, rows)
    expected = tokenizer.encode_batch([one["question"] for one in rows], [one["context"] for one in rows])
    assert layout.ids.tolist() == expected.ids.tolist()
    assert layout.segments.tolist() == expected.segments.tolist()
    assert layout.lengths.tolist() == expected.lengths.tolist()


def test_a_long_context_is_read_in_windows_and_a_long_question_is_cut(tokenizer: Tokenizer) -> None:
    span = kind(max_length=12, question_length=3, stride=4)  # 12 - 3 - 3: six tokens of the context
    context = "the cat sat on the mat who where north s"
    layout, (example,) = laid(span, tokenizer, [row("who sat on the mat", context)])
    assert layout.lengths.tolist() == [12, 12]
    assert layout.counts.tolist() == [2]
    assert layout.dropped.tolist() == [2, 0]
    assert layout.dropped_of_examples.tolist() == [2]
    assert example.sizes.tolist() == [7, 7]
    words = [context[start:end] for start, end in example.offsets.tolist()]
    assert words == ["", *context.split()[:6], "", *context.split()[4:]]


def test_a_context_without_a_token_has_a_sequence(tokenizer: Tokenizer) -> None:
    layout, (example,) = laid(kind(), tokenizer, [row("who", " \u200b")])
    assert layout.lengths.tolist() == [4]
    assert example.sizes.tolist() == [1]
    span = kind({"no_answer": False, "threshold": 0.0})
    (prediction,) = span.predictions(noise([example], 0), [example])
    assert (prediction.label, prediction.score, prediction.spans) == ("", 1.0, ())


def test_nothing_to_lay(tokenizer: Tokenizer) -> None:
    layout = kind().lay([], tokenizer, 384)
    assert (len(layout), len(layout.ids), layout.offsets is not None and layout.offsets.shape) == (
        0,
        0,
        (0, 2),
    )


# ---- characters → tokens → characters ----


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ("the café, the cat", "café"),
        (
            "the cafe\u0301, the cat",
            "cafe\u0301",
        ),  # an accent that is a character of its own, and is taken off
        ("the cat  sat   on", "cat  sat   on"),
        ("光荣  the cat", "荣"),
        ("光荣。the", "光荣"),
        ("the 👩\u200d🔬 sat", "👩\u200d🔬"),
        ("on ❤\ufe0f mat", "❤\ufe0f"),
        ("the northpole", "pole"),  # inside a word, at the edge of a piece
        ("the xyzzy cat", "zz"),
        ("in the 1990s", "1990s"),
        ("q\u0308\u0323w cat", "q\u0308\u0323w"),
        ("[MASK] cat", "[MASK]"),
        ("the\u00a0cat\tsat", "cat\tsat"),
        ("한국 cat", "한국"),
        ("a\u200bb cat", "a\u200bb"),
        ("İs the", "İs"),
    ],
)
def test_an_answer_comes_back_character_by_character(tokenizer: Tokenizer, context: str, text: str) -> None:
    span = kind({"no_answer": False})
    value = answer(context, text)
    _, examples = laid(span, tokenizer, [row("who", context)], [value])
    assert pointed_at(span, examples, value) == [text]


def pointed_at(span: Answering, examples: Sequence[Example], *values: Any) -> list[str | None]:
    """What is predicted where the targets alone are likely."""
    targets = [span.target(value, example) for value, example in zip(values, examples, strict=True)]
    sizes = np.concatenate([example.sizes for example in examples])
    outputs = outputs_for(examples, torch.zeros(int(sizes.sum()), 2, dtype=torch.float64))
    return [
        one.label
        for one in span.predictions(
            outputs.with_rows(10 * span.soft(torch.tensor([*chain.from_iterable(targets)]), outputs)),
            examples,
        )
    ]


PIECES = st.sampled_from(
    [
        "the",
        "café",
        "cafe\u0301",
        "光荣",
        "👩\u200d🔬",
        "❤\ufe0f",
        "northpole",
        "ω",
        " ",
        "  ",
        "\n",
        ", ",
        "\u00a0",
        "1990s",
        "ﬁ",
        "한",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=40).filter(lambda pieces: "".join(pieces).strip()), st.data())
def test_every_run_of_whole_tokens_comes_back(pieces: list[str], data: st.DataObject) -> None:
    tokenizer = Tokenizer(VOCABULARY)
    context = "".join(pieces)
    span = kind({"no_answer": False}, max_length=20, question_length=4, stride=5, answer_length=13)
    _, (example,) = laid(span, tokenizer, [row("who sat?", context)])
    offsets = tokenizer([context]).offsets[0][1:-1]
    if not offsets:
        return
    first = data.draw(st.integers(0, len(offsets) - 1))
    last = min(first + data.draw(st.integers(0, 4)), len(offsets) - 1)
    start, end = offsets[first][0], offsets[last][1]
    while end < len(context) and unicodedata.category(context[end])[0] == "M":
        end += 1
    value = answer(context, context[start:end], start)
    target = span.target(value, example)
    assert len(target) == 2 * len(example.sizes)
    # Windows of 13 tokens or more begin every 5. Five tokens stand whole in the window where the first of them has most
    # context, which is the one that may point at it: there at least four tokens or the text's end lie on each side.
    assert any(target)
    assert pointed_at(span, [example], value) == [context[start:end]]


def test_the_real_answers_come_back(shared_data: Path) -> None:
    from manyheads.data.read import Dialect, read_rows

    tokenizer = Tokenizer.from_pretrained("minilm")
    span = kind({"no_answer": False})
    rows = [one.values for one in read_rows(shared_data / "squad" / "xquad.en.json", Dialect(format="squad"))]
    rows = random.Random(0).sample(rows, 300)
    _, examples = laid(span, tokenizer, rows, [one["answers"] for one in rows])
    back = pointed_at(span, examples, *(one["answers"] for one in rows))
    wrong = [
        (one["answers"][0]["text"], said)
        for one, said in zip(rows, back, strict=True)
        if one["answers"][0]["text"] != said
    ]
    # Only those that begin or end inside a token of the vocabulary, or are too long to be predicted.
    for text, said in wrong:
        assert said is not None
        assert len(tokenizer([text]).input_ids[0]) > 32 or text in said
    assert len(wrong) <= 6


# ---- targets ----


def run_squad_target(tokens: int, first: int, last: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(start, end) places in each window, 0 for [CLS]; places of the context's tokens count from 1."""
    found, start = [], 0
    while start < tokens:
        length = min(tokens - start, room)
        doc_start, doc_end = start, start + length - 1
        if first >= doc_start and last <= doc_end:
            found.append((first - doc_start + 1, last - doc_start + 1))
        else:
            found.append((0, 0))
        if start + length == tokens:
            break
        start += min(length, stride)
    return found


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(0, 59), st.integers(0, 12), st.integers(1, 12))
def test_targets_are_run_squads(tokens: int, first: int, more: int, stride: int) -> None:
    tokenizer = Tokenizer(VOCABULARY)
    first = min(first, tokens - 1)
    last = min(first + more, tokens - 1)
    chance = random.Random(tokens)
    words = [chance.choice(LETTERS) for _ in range(tokens)]
    context = " ".join(words)
    span = kind({"no_answer": False}, max_length=15, question_length=2, stride=stride)
    _, (example,) = laid(span, tokenizer, [row("who sat", context)])
    target = span.target([{"text": context[2 * first : 2 * last + 1], "answer_start": 2 * first}], example)
    expected = run_squad_target(tokens, first, last, 10, stride)
    assert target == [float(one) for pair in expected for one in pair]


def test_an_answer_inside_a_word_is_the_tokens_that_cover_it(tokenizer: Tokenizer) -> None:
    context = "in the cafes"  # cafe ##s, and "in" is i ##n
    _, (example,) = laid(kind(), tokenizer, [row("who", context)])
    assert kind().target(answer(context, "af"), example) == [4.0, 4.0]
    assert kind().target(answer(context, "es"), example) == [4.0, 5.0]


def test_no_answer_points_at_cls(tokenizer: Tokenizer) -> None:
    span = kind(no_answer=True, max_length=10, question_length=2, stride=3)
    _, (example,) = laid(span, tokenizer, [row("who", "a b c d e f g h i")])
    assert span.target([], example) == [0.0] * (2 * len(example.sizes))
    assert len(example.sizes) == 2


def test_an_answer_that_is_not_at_its_offset(tokenizer: Tokenizer) -> None:
    context = "the cat sat on the mat, the cat"
    _, (example,) = laid(kind(), tokenizer, [row("who", context, "5a7d")])
    wrong = [{"text": "cat", "answer_start": 20}]
    with pytest.raises(
        ValueError, match="question 5a7d: the answer 'cat' is not at 20, where 'at,' stands, but at 28"
    ):
        kind().target(wrong, example)
    with pytest.raises(
        ValueError, match="is not at -1, beyond the context, but at 4; 'answers_at: nearest' takes"
    ):
        kind().target([{"text": "cat", "answer_start": -1}], example)
    with pytest.raises(ValueError, match="is not at 0, where 'the c' stands, but nowhere in the context"):
        kind().target([{"text": "xyzzy", "answer_start": 0}], example)
    repairing = kind(answers_at="nearest")
    assert repairing.target(wrong, example) == [9.0, 9.0]
    assert repairing.target([{"text": "cat", "answer_start": 6}], example) == [2.0, 2.0]
    assert repairing.target(
        [{"text": "dog", "answer_start": 0}, {"text": "mat", "answer_start": 19}], example
    ) == [6.0, 6.0]
    assert repairing.moved == {"nearest": 2, "nowhere": 0, "no token": 0}
    assert repairing.target([{"text": "dog", "answer_start": 0}], example) == [-1.0, -1.0]
    _, (blank,) = laid(kind(), tokenizer, [row("who", "cat \u200b mat")])
    assert repairing.target([{"text": "\u200b", "answer_start": 4}], blank) == [-1.0, -1.0]
    assert repairing.moved == {"nearest": 2, "nowhere": 1, "no token": 1}


def test_real_answers_that_stand_elsewhere(shared_data: Path) -> None:
    from manyheads.data.read import Dialect, read_rows

    path = shared_data / "chinese_mrc" / "cmrc2018_trial.json"
    rows = [one.values for one in read_rows(path, Dialect(format="squad"))]
    tokenizer = Tokenizer.from_pretrained("minilm")
    repairing, strict = kind(answers_at="nearest"), kind()
    _, examples = laid(repairing, tokenizer, rows)
    wrong = []
    for number, (one, example) in enumerate(zip(rows, examples, strict=True)):
        repairing.target(one["answers"], example)
        try:
            strict.target(one["answers"], example)
        except ValueError as error:
            wrong.append((number, str(error)))
    assert len(wrong) == 5
    assert wrong[0][1].startswith(
        "question TRIAL_210_QUERY_0: the answer '俗名龙尖' is not at 14, where '名龙尖"
    )
    assert "stands, but at 13;" in wrong[0][1]
    assert repairing.moved == {"nearest": 5, "nowhere": 0, "no token": 0}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("cat", r"found 'cat', expected a list of \{text, answer_start\}"),
        ([{"text": "cat"}], r"found the answer \{'text': 'cat'\}, expected"),
        ([{"text": "cat", "answer_start": 1.5}], "a text and a whole number"),
        (
            [{"text": "", "answer_start": 1}],
            "found an answer without text; no answer at all is an empty list",
        ),
        ({"text": ["cat"], "answer_start": []}, "as many texts as offsets"),
        ([], "question q1: found no answer, expected one; 'no_answer: true'"),
    ],
)
def test_answers_that_are_none(tokenizer: Tokenizer, value: object, said: str) -> None:
    _, (example,) = laid(kind(), tokenizer, [row("who", "the cat")])
    with pytest.raises(ValueError, match=said):
        kind({"no_answer": False}).target(value, example)


def test_answers_as_lists_of_texts_and_offsets(tokenizer: Tokenizer) -> None:
    span = kind()
    _, (example,) = laid(span, tokenizer, [row("who", "the cat")])
    assert span.target({"text": ["cat", "the"], "answer_start": [4, 0]}, example) == [2.0, 2.0]
    span.learn([{"text": ["cat"], "answer_start": [4]}, {"text": [], "answer_start": []}])
    assert span.target({"text": [], "answer_start": []}, example) == [0.0, 0.0]


def test_whether_there_may_be_no_answer_is_learnt() -> None:
    one = answer("the cat", "cat")
    for values, expected in (([one, one], False), ([one, []], True)):
        span = kind()
        span.learn(values)
        assert span.facts() == {"no_answer": expected, "threshold": 0.0}
    forced = kind(no_answer=False)
    forced.learn([[]])
    assert forced.facts()["no_answer"] is False
    assert kind({"no_answer": True, "threshold": -1.5}).facts() == {"no_answer": True, "threshold": -1.5}


# ---- inputs ----


def test_inputs_from_rows_and_callers() -> None:
    span = kind(question="q", context="c", id="name")
    assert (span.columns, span.also, span.target_column, span.reads) == (("q", "c"), ("name",), "answers", 2)
    assert span.input({"q": "who", "c": "the cat", "name": 7}) == {
        "question": "who",
        "context": "the cat",
        "id": "7",
    }
    assert span.input(span.given(("who", "the cat"))) == {"question": "who", "context": "the cat", "id": None}
    with pytest.raises(ColumnError, match="found null, expected a text") as caught:
        span.input({"q": "who", "c": None})
    assert caught.value.column == "c"
    for blank in ("", " \n"):
        with pytest.raises(ColumnError, match=r"found the empty text '.*', expected a text") as caught:
            span.input({"q": "who", "c": blank})
        assert caught.value.column == "c"
        assert span.input({"q": blank, "c": "x"})["question"] == blank  # CMRC 2018 has two such questions
    with pytest.raises(ColumnError, match="expected a text or a whole number"):
        span.input({"q": "who", "c": "x", "name": [1]})
    for wrong in ("who", ("who",), ("who", 3), None):
        with pytest.raises(ValueError, match=r"expected a question and a text: \(question, context\), found"):
            span.given(wrong)


def test_settings_that_leave_no_room() -> None:
    with pytest.raises(ValidationError, match="leaves no token for a context"):
        SpanSettings(max_length=67, question_length=64)
    assert SpanSettings(max_length=68).question_length == 64


# ---- loss ----


def three(tokenizer: Tokenizer, span: Answering) -> tuple[list[Example], Tensor]:
    """Three questions with 2, 1 and 2 windows: with an answer, without, and with one that stands nowhere."""
    contexts = ["a b c d e f g h i", "the cat", "k l m n o p q r s"]
    values = [answer(contexts[0], "h i"), [], [{"text": "zz", "answer_start": 0}]]
    _, examples = laid(span, tokenizer, [row("who", one) for one in contexts], values)
    targets = [span.target(value, example) for value, example in zip(values, examples, strict=True)]
    return examples, torch.tensor([*chain.from_iterable(targets)], dtype=torch.float64)


SMALL: dict[str, Any] = {
    "no_answer": True,
    "max_length": 10,
    "question_length": 2,
    "stride": 3,
    "answers_at": "nearest",
}


def test_the_loss_is_the_mean_over_windows_of_both_cross_entropies(tokenizer: Tokenizer) -> None:
    span = kind(**SMALL)
    examples, targets = three(tokenizer, span)
    assert targets.tolist() == [0, 0, 5, 6, 0, 0, -1, -1, -1, -1]
    outputs = noise(examples, 1)
    each = []
    for rows, (start, end) in zip(outputs.split(), targets.long().reshape(-1, 2).tolist(), strict=True):
        if start >= 0:
            each += [
                F.cross_entropy(rows[None, :, 0], torch.tensor([start])),
                F.cross_entropy(rows[None, :, 1], torch.tensor([end])),
            ]
    expected = torch.stack(each).mean()
    torch.testing.assert_close(span.loss(outputs, targets), expected)
    soft = span.soft(targets, outputs)
    torch.testing.assert_close(
        outputs.total(soft), torch.tensor([[1.0, 1]] * 3 + [[0, 0]] * 2, dtype=torch.float64)
    )
    torch.testing.assert_close(span.loss(outputs, soft), expected)


def test_nothing_known_is_nothing_learnt(tokenizer: Tokenizer) -> None:
    span = kind(**SMALL)
    examples, _ = three(tokenizer, span)
    outputs = noise(examples[2:], 2)
    rows = outputs.rows.requires_grad_()
    loss = span.loss(outputs, torch.full((4,), -1.0))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert rows.grad is not None
    assert not rows.grad.any()


def test_a_teachers_own_answers_have_its_entropy_as_loss_and_no_gradient(tokenizer: Tokenizer) -> None:
    span = kind(**SMALL)
    examples, targets = three(tokenizer, span)
    outputs = noise(examples, 3)
    rows = outputs.rows.requires_grad_()
    answers = span.answers(outputs).detach()
    torch.testing.assert_close(outputs.total(answers), torch.ones(5, 2, dtype=torch.float64))
    loss = span.loss(outputs, answers)
    loss.backward()  # type: ignore[no-untyped-call]
    entropy = torch.stack(
        [-(one * one.log()).sum() / 2 for one in torch.split(answers, outputs.sizes.tolist())]
    ).mean()
    torch.testing.assert_close(loss.detach(), entropy)
    assert rows.grad is not None
    assert float(rows.grad.abs().max()) < 1e-12
    again = span.from_answers(answers, outputs)
    torch.testing.assert_close(span.answers(again), answers)
    mixed = 0.25 * span.soft(targets, outputs) + 0.75 * answers
    torch.testing.assert_close(
        span.loss(outputs, mixed) * 5,
        0.25 * span.loss(outputs, targets) * 3 + 0.75 * span.loss(outputs, answers) * 5,
    )


def test_the_distance_is_the_symmetric_divergence(tokenizer: Tokenizer) -> None:
    span = kind(**SMALL)
    examples, _ = three(tokenizer, span)
    p, q = noise(examples, 4), noise(examples, 5)
    each = []
    for a, b in zip(p.split(), q.split(), strict=True):
        for column in (0, 1):
            left, right = a[:, column].log_softmax(0), b[:, column].log_softmax(0)
            each.append(
                F.kl_div(left, right, reduction="sum", log_target=True)
                + F.kl_div(right, left, reduction="sum", log_target=True)
            )
    torch.testing.assert_close(span.distance(p, q), torch.stack(each).mean())
    assert float(span.distance(p, p)) == 0
    shifted = p.with_rows(p.rows + 7)
    assert float(span.distance(p, shifted)) == pytest.approx(0, abs=1e-12)
    softer = span.answers(span.tempered(p, 2.0))
    assert float(softer.max()) < float(span.answers(p).max())


def test_teachers_that_cannot_teach() -> None:
    answers = torch.rand(4, 2)
    assert kind().aligned(answers, kind()) is answers
    with pytest.raises(ValueError, match="reads contexts with 'stride: 64', expected 128"):
        kind().aligned(answers, kind(stride=64))
    from manyheads.tasks.classification import Classification, ClassificationSettings

    other = Classification(ClassificationSettings(text="x", labels=("a", "b")))
    with pytest.raises(ValueError, match="is of kind classification, expected span"):
        kind().aligned(answers, other)


# ---- predictions ----


def run_squad_best(
    context: str, windows: list[tuple[list[tuple[int, int]], Tensor]], starts: list[int], longest: int
) -> tuple[str, float, float]:
    """The best text, its score, and the score of no answer, by loops as run_squad's write_predictions has them.

    `windows` are (offsets of the context's tokens, scores [1 + tokens, 2] with [CLS] first), `starts` where they begin.
    """
    spans = [(start, len(offsets)) for start, (offsets, _) in zip(starts, windows, strict=True)]

    def is_max_context(number: int, position: int) -> bool:
        best_score, best_index = -math.inf, -1
        for index, (start, length) in enumerate(spans):
            end = start + length - 1
            if position < start or position > end:
                continue
            score = min(position - start, end - position) + 0.01 * length
            if score > best_score:
                best_score, best_index = score, index
        return best_index == number

    best, text, null = -math.inf, "", math.inf
    for number, (offsets, scores) in enumerate(windows):
        null = min(null, float(scores[0, 0] + scores[0, 1]))
        for i in range(len(offsets)):
            if not is_max_context(number, spans[number][0] + i):
                continue
            for j in range(i, min(len(offsets), i + longest)):
                score = float(scores[i + 1, 0] + scores[j + 1, 1])
                if score > best:
                    best, text = score, context[offsets[i][0] : offsets[j][1]]
    return text, best, null


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5), st.integers(0, 1000), st.floats(-4, 4))
def test_predictions_are_run_squads(
    tokens: int, stride: int, longest: int, seed: int, threshold: float
) -> None:
    tokenizer = Tokenizer(VOCABULARY)
    chance = random.Random(seed)
    context = " ".join(chance.choice(LETTERS) for _ in range(tokens))
    span = kind(
        {"no_answer": True, "threshold": threshold},
        max_length=15, question_length=2, stride=stride, answer_length=longest,
    )  # fmt: skip
    _, examples = laid(span, tokenizer, [row("who sat", context), row("who", context)])
    outputs = noise(examples, seed)
    predictions = span.predictions(outputs, examples)
    at = 0
    for example, prediction in zip(examples, predictions, strict=True):
        windows, starts, here, start = [], [], 0, 0
        for size in example.sizes.tolist():
            offsets = [tuple(one) for one in example.offsets[here + 1 : here + size].tolist()]
            windows.append((offsets, outputs.rows[at : at + size]))
            starts.append(start)
            start += min(size - 1, stride)
            at, here = at + size, here + size
        text, best, null = run_squad_best(context, windows, starts, longest)
        assert prediction.value == pytest.approx(null - best)
        assert prediction.label == ("" if null - best > threshold else text)
        assert prediction.spans[0].text == text


def test_the_n_best_and_their_probabilities(tokenizer: Tokenizer) -> None:
    span = kind({"no_answer": True}, n_best=3, answer_length=2)
    context = "the cat sat"
    _, (example,) = laid(span, tokenizer, [row("who", context)])
    rows = torch.tensor([[1.0, 0.0], [0, 0], [3, 1], [0, 2]], dtype=torch.float64)
    (prediction,) = span.predictions(outputs_for([example], rows), [example])
    scores = {"cat sat": 5.0, "cat": 4.0, "sat": 2.0}
    weights = {text: math.exp(score) for text, score in scores.items()} | {"": math.exp(1.0)}
    total = sum(weights.values())
    assert [(one.text, one.start, one.end, one.label) for one in prediction.spans] == [
        ("cat sat", 4, 11, "answer"),
        ("cat", 4, 7, "answer"),
        ("sat", 8, 11, "answer"),
    ]
    assert [one.score for one in prediction.spans] == pytest.approx(
        [weights[text] / total for text in scores]
    )
    assert prediction.label == "cat sat"
    assert prediction.score == pytest.approx(weights["cat sat"] / total)
    assert prediction.value == pytest.approx(-4.0)
    assert span.cells(prediction) == [
        {
            "label": "cat sat",
            "score": prediction.score,
            "start": 4,
            "end": 11,
            "no_answer_odds": prediction.value,
        }
    ]
    silent = kind({"no_answer": True, "threshold": -4.5}, n_best=3, answer_length=2)
    (none,) = silent.predictions(outputs_for([example], rows), [example])
    assert none.label == ""
    assert none.score == pytest.approx(weights[""] / total)
    assert none.spans == prediction.spans
    assert (silent.cells(none)[0]["start"], silent.cells(none)[0]["end"]) == (None, None)
    always = kind({"no_answer": False}, n_best=3, answer_length=2)
    (sure,) = always.predictions(outputs_for([example], rows), [example])
    assert sure.score == pytest.approx(weights["cat sat"] / (total - weights[""]))
    assert (sure.value, "no_answer_odds" in always.cells(sure)[0]) == (None, False)


def test_a_run_that_answers_with_itself_is_itself(tokenizer: Tokenizer) -> None:
    facts = {"no_answer": True, "threshold": 1.5}
    span, again = (kind(facts, max_length=20, question_length=4, stride=5, answer_length=3) for _ in range(2))
    examples, targets, _ = question_set(tokenizer, span, impossible=True)
    assert max(len(example.sizes) for example in examples) > 2
    outputs = noise(examples, 11).float()
    # Scores of windows have levels of their own, which their probabilities do not tell.
    level = torch.randn(len(outputs.sizes), 1, generator=torch.Generator().manual_seed(5)) * 3
    outputs = outputs.with_rows(outputs.rows + level[outputs.owners])
    alone = span.predictions(outputs, examples)
    assert {one.label == "" for one in alone} == {True, False}
    for together in ([(span, outputs)] * 2, [(span, outputs), (again, outputs), (span, outputs)]):
        mean = span.mean(together)
        assert mean.rows.dtype == torch.float64
        assert span.predictions(mean, examples) == alone
        assert span.measures(mean, targets, examples) == pytest.approx(
            span.measures(outputs, targets, examples)
        )
    by_probabilities = span.predictions(Kind.mean(span, [(span, outputs)] * 2), examples)
    assert [one.label for one in by_probabilities] != [one.label for one in alone]


def test_the_mean_is_of_scores(tokenizer: Tokenizer) -> None:
    span = kind({"no_answer": False}, answer_length=1)
    _, examples = laid(span, tokenizer, [row("who", "cat mat")])
    one = torch.tensor([[0, 0], [6.0, 0], [0.0, 0]])
    other = torch.tensor([[0, 0], [0, 0], [4.0, 3.0]], dtype=torch.float64)
    mean = span.mean([(span, outputs_for(examples, one)), (span, outputs_for(examples, other))])
    assert mean.rows.tolist() == [[0, 0], [3, 0], [2, 1.5]]
    assert span.predictions(mean, examples)[0].label == "mat"
    with pytest.raises(ValueError, match="reads contexts with 'stride: 64', expected 128"):
        span.mean([(span, mean), (kind(stride=64), mean)])


# ---- measures ----


def question_set(
    tokenizer: Tokenizer, span: Answering, impossible: bool
) -> tuple[list[Example], Tensor, list[Any]]:
    """Forty questions as a split has them, as targets, and in SQuAD's own form."""
    chance = random.Random(7)
    rows, values, dataset = [], [], []
    for number in range(40):
        words = [chance.choice(WORDS[1:-2]) for _ in range(chance.randint(3, 30))]  # no article, no sign
        context = " ".join(words)
        begin = chance.randrange(len(words))
        text = " ".join(words[begin : begin + chance.randint(1, 3)])
        start = len(" ".join([*words[:begin], ""]))
        golds = [] if impossible and number % 3 == 0 else [{"text": text, "answer_start": start}] * 2
        rows.append(row("who sat", context, f"q{number}"))
        values.append(golds)
        qas = [{"id": f"q{number}", "answers": golds}]
        dataset.append({"paragraphs": [{"context": context, "qas": qas}]})
    _, examples = laid(span, tokenizer, rows, values)
    targets = [span.target(value, example) for value, example in zip(values, examples, strict=True)]
    return examples, torch.tensor([*chain.from_iterable(targets)], dtype=torch.float64), dataset


def helped(span: Answering, examples: Sequence[Example], targets: Tensor, seed: int) -> Grouped:
    """Outputs that know the answers about half of the time."""
    outputs = noise(examples, seed)
    return outputs.with_rows(outputs.rows + 5 * span.soft(targets, outputs))


def test_measures_of_questions_with_answers_are_the_scripts(tokenizer: Tokenizer) -> None:
    span = kind({"no_answer": False}, max_length=20, question_length=4, stride=5)
    examples, targets, dataset = question_set(tokenizer, span, impossible=False)
    outputs = helped(span, examples, targets, 1)
    measures = span.measures(outputs, targets, examples)
    files = span.official(span.predictions(outputs, examples), examples)
    assert list(files) == [".json"]
    expected = squad_v1(dataset, files[".json"])
    assert 10 < expected["exact_match"] < expected["f1"] < 95
    assert {name: measures[name] for name in expected} == pytest.approx(expected, rel=1e-14)
    assert list(measures) == ["f1", "exact_match", "loss"]
    assert measures["loss"] == pytest.approx(float(span.loss(outputs, targets)))
    sums = span.tallies(outputs, targets, examples).sum(0)
    assert float(span.measure_of(sums)) == pytest.approx(measures["f1"])
    assert sums[0] == 40
    assert span.goodness(measures["f1"]) == pytest.approx(measures["f1"] / 100)
    assert span.goodness(math.nan) == 0


def test_measures_and_the_threshold_of_questions_without(tokenizer: Tokenizer) -> None:
    span = kind({"no_answer": True}, max_length=20, question_length=4, stride=5)
    examples, targets, dataset = question_set(tokenizer, span, impossible=True)
    outputs = helped(span, examples, targets, 2)
    before = span.measures(outputs, targets, examples)
    span.tune(outputs, targets, examples)
    after = span.measures(outputs, targets, examples)
    assert span.facts()["threshold"] == span.threshold != 0.0
    assert after["f1"] > before["f1"]
    files = span.official(span.predictions(outputs, examples), examples)
    expected = squad_v2(dataset, files[".json"])
    names = [name for name in expected if not name.endswith("total")]
    assert {name: after[name] for name in names} == pytest.approx(
        {name: expected[name] for name in names}, rel=1e-14
    )
    assert list(after)[:2] == ["f1", "exact"]
    # The script's own sweep over the same odds, with an answer for every question, finds no better threshold.
    always = kind({"no_answer": True, "threshold": 1e6}, max_length=20, question_length=4, stride=5)
    spoken = always.official(always.predictions(outputs, examples), examples)
    best = squad_v2(dataset, spoken[".json"], spoken["-null-odds.json"])
    assert after["f1"] == pytest.approx(best["best_f1"], rel=1e-12)
    assert spoken["-null-odds.json"] == files["-null-odds.json"]
    json.dumps(files, allow_nan=False)


def test_the_odds_go_with_the_runs_own_threshold(tokenizer: Tokenizer) -> None:
    settings = {"max_length": 20, "question_length": 4, "stride": 5}
    span = kind({"no_answer": True, "threshold": 4.0}, **settings)
    examples, targets, dataset = question_set(tokenizer, span, impossible=True)
    outputs = noise(examples, 3)
    scored = outputs.rows.clone()
    # [CLS] is raised until odds stand on both sides of 1 and of τ.
    scored[torch.from_numpy(np.cumsum(outputs.sizes) - outputs.sizes)] += 7.0
    outputs = outputs.with_rows(scored)
    measures = span.measures(outputs, targets, examples)
    files = span.official(span.predictions(outputs, examples), examples)
    texts, odds = files[".json"], files["-null-odds.json"]
    between = [name for name, one in odds.items() if 1 < one <= 4]
    assert between
    assert all(texts[name] for name in between)
    assert any(one > 4 for one in odds.values())
    names = [name for name in measures if name != "loss"]
    ours = {name: measures[name] for name in names}
    for found in (squad_v2(dataset, texts), squad_v2(dataset, texts, odds, span.threshold)):
        assert {name: found[name] for name in names} == pytest.approx(ours, rel=1e-14)
    at_one = squad_v2(dataset, texts, odds)  # the script's own threshold
    assert at_one == pytest.approx(squad_v2(dataset, texts | dict.fromkeys(between, ""), odds), rel=1e-14)
    assert at_one["NoAns_exact"] > ours["NoAns_exact"]


def test_two_questions_with_one_id(tokenizer: Tokenizer) -> None:
    span = kind({"no_answer": False})
    rows = [row("who", "the cat", "1"), row("who", "the mat", "2"), row("where", "the mat", "1")]
    _, examples = laid(span, tokenizer, rows)
    span.note("dev", examples[:2])
    with pytest.raises(ValueError, match="found the id '1' twice, expected one of its own for each question"):
        span.note("dev", examples)
    predictions = span.predictions(noise(examples, 0), examples)
    with pytest.raises(InputError, match="found the id '1' twice"):
        span.official(predictions, examples)
    _, nameless = laid(span, tokenizer, [one | {"id": None} for one in rows])
    span.note("dev", nameless)
    span.note("dev", [])
    span.note("train", examples)


def test_there_are_no_official_files_without_ids(tokenizer: Tokenizer) -> None:
    span = kind({"no_answer": False})
    _, examples = laid(span, tokenizer, [row("who", "the cat", None), row("who", "the mat")])
    predictions = span.predictions(noise(examples, 0), examples)
    assert span.official(predictions, examples) == {}
    assert span.official(predictions, None) == {}
    assert span.told(answer("the cat", "cat")) == ['["cat"]']


def test_chinese_is_counted_by_characters_where_that_is_said(tokenizer: Tokenizer) -> None:
    context = "光荣光 the cat"
    span = kind({"no_answer": False}, measure="cmrc", answer_length=2)
    _, examples = laid(span, tokenizer, [row("who", context)], [answer(context, "光荣光")])
    rows = torch.zeros(6, 2, dtype=torch.float64)
    rows[1, 0] = rows[2, 1] = 5.0
    outputs = outputs_for(examples, rows)
    measures = span.measures(outputs, torch.tensor([1.0, 3.0]), examples)
    assert list(measures) == ["f1", "em", "average", "loss"]
    assert measures["f1"] == pytest.approx(80)  # two of two characters, of three
    assert measures["em"] == 0
    assert measures["average"] == pytest.approx(40)
    english = kind({"no_answer": False}, answer_length=2)
    assert (
        english.measures(outputs, torch.tensor([1.0, 3.0]), examples)["f1"] == 0
    )  # one word that is not the other


# ---- the head ----


def test_the_head_scores_every_marked_token(tokenizer: Tokenizer) -> None:
    from manyheads.encoder.bert import Pooler, States

    span = kind(max_length=10, question_length=2, stride=3, dropout=0.5)
    layout, _ = laid(span, tokenizer, [row("who", "a b c d e f g h i"), row("where", "the cat")])
    tokens = torch.randn(len(layout.ids), 6, generator=torch.Generator().manual_seed(0))
    states = States(tokens, Ragged.of_layout(layout), Pooler(6))
    head = span.build_head(6, 0.1).eval()
    assert isinstance(head, SpanHead)
    assert [name for name, _ in head.named_parameters()] == ["vectors"]
    outputs = head(head.read(states))
    assert outputs.sizes.tolist() == [7, 7, 3]
    assert outputs.counts is not None
    assert outputs.counts.tolist() == [2, 1]
    assert layout.marks is not None
    torch.testing.assert_close(outputs.rows, tokens[torch.from_numpy(layout.marks)] @ head.vectors.T)
    head.train()
    dropped = head(head.read(states)).rows
    assert not torch.equal(dropped, outputs.rows)
