"""The kind `ranking` against torch and scikit-learn; rows joined to queries, relevances as data sets write them."""

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional as F

from manyheads.data.read import Dialect, read_rows
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.tasks.choice import Choice, ChoiceSettings
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.tasks.kind import ColumnError, Example
from manyheads.tasks.ranking import Ranking, RankingSettings

Rows = list[tuple[int, dict[str, Any]]]


def kind(**more: Any) -> Ranking:
    return Ranking(RankingSettings(**{"query": "q", "candidate": "c", **more}))


def listed(**more: Any) -> Ranking:
    return Ranking(RankingSettings(**{"query": "q", "candidates": "all", "relevance": "right", **more}))


def example_of(query: str, *candidates: str) -> Example:
    return Example(
        (query, list(candidates)), None, np.zeros(len(candidates), np.int64), np.zeros((0, 2), np.int32)
    )


def scores(*groups: list[float]) -> Grouped:
    rows = [score for group in groups for score in group]
    return Grouped(
        torch.tensor(rows, dtype=torch.float64)[:, None], np.array([len(group) for group in groups])
    )


def relevances(*groups: list[int]) -> Tensor:
    return torch.tensor([one for group in groups for one in group], dtype=torch.float64)


def rows(*each: tuple[object, ...]) -> Rows:
    return [
        (number, dict(zip(("q", "c", "relevance"), row, strict=False))) for number, row in enumerate(each, 1)
    ]


def gathered(task: Ranking, given: Rows) -> Rows:
    return list(task.gather(iter(given)))


# ---- settings ----


