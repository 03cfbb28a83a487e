"""The kind `choice` against torch, transformers' way of packing, and rows as SWAG and others write them."""

import json
import math
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

from manyheads.data.read import Dialect, read_rows
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.tasks.choice import Choice, ChoiceSettings
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.tasks.kind import ColumnError, Example, examples_of
from manyheads.tasks.ranking import Ranking, RankingSettings

ENDINGS = ("ending0", "ending1", "ending2", "ending3")
SWAG: dict[str, Any] = {
    "video-id": "anetv_1",
    "sent1": "A girl is going across a set of monkey bars.",
    "sent2": "She",
    "ending0": "jumps up across the monkey bars.",
    "ending1": "struggles onto the bars to grab her head.",
    "ending2": "gets to the end and stands on a wooden plank.",
    "ending3": "jumps up and does a back flip.",
    "label": "2",
}


def kind(**more: Any) -> Choice:
    return Choice(ChoiceSettings(**{"text": "sent1", "choices": ENDINGS, **more}))


def swag(**more: Any) -> Choice:
    return kind(second="sent2", **more)


def listed(**more: Any) -> Choice:
    return Choice(ChoiceSettings(**{"text": "question", "choices": "options", **more}))


def example(choices: int) -> Example:
    return Example(None, None, np.zeros(choices, np.int64), np.zeros((0, 2), np.int32))


def scores(*groups: list[float]) -> Grouped:
    rows = [score for group in groups for score in group]
    return Grouped(
        torch.tensor(rows, dtype=torch.float64)[:, None], np.array([len(group) for group in groups])
    )


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz."
    return Tokenizer(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{one}" for one in letters)]
    )


# ---- settings ----


