"""SMART: what a small worst-case push of the word vectors changes, and how far a step moves the answers.

Knows tensors, and functions from word vectors to outputs. Must not know encoders, tasks, the training loop or
recipes; `SmartSettings` stands here because it says what the functions below understand.

Jiang et al. (2020), "SMART: Robust and efficient fine-tuning for pre-trained natural language models through
principled regularized optimization", arXiv 1911.03437: `adversarial_loss` is its smoothness-inducing
regulariser (equation 2, algorithm 1), `bregman_loss` its proximal point term with momentum (section 2.2).
"""

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from torch import Tensor

from manyheads.errors import nearest

__all__ = [
    "Norm",
    "SmartSettings",
    "adversarial_loss",
    "average_",
    "bregman_loss",
    "squared_error",
    "symmetric_kl",
]

Norm = Literal["inf", "2"]
"""How the length of one token's noise is measured: its largest coordinate, or its Euclidean length."""

Outputs = TypeVar("Outputs")


def _norm_name(value: object) -> object:
    """YAML reads `norm: 2` as a number, and `norm: .inf` as one too."""
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


class SmartSettings(BaseModel):
    """How strongly training is held to answers that small changes of the input and of the weights leave alone."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    weight: float = Field(default=5.0, ge=0)
    """How much the adversarial term counts beside the task's own loss (the paper's λ); 0: off."""
    epsilon: float = Field(default=1e-3, gt=0)
    """Longest noise on a token's word vector, in the chosen norm."""
    sigma: float = Field(default=1e-4, ge=0)
    """Standard deviation of the noise that the search starts from; at 0 it never leaves its start."""
    eta: float = Field(default=1e-3, gt=0)
    """Length of one step of the search, in the chosen norm."""
    steps: int = Field(default=1, ge=1)
    """Steps of the search for the worst noise; each costs one more pass of the model, there and back."""
    norm: Annotated[Norm, BeforeValidator(_norm_name, json_schema_input_type=Norm | Literal[2])] = "inf"
    """Length of a token's noise: its largest coordinate (`inf`) or its Euclidean length (`2`)."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the training steps, drawn at random, that pay for the two terms; there they count 1/share times as
    much, so that on average nothing changes but the cost. 1: every step, as in the paper."""
    momentum: float = Field(default=0.995, ge=0, lt=1)
    """How much the averaged weights keep of themselves at each step (the paper's β)."""
    mu: float = Field(default=1.0, ge=0)
    """How much it counts that answers drift from those of the averaged weights (the paper's μ); 0: off."""


# --- how far two answers are apart -----------------------------------------------------------------------


def symmetric_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(P‖Q) + KL(Q‖P) in nats, of the softmax over the last dimension; a scalar, the mean over the rest.

    Both are logits [..., C]. A position that both rule out with -inf counts nothing; without any rows the
    result is 0. ValueError where the shapes differ: nothing is broadcast.
    """
    _same_shape(p_logits, q_logits)
    if not p_logits.dim():
        raise ValueError("expected logits over a last dimension of classes, found a single number")
    log_p, log_q = (_precise(logits).log_softmax(-1) for logits in (p_logits, q_logits))
    # Both divergences in one sum: no term of it is negative, however small the difference and its rounding.
    apart = (log_p - log_q).masked_fill(log_p.isneginf() & log_q.isneginf(), 0.0)
    return _mean(((log_p.exp() - log_q.exp()) * apart).sum(-1))


def squared_error(p: Tensor, q: Tensor) -> Tensor:
    """(p − q)², the mean over all elements; a scalar, 0 if there are none.

    ValueError where the shapes differ: [B] against [B, 1] would otherwise compare every example with every
    other.
    """
    _same_shape(p, q)
    return _mean((_precise(p) - _precise(q)).square())


def _same_shape(p: Tensor, q: Tensor) -> None:
    if p.shape != q.shape:
        raise ValueError(f"expected two tensors of one shape, found {tuple(p.shape)} and {tuple(q.shape)}")


def _precise(values: Tensor) -> Tensor:
    """At least float32: half precision has no digits for differences this small."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, values.numel())


