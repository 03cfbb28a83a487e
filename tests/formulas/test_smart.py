"""SMART against scipy, finite differences, a plain second implementation, and models whose worst noise is known."""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor, nn

from manyheads.formulas import smart
from manyheads.formulas.smart import Norm, SmartSettings, adversarial_loss

EXAMPLES, TOKENS, HIDDEN, CLASSES = 3, 4, 5, 3
NORMS: list[Norm] = ["inf", "2"]

Forward = Callable[[Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


class Reader(nn.Module):
    """A small model whose tokens act on each other: [B, T, H] -> logits [B, C], or with C = 1 numbers [B]."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.mix = nn.Parameter(normal(HIDDEN, HIDDEN, seed=1))
        self.out = nn.Parameter(normal(HIDDEN, classes, seed=2))

    def forward(self, embeddings: Tensor) -> Tensor:
        inner = torch.tanh(embeddings @ self.mix)
        pooled = (inner.softmax(1) * inner).sum(1)
        return (pooled @ self.out).squeeze(-1)


class Recording:
    """A forward that remembers what it was given."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.given: list[Tensor] = []

    def __call__(self, embeddings: Tensor) -> Tensor:
        self.given.append(embeddings.detach().clone())
        return self.forward(embeddings)


def embedded(seed: int = 3) -> Tensor:
    return normal(EXAMPLES, TOKENS, HIDDEN, seed=seed)


def length(vector: Tensor, norm: Norm) -> float:
    return float(vector.abs().max()) if norm == "inf" else math.sqrt(float((vector * vector).sum()))


# --- distances -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (6, 3), (2, 5, 7)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_symmetric_kl_is_scipys_both_ways(shape: tuple[int, ...], scale: float) -> None:
    a, b = (normal(*shape, seed=seed, scale=scale) for seed in (1, 2))
    p, q = (softmax(logits.numpy(), axis=-1) for logits in (a, b))
    expected = np.mean(entropy(p, q, axis=-1) + entropy(q, p, axis=-1))
    np.testing.assert_allclose(smart.symmetric_kl(a, b).item(), expected, rtol=1e-11)


def test_symmetric_kl_has_the_gradient_of_finite_differences() -> None:
    a, b = (normal(3, 4, seed=seed).requires_grad_() for seed in (1, 2))
    assert torch.autograd.gradcheck(smart.symmetric_kl, (a, b))


@given(st.integers(0, 10**6), st.floats(1e-9, 50.0))
def test_symmetric_kl_is_a_distance_of_two_answers(seed: int, scale: float) -> None:
    a, b = normal(4, 5, seed=seed, scale=scale), normal(4, 5, seed=seed + 1, scale=scale)
    apart = smart.symmetric_kl(a, b)
    assert apart >= 0
    assert torch.equal(smart.symmetric_kl(b, a), apart)
    assert smart.symmetric_kl(a, a) == 0
    torch.testing.assert_close(smart.symmetric_kl(a + 3, b - 2), apart, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-5])
def test_symmetric_kl_keeps_its_digits_where_answers_are_close(scale: float) -> None:
    a = normal(1000, 5, seed=1).float()
    b = a + normal(1000, 5, seed=2, scale=scale).float()
    exact = smart.symmetric_kl(a.double(), b.double()).item()
    assert smart.symmetric_kl(a, b).item() == pytest.approx(exact, rel=1e-3)
    assert min(smart.symmetric_kl(p, q).item() for p, q in zip(a, b, strict=True)) >= 0


def test_symmetric_kl_of_answers_that_are_sure_is_finite() -> None:
    a, b = torch.tensor([[0.0, 300.0]]), torch.tensor([[300.0, 0.0]])
    assert smart.symmetric_kl(a, b).item() == pytest.approx(600.0)


def test_a_choice_ruled_out_on_both_sides_counts_nothing() -> None:
    a, b = normal(2, 4, seed=1), normal(2, 4, seed=2)
    a[0, 2:] = b[0, 2:] = -math.inf
    a.requires_grad_()
    rows = [smart.symmetric_kl(a[0, :2], b[0, :2]), smart.symmetric_kl(a[1], b[1])]
    apart = smart.symmetric_kl(a, b)
    torch.testing.assert_close(apart, torch.stack(rows).mean())
    (gradient,) = torch.autograd.grad(apart, a)
    assert gradient.isfinite().all()
    assert torch.equal(gradient[0, 2:], torch.zeros(2, dtype=torch.float64))


def test_squared_error_is_numpys() -> None:
    a, b = normal(3, 4, seed=1), normal(3, 4, seed=2)
    assert smart.squared_error(a, b).item() == pytest.approx(float(np.mean((a.numpy() - b.numpy()) ** 2)))


DISTANCES: list[Distance] = [smart.symmetric_kl, smart.squared_error]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize(("p", "q"), [((4,), (4, 1)), ((4, 1), (4,)), ((4, 3), (1, 3)), ((4, 3), (3,))])
def test_nothing_is_broadcast(distance: Distance, p: tuple[int, ...], q: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two tensors of one shape"):
        distance(torch.zeros(p), torch.zeros(q))


@pytest.mark.parametrize("distance", DISTANCES)
def test_no_rows_give_zero_and_half_precision_gives_float32(distance: Distance) -> None:
    assert distance(torch.zeros(0, 3), torch.zeros(0, 3)) == 0
    a, b = normal(8, 3, seed=1).bfloat16(), normal(8, 3, seed=2).bfloat16()
    assert distance(a, b).dtype == torch.float32
    torch.testing.assert_close(distance(a, b), distance(a.float(), b.float()))


def test_symmetric_kl_needs_classes() -> None:
    with pytest.raises(ValueError, match="last dimension of classes"):
        smart.symmetric_kl(torch.tensor(1.0), torch.tensor(2.0))


# --- the adversarial term --------------------------------------------------------------------------------


def by_the_paper(
    model: Reader,
    embeddings: Tensor,
    distance: Distance,
    noise: Tensor,
    *,
    epsilon: float,
    eta: float,
    steps: int,
    norm: Norm,
) -> Tensor:
    """Algorithm 1, lines 4 to 9, in the slow and plain way: token after token, on a copy, with `backward`."""
    model = copy.deepcopy(model)
    found = noise.clone()
    for _ in range(steps):
        leaf = (embeddings.detach() + found).clone().requires_grad_()
        with torch.no_grad():
            clean = model(embeddings)
        distance(model(leaf), clean).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        for b in range(EXAMPLES):
            for t in range(TOKENS):
                moved = found[b, t] + eta * leaf.grad[b, t] / length(leaf.grad[b, t], norm)
                if norm == "inf":
                    moved = torch.tensor(
                        [min(epsilon, max(-epsilon, x)) for x in moved.tolist()], dtype=moved.dtype
                    )
                elif length(moved, norm) > epsilon:
                    moved = moved * (epsilon / length(moved, norm))
                found[b, t] = moved
    return found


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("epsilon", [1e-5, 0.3])
@pytest.mark.parametrize(("classes", "distance"), [(CLASSES, smart.symmetric_kl), (1, smart.squared_error)])
def test_the_noise_and_the_term_are_those_of_a_plain_implementation(
    norm: Norm, steps: int, epsilon: float, classes: int, distance: Distance
) -> None:
    model, embeddings = Reader(classes), embedded()
    noise = normal(EXAMPLES, TOKENS, HIDDEN, seed=9, scale=epsilon)
    bounds: dict[str, Any] = {"epsilon": epsilon, "eta": epsilon / 3, "steps": steps, "norm": norm}
    expected = by_the_paper(model, embeddings, distance, noise, **bounds)
    forward = Recording(model)
    term = adversarial_loss(
        forward, embeddings, model(embeddings), distance, sigma=1.0, noise=noise, **bounds
    )
    torch.testing.assert_close(forward.given[-1] - embeddings, expected, rtol=1e-6, atol=1e-9 * epsilon)
    assert term.shape == ()
    torch.testing.assert_close(
        term, distance(model(embeddings + expected), model(embeddings)), rtol=1e-8, atol=0
    )


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_goes_up_the_gradient_of_finite_differences(norm: Norm) -> None:
    model, embeddings = Reader(), embedded()
    noise = normal(EXAMPLES, TOKENS, HIDDEN, seed=4, scale=0.1)
    clean = model(embeddings).detach()

    def apart(delta: Tensor) -> float:
        with torch.no_grad():
            return smart.symmetric_kl(model(embeddings + delta), clean).item()

    slopes, width = torch.zeros_like(noise), 1e-6
    for place in np.ndindex(*noise.shape):
        nudge = torch.zeros_like(noise)
        nudge[place] = width
        slopes[place] = (apart(noise + nudge) - apart(noise - nudge)) / (2 * width)
    forward = Recording(model)
    adversarial_loss(
        forward,
        embeddings,
        clean,
        smart.symmetric_kl,
        epsilon=1e3,
        sigma=1.0,
        eta=0.01,
        norm=norm,
        noise=noise,
    )
    step = forward.given[-1] - forward.given[0]
    for b in range(EXAMPLES):
        for t in range(TOKENS):
            torch.testing.assert_close(
                step[b, t], 0.01 * slopes[b, t] / length(slopes[b, t], norm), rtol=1e-5, atol=1e-9
            )


@pytest.mark.parametrize(("norm", "dual"), [("inf", 1), ("2", 2)])
def test_of_a_linear_model_the_worst_noise_is_found(norm: Norm, dual: int) -> None:
    # f(x) = Σ_t w_t·x_t; (f(x + δ) - f(x))² is largest where every token gives ε times the dual norm of w_t.
    weights = normal(TOKENS, HIDDEN, seed=5)
    epsilon = 0.01

    def linear(x: Tensor) -> Tensor:
        return (x * weights).sum((-1, -2))

    forward, embeddings = Recording(linear), embedded()
    bounds: dict[str, Any] = {"epsilon": epsilon, "sigma": epsilon, "eta": epsilon / 5, "norm": norm}
    term = adversarial_loss(
        forward, embeddings, linear(embeddings), smart.squared_error, steps=200, generator=seeded(1), **bounds
    )
    worst = (epsilon * torch.linalg.vector_norm(weights, ord=dual, dim=-1).sum()) ** 2
    assert term.item() == pytest.approx(worst.item(), rel=1e-9)
    found = (forward.given[-1] - embeddings) / epsilon
    corner = weights.sign() if norm == "inf" else weights / weights.norm(dim=-1, keepdim=True)
    for example in found:  # either of the two opposite corners, whichever the first noise was nearer to
        sign = (example * corner).sum().sign()
        torch.testing.assert_close(example, sign * corner, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@given(
    seed=st.integers(0, 10**6),
    epsilon=st.floats(1e-8, 10.0),
    start=st.floats(0.0, 100.0),
    eta=st.floats(1e-8, 100.0),
)
def test_the_noise_stays_in_the_ball_of_every_token(
    norm: Norm, seed: int, epsilon: float, start: float, eta: float
) -> None:
    forward = Recording(lambda x: x.sin().sum(1))
    embeddings = torch.zeros(2, 3, HIDDEN, dtype=torch.float64)
    noise = normal(2, 3, HIDDEN, seed=seed, scale=epsilon * start)
    clean = torch.zeros(2, HIDDEN, dtype=torch.float64)
    adversarial_loss(
        forward, embeddings, clean, smart.squared_error,
        epsilon=epsilon, sigma=1.0, eta=eta, steps=3, norm=norm, noise=noise,
    )  # fmt: skip
    assert torch.equal(forward.given[0], noise)
    for given_noise in forward.given[1:]:
        assert all(length(token, norm) <= epsilon * (1 + 1e-12) for token in given_noise.flatten(0, 1))


@pytest.mark.parametrize("norm", NORMS)
def test_noise_within_the_ball_is_not_projected(norm: Norm) -> None:
    forward = Recording(lambda x: x[..., 0])
    noise = torch.zeros(1, 2, HIDDEN, dtype=torch.float64)
    noise[0, 0, 0], noise[0, 1, 1] = 0.5, 0.25  # of the second token only coordinates that nothing depends on
    adversarial_loss(
        forward, torch.zeros_like(noise), torch.zeros(1, 2, dtype=torch.float64), smart.squared_error,
        epsilon=1.0, sigma=1.0, eta=0.25, norm=norm, noise=noise,
    )  # fmt: skip
    assert forward.given[-1][0, 0].tolist() == [0.75, 0, 0, 0, 0]
    assert forward.given[-1][0, 1].tolist() == [0, 0.25, 0, 0, 0]


@pytest.mark.parametrize("norm", NORMS)
def test_a_token_without_gradient_takes_no_step(norm: Norm) -> None:
    forward = Recording(lambda x: x[:, 0])
    noise = normal(2, 3, HIDDEN, seed=1, scale=0.01)
    embeddings = normal(2, 3, HIDDEN, seed=2)
    term = adversarial_loss(
        forward, embeddings, embeddings[:, 0], smart.squared_error,
        epsilon=1.0, sigma=1.0, eta=0.1, steps=2, norm=norm, noise=noise,
    )  # fmt: skip
    assert term.isfinite()
    torch.testing.assert_close((forward.given[-1] - embeddings)[:, 1:], noise[:, 1:], rtol=0, atol=1e-15)
    assert ((forward.given[-1] - embeddings)[:, 0] - noise[:, 0]).abs().max() > 0.05


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("factor", [1e-36, 1e-30, 1e-20, 1e20])
def test_a_tiny_gradient_counts_as_much_as_any_other(norm: Norm, factor: float) -> None:
    # Factors of 2, so that float32 gives the same digits; the squares of the smaller ones are 0 in float32.
    power = 2.0 ** round(math.log2(factor))
    embeddings, noise = embedded().float(), normal(EXAMPLES, TOKENS, HIDDEN, seed=1, scale=1e-2).float()
    model = Reader().float()
    ends = []
    for weight in (1.0, power):
        forward = Recording(model)
        adversarial_loss(
            forward, embeddings, model(embeddings).detach(),
            lambda p, q, weight=weight: weight * smart.symmetric_kl(p, q),  # type: ignore[misc]
            epsilon=1.0, sigma=1.0, eta=0.01, norm=norm, noise=noise,
        )  # fmt: skip
        ends.append(forward.given[-1])
    assert (ends[0] - embeddings - noise).abs().max() > 0.005
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-3, atol=1e-5)


def test_the_literal_settings_of_the_paper_survive_float32() -> None:
    model, embeddings = Reader(), embedded()
    noise = normal(EXAMPLES, TOKENS, HIDDEN, seed=1, scale=1e-5)
    terms = []
    for dtype in (torch.float64, torch.float32):
        reader, given_vectors = copy.deepcopy(model).to(dtype), embeddings.to(dtype)
        terms.append(
            adversarial_loss(
                reader, given_vectors, reader(given_vectors), smart.symmetric_kl,
                epsilon=1e-5, sigma=1e-5, eta=1e-3, noise=noise.to(dtype),
            ).item()
        )  # fmt: skip
    assert 0 < terms[0] < 1e-7
    assert terms[1] == pytest.approx(terms[0], rel=0.1)


def test_a_gradient_that_is_not_finite_is_not_hidden() -> None:
    embeddings = torch.zeros(1, 1, 2)
    term = adversarial_loss(
        lambda x: x * math.inf, embeddings, torch.zeros(1, 1, 2), smart.squared_error,
        epsilon=1.0, sigma=1.0, eta=1.0, generator=seeded(1),
    )  # fmt: skip
    assert not term.isfinite()


def test_without_noise_there_is_nothing_to_climb() -> None:
    model, embeddings = Reader(), embedded()
    term = adversarial_loss(
        model, embeddings, model(embeddings), smart.symmetric_kl, epsilon=1.0, sigma=0.0, eta=0.1, steps=3
    )
    assert term == 0


def numeric(objective: Callable[[], float], values: Tensor, width: float = 1e-6) -> Tensor:
    """Central differences of `objective` in every entry of `values`, which it reads."""
    slopes, flat = torch.zeros_like(values).flatten(), values.detach().view(-1)
    for i in range(len(flat)):
        kept = flat[i].item()
        flat[i] = kept + width
        above = objective()
        flat[i] = kept - width
        slopes[i] = (above - objective()) / (2 * width)
        flat[i] = kept
    return slopes.view_as(values)


@pytest.mark.parametrize("held", [False, True])
def test_the_gradient_reaches_weights_embeddings_and_the_clean_branch(held: bool) -> None:
    model, embeddings = Reader(), embedded().requires_grad_()
    forward = Recording(model)
    clean = model(embeddings)
    term = adversarial_loss(
        forward, embeddings, clean.detach() if held else clean, smart.symmetric_kl,
        epsilon=0.2, sigma=0.1, eta=0.05, steps=2, generator=seeded(1),
    )  # fmt: skip
    learnt = [model.mix, model.out, embeddings]
    assert all(tensor.grad is None for tensor in learnt)  # the search left nothing behind
    gradients = torch.autograd.grad(term, learnt)
    delta = (forward.given[-1] - embeddings).detach()
    fixed = clean.detach().clone()

    def objective() -> float:
        with torch.no_grad():
            aim = fixed if held else model(embeddings)
            return smart.symmetric_kl(model(embeddings + delta), aim).item()

    for tensor, gradient in zip(learnt, gradients, strict=True):
        torch.testing.assert_close(gradient, numeric(objective, tensor), rtol=1e-5, atol=1e-8)


def test_the_task_and_the_term_share_one_graph() -> None:
    table = nn.Embedding(10, HIDDEN, _weight=normal(10, HIDDEN, seed=1))
    model, ids = Reader(), torch.arange(EXAMPLES * TOKENS).reshape(EXAMPLES, TOKENS) % 10
    gold = torch.tensor([0, 2, 1])
    embeddings = table(ids)
    clean = model(embeddings)
    loss = nn.functional.cross_entropy(clean, gold)
    (alone,) = torch.autograd.grad(loss, table.weight, retain_graph=True)
    term = adversarial_loss(
        model, embeddings, clean, smart.symmetric_kl, epsilon=0.1, sigma=0.1, eta=0.1, generator=seeded(1)
    )
    (of_term,) = torch.autograd.grad(term, table.weight, retain_graph=True)
    (loss + 5 * term).backward()  # type: ignore[no-untyped-call]
    assert table.weight.grad is not None
    torch.testing.assert_close(table.weight.grad, alone + 5 * of_term)


def test_only_the_search_uses_the_cheaper_forward() -> None:
    model, frozen = Reader(), Reader().requires_grad_(False)
    embeddings = embedded()
    settings: dict[str, Any] = {"epsilon": 0.1, "sigma": 0.1, "eta": 0.05, "steps": 3}
    forward, ascent, alone = Recording(model), Recording(frozen), Recording(model)
    clean = model(embeddings)
    cheap = adversarial_loss(
        forward, embeddings, clean, smart.symmetric_kl, generator=seeded(1), ascent=ascent, **settings
    )
    full = adversarial_loss(alone, embeddings, clean, smart.symmetric_kl, generator=seeded(1), **settings)
    assert (len(forward.given), len(ascent.given), len(alone.given)) == (1, 3, 4)
    torch.testing.assert_close(cheap, full, rtol=0, atol=0)
    assert cheap.requires_grad


def test_the_search_aims_at_clean_outputs_without_their_graph() -> None:
    model, embeddings = Reader(), embedded()
    held: list[tuple[bool, bool]] = []

    def apart(p: list[Tensor], q: list[Tensor]) -> Tensor:
        held.append((p[0].requires_grad, q[0].requires_grad))
        return smart.symmetric_kl(p[0], q[0])

    adversarial_loss(
        lambda x: [model(x)], embeddings, [model(embeddings)], apart, epsilon=0.1, sigma=0.1, eta=0.1, steps=2
    )
    assert held == [(True, False), (True, False), (True, True)]


def test_the_term_can_be_measured_without_gradients() -> None:
    model, embeddings = Reader(), embedded()
    settings: dict[str, Any] = {"epsilon": 0.1, "sigma": 0.1, "eta": 0.05}
    clean = model(embeddings)
    trained = adversarial_loss(model, embeddings, clean, smart.symmetric_kl, generator=seeded(1), **settings)
    with torch.no_grad():
        measured = adversarial_loss(
            model, embeddings, model(embeddings), smart.symmetric_kl, generator=seeded(1), **settings
        )
    assert not measured.requires_grad
    assert torch.equal(measured, trained)


def test_a_column_of_outputs_does_not_meet_a_row_of_clean_ones() -> None:
    embeddings = embedded()
    with pytest.raises(ValueError, match="two tensors of one shape"):
        adversarial_loss(
            lambda x: x.sum((1, 2))[:, None], embeddings, embeddings.sum((1, 2)), smart.squared_error,
            epsilon=0.1, sigma=0.1, eta=0.1,
        )  # fmt: skip


def test_a_seed_gives_one_noise_and_the_noise_gives_the_term() -> None:
    model, embeddings = Reader(), embedded()
    clean = model(embeddings)

    def term(generator: torch.Generator | None = None, noise: Tensor | None = None) -> Tensor:
        return adversarial_loss(
            model, embeddings, clean, smart.symmetric_kl,
            epsilon=1.0, sigma=0.5, eta=0.1, noise=noise, generator=generator,
        )  # fmt: skip

    first = term(seeded(1))
    assert torch.equal(term(seeded(1)), first)
    assert not torch.equal(term(seeded(2)), first)
    one = seeded(1)
    assert not torch.equal(term(one), term(one))
    drawn = 0.5 * torch.randn(embeddings.shape, generator=seeded(1), dtype=torch.float64)
    kept = drawn.clone()
    assert torch.equal(term(noise=drawn), first)
    assert torch.equal(drawn, kept)
    assert not drawn.requires_grad
    state = torch.get_rng_state()
    term(seeded(3))
    assert torch.equal(torch.get_rng_state(), state)  # with a generator the global one is left alone


def test_the_first_noise_is_as_wide_as_sigma() -> None:
    forward = Recording(lambda x: x)
    embeddings = torch.zeros(400, 100)
    adversarial_loss(
        forward, embeddings, embeddings, smart.squared_error,
        epsilon=1.0, sigma=0.25, eta=0.1, generator=seeded(1),
    )  # fmt: skip
    assert forward.given[0].std().item() == pytest.approx(0.25, rel=0.02)
    assert forward.given[0].mean().item() == pytest.approx(0.0, abs=0.01)
    assert forward.given[0].dtype == torch.float32


class Ends(NamedTuple):
    start: Tensor
    end: Tensor


class Opaque:
    """What the functions know nothing of."""

    def __init__(self, parts: list[Tensor]) -> None:
        self.parts = parts


def halves(x: Tensor) -> list[Tensor]:
    return [x[:1].sin().sum((1, 2)), x[1:].cos().sum(2)]


@pytest.mark.parametrize("make", [list, tuple, lambda parts: Ends(*parts), Opaque])
def test_outputs_may_be_several_tensors(make: Callable[[list[Tensor]], Any]) -> None:
    def parts(outputs: Any) -> list[Tensor]:
        return outputs.parts if isinstance(outputs, Opaque) else list(outputs)

    kinds: set[type] = set()

    def apart(p: Any, q: Any) -> Tensor:
        kinds.update((type(p), type(q)))
        pairs = zip(parts(p), parts(q), strict=True)
        return torch.stack([smart.squared_error(a, b) for a, b in pairs]).sum()

    def flat(p: Tensor, q: Tensor) -> Tensor:
        return smart.squared_error(p[:1], q[:1]) + smart.squared_error(p[1:], q[1:])

    embeddings = embedded().requires_grad_()
    settings: dict[str, Any] = {"epsilon": 0.1, "sigma": 0.1, "eta": 0.05, "steps": 2}
    term = adversarial_loss(
        lambda x: make(halves(x)),
        embeddings,
        make(halves(embeddings)),
        apart,
        generator=seeded(1),
        **settings,
    )
    expected = adversarial_loss(
        lambda x: torch.cat([half.flatten() for half in halves(x)]),
        embeddings,
        torch.cat([half.flatten() for half in halves(embeddings)]),
        flat,
        generator=seeded(1),
        **settings,
    )
    torch.testing.assert_close(term, expected)
    gradients = [torch.autograd.grad(result, embeddings)[0] for result in (term, expected)]
    torch.testing.assert_close(*gradients)
    assert kinds == {type(make([embeddings, embeddings]))}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": 0.0}, "'epsilon' expects a number above 0"),
        ({"epsilon": math.inf}, "'epsilon' expects a number above 0"),
        ({"eta": -1.0}, "'eta' expects a number above 0"),
        ({"eta": math.nan}, "'eta' expects a number above 0"),
        ({"sigma": -1.0}, "'sigma' expects a number of at least 0"),
        ({"steps": 0}, "'steps' expects a whole number of at least 1"),
        ({"norm": "l2"}, "'norm' expects one of 'inf', '2', found 'l2'; did you mean '2'"),
        ({"norm": 2}, "'norm' expects one of 'inf', '2', found 2"),
        ({"noise": torch.zeros(HIDDEN)}, "the shape of the embeddings, found"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"epsilon": 0.1, "sigma": 0.1, "eta": 0.1} | wrong
    with pytest.raises(ValueError, match=message):
        adversarial_loss(Reader(), embedded(), Reader()(embedded()), smart.symmetric_kl, **settings)


# --- the proximal term -----------------------------------------------------------------------------------


def test_bregman_is_the_distance_and_pulls_only_the_current_weights() -> None:
    current, averaged = (normal(4, 3, seed=seed).requires_grad_() for seed in (1, 2))
    loss = smart.bregman_loss(current, averaged, smart.symmetric_kl)
    assert torch.equal(loss, smart.symmetric_kl(current, averaged))
    loss.backward()  # type: ignore[no-untyped-call]
    assert current.grad is not None
    assert averaged.grad is None
    parts = smart.bregman_loss([current], [averaged], lambda p, q: smart.squared_error(p[0], q[0]))
    parts.backward()  # type: ignore[no-untyped-call]
    assert averaged.grad is None


@given(st.floats(0.0, 0.999), st.integers(1, 30))
def test_the_average_forgets_where_it_started_at_the_rate_of_the_momentum(
    momentum: float, steps: int
) -> None:
    current = [normal(3, 2, seed=1), normal(4, seed=2), torch.tensor(2.0, dtype=torch.float64)]
    averaged = [torch.ones_like(weight) for weight in current]
    for _ in range(steps):
        smart.average_(averaged, current, momentum)
    for mean, weight in zip(averaged, current, strict=True):
        expected = weight + momentum**steps * (1.0 - weight)
        torch.testing.assert_close(mean, expected, rtol=1e-11, atol=1e-12)


def test_averaging_parameters_leaves_them_and_their_graph_alone() -> None:
    model = Reader()
    averaged = [weight.detach().clone() for weight in model.parameters()]
    kept = [weight.detach().clone() for weight in model.parameters()]
    with torch.no_grad():
        model.mix.add_(1.0)
    smart.average_(averaged, list(model.parameters()), 0.75)
    torch.testing.assert_close(averaged[0], kept[0] + 0.25)
    assert torch.equal(averaged[1], kept[1])
    assert torch.equal(model.mix, kept[0] + 1)
    assert not any(mean.requires_grad for mean in averaged)
    smart.average_([], [], 0.5)


@pytest.mark.parametrize(
    ("averaged", "momentum", "message"),
    [
        ([torch.zeros(1)], 0.5, "same shape"),  # would be broadcast
        ([torch.zeros(3), torch.zeros(3)], 0.5, "same shape"),
        ([torch.zeros(3)], 1.0, "'momentum' expects"),
        ([torch.zeros(3)], -0.1, "'momentum' expects"),
        ([torch.zeros(3)], math.nan, "'momentum' expects"),
    ],
)
def test_an_average_of_something_else_is_refused(
    averaged: list[Tensor], momentum: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        smart.average_(averaged, [torch.ones(3)], momentum)


# --- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_norm", "meant"), [(2, "2"), (2.0, "2"), ("2", "2"), ("inf", "inf"), (math.inf, "inf")]
)
def test_a_norm_may_be_written_as_a_number(given_norm: object, meant: str) -> None:
    assert SmartSettings.model_validate({"norm": given_norm}).norm == meant


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": -1}, {"epsilon": 0}, {"sigma": -1e-9}, {"eta": 0}, {"steps": 0}, {"steps": 1.5}, {"mu": -1},
        {"momentum": 1}, {"norm": "l2"}, {"norm": 1}, {"norm": True}, {"epsilon": math.nan}, {"weigth": 1},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SmartSettings.model_validate(wrong)


def test_the_settings_are_those_of_the_paper_and_say_what_they_mean() -> None:
    settings = SmartSettings()
    assert (settings.weight, settings.eta, settings.momentum, settings.mu) == (5.0, 1e-3, 0.995, 1.0)
    assert (settings.steps, settings.norm) == (1, "inf")
    assert all(field.description for field in SmartSettings.model_fields.values())
