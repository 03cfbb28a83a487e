"""Adam and AdamW, the rate of every layer, and how rates rise and fall over a training run.

Knows parameters by name, gradients and step numbers. Must not know tasks, the training loop or recipes;
`OptimizerSettings` stands here because it says what `build` and `parameter_groups` understand.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal, overload

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim import Optimizer

from manyheads.errors import nearest
from manyheads.native import adamw as kernels
from manyheads.native.library import Library, library

__all__ = [
    "DECAYS",
    "OPTIMIZERS",
    "Adam",
    "AdamW",
    "NativeAdamW",
    "OptimizerSettings",
    "build",
    "clip_",
    "layer_rates",
    "parameter_groups",
    "warmup_constant",
    "warmup_cosine",
    "warmup_linear",
]


class OptimizerSettings(BaseModel):
    """Which optimiser moves the weights, and how far it moves each of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    name: Literal["adamw", "adam", "adamax"] = "adamw"
    """The rule; `adamw` takes the decay from the weights themselves, the others add it to the gradient."""
    lr: float = Field(default=2e-5, gt=0)
    """The highest learning rate, reached at the end of the warm-up."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """How much the averages of the gradient and of its square keep at each step."""
    eps: float = Field(default=1e-8, gt=0)
    """Keeps the division finite where gradients vanish."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Pull towards zero; biases and LayerNorm weights are spared."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer learns at this fraction of the rate of the layer above it."""
    clip: float | None = Field(default=1.0, gt=0)
    """Longest gradient (2-norm over all weights) before it is shortened; null: never."""
    head_lr: float | None = Field(default=None, gt=0)
    """The rate of the heads and the pooler; default: `lr`."""


# --- Adam ------------------------------------------------------------------------------------------------


def _adam(
    weights: list[Tensor],
    gradients: list[Tensor] | tuple[Tensor, ...],
    means: list[Tensor],
    squares: list[Tensor],
    steps: Sequence[float],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> None:
    """One step of Adam (Kingma and Ba, 2015, algorithm 1) or AdamW (Loshchilov and Hutter, 2019), in place.

    Five lists of one item a weight; `steps` counts each weight's own steps from 1, this one included.
    The operations and their order are those of torch's `foreach` optimisers, so the rounding is theirs too.
    """
    beta1, beta2 = betas
    if weight_decay and decoupled:
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
    elif weight_decay:
        gradients = torch._foreach_add(gradients, weights, alpha=weight_decay)
    torch._foreach_lerp_(means, gradients, 1 - beta1)  # m ← β₁m + (1-β₁)g
    torch._foreach_mul_(squares, beta2)
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)  # v ← β₂v + (1-β₂)g²
    denominators = torch._foreach_sqrt(squares)
    torch._foreach_div_(denominators, [math.sqrt(1 - beta2**t) for t in steps])
    torch._foreach_add_(denominators, eps)  # √v̂ + ε
    # m̂ is never formed: its correction goes into the rate, one number in place of a whole tensor.
    torch._foreach_addcdiv_(weights, means, denominators, [-lr / (1 - beta1**t) for t in steps])


class _Moments(Optimizer):
    """What Adam and AdamW share. The state has torch's names and shapes, so either loads the other's."""

    decoupled: ClassVar[bool]

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for weight in self.param_groups[-1]["params"]:
            if expected := self._expected(weight):
                self.param_groups.pop()
                raise ValueError(f"{type(self).__name__} expects {expected}")

    def _expected(self, weight: Tensor) -> str | None:
        """What a weight should be, and what this one is; None where it is that."""
        return "real parameters, found a complex one" if weight.is_complex() else None

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every parameter that has a gradient; `closure` computes the loss anew and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._move()
        return loss

    def _counted(self, weight: Tensor) -> dict[str, Any]:
        """A weight's state, made where there is none, with one step more."""
        state: dict[str, Any] = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        return state

    def _move(self) -> None:
        """Move every parameter that has a gradient."""
        for weight in (weight for group in self.param_groups for weight in group["params"]):
            if weight.grad is not None and weight.grad.layout is not torch.strided:
                found = f"a sparse gradient of shape {tuple(weight.shape)}"
                raise RuntimeError(f"{type(self).__name__} expects dense gradients, found {found}")
        for group in self.param_groups:
            moving = [weight for weight in group["params"] if weight.grad is not None]
            for weight in moving:
                self._counted(weight)
            # A GPU wants all weights in a few kernels; a CPU wants one weight at a time, still in its cache.
            together = all(weight.is_cuda for weight in moving)
            for batch in [moving] if moving and together else [[weight] for weight in moving]:
                states = [self.state[weight] for weight in batch]
                _adam(
                    batch,
                    [weight.grad for weight in batch],
                    [state["exp_avg"] for state in states],
                    [state["exp_avg_sq"] for state in states],
                    [state["step"].item() for state in states],
                    **{key: group[key] for key in ("lr", "betas", "eps", "weight_decay")},
                    decoupled=self.decoupled,
                )


