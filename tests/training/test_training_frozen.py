"""A frozen encoder: heads on vectors that are computed once, against a loop written by hand with transformers."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import manyheads as mh
from manyheads.encoder.bert import Encoder
from manyheads.encoder.ragged import Ragged
from manyheads.evidence.answered import evaluate_runs
from manyheads.model import Network
from manyheads.run import Run
from manyheads.tasks.head import plain
from manyheads.training.frozen import vectors_of
from manyheads.training.journal import Journal
from manyheads.training.splits import load_task

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny
    from tests.training.conftest import Watched

SCHEDULE = {"steps": 6, "batch_size": 8, "warmup": 0, "evaluate_every": 3, "checkpoint_every": 2}


def recipe(tiny: "Tiny", *, dropout: float = 0.0, encoder_dropout: float = 0.5, **settings: Any) -> mh.Recipe:
    """Two tasks whose heads drop `dropout`; what the encoder would drop must not matter."""
    pairs = tiny.pairs(head="linear", range=None, features=["u", "absdiff"], pooling="mean", dropout=dropout)
    plain = {
        "encoder": {"from": str(tiny.folder / "bert"), "freeze": True, "dropout": encoder_dropout},
        "tasks": {"mood": tiny.mood(dropout=dropout), "pairs": pairs},
        "schedule": SCHEDULE,
        "precision": "float64",
        "optimizer": {"lr": 3e-2, "weight_decay": 0.0, "clip": None},
    }
    return mh.Recipe.parse(tiny.recipe(**{**plain, **settings}))


def train(tiny: "Tiny", out: Path, *, resume: bool = False, **settings: Any) -> Run:
    return mh.train(recipe(tiny, **settings), out, resume=resume, quiet=True)


def heads(run: Run) -> dict[str, Tensor]:
    return load_file(run.model_folder / "heads.safetensors")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class ByHand:
    """Linear heads on transformers' BertModel in eval mode, which is asked anew at each step."""

    def __init__(self, tiny: "Tiny", network: Network) -> None:
        self.bert: Any = transformers.BertModel.from_pretrained(tiny.folder / "bert")
        self.bert.double().eval()  # type: ignore[no-untyped-call]
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(tiny.folder / "bert")
        self.mood = table(tiny.folder / "mood-train.csv")
        self.pairs = table(tiny.folder / "pairs-train.csv")
        self.heads = {name: one.detach().clone() for name, one in network.named_head_parameters()}
        for one in self.heads.values():
            one.requires_grad_()

    @torch.no_grad()
    def read(self, length: int, texts: list[str]) -> tuple[Tensor, Tensor]:
        """The pooled vector and the mean over tokens of each text."""
        batch = self.tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        states, mask = self.bert(**batch), batch["attention_mask"][..., None]
        return states.pooler_output, (states.last_hidden_state * mask).sum(1) / mask.sum(1)

    def loss(self, task: str, rows: list[int]) -> Tensor:
        weight, bias = (self.heads[f"{task}.output.{part}"] for part in ("weight", "bias"))
        if task == "mood":
            vectors, _ = self.read(16, [self.mood[row]["sentence"] for row in rows])
            gold = torch.tensor([["bad", "good"].index(self.mood[row]["label"]) for row in rows])
            return F.cross_entropy(F.linear(vectors, weight, bias), gold)
        u, v = (self.read(24, [self.pairs[row][side] for row in rows])[1] for side in ("a", "b"))
        target = torch.tensor([float(self.pairs[row]["score"]) for row in rows], dtype=torch.float64)
        return F.mse_loss(F.linear(torch.cat([u, (u - v).abs()], 1), weight, bias)[:, 0], target)

    def train(self, steps: int) -> list[float]:
        schedule = mh.mixing.schedule("round_robin", {"mood": 48, "pairs": 48}, 8, 7)
        optimizer = torch.optim.AdamW(self.heads.values(), lr=1.0, weight_decay=0.0)
        losses = []
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 3e-2 * (steps - step) / steps
            optimizer.zero_grad()
            draw = schedule[step]
            loss = self.loss(draw.task, draw.rows.tolist())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        return losses


def test_the_heads_are_those_of_a_loop_written_by_hand(
    tiny: "Tiny", tmp_path: Path, watched: "Watched"
) -> None:
    run = train(tiny, tmp_path / "run")
    by_hand = ByHand(tiny, watched.passes[0].network)
    wanted = by_hand.train(6)
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    steps = [record for record in log if record["event"] == "step"]
    assert [next(iter(record["loss"].values())) for record in steps] == pytest.approx(wanted, rel=1e-8)
    assert {record["tokens"] for record in steps} == {0}  # none was read again
    (path,) = run.checkpoints.glob("step-*.safetensors")
    last = load_file(path)
    for name, one in by_hand.heads.items():
        task, _, rest = name.partition(".")
        torch.testing.assert_close(last[f"network/heads.task {task}.{rest}"], one.detach(), atol=1e-9, rtol=0)

    # The encoder is as it was, to the bit; and its moments, which it does not need, are not kept.
    before = load_file(tiny.folder / "bert" / "model.safetensors")
    after = load_file(run.model_folder / "model.safetensors")
    assert all(torch.equal(after[name].float(), one) for name, one in before.items())
    assert len({name.split("/")[1] for name in last if name.startswith("optimizer/")}) == 4

    # The scores are those of the model that is left, asked with its encoder.
    assert not (run.folder / "features").exists()
    for split, scores in evaluate_runs([run], ["dev", "test"]).items():
        for task, found in scores.items():
            assert found == pytest.approx(run.all_scores[split][task], abs=1e-6)


