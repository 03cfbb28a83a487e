"""The temperature that kinds find on dev: probabilities change, what is said and what is measured does not."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from manyheads.encoder.grouped import Grouped
from manyheads.formulas import calibration
from manyheads.tasks import KINDS
from manyheads.tasks.kind import Example, Kind

SETTINGS: dict[str, dict[str, Any]] = {
    "three": {"kind": "classification", "text": "t", "labels": ["a", "b", "c"]},
    "binary": {
        "kind": "classification",
        "text": "t",
        "labels": ["no", "yes"],
        "loss": "binary_cross_entropy",
    },
    "weighted": {
        "kind": "classification",
        "text": "t",
        "labels": ["a", "b", "c"],
        "class_weights": {"a": 5.0},
    },
    "choice": {"kind": "choice", "text": "t", "choices": ["x", "y", "z"], "label": "label"},
    "ranking": {"kind": "ranking", "query": "q", "candidate": "c", "relevance": "r"},
    "tagging": {"kind": "tagging", "words": "words", "tags": "tags"},
}
FACTS: dict[str, dict[str, Any]] = {
    "tagging": {"labels": ["O", "B-PER", "I-PER"], "scheme": "iob2"},
    "weighted": {"labels": ["a", "b", "c"], "class_weights": [5.0, 1.0, 1.0]},
}


def kind_of(name: str, facts: dict[str, Any] | None = None) -> Kind:
    kind = KINDS[SETTINGS[name]["kind"]]
    settings: BaseModel = kind.Settings.model_validate(SETTINGS[name])
    return kind(settings, facts or FACTS.get(name))


def asked(name: str, count: int = 120) -> tuple[Any, torch.Tensor, list[Example] | None]:
    """Outputs that are three times too sure, their targets, and the examples where the kind looks at them."""
    generator = np.random.default_rng(4)
    labels = 2 if name == "binary" else 3
    true = generator.normal(size=(count, labels))
    drawn = (true - np.log(-np.log(generator.random(true.shape)))).argmax(1)
    logits, targets = torch.from_numpy(true * 3).float(), torch.from_numpy(drawn).double()
    if name == "binary":
        return logits[:, 1:] - logits[:, :1], targets, None
    if name == "choice":
        return Grouped(logits.reshape(-1, 1), np.full(count, 3)), targets, None
    if name == "ranking":
        relevant = torch.nn.functional.one_hot(targets.long(), 3).double().reshape(-1)
        return Grouped(logits.reshape(-1, 1), np.full(count, 3)), relevant, None
    if name == "tagging":
        sentences = count // 4
        offsets = np.array([[0, 1], [2, 3], [4, 5], [6, 7]], dtype=np.int32)
        one = Example("a b c d", None, np.array([4]), offsets)
        return Grouped(logits, np.full(sentences, 4)), targets, [one] * sentences
    return logits, targets, None


@pytest.mark.parametrize("name", list(SETTINGS))
def test_probabilities_are_calibrated_and_answers_stay(name: str) -> None:
    kind = kind_of(name)
    outputs, targets, examples = asked(name)
    before = kind.predictions(outputs, examples)
    measures = kind.measures(outputs, targets, examples)
    assert kind.temperature == 1.0
    assert kind.calibrated(outputs) is outputs

    kind.calibrate(outputs, targets)
    assert kind.temperature == kind.fitted_temperature(outputs, targets)
    assert 2 < kind.temperature < 4.5  # three, as far as so few examples tell
    after = kind.predictions(kind.calibrated(outputs), examples)
    assert [one.label for one in after] == [one.label for one in before]
    assert [one.ranking for one in after] == [one.ranking for one in before]
    assert [[word.label for word in one.tokens] for one in after] == [
        [word.label for word in one.tokens] for one in before
    ]
    if name != "tagging":
        assert sum(one.score or 0 for one in after) < sum(one.score or 0 for one in before)
    assert kind.measures(outputs, targets, examples) == measures
    assert torch.equal(
        kind.answers(outputs), kind_of(name).answers(outputs)
    )  # what students and ensembles see


@pytest.mark.parametrize("name", list(SETTINGS))
def test_the_temperature_is_one_of_the_facts(name: str) -> None:
    kind = kind_of(name)
    assert "temperature" not in kind.facts()
    outputs, targets, _ = asked(name)
    kind.calibrate(outputs, targets)
    facts = json.loads(json.dumps(kind.facts()))
    assert facts["temperature"] == kind.temperature
    assert kind_of(name, facts).temperature == kind.temperature
    for wrong in (0, -1.0, "x", float("nan"), None):
        with pytest.raises((ValueError, TypeError)):
            kind_of(name, {**facts, "temperature": wrong})


def test_class_weights_have_no_part_in_it() -> None:
    outputs, targets, _ = asked("three")
    assert kind_of("weighted").fitted_temperature(outputs, targets) == calibration.temperature(
        outputs, targets
    )


def test_a_split_without_an_error_teaches_nothing() -> None:
    kind = kind_of("three")
    outputs = torch.eye(3) * 2
    kind.calibrate(outputs, torch.tensor([0.0, 1.0, 2.0]))
    assert kind.temperature == 1.0
    kind.calibrate(
        outputs, torch.tensor([1.0, 2.0, 0.0])
    )  # and one that is always wrong: nothing may be believed
    assert kind.temperature == calibration.HOTTEST


def test_a_query_without_a_relevant_candidate_does_not_count() -> None:
    kind = kind_of("ranking")
    outputs, targets, _ = asked("ranking")
    found = kind.fitted_temperature(outputs, targets)
    more = Grouped.joined([outputs, Grouped(torch.tensor([[9.0], [-9.0]]), np.array([2]))])
    told = torch.cat([targets, torch.zeros(2, dtype=torch.float64)])
    assert kind.fitted_temperature(more, told) == pytest.approx(found, rel=1e-9)


def test_values_and_spans_have_no_temperature() -> None:
    regression = KINDS["regression"]
    kind = regression(regression.Settings.model_validate({"kind": "regression", "text": "t"}))
    outputs = torch.randn(6, 1)
    kind.calibrate(outputs, torch.randn(6).double())
    assert kind.temperature == 1.0
    assert kind.facts() == {}
    span = KINDS["span"]
    asked_of = span(span.Settings.model_validate({"kind": "span"}))
    assert asked_of.fitted_temperature(Grouped(torch.randn(3, 2), np.array([3])), torch.zeros(2)) is None