class Adam(_Moments):
    """Adam; `weight_decay` is L2, added to the gradient, as in `torch.optim.Adam`."""

    decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class AdamW(_Moments):
    """Adam with decoupled decay: the weights shrink by lr · weight_decay, as in `torch.optim.AdamW`."""

    decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class NativeAdamW(AdamW):
    """AdamW by native kernels, one pass over memory; the state has torch's names and shapes.

    A table whose gradient is given by rows (sparse, one sparse dimension: 0 elsewhere) costs what those rows cost.
    AdamW moves the others too, by their momentum and decay; here they stay behind, and go through all the steps that
    they have missed, each with its own rate, before anybody reads them. Whoever reads such a table says so before:
    `refresh` for some rows, `settle` for all. What then stands there is, bit for bit, what gradients of zeros would
    have made of it.

    Weights are float32 on the CPU. ValueError for others, RuntimeError where there are no native kernels.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        self._behind: dict[Tensor, _Behind] = {}
        self.scale = 1.0
        """What the next step multiplies gradients by; then it is 1 again."""
        super().__init__(params, lr, betas, eps, weight_decay)

    def _expected(self, weight: Tensor) -> str | None:
        if kernels.takes(weight):
            return None
        return f"contiguous float32 on the CPU, found {weight.dtype} on {weight.device}"

    def _move(self) -> None:
        native = _kernels()
        for group in self.param_groups:
            settings = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
            together: dict[float, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self._counted(weight)
                if weight.grad.is_sparse:
                    self._move_rows(native, weight, state["step"].item(), settings)
                else:
                    self.settle(weight)
                    self._behind.pop(weight, None)
                    together.setdefault(state["step"].item(), []).append(weight)
            for count, weights in together.items():
                states = [self.state[weight] for weight in weights]
                kernels.adamw(
                    native,
                    weights,
                    [weight.grad.contiguous() for weight in weights if weight.grad is not None],
                    [state["exp_avg"] for state in states],
                    [state["exp_avg_sq"] for state in states],
                    kernels.numbers_of(count, **settings),
                    self.scale,
                )
                torch.autograd.graph.increment_version(weights)
        self.scale = 1.0

    def _move_rows(self, native: Library, weight: Tensor, count: float, settings: Mapping[str, Any]) -> None:
        assert weight.grad is not None
        if weight.grad.sparse_dim() != 1:
            raise RuntimeError(
                f"NativeAdamW expects gradients by rows, found {weight.grad.sparse_dim()} sparse dimensions"
            )
        rows, gradients = _by_rows(weight.grad)
        behind = self._behind.get(weight)
        if behind is None:
            behind = self._behind[weight] = _Behind(len(weight), int(count) - 1)
        behind.numbers[behind.steps] = torch.tensor(
            kernels.numbers_of(count, **settings), dtype=torch.float64
        )
        behind.steps += 1
        self._advance(native, weight, behind, rows, gradients)
        torch.autograd.graph.increment_version(weight)
        if behind.steps == len(behind.numbers):
            self.settle(weight)

    def _advance(
        self,
        native: Library,
        weight: Tensor,
        behind: "_Behind",
        rows: Tensor | None,
        gradients: Tensor | None = None,
    ) -> None:
        state, numbers = self.state[weight], behind.numbers[: behind.steps]
        kernels.adamw_rows(
            native,
            weight.detach(),
            state["exp_avg"],
            state["exp_avg_sq"],
            behind.seen,
            rows,
            gradients,
            numbers,
            behind.first,
            self.scale if gradients is not None else 1.0,
        )

    def refresh(self, weight: Tensor, rows: Tensor) -> None:
        """Bring these rows ([R] int64, each once) of a table up to date."""
        behind = self._behind.get(weight)
        if behind is not None and behind.steps:
            self._advance(_kernels(), weight, behind, rows)

    def settle(self, weight: Tensor | None = None) -> None:
        """Bring all rows of a table up to date, or of every table."""
        for one in list(self._behind) if weight is None else [weight]:
            behind = self._behind.get(one)
            if behind is not None and behind.steps:
                self._advance(_kernels(), one, behind, None)
                behind.first, behind.steps = behind.first + behind.steps, 0

    def state_dict(self) -> dict[str, Any]:
        """That of torch.optim.AdamW; tables are settled before."""
        self.settle()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of a NativeAdamW or a torch.optim.AdamW; tables are settled before."""
        self.settle()
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        self.settle()
        return super().__getstate__()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._behind, self.scale = {}, 1.0