def test_columns() -> None:
    assert kind().columns == ("q", "c")
    assert kind().target_column == "relevance"
    assert listed().columns == ("q", "all")
    assert listed().target_column == "right"
    assert kind().reads == 0
    assert Ranking.keeps_inputs


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"candidates": "all"}, "expected either 'candidate: COLUMN' or, .* 'candidates: COLUMN'"),
        ({"candidate": None}, "expected either 'candidate: COLUMN' or, .* 'candidates: COLUMN'"),
        ({"positive": " "}, "'positive' expects a relevance, found an empty text"),
        ({"dropout": -0.1}, "'dropout' expects a share from 0 up to 1, found -0.1"),
        ({"label": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_do_not_fit(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        kind(**more)


def test_what_a_row_becomes_depends_on_how_the_columns_are_read() -> None:
    ways = [kind(), kind(query="x"), kind(candidate="x"), listed(), listed(candidates="c")]
    laid = [json.dumps(one.laid_by) for one in ways]
    assert len(set(laid)) == len(laid)
    assert json.dumps(kind(relevance="x", positive="y", dropout=0.2).laid_by) == laid[0]


# ---- rows of one query ----


def test_consecutive_rows_of_a_query_are_one_example() -> None:
    given = rows(("a", "a1", "0"), ("a", "a2", "1"), ("b", "b1", "1"), ("a", "a3", "0"))
    assert gathered(kind(), given) == [
        (1, {"q": "a", "c": ["a1", "a2"], "relevance": ["0", "1"]}),
        (3, {"q": "b", "c": ["b1"], "relevance": ["1"]}),
        (4, {"q": "a", "c": ["a3"], "relevance": ["0"]}),  # it comes back: another query
    ]


TEXTS = st.text(min_size=1, max_size=3).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(case=st.lists(st.tuples(st.sampled_from("ab"), TEXTS, st.integers(0, 1)), max_size=12))
def test_no_row_is_lost_or_moved(case: list[tuple[str, str, int]]) -> None:
    found = gathered(kind(), rows(*case))
    apart = [
        (values["q"], candidate, relevance)
        for _, values in found
        for candidate, relevance in zip(values["c"], values["relevance"], strict=True)
    ]
    assert apart == case
    assert all(one[1]["q"] != other[1]["q"] for one, other in pairwise(found))
    assert [place for place, _ in found] == [
        1 + sum(len(values["c"]) for _, values in found[:number]) for number in range(len(found))
    ]


def test_rows_stream() -> None:
    read = 0

    def endless() -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal read
        while True:
            read += 1
            yield read, {"q": f"query {read // 3}", "c": "candidate"}

    found = kind().gather(endless())
    assert next(found)[0] == 1
    assert next(found)[0] == 3
    assert read == 6


def test_other_columns_come_along_and_a_missing_cell_is_none() -> None:
    given = [(1, {"q": "a", "c": "x", "id": "7"}), (2, {"q": "a", "c": "y"})]
    assert gathered(kind(), given) == [(1, {"q": "a", "c": ["x", "y"], "id": ["7", None]})]


def test_what_is_no_text_is_told_while_its_own_row_is_read() -> None:
    given = iter(rows(("a", "x"), ("a", None), ("a", "y"), ("b", "z")))
    with pytest.raises(ColumnError, match=r"^found null, expected a text$") as error:
        list(kind().gather(given))
    assert error.value.column == "c"
    assert [number for number, _ in given] == [3, 4]  # row 2 was the last that was read


@pytest.mark.parametrize(("bad", "column"), [(("", "y"), "q"), (("a", " \n"), "c")])
def test_an_empty_text_is_told_while_its_own_row_is_read(bad: tuple[str, str], column: str) -> None:
    """Rows without a query would all be candidates of one."""
    given = iter(rows(("a", "x"), bad, bad, ("b", "z")))
    with pytest.raises(ColumnError, match=r"^found the empty text '.*', expected a text$") as error:
        list(kind().gather(given))
    assert error.value.column == column
    assert [number for number, _ in given] == [3, 4]


def test_rows_that_hold_lists_are_examples_as_they_are() -> None:
    given = [(1, {"q": "a", "all": ["x"], "right": [1]}), (2, {"q": "a", "all": ["y", "z"], "right": [0, 1]})]
    assert gathered(listed(), given) == given


def test_inputs() -> None:
    assert kind().input({"q": "a", "c": ["x", 2]}) == ("a", ["x", "2"])
    assert listed().input({"q": 1.5, "all": ["x"]}) == ("1.5", ["x"])


@pytest.mark.parametrize(
    ("task", "values", "column", "said"),
    [
        (kind(), {"q": None, "c": ["x"]}, "q", "found null, expected a text"),
        (kind(), {"q": "a", "c": ["x", None]}, "c", "found null, expected a text"),
        (kind(), {"q": "a", "c": ["x", ["y"]]}, "c", r"found \['y'\], expected a text"),
        (listed(), {"q": "a", "all": []}, "all", "found no candidates, expected one or more"),
        (listed(), {"q": " ", "all": ["x"]}, "q", "found the empty text ' ', expected a text"),
        (kind(), {"q": "", "c": ["x"]}, "q", "found the empty text '', expected a text"),
        (listed(), {"q": "a", "all": ["x", "\t"]}, "all", "candidate 2 of 2 is empty, expected a text"),
        (listed(), {"q": "a", "all": "x, y"}, "all", "found 'x, y', expected a list of texts"),
    ],
)
def test_rows_that_are_wrong(task: Ranking, values: dict[str, Any], column: str, said: str) -> None:
    with pytest.raises(ColumnError, match=f"^{said}$") as error:
        task.input(values)
    assert error.value.column == column


@pytest.mark.parametrize("task", [kind(), listed()])
def test_what_a_caller_gives(task: Ranking) -> None:
    assert task.input(task.given(("a", ("x", "y", "z")))) == ("a", ["x", "y", "z"])
    with pytest.raises(ColumnError, match="found no candidates, expected one or more"):
        task.input(task.given(("a", [])))


@pytest.mark.parametrize("one", ["a", ("a", "x"), ("a", [1]), ("a", ["x"], ["y"]), {"q": "a"}, None])
def test_what_no_caller_may_give(one: object) -> None:
    with pytest.raises(
        ValueError, match=r"^expected a query and its candidates: \(query, \[candidate, …\]\), found "
    ):
        kind().given(one)


def test_a_sequence_a_candidate() -> None:
    tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"])
    laid = kind().lay([("a b", ["b", "c c"]), ("c", ["a b c a b c a b c"])], tokenizer, 8)
    assert laid.counts.tolist() == [2, 1]
    assert laid.ids.tolist() == [2, 5, 6, 3, 6, 3, 2, 5, 6, 3, 7, 7, 3, 2, 7, 3, 5, 6, 7, 5, 3]
    assert laid.segments.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert laid.lengths.tolist() == [6, 7, 8]
    assert laid.dropped.tolist() == [0, 0, 5]


# ---- relevances ----


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (["0", "1"], [0, 1]),
        ([0, 2, 0.5, -1], [0, 1, 1, 0]),
        (["0.0", " 1 "], [0, 1]),
        ([True, False], [1, 0]),
        (("1",), [1]),
    ],
)
def test_numbers_above_0_are_relevant(value: object, numbers: list[int]) -> None:
    assert kind().target(value) == numbers


@pytest.mark.parametrize(
    ("positive", "value", "numbers"),
    [
        ("entailment", ["entailment", "not_entailment"], [1, 0]),
        ("entailment", [" entailment", "Entailment"], [1, 0]),
        (1, ["1", "0", "1.0", 1, "2"], [1, 0, 1, 1, 0]),
        (True, ["true", True, "false", False], [1, 1, 0, 0]),
        ("0", ["0", "1"], [1, 0]),
    ],
)
def test_a_name_that_means_relevant(positive: object, value: object, numbers: list[int]) -> None:
    assert kind(positive=positive).target(value) == numbers


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (
            ["0", "x"],
            "found 'x' for candidate 2 of 2 of this query, expected a number; 'positive: NAME' says .*",
        ),
        (["", "1"], "found '' for candidate 1 of 2 of this query, expected a number"),
        (["1", None, "0"], "found None for candidate 2 of 3 of this query, expected a number"),
        ([math.nan], "found nan, expected a number"),
        (["inf"], "found 'inf', expected a number; 'positive: NAME' says which name means relevant"),
        ([[1]], r"found \[1\], expected a number"),
        ("1", "found '1', expected a list of relevances"),
    ],
)
def test_what_is_no_relevance(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        kind().target(value)


def test_a_blank_cell_is_no_name_either() -> None:
    with pytest.raises(ValueError, match=r"^found '' for candidate 2 of 2 of this query, expected a name$"):
        kind(positive="yes").target(["yes", ""])


def test_one_relevance_for_each_candidate() -> None:
    said = "^found 2 relevances for 3 candidates, expected one for each$"
    with pytest.raises(ValueError, match=said):
        listed().target([1, 0], example_of("q", "a", "b", "c"))
    assert listed().target([1, 0, 0], example_of("q", "a", "b", "c")) == [1, 0, 0]


def test_training_rows_without_anything_relevant_are_refused() -> None:
    kind().learn([["0", "1"], ["0"]])
    assert kind().facts() == {}
    with pytest.raises(ValueError, match=r"^no candidate is relevant: expected a number above 0 for some$"):
        kind().learn([["0", "0"], ["0"]])
    kind().learn([["no"], ["0"]])  # `target` will say in which row
    said = (
        "^no candidate has the relevance 'entailmnt' of 'positive', found entailment, not_entailment; "
        "did you mean 'entailment'\\?$"
    )
    with pytest.raises(ValueError, match=said):
        kind(positive="entailmnt").learn([["entailment", "not_entailment"]])


# ---- loss, distance, answers ----


@st.composite
def queries(draw: st.DrawFn) -> list[tuple[list[float], list[int]]]:
    found = []
    for _ in range(draw(st.integers(1, 4))):
        said = draw(st.lists(st.floats(-20, 20), min_size=1, max_size=5))
        found.append((said, draw(st.lists(st.integers(0, 1), min_size=len(said), max_size=len(said)))))
    return found


@settings(max_examples=80, deadline=None)
@given(case=queries())
@example(case=[([1.0, 2.0], [0, 0])])
def test_the_loss_is_the_cross_entropy_with_the_relevant_ones(
    case: list[tuple[list[float], list[int]]],
) -> None:
    outputs, targets = scores(*(said for said, _ in case)), relevances(*(meant for _, meant in case))
    each = []
    for said, meant in case:
        if any(meant):
            shares = torch.tensor([meant], dtype=torch.float64) / sum(meant)
            each.append(F.cross_entropy(torch.tensor([said], dtype=torch.float64), shares))
    wanted = torch.stack(each).mean() if each else torch.tensor(0.0, dtype=torch.float64)
    torch.testing.assert_close(kind().loss(outputs, targets), wanted)
    torch.testing.assert_close(kind().loss(outputs, kind().soft(targets, outputs)), wanted)


def test_with_one_relevant_candidate_it_is_the_papers_negative_log_likelihood() -> None:
    said = [0.3, -1.0, 2.0]
    likelihood = math.exp(said[1]) / sum(map(math.exp, said))
    assert float(kind().loss(scores(said), relevances([0, 1, 0]))) == pytest.approx(-math.log(likelihood))


def test_a_batch_without_a_relevant_candidate_still_has_a_graph() -> None:
    rows = torch.randn(3, 1, requires_grad=True)
    loss = kind().loss(Grouped(rows, np.array([2, 1])), torch.zeros(3))
    assert loss.item() == 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert rows.grad.abs().sum() == 0


def test_a_query_without_a_relevant_candidate_moves_nothing() -> None:
    rows = torch.randn(5, 1, dtype=torch.float64, requires_grad=True)
    kind().loss(Grouped(rows, np.array([2, 3])), relevances([1, 0], [0, 0, 0])).backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert (rows.grad[:2] != 0).all()
    assert (rows.grad[2:] == 0).all()
    alone = rows.detach()[:2].clone().requires_grad_()
    kind().loss(Grouped(alone, np.array([2])), relevances([1, 0])).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(rows.grad[:2], alone.grad)


def test_a_teacher_speaks_for_queries_that_gold_knows_nothing_of() -> None:
    outputs, share = scores([1.0, 0.0], [2.0, 1.0]), 0.25
    gold = kind().soft(relevances([1, 0], [0, 0]), outputs)
    assert gold[:, 0].tolist() == [1, 0, 0, 0]
    teacher = kind().answers(scores([0.0, 0.0], [3.0, 0.0]))
    mixed = share * gold + (1 - share) * teacher
    log = outputs.log_softmax()
    crossed = -outputs.total(mixed * log)[:, 0]
    wanted = (crossed[0] + crossed[1]) / (1 + (1 - share))  # the second counts for the teacher's part alone
    torch.testing.assert_close(kind().loss(outputs, mixed), wanted)


def test_answers_and_their_kind() -> None:
    outputs = scores([1.0, 2.0, 0.5], [4.0])
    answers = kind().answers(outputs)
    torch.testing.assert_close(answers[:3, 0], torch.tensor([1.0, 2.0, 0.5]).double().softmax(0))
    assert answers[3, 0] == 1
    torch.testing.assert_close(kind().answers(kind().from_answers(answers, outputs)), answers)
    assert kind().aligned(answers, listed()) is answers
    with pytest.raises(ValueError, match=r"^is of kind choice, expected ranking$"):
        kind().aligned(answers, Choice(ChoiceSettings(text="t", choices="c")))


# ---- predictions and measures ----


def test_predictions() -> None:
    outputs = scores([1.0, 3.0, 2.0], [0.0, 5.0, 5.0], [7.0])
    known = [example_of("q", "a", "b", "c"), example_of("r", "d", "e", "f"), example_of("s", "g")]
    first, second, third = kind().predictions(outputs, known)
    assert (first.label, second.label, third.label) == ("b", "e", "g")  # of equal ones the first
    assert (first.ranking, second.ranking, third.ranking) == ((1, 2, 0), (1, 2, 0), (0,))
    shares = torch.tensor([1.0, 3.0, 2.0]).double().softmax(0).tolist()
    assert first.shares == pytest.approx(shares)
    assert first.score == pytest.approx(shares[1])
    assert first.probabilities is None
    bare = kind().predictions(outputs)
    assert [one.label for one in bare] == [None] * 3
    assert [one.ranking for one in bare] == [(1, 2, 0), (1, 2, 0), (0,)]


def test_scores_that_rounding_tells_apart_are_tied() -> None:
    """The first of them is best; where relevance decides, ties count against the model."""
    for scale in (0.1, 1.0, 50.0):
        near = scores([1.0 * scale, 3.0 * scale, 3.0 * scale + 4e-7, 3.0 * scale + 8e-7, 2.0 * scale])
        (one,) = kind().predictions(near)
        assert one.ranking == (1, 2, 3, 4, 0)
        targets = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])
        assert kind().measures(near, targets)["mrr"] == 1 / 3
        assert kind().tallies(near, targets).tolist() == [[1.0, 1 / 3]]
    (apart,) = kind().predictions(scores([3.0, 3.0 + 1e-4]))
    assert apart.ranking == (1, 0)


