"""SMART in the loop: its term and its gradients against transformers and plain autograd, its averaged weights."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import manyheads as mh
from manyheads.encoder.checkpoint import their_names
from manyheads.encoder.layers import Masks
from manyheads.run import Run
from manyheads.training.objective import Objective

if TYPE_CHECKING:
    from tests.conftest import Tiny
    from tests.training.conftest import Pass, Watched

SCHEDULE = {"steps": 3, "batch_size": 8, "warmup": 0, "evaluate_every": 100}
TOGETHER = {"schedule": "round_robin", "combine": True}


def train(tiny: "Tiny", out: Path, **settings: Any) -> Run:
    dropout = settings.pop("dropout", 0.1)
    recipe = tiny.recipe(
        **{
            "encoder": {"from": str(tiny.folder / "bert"), "dropout": dropout},
            "schedule": SCHEDULE,
            "mixing": TOGETHER,
            **settings,
        }
    )
    return mh.train(mh.Recipe.parse(recipe), out, quiet=True)


def smart(**settings: Any) -> dict[str, Any]:
    """Both terms at each step, unless it is said otherwise."""
    return {"smart": {"share": 1.0, "mu": 1.0, "weight": 1.0, **settings}}


def terms(run: Run) -> list[dict[str, float]]:
    lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record.get("terms", {}) for record in map(json.loads, lines) if record["event"] == "step"]


def last_weights(run: Run) -> dict[str, Tensor]:
    """All of the last checkpoint but what the objective remembers."""
    (path,) = run.checkpoints.glob("step-*.safetensors")
    return {name: one for name, one in load_file(path).items() if not name.startswith("objective/")}


# ---- the adversarial term ----


def symmetric_kl(p: Tensor, q: Tensor) -> Tensor:
    """Of logits [B, C], by torch's own KL, mean over examples."""
    p, q = p.log_softmax(1), q.log_softmax(1)
    there, back = (F.kl_div(b, a, log_target=True, reduction="batchmean") for a, b in ((p, q), (q, p)))
    return there + back


def squared(p: Tensor, q: Tensor) -> Tensor:
    return ((p - q) ** 2).mean()


class ByHand:
    """The first step's batch (mood, then pairs) on transformers' BertModel in float64: padded, plain autograd."""

    def __init__(self, tiny: "Tiny", seen: "Pass") -> None:
        self.bert = transformers.BertModel.from_pretrained(
            tiny.folder / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        ).double()
        head: Any = seen.network.head("mood")
        self.weight = head.output.weight.detach().clone().requires_grad_()
        self.bias = head.output.bias.detach().clone().requires_grad_()
        self.mood, self.pairs = seen.parts
        lengths = torch.from_numpy(seen.ragged.lengths)
        self.keep = torch.arange(int(lengths.max())) < lengths[:, None]
        self.ids = torch.zeros(self.keep.shape, dtype=torch.int64)
        self.ids[self.keep] = seen.ragged.token_ids
        self.words = self.bert.embeddings.word_embeddings(self.ids)

    def outputs(self, words: Tensor) -> tuple[Tensor, Tensor]:
        states = self.bert(inputs_embeds=words, attention_mask=self.keep.long())
        logits = F.linear(states.pooler_output[: self.mood.end], self.weight, self.bias)
        mask = self.keep[self.pairs.begin :, :, None]
        vectors = (states.last_hidden_state[self.pairs.begin :] * mask).sum(1) / mask.sum(1)
        return logits, 5 * F.cosine_similarity(vectors[0::2], vectors[1::2])

    def distance(self, these: tuple[Tensor, Tensor], those: tuple[Tensor, Tensor]) -> Tensor:
        return 0.5 * symmetric_kl(these[0], those[0]) + squared(these[1], those[1])

    def loss(self, outputs: tuple[Tensor, Tensor]) -> Tensor:
        return 0.5 * F.cross_entropy(outputs[0], self.mood.targets.long()) + F.mse_loss(
            outputs[1], self.pairs.targets
        )

    def worst(self, noise: Tensor, clean: tuple[Tensor, Tensor], asked: dict[str, Any]) -> Tensor:
        """δ after the ascent, [B, L, H]."""
        words, aim = self.words.detach(), (clean[0].detach(), clean[1].detach())
        for _ in range(asked["steps"]):
            noise = noise.detach().requires_grad_()
            (g,) = torch.autograd.grad(self.distance(self.outputs(words + noise), aim), noise)
            p = float(asked["norm"])
            length = torch.linalg.vector_norm(g, ord=p, dim=-1, keepdim=True)
            moved = noise.detach() + torch.where(length > 0, asked["eta"] * g / length, 0)
            if p == 2:
                length = torch.linalg.vector_norm(moved, dim=-1, keepdim=True)
                moved = torch.where(length > asked["epsilon"], moved * asked["epsilon"] / length, moved)
            noise = moved if p == 2 else moved.clamp(-asked["epsilon"], asked["epsilon"])
        return noise