class _Behind:
    """Which rows of a table have seen which steps, and what those steps multiplied by."""

    def __init__(self, rows: int, first: int) -> None:
        self.seen = torch.full((rows,), first, dtype=torch.int64)
        """[rows] the last step of each."""
        self.first = first
        """The step before the first that is kept here; all rows have seen it."""
        self.steps = 0
        self.numbers = torch.empty(1024, kernels.NUMBERS, dtype=torch.float64)
        """Those of steps first + 1 to first + steps; when it is full, all rows are brought up to date."""


def _by_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """[R] rows, each once, and their gradients [R, N]."""
    rows = gradient._indices()[0]
    if not bool((rows[1:] > rows[:-1]).all()):  # autograd forgets that a gradient was in order
        gradient = gradient.coalesce()
        rows = gradient._indices()[0]
    return rows.contiguous(), gradient._values().contiguous()


def _kernels() -> Library:
    native = library()
    if native is None:
        raise RuntimeError("NativeAdamW: there are no native kernels here")
    return native


def clip_(optimizer: Optimizer, limit: float) -> Tensor:
    """The length of the gradient (2-norm over all parameters), and shorten it to `limit` for the coming step.

    As `torch.nn.utils.clip_grad_norm_`, but where the optimiser can scale gradients as it reads them they stay as
    they are.
    """
    parameters = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
    if not isinstance(optimizer, NativeAdamW):
        return torch.nn.utils.clip_grad_norm_(parameters, limit, foreach=True)
    gradients = [
        _by_rows(one.grad)[1] if one.grad.is_sparse else one.grad
        for one in parameters
        if one.grad is not None
    ]
    if not gradients:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    optimizer.scale = min(1.0, limit / (float(norm) + 1e-6))
    return norm


def _check(group: Mapping[str, Any]) -> None:
    """ValueError where a parameter group's numbers cannot work; a rate may be 0, for warm-ups start there."""
    for name in ("lr", "eps", "weight_decay"):
        if not (math.isfinite(group[name]) and group[name] >= 0):
            raise ValueError(f"{name!r} expects a number of at least 0, found {group[name]!r}")
    betas = group["betas"]
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"'betas' expects two numbers from 0 up to, not including, 1, found {betas!r}")


# --- the trainer's optimiser -----------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
}
"""Name in a recipe → torch's class, faster than ours where it is fused; the same trajectories, by test."""

