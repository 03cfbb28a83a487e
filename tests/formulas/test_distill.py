"""Teacher annealing against numpy, by hand at its ends, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from manyheads.formulas import distill

ANNEALS = ["linear", "none", "gold", "constant:0.25"]


@pytest.mark.parametrize(
    ("anneal", "shares"),
    [
        ("linear", [0.0, 0.25, 0.5, 1.0]),
        ("none", [0.0, 0.0, 0.0, 0.0]),
        ("gold", [1.0, 1.0, 1.0, 1.0]),
        ("constant:0.25", [0.25, 0.25, 0.25, 0.25]),
        ("constant:0", [0.0, 0.0, 0.0, 0.0]),
        ("constant:1", [1.0, 1.0, 1.0, 1.0]),
        ("constant:1e-1", [0.1, 0.1, 0.1, 0.1]),
    ],
)
def test_the_share_of_the_truth_over_training(anneal: str, shares: list[float]) -> None:
    assert [distill.gold_share(progress, anneal) for progress in (0.0, 0.25, 0.5, 1.0)] == shares
    assert distill.check_anneal(anneal) == anneal


def test_the_truth_comes_in_a_straight_line_unless_something_else_is_said() -> None:
    assert distill.gold_share(0.3) == 0.3
    share = distill.gold_share(1)
    assert share == 1.0
    assert type(share) is float


@pytest.mark.parametrize("progress", [-1e-9, 1.0000001, 2, -1, math.nan, math.inf])
@pytest.mark.parametrize("anneal", ANNEALS)
def test_progress_goes_from_0_to_1(progress: float, anneal: str) -> None:
    with pytest.raises(ValueError, match="'progress' expects a number from 0 to 1, found"):
        distill.gold_share(progress, anneal)


@pytest.mark.parametrize(
    ("anneal", "message"),
    [
        (
            "liner",
            r"no annealing 'liner', expected one of linear, none, gold, constant:0\.5; did you mean 'linear'",
        ),
        ("Gold", "did you mean 'gold'"),
        ("constant", r"did you mean 'constant:0\.5'"),
        ("zzz", r"expected one of linear, none, gold, constant:0\.5$"),
        ("", "no annealing ''"),
        ("constant:1.5", "'constant:' expects a share from 0 to 1 after it, found '1.5'"),
        ("constant:-0.1", "found '-0.1'"),
        ("constant:nan", "found 'nan'"),
        ("constant:", "found ''"),
        ("constant:half", "found 'half'"),
    ],
)
def test_an_annealing_that_does_not_exist_is_refused(anneal: str, message: str) -> None:
    for refuse in (distill.check_anneal, lambda text: distill.gold_share(0.5, text)):
        with pytest.raises(ValueError, match=message):
            refuse(anneal)
    with pytest.raises(ValidationError, match=message.rstrip("$")):
        TypeAdapter(distill.Anneal).validate_python(anneal)


def test_a_setting_can_be_of_its_type() -> None:
    assert TypeAdapter(distill.Anneal).validate_python("constant:0.5") == "constant:0.5"


def test_a_class_and_a_value_by_hand() -> None:
    gold, teacher = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.5, 0.3, 0.2]])
    torch.testing.assert_close(
        distill.mixed_target(gold, teacher, 0.75), torch.tensor([[0.125, 0.825, 0.05]])
    )
    assert distill.mixed_target(4.0, 2.0, 0.25).item() == 2.5


@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (2, 3, 4)])
@pytest.mark.parametrize("anneal", ANNEALS)
def test_the_mixture_is_numpys(shape: tuple[int, ...], anneal: str) -> None:
    rng = np.random.default_rng(1)
    gold, teacher = rng.normal(size=shape), rng.normal(size=shape)
    share = distill.gold_share(0.4, anneal)
    expected = share * gold + (1 - share) * teacher
    from_tensors = distill.mixed_target(torch.tensor(gold), torch.tensor(teacher), 0.4, anneal)
    assert from_tensors.dtype == torch.float64
    np.testing.assert_allclose(from_tensors.numpy(), expected, rtol=1e-15)
    from_arrays = distill.mixed_target(np.asarray(gold), np.asarray(teacher), 0.4, anneal)
    assert torch.equal(from_arrays, from_tensors)
    from_lists = distill.mixed_target(gold.tolist(), teacher.tolist(), 0.4, anneal)
    np.testing.assert_allclose(from_lists.numpy(), expected, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_a_mixture_of_distributions_is_one(seed: int, progress: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(5, 4, generator=generator, dtype=torch.float64).softmax(-1)
    gold = torch.nn.functional.one_hot(torch.randint(4, (5,), generator=generator), 4)
    target = distill.mixed_target(gold, teacher, progress)
    assert (target >= 0).all()
    torch.testing.assert_close(target.sum(-1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(distill.mixed_target(gold, teacher, 0.0), teacher)
    assert torch.equal(distill.mixed_target(gold, teacher, 1.0), gold.double())


def test_whole_numbers_become_fractions() -> None:
    target = distill.mixed_target(torch.tensor([1, 0]), torch.tensor([0.5, 0.5]), 0.5)
    assert target.dtype == torch.float32
    assert target.tolist() == [0.75, 0.25]
    assert distill.mixed_target([1, 0], [0, 1], 0.5).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("gold", "teacher"), [((4,), (4, 3)), ((4,), (4, 1)), ((1, 3), (4, 3)), ((), (1,))])
def test_classes_by_number_are_no_one_hot_rows(gold: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="gold and teacher of one shape"):
        distill.mixed_target(torch.zeros(gold), torch.zeros(teacher), 0.5)