@pytest.mark.parametrize(
    "asked",
    [
        {"epsilon": 2e-2, "sigma": 5e-3, "eta": 1e-2, "steps": 2, "norm": "inf"},
        {"epsilon": 3e-2, "sigma": 1e-3, "eta": 5e-2, "steps": 1, "norm": "2"},
    ],
    ids=["inf", "2"],
)
def test_the_first_step_is_that_of_plain_autograd(
    tiny: "Tiny", tmp_path: Path, watched: "Watched", asked: dict[str, Any]
) -> None:
    # With μ too: the averaged weights are the weights then, and the proximal term is 0 with its gradient.
    run = train(
        tiny,
        tmp_path / "run",
        dropout=0.0,
        tasks={"mood": tiny.mood(weight=0.5), "pairs": tiny.pairs()},
        precision="float64",
        optimizer={"lr": 1e-3, "clip": None},
        regularize=smart(weight=3.0, **asked),
    )
    seen = watched.passes[0]
    torch.set_rng_state(seen.random)
    by_hand = ByHand(tiny, seen)
    noise = torch.zeros_like(by_hand.words)
    noise[by_hand.keep] = torch.randn(seen.ragged.tokens, 32, dtype=torch.float64) * asked["sigma"]
    clean = by_hand.outputs(by_hand.words)
    delta = by_hand.worst(noise, clean, asked)
    term = 3.0 * by_hand.distance(by_hand.outputs(by_hand.words + delta), clean)
    start = 3.0 * by_hand.distance(by_hand.outputs(by_hand.words + noise), clean)
    told = terms(run)[0]
    assert told["smart"] == pytest.approx(float(term.detach()), rel=1e-9)
    assert (
        told["smart"] > 2 * float(start.detach()) > 0
    )  # the search found something worse than where it began
    assert told["bregman"] == 0
    total = by_hand.loss(clean) + term
    assert seen.total == pytest.approx(float(total.detach()), rel=1e-12)

    # The gradients: both branches of the term are followed, δ is a constant, the search leaves nothing behind.
    total.backward()  # type: ignore[no-untyped-call]
    ours = watched.gradients[0]
    theirs: dict[str, Any] = {name: one.grad for name, one in by_hand.bert.named_parameters()}
    theirs |= {"weight": by_hand.weight.grad, "bias": by_hand.bias.grad}
    names: dict[str, list[str]] = {}
    for one, name, _ in their_names(2):
        names.setdefault(name, []).append(one)
    for name, found in ours.items():
        wanted: Any
        if name.startswith("heads."):
            wanted = theirs[name.rpartition(".")[2]]
        else:
            wanted = torch.cat([theirs[one] for one in names[name.removeprefix("encoder.")]])
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-7)
    assert len(ours) == len(names) + 2


def test_without_noise_the_term_is_nothing_whatever_dropout_does(
    tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = smart(sigma=0.0, epsilon=1e-2, mu=0, steps=2)
    run = train(tiny, tmp_path / "run", dropout=0.4, regularize=asked)
    assert [one["smart"] for one in terms(run)] == [0.0] * 3
    # The test can fail: two passes with masks of their own are not one function.
    monkeypatch.setattr(Masks, "replayed", lambda self: contextlib.nullcontext())
    apart = train(tiny, tmp_path / "apart", dropout=0.4, regularize=asked)
    assert min(one["smart"] for one in terms(apart)) > 1e-4


def test_at_weight_0_and_mu_0_every_bit_is_as_without(tiny: "Tiny", tmp_path: Path) -> None:
    plain = train(tiny, tmp_path / "plain")
    off = train(tiny, tmp_path / "off", regularize=smart(weight=0, mu=0))
    wanted, found = last_weights(plain), last_weights(off)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(one, found[name]) for name, one in wanted.items())
    assert terms(off) == terms(plain) == [{}] * 3