def test_what_the_encoder_would_drop_changes_no_bit(tiny: "Tiny", tmp_path: Path) -> None:
    found = [heads(train(tiny, tmp_path / str(share), encoder_dropout=share)) for share in (0.0, 0.5)]
    assert all(torch.equal(one, found[1][name]) for name, one in found[0].items())
    other = heads(train(tiny, tmp_path / "heads", dropout=0.5))  # what the heads drop does
    assert not all(torch.equal(one, other[name]) for name, one in found[0].items())


def test_the_encoder_reads_each_row_once(
    tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0
    plain = Encoder.encode

    def encode(self: Encoder, ragged: Ragged, **named: Any) -> Any:
        nonlocal seen
        seen += len(ragged)
        assert not self.training
        return plain(self, ragged, **named)

    monkeypatch.setattr(Encoder, "encode", encode)
    train(tiny, tmp_path / "run", schedule={**SCHEDULE, "steps": 24})
    assert seen == 48 + 20 + 12 + 2 * (48 + 20)


class PowerCutError(BaseException):
    """Ends a training as a kill does: nothing catches it."""


def test_cut_and_resumed(tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tiny, tmp_path / "whole", dropout=0.3)
    plain = Journal.step

    def cut(self: Journal, step: int, *given: Any, **named: Any) -> None:
        plain(self, step, *given, **named)
        if step == 5:
            raise PowerCutError

    monkeypatch.setattr(Journal, "step", cut)
    out = tmp_path / "cut"
    with pytest.raises(PowerCutError):
        train(tiny, out, dropout=0.3)
    monkeypatch.undo()
    assert sorted(path.name for path in (out / "features").iterdir()) == [
        *("mood-dev.bin", "mood-test.bin", "mood-train.bin", "pairs-dev.bin", "pairs-train.bin")
    ]
    # Half of a file, as the kill may have left it: it is computed anew.
    torn = out / "features" / "mood-train.bin"
    torn.write_bytes(torn.read_bytes()[:500])
    train(tiny, out, resume=True, dropout=0.3)
    assert not (out / "features").exists()
    for name in ("model.safetensors", "heads.safetensors"):
        assert (out / "model" / name).read_bytes() == (whole.model_folder / name).read_bytes()
    assert (out / "scores.json").read_bytes() == (whole.folder / "scores.json").read_bytes()


def test_a_relation_layer_learns_over_it(tiny: "Tiny", tmp_path: Path, watched: "Watched") -> None:
    run = train(tiny, tmp_path / "run", relation={"tasks": ["pairs"]})
    begun = watched.passes[0].network.get_parameter("relation.weight").detach()
    assert float((heads(run)["relation/weight"] - begun).abs().max()) > 1e-3
    before = load_file(tiny.folder / "bert" / "model.safetensors")
    after = load_file(run.model_folder / "model.safetensors")
    assert all(torch.equal(after[name].float(), one) for name, one in before.items())


def test_vectors_lie_where_their_rows_do(tiny: "Tiny", tmp_path: Path) -> None:
    """However the rows are sorted into batches, and both of a pair."""
    asked = recipe(tiny)
    tokenizer = mh.Tokenizer.from_pretrained(tiny.folder / "bert")
    encoder = mh.Encoder.from_pretrained(tiny.folder / "bert")
    for name in ("mood", "pairs"):
        task = load_task(name, asked, tokenizer, positions=64, splits=["train"])
        network = Network(encoder, {name: task.kind.build_head(32, 0.5)}).train()
        told: list[int] = []
        path = tmp_path / "deep" / f"{name}.npy"
        found = vectors_of(network, name, task.splits["train"], path, told.append)
        assert network.training
        assert sum(told) == 48
        assert found.rows.dtype == np.float32
        k = 2 if name == "pairs" else 1
        assert path.stat().st_size == 4 * 48 * k * 32
        network.eval()
        for row in (0, 7, 47):
            batch = task.splits["train"].rows.batch(np.array([row]))
            with torch.no_grad():
                states = network.encoder.encode(Ragged.of_layout(batch))
                wanted = network.head(name).read(states)
            np.testing.assert_allclose(plain(found.take(np.array([row]))), wanted, atol=2e-6)
        rows = np.array([5, 0, 5])
        each = [plain(found.take(rows[i : i + 1])) for i in range(3)]
        np.testing.assert_array_equal(plain(found.take(rows)), np.concatenate(each))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"regularize": {"smart": {}}}, "regularize.smart: a frozen encoder has nothing to smooth"),
        (
            {
                "gradients": {"surgery": "pcgrad"},
                "mixing": {"schedule": "round_robin", "combine": True},
            },
            "gradients: a frozen encoder has no gradients to compare",
        ),
        ({"gradients": {"affinity_every": 3}}, "gradients: a frozen encoder has no gradients to compare"),
    ],
)
def test_what_needs_the_encoder_s_gradients_is_refused(
    tiny: "Tiny", tmp_path: Path, command: "Command", settings: dict[str, Any], told: str
) -> None:
    encoder = {"from": str(tiny.folder / "bert"), "freeze": True}
    path = tiny.write(tmp_path / "r.yaml", encoder=encoder, **settings)
    assert told in command.refused("train", path, "--out", tmp_path / "out", "--quiet")
    assert not (tmp_path / "out").exists()