_FUSED = {"adamw", "adam"}


def build(
    groups: Iterable[Mapping[str, Any]],
    *,
    name: str = "adamw",
    lr: float = 2e-5,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> Optimizer:
    """The fastest optimiser of that name for these parameter groups (from `parameter_groups`).

    What a group says of itself goes before the keyword arguments. AdamW of float32 weights on a CPU is our own where
    there are native kernels, to the same trajectory; else Adam and AdamW are torch's, fused on CPU and CUDA;
    Adamax has no fused form, and torch's own choice (one kernel for many weights on CUDA, weight by weight
    on CPU) is its fastest. ValueError for an unknown name or impossible numbers.
    """
    if name not in OPTIMIZERS:
        raise ValueError(
            f"no optimiser {name!r}, expected one of {', '.join(OPTIMIZERS)}{nearest(name, OPTIMIZERS)}"
        )
    settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    own = [{**group, "params": list(group["params"])} for group in groups]
    for group in own:
        _check({**settings, **group})
    weights = [weight for group in own for weight in group["params"]]
    if name == "adamw" and all(kernels.takes(w) for w in weights) and library() is not None:
        return NativeAdamW(own, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
    if name in _FUSED and all(w.is_floating_point() and w.device.type in {"cpu", "cuda"} for w in weights):
        settings["fused"] = True
    return OPTIMIZERS[name](own, **settings)


# --- rates by layer --------------------------------------------------------------------------------------


def layer_rates(lr: float, decay: float, layers: int) -> list[float]:
    """The rate of each floor of the model, from the ground: [embeddings, layer 1, ..., layer L, head].

    The head learns at `lr`, layer L at lr · decay, each floor below at `decay` times the one above it, the
    embeddings at lr · decay^(L+1) (Howard and Ruder, 2018; the lr · alpha^depth of BAM, Clark et al., 2019).
    The code released with BAM gives depth 1 to the pooler and so starts layer L at decay²; here the pooler
    belongs to the head and no depth is left out. ValueError unless lr >= 0, 0 < decay <= 1 and layers >= 0.
    """
    if not (math.isfinite(lr) and lr >= 0):
        raise ValueError(f"'lr' expects a number of at least 0, found {lr!r}")
    if not 0 < decay <= 1:
        raise ValueError(f"'decay' expects a number above 0 and at most 1, found {decay!r}")
    if layers < 0:
        raise ValueError(f"'layers' expects a number of at least 0, found {layers!r}")
    return [lr * decay**depth for depth in range(layers + 1, -1, -1)]


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    lr: float,
    weight_decay: float,
    layers: int,
    layer_decay: float = 1.0,
    head_lr: float | None = None,
) -> list[dict[str, Any]]:
    """The parameters that learn, grouped by rate and decay; a list that `build` and `AdamW` take.

    Names are `encoder.embeddings.*`, `encoder.layers.N.*` (N from 0) and `encoder.pooler.*`; the pooler and
    everything outside the encoder learn at the head's rate (`head_lr`, or `lr`), the rest by `layer_rates`. A layer
    that heads share, `relation.*`, learns at `lr`: it begins as something of worth, and a head's rate would ruin that.
    Whatever has fewer than two dimensions (biases, LayerNorm weights, single vectors and numbers) is never
    decayed. Parameters with `requires_grad=False` are left out.

    A group has `params`, `name` (the floors that share its rate, counted from 1: `layer 3`, `embeddings..heads` or
    `heads, no decay`), `lr`, `base_lr` (the rate before any schedule) and `weight_decay`. Groups go from the
    ground up, decayed before spared; inside a group the parameters keep their order. Floors next to each
    other with one rate share their groups: an optimiser is faster with few. ValueError for a part of the
    encoder that has no place here, a layer beyond `layers`, or when nothing is left to learn.
    """
    named = list(named_parameters)
    floors = ["embeddings", *(f"layer {layer + 1}" for layer in range(layers)), "heads"]
    rates = layer_rates(lr, layer_decay, layers)
    if head_lr is not None:
        rates[-1] = head_lr
    if any(name.startswith("relation.") for name, _ in named):
        floors.insert(-1, "relation")
        rates.insert(-1, lr)
    inhabitants: list[list[nn.Parameter]] = [[] for _ in floors]
    for name, parameter in named:
        floor = -2 if name.startswith("relation.") else _floor(name, layers)
        if parameter.requires_grad:
            inhabitants[floor].append(parameter)

    groups = []
    for rate, run in groupby(range(len(floors)), key=rates.__getitem__):
        stretch = list(run)
        sharing = [parameter for floor in stretch for parameter in inhabitants[floor]]
        place = "..".join(dict.fromkeys((floors[stretch[0]], floors[stretch[-1]])))
        for decay in dict.fromkeys((weight_decay, 0.0)):
            params = [p for p in sharing if decay == (weight_decay if p.dim() > 1 else 0.0)]
            title = place if decay == weight_decay else f"{place}, no decay"
            if params:
                groups.append(
                    {"params": params, "name": title, "lr": rate, "base_lr": rate, "weight_decay": decay}
                )
    if not groups:
        raise ValueError("nothing to learn: no parameter requires a gradient")
    return groups


_PLACE = re.compile(r"encoder\.(?:(?P<part>embeddings|pooler)|layers\.(?P<layer>\d+))\.")


def _floor(name: str, layers: int) -> int:
    """Where the rate of the parameter `name` stands in `layer_rates`; -1 for the head's, the last."""
    if not name.startswith("encoder."):
        return -1
    place = _PLACE.match(name)
    if place is None:
        raise ValueError(f"{name!r} belongs to neither the embeddings, a layer nor the pooler of the encoder")
    if place["layer"] is None:
        return 0 if place["part"] == "embeddings" else -1
    if int(place["layer"]) >= layers:
        raise ValueError(f"{name!r} is beyond the encoder's {layers} layers")
    return int(place["layer"]) + 1


# --- rates over time -------------------------------------------------------------------------------------


def warmup_linear(step: int, total: int, warmup: float) -> float:
    """The factor of the rate at `step` (from 0) of `total`: up from 0 to 1, then in a straight line to 0.

    `warmup` is a number of steps, or below 1 a share of `total`, rounded up to whole steps. The first step
    of a warm-up has the factor 0; past the end it stays 0. ValueError for negative numbers, or for a number
    of steps that is not whole.
    """
    rising, length = _span(step, total, warmup)
    return step / rising if step < rising else max(0.0, (total - step) / length)


def warmup_cosine(step: int, total: int, warmup: float) -> float:
    """As `warmup_linear`, but down along half a cosine; past the end it stays 0."""
    rising, length = _span(step, total, warmup)
    if step < rising:
        return step / rising
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - rising) / length)))


def warmup_constant(step: int, total: int, warmup: float) -> float:
    """As `warmup_linear`, but it stays 1 after the warm-up, past the end too."""
    rising, _ = _span(step, total, warmup)
    return step / rising if step < rising else 1.0


def _span(step: int, total: int, warmup: float) -> tuple[int, int]:
    """The steps of the warm-up, and the steps after it (at least 1, for it is divided by)."""
    if step < 0 or total < 0 or not warmup >= 0:
        raise ValueError(f"steps count from 0, found step {step}, total {total}, warmup {warmup}")
    if warmup >= 1 and warmup != int(warmup):
        raise ValueError(f"'warmup' expects whole steps or a share below 1, found {warmup!r}")
    rising = int(warmup) if warmup >= 1 else math.ceil(total * warmup)
    return rising, max(1, total - rising)


DECAYS: dict[str, Callable[[int, int, float], float]] = {
    "constant": warmup_constant,
    "cosine": warmup_cosine,
    "linear": warmup_linear,
}
"""Name in a recipe (`schedule.decay`) → factor(step, total, warmup) of the rate."""
