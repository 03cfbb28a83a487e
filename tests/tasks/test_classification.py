"""The kind `classification` against torch, scipy and sklearn; label names as data sets really write them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy.special import rel_entr
from sklearn import metrics as sklearn_metrics
from torch import Tensor
from torch.nn import functional as F

from manyheads.data.read import read_rows
from manyheads.encoder.bert import States
from manyheads.tasks import KINDS
from manyheads.tasks.classification import Classification, ClassificationSettings
from manyheads.tasks.head import Head
from manyheads.tasks.heads.linear import LinearHead


def answer(head: Head, states: States) -> Tensor:
    """What a head makes of what it reads of the states."""
    outputs: Tensor = head(head.read(states))
    return outputs


BINARY: dict[str, Any] = {"labels": ("no", "yes"), "loss": "binary_cross_entropy"}


def kind(facts: dict[str, Any] | None = None, **settings: Any) -> Classification:
    columns: dict[str, Any] = {} if "pair" in settings else {"text": "sentence"}
    return Classification(ClassificationSettings(**columns, **settings), facts)


def three() -> Classification:
    return kind(labels=("bad", "fair", "good"))


def logits(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)


def test_the_table_has_it() -> None:
    assert KINDS["classification"] is Classification


# ---- labels ----


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["10", "9", "2", "1"], ["1", "2", "9", "10"]),
        ([3, 1, 2, 1], ["1", "2", "3"]),
        (["1.0", "0.0", "0.0"], ["0", "1"]),
        (["1.0", "1", 1, 1.0, "0"], ["0", "1"]),
        (["-1", "1", "0"], ["-1", "0", "1"]),
        ([True, False], ["false", "true"]),
        (["pos", "neg", "neutral"], ["neg", "neutral", "pos"]),
        (["B", "a", "1"], ["1", "B", "a"]),
        (["0.5", "1.5"], ["0.5", "1.5"]),
        (["好", "坏"], ["坏", "好"]),
    ],
)
def test_labels_are_learnt_in_order(values: list[object], labels: list[str]) -> None:
    learnt = kind()
    learnt.learn(values)
    assert learnt.labels == tuple(labels)
    assert [learnt.target(label) for label in labels] == list(range(len(labels)))
    for value in values:
        assert 0 <= learnt.target(value) < len(labels)


def test_nan_is_not_learnt_as_a_label() -> None:
    learnt = kind()
    learnt.learn([1.0, math.nan, 0.0])
    assert learnt.labels == ("0", "1")
    with pytest.raises(ValueError, match="found nan, expected one of 0, 1"):
        learnt.target(math.nan)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    values = [str(number % 12) for number in range(50)]
    order = torch.randperm(50, generator=torch.Generator().manual_seed(seed)).tolist()
    learnt = kind()
    learnt.learn([values[place] for place in order])
    assert learnt.labels == tuple(map(str, range(12)))


def test_given_labels_stay_as_they_are() -> None:
    given = kind(labels=["z", "a"])
    given.learn(["a", "b", "c"])
    assert given.labels == ("z", "a")
    assert [given.target("z"), given.target("a")] == [0, 1]


def test_labels_of_yaml_are_names() -> None:
    assert kind(labels=[0, 1, 2]).labels == ("0", "1", "2")
    assert kind(labels=[True, False]).labels == ("true", "false")
    assert kind(labels=[False, True]).target(True) == 1


@pytest.mark.parametrize("value", ["1", 1, 1.0, "1.0", " 1", "1 ", "01", "1e0"])
def test_one_label_written_in_many_ways(value: object) -> None:
    assert kind(labels=["0", "1"]).target(value) == 1


def test_blanks_around_a_name() -> None:
    assert three().target(" good\t") == 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("godo", "found 'godo', expected one of bad, fair, good; did you mean 'good'?"),
        ("Good", "found 'Good', expected one of bad, fair, good; did you mean 'good'?"),
        ("", "found '', expected one of bad, fair, good"),
        ("nan", "found 'nan', expected one of bad, fair, good"),
        (math.nan, "found nan, expected one of bad, fair, good"),
        (math.inf, "found inf, expected one of bad, fair, good"),
        (None, "found None, expected one of bad, fair, good"),
        (7, "found 7, expected one of bad, fair, good"),
        (["good"], "found ['good'], expected one of bad, fair, good"),
    ],
)
def test_an_unknown_label_is_shown_beside_the_known(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=r"^found") as error:
        three().target(value)
    assert str(error.value).startswith(said)


def test_a_long_list_of_labels_is_cut() -> None:
    with pytest.raises(ValueError, match=r"expected one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …"):
        kind(labels=list(range(40))).target("x" * 500)


@pytest.mark.parametrize(
    ("values", "settings", "said"),
    [
        (["a", "a"], {}, "expected two or more labels, found only 'a'"),
        (["1", "1.0", 1], {}, "expected two or more labels, found only '1'"),
        (
            [f"text {n}" for n in range(1001)],
            {},
            "expected labels, found 1001 different values such as 'text 0'",
        ),
        (
            ["a", "b", "c"],
            {"loss": "binary_cross_entropy"},
            "binary_cross_entropy' expects two labels, found 3",
        ),
        ([math.nan, math.nan], {}, "expected two or more labels, found only none"),
    ],
)
def test_values_that_are_no_labels(values: list[object], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kind(**settings).learn(values)


def test_a_thousand_labels_are_allowed() -> None:
    many = kind()
    many.learn(range(1000))
    assert len(many.labels) == 1000


def test_facts_bring_the_labels_back() -> None:
    learnt = kind()
    learnt.learn(["b", "a", "c"])
    again = kind(json.loads(json.dumps(learnt.facts())))
    assert again.labels == ("a", "b", "c")
    assert again.target("c") == 2
    again.learn(["x", "y"])  # a run's labels are not learnt anew
    assert again.labels == ("a", "b", "c")
    assert again.facts() == learnt.facts()


# ---- settings ----


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "expected either 'text: COLUMN' or 'pair"),
        ({"text": "a", "pair": ["a", "b"]}, "expected either 'text: COLUMN' or 'pair"),
        ({"text": "a", "encode": "siamese"}, "'encode: siamese' needs a pair"),
        ({"pair": ["a", "b"], "features": ["u"]}, "'features' belong to 'encode: siamese'"),
        ({"pair": ["a", "b"], "encode": "siamese", "features": []}, "one or more of u, v, absdiff, product"),
        ({"pair": ["a", "b"], "encode": "siamese", "features": ["u", "u"]}, "each once"),
        ({"pair": ["a", "b"], "encode": "siamese", "features": ["w"]}, "'u', 'v', 'absdiff' or 'product'"),
        ({"text": "a", "dropout": 1.0}, "'dropout' expects a share from 0 up to 1, found 1.0"),
        ({"text": "a", "dropout": -0.1}, "'dropout' expects a share from 0 up to 1, found -0.1"),
        ({"text": "a", "labels": ["x"]}, "'labels' expects two or more names, found 1"),
        ({"text": "a", "labels": ["x", "y", "x"]}, "'labels' names 'x' twice"),
        ({"text": "a", "labels": [1, "1"]}, "'labels' names '1' twice"),
        (
            {"text": "a", "labels": ["x", "y", "z"], "loss": "binary_cross_entropy"},
            "'loss: binary_cross_entropy' expects two labels",
        ),
        ({"text": "a", "lables": ["x", "y"]}, "lables"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ClassificationSettings(**settings)


def test_columns_and_sequences() -> None:
    one = kind(label="stars")
    assert (one.columns, one.target_column, one.reads) == (("sentence",), "stars", 1)
    assert one.settings.sequences(["x"]) == (("x",),)
    packed = kind(pair=("q1", "q2"))
    assert (packed.columns, packed.reads) == (("q1", "q2"), 2)
    assert packed.settings.sequences(["x", "y"]) == (("x", "y"),)
    apart = kind(pair=("q1", "q2"), encode="siamese")
    assert apart.reads == 2
    assert apart.settings.sequences(["x", "y"]) == (("x",), ("y",))


@pytest.mark.parametrize(
    ("settings", "inputs", "outputs"),
    [
        ({"labels": ("a", "b", "c")}, 6, 3),
        (BINARY, 6, 1),
        ({"labels": ("a", "b"), "pair": ("x", "y")}, 6, 2),
        ({"labels": ("a", "b"), "pair": ("x", "y"), "encode": "siamese"}, 18, 2),
        ({**BINARY, "pair": ("x", "y"), "encode": "siamese", "features": ("absdiff", "product")}, 12, 1),
    ],
)
def test_the_head_that_fits(
    make_states: Callable[..., States], settings: dict[str, Any], inputs: int, outputs: int
) -> None:
    task = kind(**settings)
    head = task.build_head(6, 0.2)
    assert isinstance(head, LinearHead)
    assert head.output.weight.shape == (outputs, inputs)
    assert head.dropout == 0.2
    assert head.pooling == "pooled"
    examples = 2 if task.settings.apart else 4
    out = answer(head.double(), make_states(2, 3, 1, 4))
    assert out.shape == (examples, outputs)
    assert len(task.predictions(out)) == examples


def test_settings_reach_the_head() -> None:
    head = kind(labels=("a", "b"), dropout=0.0, pooling="mean").build_head(6, 0.2)
    assert isinstance(head, LinearHead)
    assert (head.dropout, head.pooling) == (0.0, "mean")


# ---- loss and distance ----


def test_cross_entropy() -> None:
    outputs, gold = logits(7, 3), torch.tensor([0, 2, 1, 1, 0, 2, 2])
    torch.testing.assert_close(three().loss(outputs, gold.float()), F.cross_entropy(outputs, gold))
    # By hand: two rows of probabilities (1/2, 1/4, 1/4) with the labels 0 and 1.
    outputs = torch.tensor([[0.5, 0.25, 0.25]] * 2, dtype=torch.float64).log()
    assert float(three().loss(outputs, torch.tensor([0.0, 1.0]))) == pytest.approx(1.5 * math.log(2))


def test_soft_targets() -> None:
    outputs, soft = logits(7, 3), logits(7, 3, seed=1).softmax(1)
    torch.testing.assert_close(three().loss(outputs, soft), -(soft * outputs.log_softmax(1)).sum(1).mean())
    gold = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    hard, one_hot = three().loss(outputs, gold.float()), three().loss(outputs, F.one_hot(gold, 3).float())
    torch.testing.assert_close(hard, one_hot)
    # A mixture of targets has the mixture of their losses: what distillation rests on.
    mixed = three().loss(outputs, 0.3 * F.one_hot(gold, 3) + 0.7 * soft)
    torch.testing.assert_close(mixed, 0.3 * hard + 0.7 * three().loss(outputs, soft))


def test_binary_cross_entropy() -> None:
    task, outputs, gold = kind(**BINARY), logits(8, 1), torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 1])
    expected = F.binary_cross_entropy(outputs[:, 0].sigmoid(), gold.double())
    torch.testing.assert_close(task.loss(outputs, gold), expected)
    soft = torch.stack([1 - gold, gold], 1)
    torch.testing.assert_close(task.loss(outputs, soft), expected)
    assert float(task.loss(torch.zeros(1, 1), torch.ones(1))) == pytest.approx(math.log(2))
    assert float(task.loss(torch.tensor([[-1000.0]]), torch.ones(1))) == pytest.approx(1000)  # no infinity


@pytest.mark.parametrize("binary", [False, True])
def test_the_gradient_of_the_loss(binary: bool) -> None:
    task, columns = (kind(**BINARY), 1) if binary else (three(), 3)
    outputs, gold = logits(5, columns).requires_grad_(), torch.tensor([0.0, 1, 1, 0, 1])
    assert torch.autograd.gradcheck(lambda x: task.loss(x, gold), (outputs,))
    other = logits(5, columns, seed=1)
    assert torch.autograd.gradcheck(lambda x: task.distance(x, other), (outputs,))


@pytest.mark.parametrize("binary", [False, True])
def test_distance_is_the_symmetric_divergence(binary: bool) -> None:
    task, columns = (kind(**BINARY), 1) if binary else (three(), 3)
    left, right = logits(9, columns), logits(9, columns, seed=1)

    def probabilities(outputs: Tensor) -> Any:
        second = outputs.sigmoid()
        return (torch.cat([1 - second, second], 1) if binary else outputs.softmax(1)).numpy()

    p, q = probabilities(left), probabilities(right)
    expected = (rel_entr(p, q) + rel_entr(q, p)).sum(1).mean()
    assert float(task.distance(left, right)) == pytest.approx(expected)
    assert float(task.distance(left, right)) == pytest.approx(float(task.distance(right, left)))
    assert float(task.distance(left, left)) == 0


def test_distance_of_two_coins_by_hand() -> None:
    p, q = (torch.tensor([row]).log() for row in ([0.8, 0.2], [0.4, 0.6]))
    expected = 0.4 * math.log(2) + 0.4 * math.log(3)  # Σ (p − q)(log p − log q)
    assert float(kind(labels=("a", "b")).distance(p, q)) == pytest.approx(expected, rel=1e-6)


# ---- predictions and measures ----


def test_predictions_are_probabilities() -> None:
    outputs = logits(50, 3).float()
    for row, found in zip(outputs.double().softmax(1).tolist(), three().predictions(outputs), strict=True):
        assert found.probabilities == pytest.approx(dict(zip(("bad", "fair", "good"), row, strict=True)))
        assert list(found.probabilities or ()) == ["bad", "fair", "good"]
        assert sum((found.probabilities or {}).values()) == pytest.approx(1, abs=1e-12)
        assert found.score == max((found.probabilities or {}).values())
        assert (found.probabilities or {})[found.label or ""] == found.score
        assert (found.value, found.truncated, found.tokens_dropped) == (None, False, 0)


def test_predictions_of_one_output() -> None:
    for output, found in zip(
        (-2.0, 0.5, 90.0), kind(**BINARY).predictions(torch.tensor([[-2.0], [0.5], [90]])), strict=True
    ):
        yes = 1 / (1 + math.exp(-output))
        assert found.probabilities == pytest.approx({"no": 1 - yes, "yes": yes})
        assert found.label == ("yes" if output > 0 else "no")
        assert sum((found.probabilities or {}).values()) == pytest.approx(1, abs=1e-12)


def test_very_sure_outputs_stay_numbers() -> None:
    (found,) = three().predictions(torch.tensor([[1e4, -1e4, 0.0]]))
    assert found.probabilities == {"bad": 1.0, "fair": 0.0, "good": 0.0}


def test_measures_of_three_labels() -> None:
    outputs = logits(200, 3)
    gold = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(1))
    guess = outputs.argmax(1)
    found = three().measures(outputs, gold.float())
    assert next(iter(found)) == "accuracy"
    assert found == pytest.approx(
        {
            "accuracy": sklearn_metrics.accuracy_score(gold, guess),
            "macro_f1": sklearn_metrics.f1_score(gold, guess, average="macro"),
            "loss": float(F.cross_entropy(outputs, gold)),
        }
    )


@pytest.mark.parametrize("binary", [False, True])
def test_measures_of_two_labels(binary: bool) -> None:
    task, outputs = (kind(**BINARY), logits(200, 1)) if binary else (kind(labels=("a", "b")), logits(200, 2))
    gold = torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(1))
    guess = (outputs[:, 0] > 0).long() if binary else outputs.argmax(1)
    found = task.measures(outputs, gold.float())
    loss = (
        F.binary_cross_entropy_with_logits(outputs[:, 0], gold.double())
        if binary
        else F.cross_entropy(outputs, gold)
    )
    assert found == pytest.approx(
        {
            "accuracy": sklearn_metrics.accuracy_score(gold, guess),
            "macro_f1": sklearn_metrics.f1_score(gold, guess, average="macro"),
            "f1": sklearn_metrics.f1_score(gold, guess),
            "matthews": sklearn_metrics.matthews_corrcoef(gold, guess),
            "loss": float(loss),
        }
    )


def test_goodness_is_the_accuracy() -> None:
    assert three().goodness(0.75) == 0.75
    assert three().goodness(math.nan) == 0


def test_a_text_may_be_empty(shared_data: Path) -> None:
    """As real ones are: messages of SMP2020 that were nothing but what was left out, questions of QQP."""
    file = shared_data / "smp2020" / "raw" / "usual_train.txt"
    if not file.is_file():
        pytest.skip(f"no {file}")
    task = Classification(ClassificationSettings(text="content"))
    assert [row.number for row in read_rows(file) if task.input(row.values) == ("",)] == [11452, 26451]
