"""The loop: against a hand-written one, its settings, its determinism, its failures."""

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import manyheads as mh
from manyheads.encoder.precision import bfloat16_is_fast
from manyheads.native import library as native_library
from manyheads.run import Run

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny


def train(recipe: dict[str, Any], out: Path, **settings: Any) -> Run:
    return mh.train(mh.Recipe.parse(recipe), out, quiet=True, **settings)


def weights(run: Run) -> dict[str, Tensor]:
    """All tensors of a run's model."""
    heads = load_file(run.model_folder / "heads.safetensors")
    return load_file(run.model_folder / "model.safetensors") | {
        f"heads/{name}": one for name, one in heads.items()
    }


def records(run: Run, event: str) -> list[dict[str, Any]]:
    lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of two models' weights."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# ---- against a loop written by hand with transformers ----


class ByHand:
    """Three tasks on transformers' BertModel in float64: padded batches, torch's AdamW, no code of ours but the
    schedule that says which rows come next."""

    def __init__(self, tiny: "Tiny", recipe: dict[str, Any]) -> None:
        self.recipe = recipe
        self.bert = transformers.BertModel.from_pretrained(
            tiny.folder / "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        ).double()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.folder / "bert")
        self.mood = self.rows(tiny.folder / "mood-train.csv")
        self.pairs = self.rows(tiny.folder / "pairs-train.csv")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe["seed"])
            first, second = (torch.empty(count, 32).normal_(std=0.02).double() for count in (2, 1))
        self.heads = {"mood": (first, torch.zeros(2)), "packed": (second, torch.zeros(1))}
        self.heads = {
            name: (w.requires_grad_(), b.double().requires_grad_()) for name, (w, b) in self.heads.items()
        }

    @staticmethod
    def rows(path: Path) -> list[dict[str, str]]:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def read(self, length: int, *texts: list[str]) -> tuple[Any, Tensor]:
        batch = self.tokenizer(*texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        return self.bert(**batch), batch["attention_mask"][..., None].double()

    def loss(self, task: str, rows: list[int]) -> Tensor:
        if task == "mood":
            states, _ = self.read(16, [self.mood[row]["sentence"] for row in rows])
            gold = torch.tensor([["bad", "good"].index(self.mood[row]["label"]) for row in rows])
            return 0.5 * F.cross_entropy(F.linear(states.pooler_output, *self.heads["mood"]), gold)
        a, b = ([self.pairs[row][side] for row in rows] for side in ("a", "b"))
        target = torch.tensor([float(self.pairs[row]["score"]) for row in rows], dtype=torch.float64)
        if task == "packed":
            states, _ = self.read(20, a, b)
            return F.mse_loss(F.linear(states.pooler_output, *self.heads["packed"])[:, 0], target)
        vectors = []
        for texts in (a, b):
            states, mask = self.read(10, texts)
            vectors.append((states.last_hidden_state * mask).sum(1) / mask.sum(1))
        return F.mse_loss(5 * F.cosine_similarity(*vectors), target)

    def groups(self) -> list[dict[str, Any]]:
        """A group a parameter: rates fall by 0.9 a layer; matrices are decayed."""
        named: list[tuple[str, Tensor]] = [*self.bert.named_parameters()]
        named += [(f"head.{name}", one) for name, both in self.heads.items() for one in both]
        groups = []
        for name, one in named:
            depth = 3 if name.startswith("embeddings") else 0
            if name.startswith("encoder.layer."):
                depth = 2 - int(name.split(".")[2])
            rate = 3e-3 if depth == 0 else 2e-3 * 0.9**depth
            groups.append({"params": [one], "rate": rate, "weight_decay": 0.1 if one.dim() > 1 else 0.0})
        return groups

    def train(self, steps: int, draws: int) -> dict[str, Tensor]:
        sizes = dict.fromkeys(self.recipe["tasks"], 48)
        schedule = mh.mixing.schedule("round_robin", sizes, {"mood": 8, "pairs": 5, "packed": 8}, 7)
        optimizer = torch.optim.AdamW(self.groups(), lr=1.0, betas=(0.8, 0.99), eps=1e-6, fused=False)
        rising = round(0.25 * steps)
        self.bert.train()
        for step in range(steps):
            factor = step / rising if step < rising else (steps - step) / (steps - rising)
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * factor
            optimizer.zero_grad()
            for draw in (schedule[step * draws + i] for i in range(draws)):
                self.loss(draw.task, draw.rows.tolist()).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(
                [one for group in optimizer.param_groups for one in group["params"]], 0.7
            )
            optimizer.step()
        found = {name: one.detach() for name, one in self.bert.named_parameters()}
        for name, (weight, bias) in self.heads.items():
            found |= {
                f"heads/{name}.output.weight": weight.detach(),
                f"heads/{name}.output.bias": bias.detach(),
            }
        return found


@pytest.mark.parametrize("combine", [False, True])
def test_the_weights_are_those_of_a_loop_written_by_hand(tiny: "Tiny", tmp_path: Path, combine: bool) -> None:
    recipe = tiny.recipe(
        encoder={"from": str(tiny.folder / "bert"), "dropout": 0.0},
        tasks={
            "mood": tiny.mood(weight=0.5, batch_size=8),
            "pairs": tiny.pairs(batch_size=5, max_length=10),
            "packed": tiny.pairs(encode="cross", head="linear", range=None, batch_size=8, max_length=20),
        },
        mixing={"schedule": "round_robin", "combine": combine},
        optimizer={
            "lr": 2e-3,
            "head_lr": 3e-3,
            "layer_decay": 0.9,
            "weight_decay": 0.1,
            "clip": 0.7,
            "betas": [0.8, 0.99],
            "eps": 1e-6,
        },
        schedule={"steps": 16, "warmup": 0.25, "evaluate_every": 100},
        precision="float64",
    )
    found = weights(train(recipe, tmp_path / "run"))
    start = ByHand(tiny, recipe)
    before = {name: one.detach().clone() for name, one in start.bert.named_parameters()}
    wanted = start.train(16, 3 if combine else 1)
    assert apart(found, wanted) < 1e-9
    assert max(float((wanted[name] - before[name]).abs().max()) for name in before) > 1e-3  # it did move


# ---- the same recipe, the same bits ----


def test_the_seed_decides_every_bit(tiny: "Tiny", tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = weights(train(tiny.recipe(), tmp_path / "a"))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = weights(train(tiny.recipe(), tmp_path / "b"))
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are left alone
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = weights(train(tiny.recipe(seed=8), tmp_path / "c"))
    assert apart(first, other) > 1e-3


def test_checkpoints_and_evaluations_change_no_bit(tiny: "Tiny", tmp_path: Path) -> None:
    plain = tiny.recipe(schedule={"steps": 8, "batch_size": 8, "evaluate_every": 100})
    often = tiny.recipe(schedule={"steps": 8, "batch_size": 8, "evaluate_every": 100, "checkpoint_every": 1})
    asked = tiny.recipe(schedule={"steps": 8, "batch_size": 8, "evaluate_every": 4})
    first, second = weights(train(plain, tmp_path / "a")), weights(train(often, tmp_path / "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    run = train(asked, tmp_path / "c")
    last = load_file(run.checkpoints / "step-00000008.safetensors")
    final = {name: one for name, one in last.items() if name.startswith("network/")}
    wanted = load_file(tmp_path / "a" / "checkpoints" / "step-00000008.safetensors")
    assert all(torch.equal(one, wanted[name]) for name, one in final.items())


@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_gradients_are_those_of_the_whole_batch(
    tiny: "Tiny", tmp_path: Path, accumulate: int
) -> None:
    found = []
    for parts in (1, accumulate):
        recipe = tiny.recipe(
            encoder={"from": str(tiny.folder / "bert"), "dropout": 0.0},
            mixing={"schedule": "round_robin", "combine": True},
            schedule={"steps": 4, "batch_size": 32, "accumulate": parts, "warmup": 0},
            precision="float64",
        )
        run = train(recipe, tmp_path / str(parts))
        found.append((weights(run), records(run, "step")))
    assert apart(found[0][0], found[1][0]) < 1e-10
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-10)
        assert one["examples"] == other["examples"] == {"mood": 32, "pairs": 32}
        assert one["tokens"] == other["tokens"]


def test_a_frozen_encoder_keeps_its_bits(tiny: "Tiny", tmp_path: Path) -> None:
    recipe = tiny.recipe(
        encoder={"from": str(tiny.folder / "bert"), "freeze": True},
        tasks={"mood": tiny.mood(), "again": tiny.mood()},
    )
    run = train(recipe, tmp_path / "run")
    found, before = weights(run), load_file(tiny.folder / "bert" / "model.safetensors")
    assert all(torch.equal(found[name], before[name]) for name in before)
    assert not torch.equal(found["heads/mood.output.weight"], found["heads/again.output.weight"])


def test_nothing_to_learn_is_refused(tiny: "Tiny", tmp_path: Path) -> None:
    recipe = tiny.recipe(
        encoder={"from": str(tiny.folder / "bert"), "freeze": True}, tasks={"pairs": tiny.pairs()}
    )
    with pytest.raises(mh.InputError, match="nothing to train"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- what the schedule's settings say ----


@pytest.mark.parametrize(
    ("schedule", "steps", "evaluated"),
    [
        ({"epochs": 2}, 24, [12, 24]),
        ({"epochs": 0.5}, 6, [6]),
        ({"steps": 5}, 5, [5]),
        ({"steps": 7, "evaluate_every": 3}, 7, [3, 6, 7]),
        ({"epochs": 1, "batch_size": 16}, 6, [6]),
    ],
)
def test_how_long_and_how_often(
    tiny: "Tiny", tmp_path: Path, schedule: dict[str, Any], steps: int, evaluated: list[int]
) -> None:
    run = train(tiny.recipe(schedule={"batch_size": 8, **schedule}), tmp_path / "run")
    assert [record["step"] for record in records(run, "step")] == list(range(1, steps + 1))
    assert [record["step"] for record in records(run, "evaluation")] == evaluated


def test_patience_ends_the_training_and_the_best_weights_are_kept(tiny: "Tiny", tmp_path: Path) -> None:
    recipe = tiny.recipe(
        tasks={"mood": tiny.mood()},
        optimizer={"lr": 1e-7},  # the weights move, but no answer changes
        schedule={"steps": 20, "batch_size": 8, "evaluate_every": 3, "patience": 2},
    )
    run = train(recipe, tmp_path / "run")
    assert [(record["step"], record["best"]) for record in records(run, "evaluation")] == [
        (3, True),
        (6, False),
        (9, False),
    ]
    (end,) = records(run, "end")
    assert (end["step"], end["best_step"]) == (9, 3)
    kept = load_file(run.checkpoints / "best.safetensors")["encoder.layers.0.feedforward.up.weight"]
    last = load_file(run.checkpoints / "step-00000009.safetensors")[
        "network/encoder.layers.0.feedforward.up.weight"
    ]
    found = weights(run)["encoder.layer.0.intermediate.dense.weight"]
    assert torch.equal(found, kept)
    assert not torch.equal(found, last)


def test_the_scores_are_those_of_the_best_evaluation(tiny: "Tiny", tmp_path: Path) -> None:
    run = train(
        tiny.recipe(schedule={"epochs": 4, "batch_size": 8}, optimizer={"lr": 5e-3}), tmp_path / "run"
    )
    evaluations = records(run, "evaluation")
    best = max(evaluations, key=lambda record: record["mean"])
    assert run.scores == best["scores"]
    assert best["best"]
    accuracy, pearson = best["scores"]["mood"]["accuracy"], best["scores"]["pairs"]["pearson"]
    assert best["mean"] == pytest.approx((accuracy + (1 + pearson) / 2) / 2)


def test_it_learns(tiny: "Tiny", tmp_path: Path) -> None:
    recipe = tiny.recipe(
        tasks={"mood": tiny.mood()}, schedule={"epochs": 20, "batch_size": 8}, optimizer={"lr": 5e-3}
    )
    run = train(recipe, tmp_path / "run")
    assert run.all_scores["test"]["mood"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    "mixing",
    [
        {"schedule": "round_robin"},
        {"schedule": "round_robin", "combine": True},
        {"schedule": "interleaved"},
        {"schedule": "interleaved", "combine": True},
        {"schedule": "proportional"},
        {"schedule": "proportional", "in_batch": True},
        {"schedule": "sqrt"},
        {"schedule": "power", "exponent": 0.5, "in_batch": True},
        {"schedule": "annealed"},
        {"schedule": "shuffled"},
        {"schedule": "sequential"},
        {
            "schedule": "sequential",
            "stages": [{"tasks": ["pairs"], "epochs": 1}, {"schedule": "round_robin", "epochs": 1}],
        },
    ],
    ids=str,
)
def test_every_schedule_trains_what_it_draws(tiny: "Tiny", tmp_path: Path, mixing: dict[str, Any]) -> None:
    recipe = mh.Recipe.parse(tiny.recipe(mixing=mixing))
    run = mh.train(recipe, tmp_path / "run", quiet=True)
    schedule = mh.mixing.schedule(
        recipe.mixing.schedule,
        {"mood": 48, "pairs": 48},
        8,
        recipe.seed,
        **({"epochs": 1.0} if recipe.mixing.schedule == "annealed" else {}),  # the training's own
        **recipe.mixing.settings,
    )
    draws = 2 if mixing.get("combine") else 1
    steps = records(run, "step")
    assert len(steps) == (schedule.total_steps or schedule.steps_per_epoch) // draws
    for number, record in enumerate(steps):
        drawn = [draw for i in range(draws) for draw in schedule.draws(number * draws + i)]
        wanted = {draw.task: len(draw.rows) for draw in drawn}
        assert record["examples"] == wanted
        assert record["loss"].keys() == wanted.keys()
        assert all(math.isfinite(loss) for loss in record["loss"].values())


@pytest.mark.parametrize("optimizer", ["adam", "adamax"])
@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_every_optimizer_and_decay_trains(tiny: "Tiny", tmp_path: Path, optimizer: str, decay: str) -> None:
    recipe = tiny.recipe(
        optimizer={"name": optimizer, "lr": 1e-3},
        schedule={"steps": 3, "batch_size": 8, "decay": decay, "warmup": 0.4},
    )
    run = train(recipe, tmp_path / "run")
    factors = [0, 1, 1] if decay == "constant" else [0, 1, 0.5]
    assert [record["lr"] for record in records(run, "step")] == pytest.approx([1e-3 * one for one in factors])


@pytest.mark.skipif(not bfloat16_is_fast(), reason="this processor has no bfloat16")
def test_bfloat16_trains_and_keeps_float32_weights(tiny: "Tiny", tmp_path: Path) -> None:
    run = train(tiny.recipe(precision="bf16"), tmp_path / "run")
    found = weights(run)
    assert {one.dtype for one in found.values()} == {torch.float32}
    plain = weights(train(tiny.recipe(), tmp_path / "plain"))
    assert 0 < apart(found, plain) < 0.02


def test_an_encoder_from_random_weights(tiny: "Tiny", tmp_path: Path) -> None:
    size = {"layers": 1, "hidden": 16, "heads": 2, "intermediate": 20, "max_positions": 32}
    vocab = str(tiny.folder / "bert" / "vocab.txt")
    run = train(tiny.recipe(encoder={"size": size, "vocab": vocab}), tmp_path / "a")
    again = train(tiny.recipe(encoder={"size": size, "vocab": vocab}), tmp_path / "b")
    assert apart(weights(run), weights(again)) == 0
    assert weights(run)["embeddings.position_embeddings.weight"].shape == (32, 16)


def test_a_run_is_where_another_starts_from(tiny: "Tiny", tiny_run: Path, tmp_path: Path) -> None:
    recipe = tiny.recipe(encoder={"from": str(tiny_run), "freeze": True}, tasks={"new": tiny.mood()})
    found = weights(train(recipe, tmp_path / "run"))
    before = load_file(tiny_run / "model" / "model.safetensors")
    assert all(torch.equal(found[name], before[name]) for name in before)


# ---- failures while working ----


def test_a_loss_that_is_not_finite_ends_the_training(
    tiny: "Tiny", tmp_path: Path, command: "Command"
) -> None:
    recipe = tiny.write(tmp_path / "r.yaml", optimizer={"lr": 1e30, "clip": None}, schedule={"steps": 30})
    told = command.refused("train", recipe, "--out", tmp_path / "run", "--quiet", status=1)
    assert "finite" in told or "the loss is" in told
    assert "optimizer.lr" in told
    assert not (tmp_path / "run" / "model").exists()


def test_a_backend_that_is_not_there_is_refused_before_anything_is_written(
    tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANYHEADS_NATIVE", "off")
    monkeypatch.setattr(native_library, "_found", None)
    for precision in ("float32", "float64"):
        recipe = mh.Recipe.parse(tiny.recipe(precision=precision))
        with pytest.raises(mh.InputError, match="attention backend 'native'"):
            mh.train(recipe, tmp_path / "run", quiet=True, attention="native")
        assert not (tmp_path / "run").exists()


def test_more_length_than_positions_is_refused(tiny: "Tiny", tmp_path: Path) -> None:
    with pytest.raises(mh.InputError, match=r"tasks.mood.max_length: 65 is more than the 64 positions"):
        train(tiny.recipe(tasks={"mood": tiny.mood(max_length=65)}), tmp_path / "run")