def test_columns() -> None:
    assert kind().columns == ("sent1", *ENDINGS)
    assert swag().columns == ("sent1", "sent2", *ENDINGS)
    assert listed().columns == ("question", "options")
    assert kind(label="gold").target_column == "gold"
    assert swag().reads == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"choices": ("a",)}, r"'choices' expects two or more columns, .* found \['a'\]"),
        ({"choices": ("a", "b", "a")}, "'choices' names 'a' twice"),
        ({"dropout": 1.0}, "'dropout' expects a share from 0 up to 1, found 1.0"),
        ({"first": 2}, "0 or 1"),
        ({"text": None}, "valid string"),
        ({"pair": ("a", "b")}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_do_not_fit(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        kind(**more)


def test_what_a_row_becomes_depends_on_how_the_columns_are_read() -> None:
    ways = [kind(), swag(), kind(choices=ENDINGS[::-1]), listed(), listed(choices=("question", "options"))]
    laid = [json.dumps(one.laid_by) for one in ways]
    assert len(set(laid)) == len(laid)
    assert json.dumps(kind(dropout=0.3, first=1, label="x").laid_by) == laid[0]


# ---- rows ----


def test_a_row_of_swag() -> None:
    text, choices = swag().input(SWAG)
    assert text == SWAG["sent1"]
    assert choices == [f"She {SWAG[name]}" for name in ENDINGS]


def test_without_a_second_column_the_choices_stand_alone() -> None:
    assert kind().input(SWAG) == (SWAG["sent1"], [SWAG[name] for name in ENDINGS])


def test_the_second_column_may_be_empty() -> None:
    """As in the rows of HellaSwag whose choices are whole sentences."""
    for blank in ("", " "):
        assert [one.strip() for one in swag().input({**SWAG, "sent2": blank})[1]] == [
            SWAG[name] for name in ENDINGS
        ]


def test_a_column_with_a_list() -> None:
    row = {"question": "two and two", "options": ["four", "five", 6]}
    assert listed().input(row) == ("two and two", ["four", "five", "6"])


@pytest.mark.parametrize(
    ("task", "row", "column", "said"),
    [
        (kind(), {**SWAG, "ending2": " "}, "ending2", "choice 2 is empty, expected a text"),
        (kind(first=1), {**SWAG, "ending2": ""}, "ending2", "choice 3 is empty, expected a text"),
        (kind(), {**SWAG, "ending1": None}, "ending1", "found null, expected a text"),
        (kind(), {**SWAG, "ending0": ["a", "b"]}, "ending0", r"found \['a', 'b'\], expected a text"),
        (kind(), {**SWAG, "sent1": None}, "sent1", "found null, expected a text"),
        (kind(), {**SWAG, "sent1": ""}, "sent1", "found the empty text '', expected a text"),
        (listed(), {"question": "\t ", "options": ["a", "b"]}, "question", r"found the empty text .*"),
        (swag(), {**SWAG, "sent2": None}, "sent2", "found null, expected a text"),
        (listed(), {"question": "q", "options": "four"}, "options", "found 'four', expected a list of texts"),
        (listed(), {"question": "q", "options": None}, "options", "found null, expected a list of texts"),
        (listed(), {"question": "q", "options": ["a", {}]}, "options", "found {}, expected a text"),
        (listed(), {"question": "q", "options": ["a"]}, "options", "found 1 choices, expected two or more"),
        (listed(), {"question": "q", "options": ["a", ""]}, "options", "choice 1 is empty, expected a text"),
    ],
)
def test_rows_that_are_wrong(task: Choice, row: dict[str, Any], column: str, said: str) -> None:
    with pytest.raises(ColumnError, match=f"^{said}$") as error:
        task.input(row)
    assert error.value.column == column


@pytest.mark.parametrize("task", [kind(), swag(), listed()])
@pytest.mark.parametrize("choices", [["x", "y"], ["a", "b", "c", "d"], [str(i) for i in range(9)]])
def test_what_a_caller_gives(task: Choice, choices: list[str]) -> None:
    assert task.input(task.given(("t", choices))) == ("t", choices)
    assert task.input(task.given(["t", tuple(choices)])) == ("t", choices)


@pytest.mark.parametrize(
    "one", ["t", ("t",), ("t", "u"), (1, ["a"]), ("t", ["a", 2]), ("t", ["a"], ["b"]), None]
)
def test_what_no_caller_may_give(one: object) -> None:
    with pytest.raises(
        ValueError, match=r"^expected a text and its choices: \(text, \[choice, …\]\), found "
    ):
        kind().given(one)


def test_a_caller_who_gives_one_choice_is_told() -> None:
    with pytest.raises(ColumnError, match="found 1 choices, expected two or more"):
        kind().input(kind().given(("t", ["a"])))


# ---- token ids ----


def test_a_sequence_a_choice(tokenizer: Tokenizer) -> None:
    inputs = [("abc de", ["fg", "hi jk.", "l"]), ("m", ["n", "o p"])]
    laid = kind().lay(inputs, tokenizer, 12)
    assert laid.counts.tolist() == [3, 2]
    texts, choices = ["abc de"] * 3 + ["m"] * 2, ["fg", "hi jk.", "l", "n", "o p"]
    whole = tokenizer(texts, choices, max_length=12)
    assert laid.ids.tolist() == [one for ids in whole.input_ids for one in ids]
    assert laid.segments.tolist() == [one for ids in whole.token_type_ids for one in ids]
    assert laid.lengths.tolist() == list(map(len, whole.input_ids))
    assert laid.dropped.tolist() == whole.dropped
    assert laid.marks is None


def test_what_is_too_long_is_cut_as_pairs_are(tokenizer: Tokenizer) -> None:
    laid = kind().lay([("abcdefgh", ["ab", "abcdefghij"])], tokenizer, 11)
    assert laid.lengths.tolist() == [11, 11]
    assert laid.dropped.tolist() == [
        2,
        10,
    ]  # 8 + 2 in 8: the longer text gives two up; 8 + 10: each keeps four
    assert laid.dropped_of_examples.tolist() == [12]


def test_no_rows_at_all(tokenizer: Tokenizer) -> None:
    assert len(kind().lay([], tokenizer, 12)) == 0


# ---- targets ----


@pytest.mark.parametrize("value", ["2", 2, 2.0, "2.0", " 2 "])
def test_numbers_of_choices(value: object) -> None:
    assert kind().target(value) == 2
    assert kind(first=1).target(value) == 1
    assert listed().target(value) == 2
    assert listed().target(value, example(3)) == 2


@pytest.mark.parametrize("value", ["4", -1, "1.5", "two", "", None, True, math.nan, "inf", [1], 10**400])
def test_numbers_that_are_none(value: object) -> None:
    with pytest.raises(ValueError, match=r"^found .*, expected the number of a choice, 0 to 3") as error:
        kind().target(value, example(4))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r", expected the number of a choice, 0 to 3"):
        kind().target(value)


def test_the_number_beyond_the_last_gets_a_hint() -> None:
    said = "found '4', expected the number of a choice, 0 to 3; where the first choice has the number 1, say 'first: 1'"
    with pytest.raises(ValueError, match=f"^{said}$"):
        kind().target("4")
    with pytest.raises(ValueError, match=r"0 to 3$"):
        kind().target("5")
    with pytest.raises(ValueError, match=r"^found 0, expected the number of a choice, 1 to 4$"):
        kind(first=1).target(0)
    assert kind(first=1).target(4) == 3


def test_the_range_is_that_of_the_row() -> None:
    with pytest.raises(ValueError, match=r"^found 3, expected the number of a choice, 0 to 1$"):
        listed().target(3, example(2))
    assert listed().target(3, example(4)) == 3
    with pytest.raises(ValueError, match=r"^found -1, expected the number of a choice, 0, 1, …$"):
        listed().target(-1)


def test_nothing_is_learnt() -> None:
    task = kind()
    task.learn(["0", "3"])
    assert task.facts() == {}


# ---- loss, distance, answers ----

GROUPS = st.lists(st.lists(st.floats(-20, 20), min_size=1, max_size=5), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(groups=GROUPS, data=st.data())
def test_the_loss_is_torchs_of_each_example(groups: list[list[float]], data: st.DataObject) -> None:
    gold = [data.draw(st.integers(0, len(group) - 1)) for group in groups]
    outputs, targets = scores(*groups), torch.tensor(gold).double()
    each = [
        F.cross_entropy(torch.tensor([group], dtype=torch.float64), torch.tensor([one]))
        for group, one in zip(groups, gold, strict=True)
    ]
    found = kind().loss(outputs, targets)
    torch.testing.assert_close(found, torch.stack(each).mean())
    torch.testing.assert_close(kind().loss(outputs, kind().soft(targets, outputs)), found)


def test_the_loss_against_shares() -> None:
    outputs = scores([1.0, 2.0, 0.5], [0.0, 3.0])
    shares = torch.tensor([[0.2], [0.5], [0.3], [0.9], [0.1]], dtype=torch.float64)
    each = [
        F.cross_entropy(rows.T, share.T)
        for rows, share in zip(outputs.split(), outputs.with_rows(shares).split(), strict=True)
    ]
    torch.testing.assert_close(kind().loss(outputs, shares), torch.stack(each).mean())


def test_gradients_are_torchs() -> None:
    rows = torch.randn(8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    kind().loss(Grouped(ours, np.array([4, 4])), torch.tensor([2.0, 1.0])).backward()  # type: ignore[no-untyped-call]
    F.cross_entropy(theirs.view(2, 4), torch.tensor([2, 1])).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_distance_is_the_symmetric_divergence_of_the_softmaxes() -> None:
    p, q = scores([1.0, 2.0, 0.5], [0.0, 3.0]), scores([0.0, 2.5, 0.5], [1.0, 1.0])
    each = []
    for a, b in zip(p.split(), q.split(), strict=True):
        left, right = a[:, 0].log_softmax(0), b[:, 0].log_softmax(0)
        there = F.kl_div(right, left, reduction="sum", log_target=True)
        each.append(there + F.kl_div(left, right, reduction="sum", log_target=True))
    torch.testing.assert_close(kind().distance(p, q), torch.stack(each).mean())
    assert kind().distance(p, p) == 0


def test_answers_add_up_and_come_back() -> None:
    outputs = scores([1.0, 2.0, 0.5], [0.0, 800.0])
    answers = kind().answers(outputs)
    assert answers.shape == (5, 1)
    torch.testing.assert_close(outputs.total(answers), torch.ones(2, 1, dtype=torch.float64))
    again = kind().from_answers(answers, outputs)
    torch.testing.assert_close(kind().answers(again), answers)
    assert kind().loss(again, torch.tensor([1.0, 1.0])).isfinite()  # a share of 0 does not spoil it
    assert [one.label for one in kind().predictions(again)] == ["1", "1"]


def test_a_temperature_softens() -> None:
    outputs = scores([1.0, 2.0, 4.0])
    soft = kind().answers(kind().tempered(outputs, 2.0))
    torch.testing.assert_close(soft[:, 0], torch.tensor([0.5, 1.0, 2.0]).double().softmax(0))


def test_a_teacher_is_of_the_same_kind() -> None:
    answers = torch.rand(4, 1)
    assert kind().aligned(answers, listed()) is answers
    other = Ranking(RankingSettings(query="q", candidate="c"))
    with pytest.raises(ValueError, match=r"^is of kind ranking, expected choice$"):
        kind().aligned(answers, other)


# ---- predictions and measures ----


def test_predictions() -> None:
    outputs = scores([1.0, 2.0, 0.5], [3.0, 3.0])
    first, second = kind().predictions(outputs)
    shares = torch.tensor([1.0, 2.0, 0.5]).double().softmax(0).tolist()
    assert first.label == "1"
    assert first.score == pytest.approx(shares[1])
    assert first.shares == pytest.approx(shares)
    assert first.probabilities == pytest.approx({"0": shares[0], "1": shares[1], "2": shares[2]})
    assert (second.label, second.score) == ("0", 0.5)  # of equal ones the first
    assert [one.label for one in kind(first=1).predictions(outputs)] == ["2", "1"]
    assert list(kind(first=1).predictions(outputs)[1].probabilities or {}) == ["1", "2"]


def test_of_choices_that_rounding_tells_apart_the_first_is_said() -> None:
    outputs = scores([1.0, 2.0, 2.0 + 5e-7], [1.0, 2.0, 2.0 + 1e-4], [-math.inf, -math.inf, 0.0])
    assert [one.label for one in kind().predictions(outputs)] == ["1", "2", "2"]
    targets = torch.tensor([1.0, 2.0, 2.0])
    assert kind().measures(outputs, targets)["accuracy"] == 1.0
    assert kind().tallies(outputs, targets)[:, 1].tolist() == [1.0, 1.0, 1.0]


def test_cells() -> None:
    (one,) = kind().predictions(scores([1.0, 1.0, 2.0, 0.0]))
    (row,) = kind().cells(one)
    assert list(row) == ["label", "score", "p:0", "p:1", "p:2", "p:3"]
    assert row["label"] == "2"
    assert row["p:2"] == row["score"]
    (row,) = listed().cells(one)
    assert list(row) == ["label", "score", "shares"]
    assert json.loads(row["shares"]) == list(one.shares)
    assert kind().told("2") == ["2"]


def case(seed: int) -> tuple[Grouped, Tensor]:
    chance = np.random.default_rng(seed)
    sizes = chance.integers(2, 6, 30)
    rows = torch.from_numpy(chance.normal(size=(int(sizes.sum()), 1)))
    return Grouped(rows, sizes), torch.from_numpy(chance.integers(0, sizes)).double()


def test_measures() -> None:
    outputs, targets = case(0)
    said = [int(one.label or "") for one in listed().predictions(outputs)]
    measures = listed().measures(outputs, targets)
    assert list(measures) == ["accuracy", "loss"]
    assert measures["accuracy"] == pytest.approx(np.mean(np.array(said) == targets.numpy()))
    assert 0 < measures["accuracy"] < 1
    assert measures["loss"] == pytest.approx(float(listed().loss(outputs, targets)))
    assert listed().goodness(0.25) == 0.25
    assert listed().goodness(math.nan) == 0


def test_tallies_add_up_to_the_accuracy() -> None:
    task, (outputs, targets) = listed(), case(1)
    tallies = task.tallies(outputs, targets)
    assert tallies.shape == (30, 2)
    assert tallies.dtype == np.float64
    assert task.measure_of(tallies.sum(0)) == pytest.approx(task.measures(outputs, targets)["accuracy"])
    chance = np.random.default_rng(2)
    counts = chance.multinomial(30, np.full(30, 1 / 30), size=(2, 3))
    found = task.measure_of(counts @ tallies)
    for index in np.ndindex(2, 3):
        drawn = np.repeat(np.arange(30), counts[index])
        again = task.measures(outputs.take(drawn), targets[torch.from_numpy(drawn)])
        assert found[index] == pytest.approx(again["accuracy"])


def test_the_head(tokenizer: Tokenizer) -> None:
    head = kind(pooling="mean").build_head(8, 0.1)
    assert isinstance(head, CandidatesHead)
    assert (head.pooling, head.dropout) == ("mean", 0.1)
    plain = kind(dropout=0.3).build_head(8, 0.1)
    assert isinstance(plain, CandidatesHead)
    assert (plain.pooling, plain.dropout) == ("pooled", 0.3)
    laid = kind().lay([("a", ["b", "c"]), ("a", ["b", "c", "d"])], tokenizer, 12)
    assert [len(one.sizes) for one in examples_of(laid, None, None)] == [2, 3]


# ---- a real data set ----


def test_codah(shared_data: Path) -> None:
    columns = ["category", "prompt", *ENDINGS, "label"]
    dialect = Dialect(header=False, columns=columns)
    task = kind(text="prompt")
    rows = list(read_rows(shared_data / "codah" / "full_data.tsv", dialect))
    targets = [int(task.target(row.values["label"])) for row in rows]
    assert np.bincount(targets).tolist() == [689, 684, 697, 706]
    assert all(len(choices) == 4 for _, choices in (task.input(row.values) for row in rows))
