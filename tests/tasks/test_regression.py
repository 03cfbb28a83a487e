"""The kind `regression` against torch and scipy; ranges, scales and values that are none."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.bert import States
from manyheads.tasks import KINDS
from manyheads.tasks.head import Head
from manyheads.tasks.heads.cosine import CosineHead
from manyheads.tasks.heads.linear import LinearHead
from manyheads.tasks.regression import Regression, RegressionSettings


def answer(head: Head, states: States) -> Tensor:
    """What a head makes of what it reads of the states."""
    outputs: Tensor = head(head.read(states))
    return outputs


PAIR = {"pair": ("a", "b"), "label": "score"}
COSINE = {**PAIR, "encode": "siamese", "head": "cosine", "range": (0, 5)}
SIGMOID = {**PAIR, "output": "sigmoid", "range": (1, 5)}


def kind(**settings: Any) -> Regression:
    return Regression(RegressionSettings(**(settings or PAIR)))


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def test_the_table_has_it() -> None:
    assert KINDS["regression"] is Regression


@pytest.mark.parametrize(
    ("value", "number"), [("2.5", 2.5), (" 3 ", 3), (4, 4), (0.0, 0), ("5", 5), ("1e-3", 0.001)]
)
def test_values_within_the_range(value: object, number: float) -> None:
    assert kind(**COSINE).target(value) == number


@pytest.mark.parametrize(
    "value", ["5.01", -0.1, "nan", math.nan, "inf", math.inf, "-inf", "high", "", None, True, [1], 10**400]
)
def test_values_that_are_none(value: object) -> None:
    with pytest.raises(ValueError, match=r"^found .*, expected a number from 0 to 5$") as error:
        kind(**COSINE).target(value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 110


@pytest.mark.parametrize("value", ["nan", math.inf, "x", None, False])
def test_without_a_range_any_finite_number_will_do(value: object) -> None:
    assert kind().target("-1e6") == -1e6
    with pytest.raises(ValueError, match=r"^found .*, expected a number$"):
        kind().target(value)


def test_nothing_is_learnt() -> None:
    task = kind()
    task.learn(["1", "2"])
    assert task.facts() == {}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**PAIR, "range": (5, 0)}, r"'range' expects \[least, greatest\], found \[5.0, 0.0\]"),
        ({**PAIR, "range": (1, 1)}, "'range' expects"),
        ({**PAIR, "range": (0, math.inf)}, "'range' expects"),
        ({**PAIR, "range": (math.nan, 1)}, "'range' expects"),
        ({**PAIR, "head": "cosine", "range": (0, 5)}, "'head: cosine' needs 'encode: siamese'"),
        ({**COSINE, "range": None}, "'head: cosine' and 'output: sigmoid' need 'range"),
        ({**SIGMOID, "range": None}, "'head: cosine' and 'output: sigmoid' need 'range"),
        ({**COSINE, "features": ("u",)}, "'features' and 'dropout' have no meaning for 'head: cosine'"),
        ({**COSINE, "dropout": 0.1}, "'features' and 'dropout' have no meaning for 'head: cosine'"),
        ({**COSINE, "output": "sigmoid"}, "'output' has no meaning for 'head: cosine'"),
        ({"label": "score"}, "expected either 'text: COLUMN' or 'pair"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RegressionSettings(**settings)


def test_columns_and_sequences() -> None:
    task = kind(**COSINE)
    assert (task.columns, task.target_column, task.reads) == (("a", "b"), "score", 2)
    assert task.settings.sequences(["x", "y"]) == (("x",), ("y",))
    assert kind().reads == 2
    assert kind().settings.sequences(["x", "y"]) == (("x", "y"),)


def test_the_head_that_fits(make_states: Callable[..., States]) -> None:
    cosine = kind(**COSINE).build_head(6, 0.1)
    assert isinstance(cosine, CosineHead)
    assert cosine.pooling == "mean"
    assert answer(cosine, make_states(2, 1, 3, 3)).shape == (2, 1)
    linear = kind(**PAIR, encode="siamese", pooling="cls").build_head(6, 0.1)
    assert isinstance(linear, LinearHead)
    assert linear.output.weight.shape == (1, 18)
    assert (linear.pooling, linear.dropout) == ("cls", 0.1)
    assert answer(linear.double(), make_states(2, 1, 3, 3)).shape == (2, 1)
    assert answer(kind().build_head(6, 0.1).double(), make_states(2, 1, 3)).shape == (3, 1)


@pytest.mark.parametrize(
    ("settings", "outputs", "values"),
    [
        (PAIR, (-3.0, 0.5, 9.0), [-3, 0.5, 9]),
        ({**PAIR, "range": (0, 5)}, (-3.0, 0.5, 9.0), [-3, 0.5, 9]),
        (COSINE, (-1.0, 0.0, 0.5, 1.0), [-5, 0, 2.5, 5]),
        ({**COSINE, "range": (1, 5)}, (0.0, 0.5, 1.0), [1, 3, 5]),
        (SIGMOID, (-800.0, 0.0, math.log(3), 800.0), [1, 3, 4, 5]),
    ],
)
def test_outputs_as_values(settings: dict[str, Any], outputs: tuple[float, ...], values: list[float]) -> None:
    task = kind(**settings)
    found = task.values(column(*outputs))
    assert found.tolist() == pytest.approx(values)
    least, greatest = settings.get("range", (-math.inf, math.inf))
    for prediction, value in zip(task.predictions(column(*outputs)), values, strict=True):
        assert prediction.value == pytest.approx(min(max(value, least), greatest))
        assert (prediction.label, prediction.score, prediction.probabilities) == (None, None, None)


@pytest.mark.parametrize("settings", [PAIR, COSINE, SIGMOID])
def test_loss_and_distance_are_squared_errors_of_values(settings: dict[str, Any]) -> None:
    task = kind(**settings)
    generator = torch.Generator().manual_seed(0)
    left, right = torch.rand(2, 9, 1, generator=generator, dtype=torch.float64).unbind()
    gold = 1 + 4 * torch.rand(9, generator=generator)
    assert float(task.loss(left, gold)) == pytest.approx(float((task.values(left) - gold).square().mean()))
    torch.testing.assert_close(task.distance(left, right), F.mse_loss(task.values(left), task.values(right)))
    assert float(task.distance(left, left)) == 0
    assert torch.autograd.gradcheck(lambda x: task.loss(x, gold.double()), (left.requires_grad_(),))


def test_loss_by_hand() -> None:
    # Cosines 0.5 and 1 on the scale 0 to 5 are 2.5 and 5; the errors are 0.5 and −1.
    assert float(kind(**COSINE).loss(column(0.5, 1.0), torch.tensor([2.0, 6.0]))) == pytest.approx(0.625)
    # The loss is not clipped: a cosine below 0 still learns.
    assert float(kind(**COSINE).loss(column(-1.0), torch.tensor([0.0]))) == pytest.approx(25)


def test_measures_against_scipy() -> None:
    task = kind(**COSINE)
    generator = torch.Generator().manual_seed(0)
    outputs = 2 * torch.rand(100, 1, generator=generator, dtype=torch.float64) - 0.7
    gold = (5 * torch.rand(100, generator=generator)).round()
    clipped = (5 * outputs[:, 0]).clamp(0, 5)
    assert len(set(clipped.tolist())) < 100  # ties, as clipping makes them
    found = task.measures(outputs, gold)
    assert next(iter(found)) == "pearson"
    assert found == pytest.approx(
        {
            "pearson": stats.pearsonr(gold, clipped).statistic,
            "spearman": stats.spearmanr(gold, clipped).statistic,
            "mse": float((clipped - gold).square().mean()),
            "loss": float((5 * outputs[:, 0] - gold).square().mean()),
        }
    )


def test_constant_predictions_have_no_correlation() -> None:
    found = kind().measures(column(1.0, 1.0, 1.0), torch.tensor([1.0, 2, 3]))
    assert math.isnan(found["pearson"])
    assert math.isnan(found["spearman"])
    assert found["mse"] == pytest.approx(5 / 3)


@pytest.mark.parametrize(("r", "goodness"), [(-1.0, 0.0), (0.0, 0.5), (1.0, 1.0), (math.nan, 0.0)])
def test_goodness_of_a_correlation(r: float, goodness: float) -> None:
    assert kind().goodness(r) == goodness
