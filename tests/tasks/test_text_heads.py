"""The heads over texts as a recipe names them: what goes together, what is refused, what is built."""

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.ragged import Ragged
from manyheads.tasks.classification import Classification, ClassificationSettings
from manyheads.tasks.head import Head
from manyheads.tasks.heads.answer_network import AnswerNetworkHead
from manyheads.tasks.heads.bilstm import BiLSTMHead
from manyheads.tasks.heads.linear import LinearHead
from manyheads.tasks.regression import Regression, RegressionSettings
from manyheads.tasks.text_heads import TextHeadSettings

TEXT: dict[str, Any] = {"text": "sentence"}
PAIR: dict[str, Any] = {"pair": ("a", "b")}
APART: dict[str, Any] = {**PAIR, "encode": "siamese"}


def classes(**settings: Any) -> Classification:
    return Classification(ClassificationSettings(labels=("bad", "fair", "good"), **settings))


def value(**settings: Any) -> Regression:
    return Regression(RegressionSettings(**settings))


@pytest.mark.parametrize("kind", [ClassificationSettings, RegressionSettings])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({**TEXT, "head": "answer_network"}, "'head: answer_network' needs a pair with 'encode: cross'"),
        ({**APART, "head": "answer_network"}, "'head: answer_network' needs a pair with 'encode: cross'"),
        ({**APART, "head": "bilstm"}, "'head: bilstm' reads one sequence, and 'encode: siamese' makes two"),
        ({**TEXT, "width": 8}, "'width' has no meaning for 'head: linear'"),
        ({**PAIR, "head": "answer_network", "width": 8}, "'width' has no meaning for 'head: answer_network'"),
        ({**TEXT, "head": "bilstm", "answer_steps": 3}, "'answer_steps' has no meaning for 'head: bilstm'"),
        ({**TEXT, "prediction_dropout": 0.1}, "'prediction_dropout' has no meaning for 'head: linear'"),
        ({**TEXT, "head": "bilstm", "pooling": "mean"}, "'pooling' has no meaning for 'head: bilstm'"),
        ({**TEXT, "head": "bilstm", "width": 0}, "'width' expects 1 or more, found 0"),
        ({**PAIR, "head": "answer_network", "answer_steps": 0}, "'answer_steps' expects 1 or more, found 0"),
        (
            {**PAIR, "head": "answer_network", "prediction_dropout": 1.0},
            "'prediction_dropout' expects a share from 0 up to 1, found 1.0",
        ),
        (
            {**TEXT, "layers": "sum_all", "pooling": "pooled"},
            "'pooling: pooled' reads the last layer, found 'layers: sum_all'",
        ),
        (
            {**TEXT, "layers": "embeddings", "pooling": "cls"},
            "'layers: embeddings' needs 'pooling: mean': there [CLS] is the same in every text",
        ),
        ({**TEXT, "layers": "third"}, "Input should be 'last', 'embeddings', 'second_to_last'"),
        ({**TEXT, "head": "lstm"}, "Input should be 'linear',"),
    ],
)
def test_what_does_not_go_together(
    kind: type[TextHeadSettings], settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValidationError) as error:
        kind(**settings)
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"layers": "sum_all"}, "'layers' has no meaning for 'head: cosine'"),
        ({"output": "sigmoid"}, "'output' has no meaning for 'head: cosine'"),
        ({"dropout": 0.1}, "'features' and 'dropout' have no meaning for 'head: cosine'"),
    ],
)
def test_what_a_cosine_does_not_have(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError) as error:
        value(**APART, head="cosine", range=(0, 5), **settings)
    assert expected in str(error.value)


def test_an_answer_network_gives_probabilities_of_every_label() -> None:
    with pytest.raises(ValidationError, match="'head: answer_network' needs 'loss: cross_entropy'"):
        ClassificationSettings(
            **PAIR, labels=("no", "yes"), loss="binary_cross_entropy", head="answer_network"
        )


@pytest.mark.parametrize(
    ("settings", "pooling", "layers"),
    [
        ({}, "pooled", "last"),
        ({"layers": "last"}, "pooled", "last"),
        ({"layers": "sum_all"}, "mean", "sum_all"),
        ({"layers": "second_to_last", "pooling": "cls"}, "cls", "second_to_last"),
    ],
)
def test_a_linear_head(settings: dict[str, Any], pooling: str, layers: str) -> None:
    for head in (
        classes(**TEXT, **settings).build_head(6, 0.3),
        value(**TEXT, **settings).build_head(6, 0.3),
    ):
        assert isinstance(head, LinearHead)
        assert (head.pooling, head.layers, head.dropout) == (pooling, layers, 0.3)


