"""The kind `nsp`: what is drawn, BERT's order of the two outputs, measures."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import accuracy_score, log_loss  # type: ignore[import-untyped, unused-ignore]

from manyheads.encoder.tokenizer import Tokenizer
from manyheads.tasks.heads.next_sentence import NextSentenceHead
from manyheads.tasks.heads.relation import Relation
from manyheads.tasks.kind import ColumnError
from manyheads.tasks.masked import MaskedLM, MaskedLMSettings
from manyheads.tasks.next_sentence import NextSentence, NextSentenceSettings

KIND = NextSentence(NextSentenceSettings())
LOGITS = 2 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
GOLD = torch.randint(2, (40,), generator=torch.Generator().manual_seed(1)).double()


def test_what_is_drawn_is_what_follows() -> None:
    """0 is the next one, as in BERT's checkpoints."""
    tokenizer = Tokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"))
    laid = KIND.lay([("a", "b"), ("b", "b"), ("a", "a")], tokenizer, 8)
    follows = np.array([True, False, True])
    drawn, targets, sizes = KIND.draw(laid, follows, np.random.default_rng(0))
    assert drawn is laid
    assert targets.tolist() == [0, 1, 0]
    assert sizes.tolist() == [1, 1, 1]
    assert [KIND.labels[int(one)] for one in targets] == ["next", "not_next", "next"]


def test_which_columns_it_reads() -> None:
    assert (KIND.columns, KIND.target_column, KIND.reads) == (("first", "second"), "next", 2)
    other = NextSentence(NextSentenceSettings(pair=("a", "b")))
    assert other.columns == ("a", "b")
    assert other.input({"a": "x", "b": "y"}) == ("x", "y")
    with pytest.raises(ColumnError, match="found null, expected a text"):
        other.input({"a": "x", "b": None})
    assert other.given(["x", "y"]) == {"a": "x", "b": "y"}
    with pytest.raises(ValueError, match="expected a pair of texts, found 'xy'"):
        other.given("xy")
    with pytest.raises(ValidationError):
        NextSentenceSettings(labels=("a", "b"))  # type: ignore[call-arg]


def test_a_pair_is_one_sequence() -> None:
    tokenizer = Tokenizer(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"))
    laid = KIND.lay([("a", "b b"), ("", "b")], tokenizer, 8)
    assert laid.ids.tolist() == [2, 5, 3, 6, 6, 3, 2, 3, 6, 3]
    assert laid.segments.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert laid.counts.tolist() == [1, 1]


def test_its_head() -> None:
    assert isinstance(KIND.build_head(6, 0.1), NextSentenceHead)
    with pytest.raises(ValueError, match="a relation layer is for pairs that are encoded apart"):
        KIND.build_head(6, 0.1, Relation(6, 0.01))


def test_measures_are_scikit_learn_s() -> None:
    found = KIND.measures(LOGITS, GOLD)
    assert list(found) == ["accuracy", "loss"]
    assert found["accuracy"] == pytest.approx(accuracy_score(GOLD, LOGITS.argmax(1)))
    assert found["loss"] == pytest.approx(log_loss(GOLD, LOGITS.double().softmax(1)), rel=1e-5)
    tallies = KIND.tallies(LOGITS, GOLD)
    assert float(KIND.measure_of(tallies.sum(0))) == found["accuracy"]
    halves = KIND.tallies(LOGITS[:13], GOLD[:13]).sum(0) + KIND.tallies(LOGITS[13:], GOLD[13:]).sum(0)
    assert KIND.totals(halves) == pytest.approx(found)
    assert np.isnan(KIND.measure_of(np.zeros(3)))
    assert KIND.goodness(float("nan")) == 0
    assert KIND.goodness(0.75) == 0.75


def test_predictions_name_the_more_probable() -> None:
    first, second = KIND.predictions(torch.tensor([[2.0, 0.0], [-1.0, 1.0]]))
    assert (first.label, second.label) == ("next", "not_next")
    assert first.score == pytest.approx(1 / (1 + np.exp(-2)))
    assert KIND.cells(first) == [
        {
            "label": "next",
            "score": first.score,
            "p:next": first.score,
            "p:not_next": pytest.approx(1 - (first.score or 0)),
        }
    ]


def test_soft_targets_answers_and_distance() -> None:
    torch.testing.assert_close(KIND.loss(LOGITS, GOLD), KIND.loss(LOGITS, KIND.soft(GOLD)))
    answers = KIND.answers(LOGITS)
    torch.testing.assert_close(KIND.answers(KIND.from_answers(answers, LOGITS)), answers)
    torch.testing.assert_close(KIND.tempered(LOGITS, 4.0), LOGITS / 4)
    other = LOGITS.flip(0)
    p, q = answers, KIND.answers(other)
    wanted = ((p - q) * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(KIND.distance(LOGITS, other), wanted, atol=1e-5, rtol=1e-5)
    assert KIND.aligned(answers, KIND) is answers
    assert KIND.width == 2
    with pytest.raises(ValueError, match="is of kind mlm, expected nsp"):
        KIND.aligned(answers, MaskedLM(MaskedLMSettings()))