def test_candidates_far_behind_are_ranked_by_their_scores() -> None:
    (one,) = kind().predictions(scores([-900.0, 0.0, -800.0]))
    assert one.shares == (0, 1, 0)
    assert one.ranking == (1, 2, 0)


def test_cells() -> None:
    known = [example_of("q", "a", "b", "c")]
    (one,) = kind().predictions(scores([1.0, 3.0, 2.0]), known)
    cells = kind().cells(one)
    assert [cell["rank"] for cell in cells] == [3, 1, 2]
    assert [cell["score"] for cell in cells] == list(one.shares)
    assert kind().told(["0", "1", "0"]) == ["0", "1", "0"]
    (cell,) = listed().cells(one)
    assert (cell["label"], cell["score"]) == ("b", one.score)
    assert json.loads(cell["ranking"]) == [1, 2, 0]
    assert json.loads(cell["shares"]) == list(one.shares)
    assert [json.loads(told) for told in listed().told([0, 1, 0])] == [[0, 1, 0]]


def test_measures_by_hand() -> None:
    outputs = scores([0.1, 0.9, 0.5], [3.0, 2.0, 1.0, 0.0], [1.0, 2.0])
    targets = relevances([0, 0, 1], [1, 0, 0, 1], [0, 0])
    measures = kind().measures(outputs, targets)
    assert list(measures) == ["map", "mrr", "accuracy_at_1", "queries", "loss"]
    assert measures["map"] == pytest.approx((1 / 2 + (1 + 2 / 4) / 2) / 2)
    assert measures["mrr"] == pytest.approx((1 / 2 + 1) / 2)
    assert measures["accuracy_at_1"] == 0.5
    assert measures["queries"] == 2
    assert measures["loss"] == pytest.approx(float(kind().loss(outputs.take(np.array([0, 1])), targets[:7])))