# --- the worst small change of the input -----------------------------------------------------------------


def adversarial_loss(
    forward: Callable[[Tensor], Outputs],
    embeddings: Tensor,
    clean: Outputs,
    distance: Callable[[Outputs, Outputs], Tensor],
    *,
    epsilon: float,
    sigma: float,
    eta: float,
    steps: int = 1,
    norm: Norm = "inf",
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    ascent: Callable[[Tensor], Outputs] | None = None,
) -> Tensor:
    """R = distance(forward(embeddings + δ), clean), a scalar, for a δ that makes it large within ‖δ‖ ≤ ε.

    `embeddings` [..., H], one vector a token, padded or end to end; `clean` = forward(embeddings), computed by
    the caller, who needs it anyway. Both norms are taken for each token (the last dimension) by itself.
    `noise`, of the shape of `embeddings`, is δ₀ itself; without it δ₀ ~ N(0, σ²) is drawn with `generator`, on
    the generator's own device, so that one seed gives the same noise everywhere. Then `steps` times

        g ← ∇_δ distance(forward(embeddings + δ), clean)        δ ← Π(δ + η · g/‖g‖)

    with g the true gradient and Π the projection of each token's noise on the ball of radius ε (`inf`: every
    coordinate is cut, `2`: the vector is shortened). A token whose g is zero, as one that no output depends
    on, takes no step. In δ = 0 the distance has its minimum and g vanishes: with a
    `sigma` of 0 the result stays 0.

    `forward` is called `steps` + 1 times; `ascent`, where given, stands in for it in the `steps` calls that
    only look for δ (the same function with the gradients of the weights switched off is cheaper). Gradients
    of the result flow into the weights, into `embeddings` and into `clean`, which the objective of the paper
    does not hold fixed; δ is a constant to it, and the search leaves no gradient anywhere. It works under
    `torch.no_grad` too, to measure the term.

    What is perturbed. In manyheads `embeddings` are the word vectors of the token ids, as they leave their
    table: before position and segment vectors are added and LayerNorm runs. The discrete token is what a
    synonym or a slip of the pen would change; position and segment are facts of the text. Noise behind the
    LayerNorm would leave the set of normalised vectors, on which every layer above was trained, and its size
    would have another meaning for every checkpoint, as the learnt scale of that LayerNorm differs.

    What the caller sees to. `forward`, `ascent` and whatever computed `clean` must be one function: the same
    dropout masks in each call, or none. Else the term measures dropout, which moves the outputs by far more
    than ε. The training loop takes care of that for manyheads. And they must compute with enough digits:
    behind products in bfloat16, which keeps two, noise of 1e-5 on word vectors of about 0.05 drowns in
    rounding, and both the direction and the term are mostly that; from 1e-3 on they are right.

    `distance` takes two outputs and gives a scalar (`symmetric_kl`, `squared_error`, or a function of lists
    of tensors and the like). ValueError for a setting out of its range or noise of another shape.
    """
    _check(epsilon, sigma, eta, steps, norm)
    delta = _start(embeddings, sigma, noise, generator)
    climb = forward if ascent is None else ascent
    fixed, aim = embeddings.detach(), _detached(clean)
    with torch.enable_grad():
        for _ in range(steps):
            delta.requires_grad_()
            (gradient,) = torch.autograd.grad(distance(climb(fixed + delta), aim), delta)
            delta = _projected(delta.detach() + eta * _unit(gradient, norm), epsilon, norm)
    return distance(forward(embeddings + delta), clean)


