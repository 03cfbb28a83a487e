"""The kind `mlm`: masks drawn anew, what is asked and answered, measures that add up, tokens found in the text."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.stats import binom
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layout import Layout
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.tasks.heads.relation import Relation
from manyheads.tasks.kind import ColumnError, examples_of
from manyheads.tasks.masked import MaskedLM, MaskedLMSettings
from manyheads.tasks.next_sentence import NextSentence, NextSentenceSettings

WORDS = ("the", "film", "was", "good", "bad", "play", "##ing", "##ed", "now")
TOKENIZER = Tokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS))
VOCABULARY = TOKENIZER.vocab_size
TEXTS = ["the film was good", "playing played now", ""]


def kind(**settings: Any) -> MaskedLM:
    made = MaskedLM(MaskedLMSettings(**settings))
    made.bind(TOKENIZER)
    return made


def outputs(*sizes: int, seed: int = 0) -> Grouped:
    chance = torch.Generator().manual_seed(seed)
    rows = 3 * torch.randn(sum(sizes), VOCABULARY, generator=chance)
    return Grouped(rows, np.array(sizes, dtype=np.int64))


def targets(count: int, seed: int = 1) -> Tensor:
    return torch.randint(5, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).double()


# ---- reading ----


@pytest.mark.parametrize(("settings", "column"), [({}, "text"), ({"text": "body"}, "body")])
def test_which_column_it_reads(settings: dict[str, Any], column: str) -> None:
    made = kind(**settings)
    assert made.columns == (column,)
    assert made.reads == 1
    assert made.input({column: "x"}) == "x"
    assert made.target("any text") == []


@pytest.mark.parametrize(
    "settings",
    [
        {"text": "a", "pair": ["b", "c"]},
        {"boundary": "page"},
        {"language": "fr"},
        {"rate": 1.1},
        {"mix": [0.8, 0.1]},
        {"mix": [0.8, 0.1, 0.2]},
        {"n_best": 0},
        {"whole_words": True},
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MaskedLMSettings(**settings)


def test_a_row_without_text_is_refused() -> None:
    with pytest.raises(ColumnError, match="found null, expected a text"):
        kind().input({"text": None})
    with pytest.raises(ValueError, match="expected a text, found"):
        kind().given(("a", "b"))


def test_a_text_is_laid_out_whole_and_nothing_is_marked() -> None:
    laid = kind().lay(TEXTS, TOKENIZER, 5)
    flat = TOKENIZER.encode_batch(TEXTS, max_length=5)
    assert np.array_equal(laid.ids, flat.ids)
    assert laid.lengths.tolist() == flat.lengths.tolist() == [5, 5, 2]
    assert laid.dropped.tolist() == [1, 2, 0]
    assert laid.marks is not None
    assert not laid.marks.any()
    assert len(kind().lay([], TOKENIZER, 5)) == 0


def test_masks_in_a_text_are_marked_with_their_places() -> None:
    text = "  the [MASK] was[MASK]"
    laid = kind().lay(["now", text], TOKENIZER, 16)
    assert laid.marks is not None
    assert laid.offsets is not None
    assert laid.ids[laid.marks].tolist() == [TOKENIZER.mask_id] * 2
    assert [text[start:end] for start, end in laid.offsets.tolist()] == ["[MASK]"] * 2
    assert [one.sizes.tolist() for one in examples_of(laid, None, None)] == [[0], [2]]


def test_a_mask_that_is_cut_is_not_asked() -> None:
    laid = kind().lay(["the film [MASK] [MASK]"], TOKENIZER, 5)
    assert laid.offsets is not None
    assert laid.offsets.tolist() == [[9, 15]]


# ---- drawing ----


def drawn(made: MaskedLM, laid: Layout, seed: int = 0) -> tuple[Layout, NDArray[np.float64]]:
    batch, answers, sizes = made.draw(laid, None, np.random.default_rng(seed))
    assert sizes.tolist() == Ragged.of_layout(batch).marked.tolist()
    return batch, answers


def test_a_drawn_batch_has_marks_and_the_true_ids() -> None:
    made = kind(rate=0.5)
    laid = made.lay(TEXTS * 50, TOKENIZER, 16)
    batch, answers = drawn(made, laid)
    assert batch.marks is not None
    assert np.array_equal(answers, laid.ids[batch.marks])
    assert np.array_equal(batch.ids[~batch.marks], laid.ids[~batch.marks])
    assert not np.array_equal(batch.ids, laid.ids)
    for name in ("segments", "lengths", "dropped", "counts"):
        assert np.array_equal(getattr(batch, name), getattr(laid, name))
    assert (answers >= 5).all()
    ragged = Ragged.of_layout(batch)
    assert ragged.marks is not None
    assert int(ragged.marks.sum()) == len(answers)


def test_masks_are_new_each_time_and_inside_the_binomial_limits() -> None:
    made = kind()
    laid = made.lay(["the film was good bad play now the film was"] * 2500, TOKENIZER, 16)
    chance = np.random.default_rng(0)
    counts: list[int] = []
    marks: list[Any] = []
    for _ in range(4):  # 25,000 ordinary tokens each
        batch, answers, _ = made.draw(laid, None, chance)
        counts.append(len(answers))
        marks.append(batch.marks)
    low, high = binom.interval(1 - 1e-6, 100_000, 0.15)
    assert low <= sum(counts) <= high
    assert not any(np.array_equal(marks[0], other) for other in marks[1:])


def test_a_mask_of_the_text_is_no_answer() -> None:
    made = kind(rate=1.0)
    batch, answers = drawn(made, made.lay(["the [MASK] now"], TOKENIZER, 16))
    assert batch.marks is not None
    assert batch.marks.tolist() == [False, True, False, True, False]
    assert [TOKENIZER.id_to_token(int(one)) for one in answers] == ["the", "now"]


def test_whole_words() -> None:
    made = kind(rate=0.5, whole_word=True, mix=(1, 0, 0))
    laid = made.lay(["playing film"] * 300, TOKENIZER, 16)
    marks = drawn(made, laid)[0].marks
    assert marks is not None
    each = marks.reshape(300, 5)
    assert np.array_equal(each[:, 1], each[:, 2])
    assert len({tuple(row) for row in each.tolist()}) == 4


# ---- learning ----


def test_the_head_shares_the_encoder_s_words() -> None:
    encoder = Encoder(
        Shape(layers=1, hidden=8, heads=2, intermediate=8, vocabulary=VOCABULARY, positions=16, eps=1e-5)
    )
    made = kind(rate=0.5)
    head: Any = made.build_head(8, 0.1, encoder=encoder)
    assert head._words[0] is encoder.embeddings.word
    assert head.norm.eps == 1e-5
    batch, answers = drawn(made, made.lay(TEXTS * 3, TOKENIZER, 16))
    said = head(head.read(encoder.encode(Ragged.of_layout(batch))))
    assert said.rows.shape == (len(answers), VOCABULARY)
    assert len(said) == 9
    torch.autograd.backward(made.loss(said, torch.from_numpy(answers)))
    assert encoder.embeddings.word.weight.grad is not None
    with pytest.raises(ValueError, match="needs the encoder"):
        made.build_head(8, 0.1)
    with pytest.raises(ValueError, match="a relation layer is for tasks on pairs"):
        made.build_head(8, 0.1, Relation(8, 0.01), encoder)


def test_the_loss_is_the_mean_over_masked_tokens() -> None:
    made, said, gold = kind(), outputs(3, 0, 4), targets(7)
    wanted = F.cross_entropy(said.rows, gold.long())
    torch.testing.assert_close(made.loss(said, gold), wanted)
    torch.testing.assert_close(made.loss(said, made.soft(gold, said)), wanted)
    nothing = Grouped(torch.zeros(0, VOCABULARY, requires_grad=True), np.array([0, 0]))
    loss = made.loss(nothing, targets(0))
    torch.autograd.backward(loss)
    assert loss.item() == 0


def test_answers_say_what_outputs_say() -> None:
    made, said = kind(), outputs(2, 3).double()
    answers = made.answers(said)
    torch.testing.assert_close(answers, said.rows.softmax(1))
    torch.testing.assert_close(made.answers(made.from_answers(answers, said)), answers)
    torch.testing.assert_close(made.tempered(said, 2.0).rows, said.rows / 2)
    assert made.soft(targets(5), said).shape == (5, made.width)
    other = outputs(2, 3, seed=9).double()
    p, q = answers, made.answers(other)
    divergence = ((p - q) * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(made.distance(said, other), divergence)


def test_teachers_have_the_same_vocabulary() -> None:
    made, other = kind(), MaskedLM(MaskedLMSettings())
    answers = torch.zeros(0, VOCABULARY)
    assert made.aligned(answers, other) is answers
    other.bind(Tokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x")))
    with pytest.raises(ValueError, match="has another vocabulary"):
        made.aligned(answers, other)
    with pytest.raises(ValueError, match="is of kind nsp, expected mlm"):
        made.aligned(answers, NextSentence(NextSentenceSettings()))


# ---- measures ----


def test_measures_of_numbers_worked_by_hand() -> None:
    """Probabilities 1/2 and 1/8 of the true tokens: the perplexity is 4."""
    rows = torch.full((2, VOCABULARY), -torch.inf)
    rows[0, 5], rows[0, 6] = math.log(0.5), math.log(0.5)
    rows[1, 7], rows[1, 8] = math.log(0.125), math.log(0.875)
    found = kind().measures(Grouped(rows, np.array([1, 1])), torch.tensor([5.0, 7.0]))
    assert list(found) == ["perplexity", "accuracy", "loss"]
    assert found["perplexity"] == pytest.approx(4, rel=1e-6)
    assert found["accuracy"] == 0.5
    assert found["loss"] == pytest.approx(math.log(4), rel=1e-6)


def test_tallies_of_batches_add_up_to_the_measures() -> None:
    made = kind()
    said, gold = outputs(3, 0, 4, 300), targets(307)
    tallies = made.tallies(said, gold)
    assert tallies.shape == (4, 5)
    assert tallies[:, 0].tolist() == [1] * 4
    assert tallies[:, 2].tolist() == [3, 0, 4, 300]
    log = said.rows.double().log_softmax(1)[torch.arange(307), gold.long()]
    np.testing.assert_allclose(tallies[0, 1], log[:3].mean().item(), rtol=1e-12)
    whole = made.measures(said, gold)
    assert whole["perplexity"] == pytest.approx(float((-log.mean()).exp()), rel=1e-9)
    assert whole["loss"] == pytest.approx(float(made.loss(said, gold)), rel=1e-5)
    assert whole["accuracy"] == pytest.approx(float((said.rows.argmax(1) == gold).float().mean()))
    first = made.tallies(said.take(np.array([0, 1])), gold[:3])
    second = made.tallies(said.take(np.array([2, 3])), gold[3:])
    again = made.totals(first.sum(0) + second.sum(0))
    assert again == pytest.approx(whole, rel=1e-12)
    assert float(made.measure_of(tallies.sum(0))) == whole["perplexity"]


def test_where_nothing_is_asked_nothing_is_measured() -> None:
    made = kind()
    found = made.measures(outputs(0, 0), targets(0))
    assert all(math.isnan(one) for one in found.values())
    assert made.goodness(found["perplexity"]) == 0


def test_a_smaller_perplexity_is_better() -> None:
    made = kind()
    goods = [made.goodness(one) for one in (1.0, 2.0, 30.0, 1e6, math.inf)]
    assert goods == sorted(goods, reverse=True)
    assert goods[:2] == [1.0, 0.5]
    assert goods[-1] == 0


# ---- what it says ----


def test_the_tokens_that_are_filled_in() -> None:
    made = kind(n_best=2)
    texts = ["the [MASK] was [MASK]", "now", "[MASK]"]
    laid = made.lay(texts, TOKENIZER, 16)
    said = outputs(2, 0, 1).double()
    first, second, third = made.predictions(said, examples_of(laid, texts, None))
    best = said.rows.softmax(1).sort(1, descending=True)
    names = [TOKENIZER.id_to_token(one) for one in best.indices[:, 0].tolist()]
    assert first.label == f"{names[0]} {names[1]}"
    assert first.score == pytest.approx(float(best.values[0, 0] * best.values[1, 0]))
    assert [(one.start, one.end, one.label) for one in first.tokens] == [
        (4, 10, names[0]),
        (15, 21, names[1]),
    ]
    assert [texts[0][one.start : one.end] for one in first.spans] == ["[MASK]"] * 4
    assert [one.score for one in first.spans[:2]] == pytest.approx(best.values[0, :2].tolist())
    assert (second.label, second.score, second.spans, second.tokens) == ("", None, (), ())
    assert third.tokens[0].text == "[MASK]"
    assert made.cells(first) == [{"label": first.label, "score": first.score}]


def test_drawn_masks_have_no_place_in_a_text() -> None:
    made = kind(rate=0.5)
    batch, answers = drawn(made, made.lay(TEXTS, TOKENIZER, 16))
    sizes = Ragged.of_layout(batch).marked
    said = Grouped(torch.randn(len(answers), VOCABULARY), sizes)
    for one, size in zip(made.predictions(said), sizes.tolist(), strict=True):
        assert len((one.label or "").split()) == size
        assert one.tokens == ()


def test_rows_beyond_the_tokenizer_have_no_name() -> None:
    """Some checkpoints have more rows than tokens, for the sake of round numbers."""
    rows = torch.zeros(1, VOCABULARY + 3)
    rows[0, -1] = 5
    (found,) = kind().predictions(Grouped(rows, np.array([1])))
    assert found.label == ""