def test_a_linear_head_over_wide_vectors_of_a_pair() -> None:
    head = classes(**APART, layers="concat_last_four").build_head(6, 0.0)
    assert isinstance(head, LinearHead)
    assert head.output.weight.shape == (3, 3 * 4 * 6)


def test_what_the_settings_say_is_built() -> None:
    lstm = classes(**TEXT, head="bilstm", dropout=0.2, layers="embeddings").build_head(6, 0.5)
    assert isinstance(lstm, BiLSTMHead)
    assert (lstm.pool, lstm.dropout, lstm.layers) == (True, 0.2, "embeddings")
    assert lstm.output.weight.shape == (3, 2 * 768)
    narrow = value(**PAIR, head="bilstm", width=7).build_head(6, 0.5)
    assert isinstance(narrow, BiLSTMHead)
    assert narrow.output.weight.shape == (1, 14)
    plain = classes(**PAIR, head="answer_network").build_head(6, 0.5)
    assert isinstance(plain, AnswerNetworkHead)
    assert (plain.numbers, plain.steps, plain.prediction_dropout, plain.dropout) == (False, 5, 0.1, 0.5)
    own = {"answer_steps": 3, "prediction_dropout": 0.0, "layers": "sum_last_four"}
    number = value(**PAIR, head="answer_network", **own).build_head(6, 0.5)
    assert isinstance(number, AnswerNetworkHead)
    assert (number.numbers, number.steps, number.prediction_dropout) == (True, 3, 0.0)
    assert (number.layers, number.output.weight.shape) == ("sum_last_four", (1, 24))


def outputs_of(head: Head, ragged: Ragged, encoder: Encoder) -> Tensor:
    outputs = head(head.read(encoder.encode(ragged, all_layers=head.all_layers)))
    assert isinstance(outputs, Tensor)
    return outputs


@pytest.mark.parametrize("name", ["linear", "bilstm", "answer_network"])
@pytest.mark.parametrize("layers", ["last", "concat_last_four"])
def test_over_an_encoder(name: str, layers: str) -> None:
    shape = Shape(layers=4, hidden=8, heads=2, intermediate=16, vocabulary=20, positions=9)
    torch.manual_seed(0)
    encoder = Encoder(shape).eval()
    ids, segments = [[1, 2, 3, 4, 5], [6, 7, 8]], [[0, 0, 1, 1, 1], [0, 1, 1]]
    settings: dict[str, Any] = {"head": name, "layers": layers} | ({"width": 4} if name == "bilstm" else {})
    whole, alone = Ragged.of(ids, segments), Ragged.of(ids[1:], segments[1:])

    kind = classes(**PAIR, **settings)
    head = kind.build_head(8, 0.1).eval()
    outputs = outputs_of(head, whole, encoder)
    assert outputs.shape == (2, 3)
    torch.testing.assert_close(outputs_of(head, alone, encoder), outputs[1:], rtol=1e-5, atol=1e-6)
    loss = kind.loss(outputs, torch.tensor([2.0, 0.0]))
    right = kind.answers(outputs)[[0, 1], [2, 0]]
    torch.testing.assert_close(loss, -right.log().mean())
    predictions = kind.predictions(outputs.detach())
    assert [sum((one.probabilities or {}).values()) for one in predictions] == pytest.approx([1.0, 1.0])

    number = value(**PAIR, range=(0, 5), output="sigmoid", **settings)
    head = number.build_head(8, 0.1).eval()
    values = number.values(outputs_of(head, whole, encoder))
    assert values.shape == (2,)
    assert bool(((values > 0) & (values < 5)).all())


def test_settings_come_back_from_a_run() -> None:
    for settings in (
        ClassificationSettings(**PAIR, head="answer_network", answer_steps=3),
        ClassificationSettings(**TEXT, head="bilstm", width=12, layers="sum_all"),
        RegressionSettings(**TEXT),
    ):
        assert type(settings)(**settings.model_dump(mode="json")) == settings


def test_how_a_text_is_laid_out_is_no_matter_of_the_head() -> None:
    one = classes(**PAIR, head="answer_network", answer_steps=3)
    other = classes(**PAIR, head="bilstm", width=12, layers="sum_all")
    assert one.laid_by == other.laid_by == classes(**PAIR).laid_by
    assert np.array_equal(one.columns, other.columns)