def test_nothing_to_score() -> None:
    outputs, targets = scores([0.1, 0.9]), relevances([0, 0])
    measures = kind().measures(outputs, targets)
    assert measures.pop("queries") == 0
    assert all(map(math.isnan, measures.values()))
    assert kind().goodness(measures["map"]) == 0
    assert kind().goodness(0.25) == 0.25
    assert math.isnan(kind().measure_of(kind().tallies(outputs, targets).sum(0)))


def case(seed: int) -> tuple[Grouped, Tensor]:
    """30 queries, of some of which nothing is relevant; some scores are tied."""
    chance = np.random.default_rng(seed)
    sizes = chance.integers(1, 7, 30)
    total = int(sizes.sum())
    rows = torch.from_numpy(chance.normal(size=(total, 1)).round(1))
    return Grouped(rows, sizes), torch.from_numpy((chance.random(total) < 0.25).astype(np.float64))


def test_the_first_measure_is_scikit_learns_where_nothing_is_tied() -> None:
    outputs, targets = case(0)
    outputs = outputs.with_rows(outputs.rows + torch.linspace(0, 1e-3, len(outputs.rows))[:, None])
    each = [
        average_precision_score(meant[:, 0], said[:, 0])
        for said, meant in zip(outputs.split(), outputs.with_rows(targets[:, None]).split(), strict=True)
        if meant.any()
    ]
    assert 0 < len(each) < 30
    assert kind().measures(outputs, targets)["map"] == pytest.approx(np.mean(each))