def _check(epsilon: float, sigma: float, eta: float, steps: int, norm: str) -> None:
    for name, value in (("epsilon", epsilon), ("eta", eta)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name!r} expects a number above 0, found {value!r}")
    if not (sigma >= 0 and math.isfinite(sigma)):
        raise ValueError(f"'sigma' expects a number of at least 0, found {sigma!r}")
    if steps < 1:
        raise ValueError(f"'steps' expects a whole number of at least 1, found {steps!r}")
    if norm not in get_args(Norm):
        hint = nearest(norm, get_args(Norm))
        raise ValueError(
            f"'norm' expects one of {', '.join(map(repr, get_args(Norm)))}, found {norm!r}{hint}"
        )


def _start(
    embeddings: Tensor, sigma: float, noise: Tensor | None, generator: torch.Generator | None
) -> Tensor:
    """δ₀, of the shape, dtype and device of `embeddings`."""
    if noise is None:
        place = embeddings.device if generator is None else generator.device
        drawn = torch.randn(embeddings.shape, generator=generator, device=place, dtype=embeddings.dtype)
        return drawn.to(embeddings.device).mul_(sigma)
    if noise.shape != embeddings.shape:
        found = f"{tuple(noise.shape)} for embeddings of {tuple(embeddings.shape)}"
        raise ValueError(f"'noise' expects the shape of the embeddings, found {found}")
    return noise.detach().to(embeddings)


def _detached(outputs: Outputs) -> Outputs:
    """Tensors, and those in lists and tuples, cut from their graph; anything else as it is."""
    if isinstance(outputs, Tensor):
        return cast(Outputs, outputs.detach())
    if isinstance(outputs, list | tuple):
        make = getattr(type(outputs), "_make", type(outputs))  # a named tuple is not made from a list
        return cast(Outputs, make([_detached(part) for part in cast(Sequence[Any], outputs)]))
    return outputs


def _unit(gradient: Tensor, norm: Norm) -> Tensor:
    """Each token's gradient [..., H] at length 1 in the norm; zero stays zero, and what is not finite shows.

    No small number is added below the line: near δ = 0 the gradient itself is of the size of δ and would
    drown in it. By its largest coordinate first, because the square of 1e-30 is 0 in float32.
    """
    largest = gradient.abs().amax(-1, keepdim=True)
    scaled = gradient / torch.where(largest == 0, 1.0, largest)
    if norm == "inf":
        return scaled
    # The scaled vector has a coordinate of 1, so that its length is at least 1 unless it is zero.
    length: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled / length.clamp_min(1.0)


def _projected(delta: Tensor, epsilon: float, norm: Norm) -> Tensor:
    """The nearest noise [..., H] whose every token lies in the ball of radius ε."""
    if norm == "inf":
        return delta.clamp(-epsilon, epsilon)
    length: Tensor = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
    return delta * (epsilon / length).clamp_max(1.0)


# --- how far a step may move the answers -----------------------------------------------------------------


def bregman_loss(
    outputs: Outputs, averaged_outputs: Outputs, distance: Callable[[Outputs, Outputs], Tensor]
) -> Tensor:
    """The distance of f(x; θ) from f(x; θ̃): how far the answers are from those of the averaged weights; a scalar.

    `averaged_outputs` are held fixed: only θ is pulled. Both must come from one function but for the weights
    (the same dropout masks, or none).
    """
    return distance(outputs, _detached(averaged_outputs))


@torch.no_grad()
def average_(averaged: Sequence[Tensor], current: Sequence[Tensor], momentum: float) -> None:
    """θ̃ ← β·θ̃ + (1 − β)·θ in place; `averaged` are the θ̃, one for each θ in `current`, `momentum` is β.

    θ̃ starts as a copy of θ, so no correction for its first steps is needed. ValueError where the lists do not
    match or β is not from 0 up to, not including, 1.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"'momentum' expects a number from 0 up to, not including, 1, found {momentum!r}")
    if [weight.shape for weight in averaged] != [weight.shape for weight in current]:
        raise ValueError("expected an averaged weight of the same shape for each current one")
    if averaged:
        torch._foreach_lerp_(list(averaged), list(current), 1 - momentum)
