"""Class weights: torch's weighted cross entropy and scikit-learn's balanced weights, in the loss and nowhere else."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F

from manyheads.recipe import Recipe
from manyheads.tasks.classification import Classification, ClassificationSettings

WEIGHTS = {"bad": 0.5, "fair": 3.0, "good": 1.25}
LABELS = tuple(WEIGHTS)


def learnt(values: list[Any], **settings: Any) -> Classification:
    kind = Classification(ClassificationSettings(text="sentence", **settings))
    kind.learn(values)
    return kind


def logits(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)).requires_grad_()


def numbers(rows: int, labels: int) -> Tensor:
    return torch.randint(0, labels, (rows,), generator=torch.Generator().manual_seed(1))


def test_the_loss_of_labels_is_torchs_weighted_one() -> None:
    kind = learnt(list(LABELS), class_weights=WEIGHTS)
    outputs, gold = logits(40, 3), numbers(40, 3)
    expected = F.cross_entropy(outputs, gold, weight=torch.tensor([*WEIGHTS.values()], dtype=torch.float64))
    found = kind.loss(outputs, gold.double())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(found, outputs)[0], torch.autograd.grad(expected, outputs)[0]
    )
    assert found.item() != pytest.approx(F.cross_entropy(outputs, gold).item())


def test_soft_targets_are_weighed_by_what_they_say() -> None:
    kind = learnt(list(LABELS), class_weights=WEIGHTS)
    outputs, gold = logits(40, 3), numbers(40, 3)
    hard, soft = kind.loss(outputs, gold.double()), kind.loss(outputs, kind.soft(gold.double()))
    torch.testing.assert_close(soft, hard, rtol=1e-12, atol=0)
    # torch's own divides by the number of rows: apart from that it is the same sum.
    weights = torch.tensor([*WEIGHTS.values()], dtype=torch.float64)
    shares = logits(40, 3).detach().flip(0).softmax(1)
    summed = F.cross_entropy(outputs, shares, weight=weights, reduction="sum")
    torch.testing.assert_close(kind.loss(outputs, shares), summed / (shares * weights).sum())


def test_one_output_through_a_sigmoid_is_weighed_like_two() -> None:
    named = {"no": 0.25, "yes": 2.0}
    binary = learnt(["no", "yes"], loss="binary_cross_entropy", class_weights=named)
    outputs, gold = logits(40, 1), numbers(40, 2)
    weight = torch.tensor([0.25, 2.0], dtype=torch.float64)[gold]
    each = F.binary_cross_entropy_with_logits(outputs[:, 0], gold.double(), reduction="none")
    torch.testing.assert_close(binary.loss(outputs, gold.double()), (weight * each).sum() / weight.sum())
    two = torch.cat([torch.zeros_like(outputs), outputs], dim=1)
    both = learnt(["no", "yes"], class_weights=named)
    shares = logits(40, 2).detach().softmax(1)
    torch.testing.assert_close(binary.loss(outputs, shares), both.loss(two, shares))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=2, max_size=60).filter(lambda rows: len(set(rows)) > 1))
def test_balanced_is_scikit_learns(rows: list[str]) -> None:
    kind = learnt(rows, class_weights="balanced")
    expected = compute_class_weight("balanced", classes=np.array(kind.labels), y=np.array(rows))
    assert kind.class_weights == pytest.approx(expected)
    assert kind.class_weights is not None
    each = [kind.class_weights[kind.labels.index(row)] for row in rows]
    assert sum(each) == pytest.approx(len(rows))
    assert kind.facts() == {"labels": list(kind.labels), "class_weights": list(kind.class_weights)}
    assert Classification(kind.settings, kind.facts()).class_weights == kind.class_weights


def test_a_label_without_rows_counts_like_the_mean_row() -> None:
    kind = learnt(["a", "a", "a", "b", math.nan], labels=("a", "b", "c"), class_weights="balanced")
    assert kind.class_weights == pytest.approx((4 / 6, 4 / 2, 1.0))


def test_labels_are_found_as_they_are_written_elsewhere() -> None:
    assert learnt(["0", 1, "1.0", "1"], class_weights="balanced").class_weights == pytest.approx((2, 2 / 3))
    assert learnt(["0", "1"], class_weights={1: 3}).class_weights == (1.0, 3.0)
    assert learnt([True, False], class_weights={True: 3}).class_weights == (1.0, 3.0)


def test_without_weights_nothing_is_different() -> None:
    kind = learnt(list(LABELS))
    outputs, gold = logits(40, 3), numbers(40, 3)
    assert kind.class_weights is None
    assert kind.facts() == {"labels": list(LABELS)}
    assert torch.equal(kind.loss(outputs, gold.double()), F.cross_entropy(outputs, gold))


def test_measures_but_the_loss_and_the_distance_know_nothing_of_weights() -> None:
    plain, weighted = learnt(list(LABELS)), learnt(list(LABELS), class_weights=WEIGHTS)
    outputs, gold = logits(40, 3).detach(), numbers(40, 3).double()
    one, other = plain.measures(outputs, gold), weighted.measures(outputs, gold)
    assert one.pop("loss") != pytest.approx(other.pop("loss"))
    assert one == other
    assert torch.equal(plain.distance(outputs, outputs + 1), weighted.distance(outputs, outputs + 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_weights": {"a": 0}}, "expects weights above 0, found 0"),
        ({"class_weights": {"a": math.inf}}, "expects weights above 0"),
        ({"class_weights": {}}, "found nothing"),
        (
            {"class_weights": {"bda": 2}, "labels": ["bad", "good"]},
            "'bda', expected some of bad, good.*'bad'",
        ),
        ({"class_weights": "balance"}, "balanced"),
    ],
)
def test_what_is_no_weight_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClassificationSettings(text="sentence", **settings)


def test_a_weight_for_no_label_of_the_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="names 'goood', expected some of bad, good"):
        learnt(["bad", "good"], class_weights={"goood": 2})


def test_a_recipe_may_say_them() -> None:
    section = {"kind": "classification", "files": {"train": "x.tsv"}, "text": "t", "class_weights": {"a": 2}}
    recipe = Recipe.parse({"name": "x", "tasks": {"mood": section}})
    assert getattr(recipe.tasks["mood"], "class_weights") == {"a": 2.0}  # noqa: B009 (the section's class is made)
    changed = recipe.with_overrides(["tasks.mood.class_weights=balanced"])
    assert changed.tasks["mood"].model_dump()["class_weights"] == "balanced"