def test_tallies_add_up_to_the_mean_average_precision() -> None:
    outputs, targets = case(1)
    tallies = kind().tallies(outputs, targets)
    assert tallies.shape == (30, 2)
    assert tallies.dtype == np.float64
    relevant = outputs.total(targets).numpy() > 0
    assert tallies[:, 0].tolist() == relevant.tolist()
    assert (tallies[~relevant] == 0).all()
    assert kind().measure_of(tallies.sum(0)) == pytest.approx(kind().measures(outputs, targets)["map"])
    chance = np.random.default_rng(2)
    counts = chance.multinomial(30, np.full(30, 1 / 30), size=(2, 3))
    found = kind().measure_of(counts @ tallies)
    numbers = outputs.with_rows(targets[:, None])
    for index in np.ndindex(2, 3):
        drawn = np.repeat(np.arange(30), counts[index])
        again = kind().measures(outputs.take(drawn), numbers.take(drawn).rows[:, 0])
        assert found[index] == pytest.approx(again["map"])


def test_the_head() -> None:
    head = kind(pooling="cls", dropout=0.2).build_head(8, 0.1)
    assert isinstance(head, CandidatesHead)
    assert (head.pooling, head.dropout) == ("cls", 0.2)


# ---- a real data set ----


def test_wikiqa(shared_data: Path) -> None:
    dialect = Dialect(format="tsv", quoting="none", header=False, columns=["question", "sentence", "label"])
    task = Ranking(RankingSettings(query="question", candidate="sentence", relevance="label"))
    found = read_rows(shared_data / "wikiqa" / "dev.txt.gz", dialect)
    examples = list(task.gather((row.number, row.values) for row in found))
    targets = [task.target(values["label"]) for _, values in examples]
    assert len(examples) == 296
    assert sum(map(len, targets)) == 2733
    assert sum(map(any, targets)) == 126  # the questions that are scored in the literature
    inputs = [task.input(values) for _, values in examples]
    assert [len(candidates) for _, candidates in inputs] == list(map(len, targets))
    assert len({query for query, _ in inputs}) == 296