def test_the_noise_stays_within_epsilon_and_the_term_grows_with_it(tiny: "Tiny", tmp_path: Path) -> None:
    found = []
    for epsilon in (1e-5, 1e-4):
        asked = smart(epsilon=epsilon, sigma=epsilon / 10, eta=1.0, mu=0)
        run = train(tiny, tmp_path / str(epsilon), dropout=0.0, precision="float64", regularize=asked)
        found.append(terms(run)[0]["smart"])
    # Near its minimum the distance is quadratic; both searches end at the corner of the ball.
    assert found[1] / found[0] == pytest.approx(100, rel=0.05)


# ---- the proximal term ----


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_averaged_weights_are_those_of_the_recursion(
    tiny: "Tiny", tmp_path: Path, watched: "Watched", monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    after: list[dict[str, Tensor]] = []
    plain: Callable[..., None] = Objective.stepped

    def stepped(self: Objective, network: torch.nn.Module) -> None:
        after.append({name: one.detach().clone() for name, one in network.named_parameters()})
        plain(self, network)

    monkeypatch.setattr(Objective, "stepped", stepped)
    run = train(
        tiny,
        tmp_path / "run",
        dropout=0.0,
        schedule={**SCHEDULE, "steps": 6},
        precision="float64",
        regularize=smart(weight=0, mu=2.0, momentum=0.7, share=share),
    )
    averaged = {name: one.detach().clone() for name, one in watched.passes[0].network.named_parameters()}
    start = averaged
    prefix = "terms.bregman.averaged."
    for seen, moved in zip(watched.passes, after, strict=True):
        for name, one in averaged.items():
            torch.testing.assert_close(seen.objective[prefix + name], one, atol=1e-14, rtol=1e-12)
        # μ times the distance of the answers from those of the averaged weights.
        then = torch.func.functional_call(
            seen.network,
            averaged,
            (seen.ragged, [(part.task, part.begin, part.end) for part in seen.parts]),
        )
        now: list[Tensor] = seen.network(
            seen.ragged, [(part.task, part.begin, part.end) for part in seen.parts]
        )
        mood, pairs = symmetric_kl(now[0], then[0]), squared(5 * now[1], 5 * then[1])
        # A step that pays for the term counts for those that do not; the average goes on at each.
        wanted = 2 / share * float((mood + pairs).detach())
        if seen.terms or share == 1:
            assert seen.terms == {"bregman": pytest.approx(wanted, rel=1e-8, abs=1e-14)}
        averaged = {name: 0.7 * one + 0.3 * moved[name] for name, one in averaged.items()}
    (path,) = run.checkpoints.glob("step-*.safetensors")
    kept = load_file(path)
    names = [name for name in kept if name.startswith("objective/")]
    assert sorted(names) == sorted(f"objective/{prefix}{name}" for name in averaged)
    for name, one in averaged.items():
        torch.testing.assert_close(kept[f"objective/{prefix}{name}"], one, atol=1e-14, rtol=1e-12)
    assert any((averaged[name] - one).abs().max() > 1e-4 for name, one in start.items())
    paid = [number for number, one in enumerate(terms(run)) if one]
    assert paid == list(range(6)) if share == 1 else 0 < len(paid) < 6


def test_the_proximal_term_sees_the_dropout_of_the_step(tiny: "Tiny", tmp_path: Path) -> None:
    run = train(tiny, tmp_path / "run", dropout=0.4, regularize=smart(weight=0))
    told = [one["bregman"] for one in terms(run)]
    assert told[0] == 0
    assert 0 < told[1] < told[2]


def test_a_batch_in_parts_has_the_terms_of_the_whole(tiny: "Tiny", tmp_path: Path) -> None:
    # The noise is drawn for each part anew, so only what needs none can be equal.
    found = [
        terms(
            train(
                tiny,
                tmp_path / str(parts),
                dropout=0.0,
                schedule={**SCHEDULE, "accumulate": parts},
                precision="float64",
                regularize=smart(weight=0),
            )
        )
        for parts in (1, 3)
    ]
    assert [one["bregman"] for one in found[0]] == pytest.approx(
        [one["bregman"] for one in found[1]], rel=1e-7
    )
    assert found[0][2]["bregman"] > 0
