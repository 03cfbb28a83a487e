"""Adam against its equations and against torch, rates by layer, schedules against transformers."""

import copy
import inspect
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from manyheads.formulas import optim

STEPS = 300
SHAPES = [(3, 4), (5,), (2, 3, 2), ()]

Subject = Callable[..., Optimizer]


def factor(step: int) -> float:
    """How the tests change the rate: it starts at 0, as in a warm-up."""
    return optim.warmup_linear(step, STEPS, 20)


def absent(step: int, index: int) -> bool:
    """Which parameters have no gradient at which steps; the last one's first comes at step 7."""
    return (index == 1 and step % 3 == 0) or (index == 3 and step < 7)


def gradient(weight: Tensor, step: int, index: int) -> Tensor:
    """Depends on the weight, so that an error grows as it does in training."""
    wave = torch.cos(torch.arange(weight.numel(), dtype=torch.float64) + step * (index + 1) * 0.37)
    return torch.sin(3 * weight.detach()) + wave.reshape(weight.shape).to(weight.dtype)


def start(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(5)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    return [nn.Parameter(tensor.to(dtype)) for tensor in drawn]


def groups_of(weights: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Two groups; the second has its own rate, betas, eps and decay."""
    return [
        {"params": weights[:2]},
        {"params": weights[2:], "lr": 3e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3},
    ]


def march(optimizer: Optimizer, weights: list[nn.Parameter], steps: range) -> None:
    rates = [0.01, 0.03]
    for step in steps:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(step)
        for index, weight in enumerate(weights):
            weight.grad = None if absent(step, index) else gradient(weight, step, index)
        optimizer.step()


def by_the_equations(decay: float, decoupled: bool) -> list[NDArray[np.float64]]:
    """SPEC row A2, one parameter after the other, in numpy."""
    ends = []
    for index, weight in enumerate(start()):
        theta = weight.detach().clone()
        m = v = np.zeros(SHAPES[index])
        rate, (b1, b2), eps, wd, t = 0.01, (0.9, 0.999), 1e-8, decay, 0
        if index >= 2:
            rate, (b1, b2), eps, wd = 0.03, (0.8, 0.95), 1e-6, 0.3
        for step in range(STEPS):
            if absent(step, index):
                continue
            t, alpha = t + 1, rate * factor(step)
            g, old = gradient(theta, step, index).numpy(), theta.numpy()
            if not decoupled:
                g = g + wd * old
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * g**2
            m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
            kept = old - alpha * wd * old if decoupled else old
            theta = torch.as_tensor(kept - alpha * m_hat / (np.sqrt(v_hat) + eps))
        ends.append(theta.numpy())
    return ends


def built(name: str) -> Subject:
    return lambda groups, **settings: optim.build(groups, name=name, **settings)


def torchs(cls: type[Optimizer], **choice: Any) -> Subject:
    return lambda groups, **settings: cls(groups, **settings, **choice)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("subject", "decoupled"),
    [
        pytest.param(optim.Adam, False, id="adam-ours"),
        pytest.param(torchs(torch.optim.Adam, foreach=False), False, id="adam-single"),
        pytest.param(torchs(torch.optim.Adam, foreach=True), False, id="adam-foreach"),
        pytest.param(torchs(torch.optim.Adam, fused=True), False, id="adam-fused"),
        pytest.param(built("adam"), False, id="adam-built"),
        pytest.param(optim.AdamW, True, id="adamw-ours"),
        pytest.param(torchs(torch.optim.AdamW, foreach=False), True, id="adamw-single"),
        pytest.param(torchs(torch.optim.AdamW, foreach=True), True, id="adamw-foreach"),
        pytest.param(torchs(torch.optim.AdamW, fused=True), True, id="adamw-fused"),
        pytest.param(built("adamw"), True, id="adamw-built"),
    ],
)
def test_every_implementation_follows_the_equations(subject: Subject, decoupled: bool, decay: float) -> None:
    weights = start()
    march(subject(groups_of(weights), lr=0.01, weight_decay=decay), weights, range(STEPS))
    for weight, expected in zip(weights, by_the_equations(decay, decoupled), strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "foreach"),  # torch's own two differ in bfloat16
    [
        (torch.float32, False),
        (torch.float32, True),
        (torch.float64, False),
        (torch.float64, True),
        (torch.bfloat16, True),
    ],
)
@pytest.mark.parametrize(
    ("ours", "theirs"), [(optim.Adam, torch.optim.Adam), (optim.AdamW, torch.optim.AdamW)]
)
def test_rounding_is_that_of_torch(ours: Subject, theirs: Subject, dtype: torch.dtype, foreach: bool) -> None:
    here, there = start(dtype), start(dtype)
    march(ours(groups_of(here), lr=0.01, weight_decay=0.1), here, range(50))
    march(theirs(groups_of(there), lr=0.01, weight_decay=0.1, foreach=foreach), there, range(50))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


@pytest.mark.parametrize(("ours", "theirs"), [("Adam", "Adam"), ("AdamW", "AdamW")])
def test_defaults_are_those_of_torch(ours: str, theirs: str) -> None:
    mine, reference = getattr(optim, ours)(start()), getattr(torch.optim, theirs)(start())
    assert {key: reference.defaults[key] for key in mine.defaults} == mine.defaults
    assert set(mine.defaults) == {"lr", "betas", "eps", "weight_decay"}


@pytest.mark.parametrize("cls", [optim.Adam, optim.AdamW])
def test_a_saved_state_goes_on_as_if_never_interrupted(cls: Subject) -> None:
    through = start()
    optimizer = cls(groups_of(through), lr=0.01, weight_decay=0.1)
    march(optimizer, through, range(40))
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(through)
    march(optimizer, through, range(40, 80))

    resumed = cls(groups_of(weights))
    resumed.load_state_dict(saved)
    march(resumed, weights, range(40, 80))
    assert all(torch.equal(a, b) for a, b in zip(through, weights, strict=True))
    assert not torch.equal(through[0], start()[0])


@pytest.mark.parametrize(
    ("first", "second"), [(optim.AdamW, torch.optim.AdamW), (torch.optim.AdamW, optim.AdamW)]
)
def test_state_travels_between_ours_and_torchs(first: Subject, second: Subject) -> None:
    weights = start()
    optimizer = first(groups_of(weights), lr=0.01, weight_decay=0.1)
    march(optimizer, weights, range(STEPS // 2))
    other = second(groups_of(weights), lr=0.01, weight_decay=0.1)
    other.load_state_dict(optimizer.state_dict())
    march(other, weights, range(STEPS // 2, STEPS))
    for weight, expected in zip(weights, by_the_equations(0.1, decoupled=True), strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=0, atol=1e-12)


def test_a_closure_computes_the_loss_and_its_gradients() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = optim.Adam([weight], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square().sum()
        torch.autograd.backward(loss)
        return loss.item()

    assert optimizer.step(closure) == 5.0
    # The first step of Adam is the rate itself, against the gradient's sign.
    torch.testing.assert_close(weight.detach(), torch.tensor([0.9, -1.9]))
    assert optimizer.step() is None


def test_one_group_may_mix_types_and_leave_parameters_without_gradients() -> None:
    weights = [nn.Parameter(torch.ones(3, dtype=kind)) for kind in (torch.float32, torch.float64)]
    idle = nn.Parameter(torch.ones(2))
    optimizer = optim.AdamW([*weights, idle], lr=0.1, weight_decay=0.5)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    for weight in weights:
        torch.testing.assert_close(weight.detach(), torch.full_like(weight, 0.85))
    assert torch.equal(idle, torch.ones(2))
    assert idle not in optimizer.state


@pytest.mark.parametrize("cls", [optim.Adam, optim.AdamW])
def test_sparse_gradients_are_refused_before_anything_moves(cls: Subject) -> None:
    dense, table = nn.Parameter(torch.ones(2)), nn.Embedding(4, 3, sparse=True)
    optimizer = cls([{"params": [dense]}, {"params": table.parameters()}])
    torch.autograd.backward(table(torch.tensor([1])).sum() + dense.sum())
    with pytest.raises(RuntimeError, match=r"expects dense gradients, found .* shape \(4, 3\)"):
        optimizer.step()
    assert torch.equal(dense, torch.ones(2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": -1.0}, "'lr' expects a number of at least 0, found -1.0"),
        ({"lr": math.nan}, "'lr' .* found nan"),
        ({"eps": -1e-8}, "'eps'"),
        ({"weight_decay": math.inf}, "'weight_decay'"),
        ({"betas": (1.0, 0.9)}, "'betas'"),
        ({"betas": (0.9, -0.1)}, "'betas'"),
        ({"betas": (0.9,)}, "'betas'"),
    ],
)
@pytest.mark.parametrize("cls", [optim.Adam, optim.AdamW, optim.build])
def test_impossible_numbers_are_refused(cls: Subject, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls([{"params": start()}], **wrong)
    with pytest.raises(ValueError, match=message):
        cls([{"params": start(), **wrong}])


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="real parameters"):
        optim.Adam([nn.Parameter(torch.ones(2, dtype=torch.complex64))])


# --- build ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "cls"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_adam_is_built_fused(
    name: str, cls: type[Optimizer], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "library", lambda: None)
    weights = start(dtype)
    optimizer = optim.build(iter([{"params": iter(weights)}]), name=name, lr=0.1, weight_decay=0.0)
    assert type(optimizer) is cls
    assert optimizer.param_groups[0]["fused"] is True
    before = weights[0].detach().clone()
    weights[0].grad = torch.ones_like(weights[0])
    optimizer.step()
    torch.testing.assert_close(weights[0].detach(), before - 0.1)


def test_what_cannot_be_fused_is_built_all_the_same() -> None:
    optimizer = optim.build([{"params": [nn.Parameter(torch.ones(2, device="meta"))]}])
    assert not optimizer.param_groups[0]["fused"]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamax_follows_its_equations(decay: float) -> None:
    weight = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    optimizer = optim.build([{"params": [weight]}], name="adamax", lr=0.01, weight_decay=decay)
    theta = weight.detach().numpy().copy()
    m = u = np.zeros(7)
    for t in range(1, 200):
        weight.grad = gradient(weight, t, 0)
        optimizer.step()
        g = gradient(torch.from_numpy(theta), t, 0).numpy() + decay * theta
        m = 0.9 * m + 0.1 * g
        u = np.maximum(0.999 * u, np.abs(g) + 1e-8)
        theta = theta - 0.01 / (1 - 0.9**t) * m / u
    np.testing.assert_allclose(weight.detach().numpy(), theta, rtol=0, atol=1e-12)


def test_an_unknown_optimiser_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no optimiser 'adamex', .*did you mean 'adamax'\?"):
        optim.build([{"params": start()}], name="adamex")


def test_settings_are_those_of_build_and_parameter_groups() -> None:
    settings = optim.OptimizerSettings()
    taken = {
        **inspect.signature(optim.build).parameters,
        **inspect.signature(optim.parameter_groups).parameters,
    }
    values = settings.model_dump(exclude={"clip"})
    assert set(values) <= set(taken)
    for name, value in values.items():
        if taken[name].default is not inspect.Parameter.empty:
            assert taken[name].default == value, name
    assert set(optim.OPTIMIZERS) == set(
        optim.OptimizerSettings.model_json_schema()["properties"]["name"]["enum"]
    )
    assert all(field.description for field in optim.OptimizerSettings.model_fields.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "sgd"},
        {"lr": 0},
        {"lr": math.inf},
        {"betas": (0.9, 1.0)},
        {"betas": (0.9,)},
        {"weight_decay": -0.1},
        {"layer_decay": 0},
        {"layer_decay": 1.1},
        {"clip": 0},
        {"head_lr": -1},
        {"momentum": 0.9},
    ],
)
def test_settings_refuse(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        optim.OptimizerSettings(**wrong)


# --- rates by layer ---


def test_layer_rates_fall_towards_the_embeddings() -> None:
    assert optim.layer_rates(1.0, 0.5, 3) == [0.0625, 0.125, 0.25, 0.5, 1.0]
    assert optim.layer_rates(2e-5, 1.0, 12) == [2e-5] * 14


@given(st.floats(1e-6, 1.0), st.floats(0.5, 1.0), st.integers(0, 24))
def test_each_floor_learns_at_the_same_fraction_of_the_next(lr: float, decay: float, layers: int) -> None:
    rates = optim.layer_rates(lr, decay, layers)
    assert len(rates) == layers + 2
    assert rates[-1] == lr
    assert all(low == pytest.approx(high * decay) for low, high in pairwise(rates))


@pytest.mark.parametrize(
    "wrong", [(-1.0, 0.9, 2), (math.nan, 0.9, 2), (1.0, 0.0, 2), (1.0, 1.1, 2), (1.0, 0.9, -1)]
)
def test_layer_rates_refuse(wrong: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="expects a number"):
        optim.layer_rates(*wrong)


def parameters(frozen: str = "nothing") -> Iterator[tuple[str, nn.Parameter]]:
    """A model of two layers, as its `named_parameters` give it; heads first, to try the order."""
    shapes = {
        "heads.sst.weight": (5, 4),
        "heads.sst.bias": (5,),
        "relation.weight": (4, 4),
        "encoder.embeddings.word.weight": (9, 4),
        "encoder.embeddings.norm.weight": (4,),
        "encoder.layers.1.attention.qkv.weight": (12, 4),
        "encoder.layers.1.attention.norm.weight": (4,),
        "encoder.layers.0.attention.qkv.weight": (12, 4),
        "encoder.layers.0.attention.qkv.bias": (12,),
        "encoder.pooler.dense.weight": (4, 4),
        "encoder.pooler.dense.bias": (4,),
    }
    for name, shape in shapes.items():
        yield name, nn.Parameter(torch.ones(shape), requires_grad=not name.startswith(frozen))


def table(groups: list[dict[str, Any]], named: dict[str, nn.Parameter]) -> list[tuple[Any, ...]]:
    names = {id(parameter): name for name, parameter in named.items()}
    assert all(group["lr"] == group["base_lr"] for group in groups)
    return [
        (g["name"], g["lr"], g["weight_decay"], [names[id(parameter)] for parameter in g["params"]])
        for g in groups
    ]


def test_groups_by_floor() -> None:
    named = dict(parameters())
    groups = optim.parameter_groups(
        named.items(), lr=1.0, weight_decay=0.1, layer_decay=0.5, layers=2, head_lr=3.0
    )
    assert table(groups, named) == [
        ("embeddings", 0.125, 0.1, ["encoder.embeddings.word.weight"]),
        ("embeddings, no decay", 0.125, 0.0, ["encoder.embeddings.norm.weight"]),
        ("layer 1", 0.25, 0.1, ["encoder.layers.0.attention.qkv.weight"]),
        ("layer 1, no decay", 0.25, 0.0, ["encoder.layers.0.attention.qkv.bias"]),
        ("layer 2", 0.5, 0.1, ["encoder.layers.1.attention.qkv.weight"]),
        ("layer 2, no decay", 0.5, 0.0, ["encoder.layers.1.attention.norm.weight"]),
        ("relation", 1.0, 0.1, ["relation.weight"]),
        ("heads", 3.0, 0.1, ["heads.sst.weight", "encoder.pooler.dense.weight"]),
        ("heads, no decay", 3.0, 0.0, ["heads.sst.bias", "encoder.pooler.dense.bias"]),
    ]


def test_floors_of_one_rate_share_their_groups() -> None:
    named = dict(parameters())
    plain = optim.parameter_groups(named.items(), lr=1.0, weight_decay=0.1, layers=2)
    assert [(g["name"], len(g["params"])) for g in plain] == [
        ("embeddings..heads", 6),
        ("embeddings..heads, no decay", 5),
    ]
    undecayed = optim.parameter_groups(named.items(), lr=1.0, weight_decay=0.0, layers=2, head_lr=2.0)
    assert [(g["name"], g["weight_decay"], len(g["params"])) for g in undecayed] == [
        ("embeddings..relation", 0.0, 7),
        ("heads", 0.0, 4),
    ]


def test_frozen_parameters_are_left_out() -> None:
    groups = optim.parameter_groups(
        parameters("encoder."), lr=1.0, weight_decay=0.1, layer_decay=0.9, layers=2
    )
    assert [(g["name"], len(g["params"])) for g in groups] == [
        ("relation..heads", 2),
        ("relation..heads, no decay", 1),
    ]
    with pytest.raises(ValueError, match="nothing to learn"):
        optim.parameter_groups(parameters(""), lr=1.0, weight_decay=0.1, layers=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder.extra.weight", "neither the embeddings"),
        ("encoder.layers.2.up.weight", "beyond .* 2 layers"),
    ],
)
def test_an_unknown_part_of_the_encoder_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optim.parameter_groups([(name, nn.Parameter(torch.ones(1)))], lr=1.0, weight_decay=0.1, layers=2)


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_groups_survive_the_optimiser_and_its_state(name: str) -> None:
    groups = optim.parameter_groups(parameters(), lr=1.0, weight_decay=0.1, layer_decay=0.5, layers=2)
    optimizer = optim.build(groups, name=name)
    other = optim.build(groups, name=name)
    other.load_state_dict(optimizer.state_dict())
    kept = ("name", "lr", "base_lr", "weight_decay")
    assert [[g[k] for k in kept] for g in other.param_groups] == [[g[k] for k in kept] for g in groups]


# --- rates over time ---

REFERENCES: dict[str, Callable[[Optimizer, int, int], Any]] = {
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
    "constant": lambda optimizer, warmup, total: get_constant_schedule_with_warmup(optimizer, warmup),
}


def test_every_decay_has_a_reference() -> None:
    assert set(optim.DECAYS) == set(REFERENCES)


@pytest.mark.parametrize("name", sorted(REFERENCES))
@given(total=st.integers(0, 200), warmup=st.integers(0, 250), data=st.data())
def test_schedules_equal_those_of_transformers(
    name: str, total: int, warmup: int, data: st.DataObject
) -> None:
    schedule = REFERENCES[name](torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0), warmup, total)
    step = data.draw(st.integers(0, total))
    assert optim.DECAYS[name](step, total, warmup) == schedule.lr_lambdas[0](step)


def test_linear_by_hand() -> None:
    factors = [optim.warmup_linear(step, 10, 4) for step in range(12)]
    assert factors == pytest.approx([0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0])


def test_past_the_end_the_rate_does_not_come_back() -> None:
    past = {name: decay(25, 10, 2) for name, decay in optim.DECAYS.items()}
    assert past == {"constant": 1.0, "cosine": 0.0, "linear": 0.0}


@pytest.mark.parametrize("name", sorted(REFERENCES))
@given(total=st.integers(1, 500), share=st.floats(0, 1, exclude_max=True), data=st.data())
def test_a_share_is_that_many_steps_rounded_up(
    name: str, total: int, share: float, data: st.DataObject
) -> None:
    step, decay = data.draw(st.integers(0, total)), optim.DECAYS[name]
    assert decay(step, total, share) == decay(step, total, math.ceil(total * share))


@pytest.mark.parametrize("name", sorted(REFERENCES))
@pytest.mark.parametrize("wrong", [(-1, 10, 2), (0, -1, 2), (0, 10, -0.1), (0, 10, 1.5), (0, 10, math.nan)])
def test_schedules_refuse(name: str, wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="found"):
        optim.DECAYS[name](*wrong)
