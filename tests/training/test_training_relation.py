"""Tasks that share a relation layer: trained, counted once, saved, loaded, and tasks that cannot take part."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import manyheads as mh
from manyheads.evidence.answered import evaluate_runs
from manyheads.run import Run
from manyheads.tasks.heads.relation import RelationHead

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny
    from tests.training.conftest import Watched

SCHEDULE = {"steps": 4, "batch_size": 8, "warmup": 0, "evaluate_every": 100}
RELATION = {"tasks": ["para", "sts"], "negative_slope": 0.05}
PAIRS = [("a fine film", "the story was good"), ("it was dull", "it was dull"), ("music", "a warm scene")]


@pytest.fixture(scope="module")
def para(tiny: "Tiny", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pairs of `tiny` with two labels in place of the score."""
    folder = tmp_path_factory.mktemp("para")
    for split in ("train", "dev"):
        lines = (tiny.folder / f"pairs-{split}.csv").read_text().splitlines()[1:]
        rows = [line.rsplit(",", 1) for line in lines]
        tiny.csv(
            folder / f"{split}.csv", ["q1", "q2", "same"], [(*r.split(","), int(s == "5")) for r, s in rows]
        )
    return folder


def tasks(tiny: "Tiny", para: Path) -> dict[str, Any]:
    """As the contract's example has them: para with features of a linear head, sts with a cosine head."""
    files = {split: str(para / f"{split}.csv") for split in ("train", "dev")}
    return {
        "mood": tiny.mood(),
        "para": {
            "kind": "classification",
            "files": files,
            "pair": ["q1", "q2"],
            "label": "same",
            "encode": "siamese",
            "features": ["u", "v", "absdiff"],
            "max_length": 16,
        },
        "sts": tiny.pairs(),
    }


def train(tiny: "Tiny", para: Path, out: Path, **settings: Any) -> Run:
    recipe = tiny.recipe(
        **{
            "tasks": tasks(tiny, para),
            "relation": RELATION,
            "schedule": SCHEDULE,
            "mixing": {"schedule": "round_robin", "combine": True},
            **settings,
        }
    )
    return mh.train(mh.Recipe.parse(recipe), out, quiet=True)


def test_a_run_and_what_it_leaves(tiny: "Tiny", para: Path, tmp_path: Path, watched: "Watched") -> None:
    run = train(tiny, para, tmp_path / "run")

    # The optimiser has each parameter once, the shared one among them.
    (optimizer,) = watched.optimizers
    found = [id(one) for group in optimizer.param_groups for one in group["params"]]
    assert len(found) == len(set(found))
    network = watched.passes[0].network
    begun = network.get_parameter("relation.weight")
    sizes = [one.numel() for group in optimizer.param_groups for one in group["params"]]
    assert sum(sizes) == sum(one.numel() for one in network.parameters())

    # So have the files.
    weights = load_file(run.model_folder / "heads.safetensors")
    assert {name: tuple(one.shape) for name, one in weights.items()} == {
        "relation/weight": (64, 32),
        "para.output.weight": (2, 64),
        "para.output.bias": (2,),
        "sts.output.weight": (1, 64),
        "sts.output.bias": (1,),
        "mood.output.weight": (2, 32),
        "mood.output.bias": (2,),
    }
    assert float((weights["relation/weight"] - begun.detach()).abs().max()) > 1e-4  # it learnt
    described = json.loads((run.model_folder / "heads.json").read_text())
    assert described["relation"] == {"negative_slope": 0.05}
    assert {name: one["related"] for name, one in described["tasks"].items()} == {
        "mood": False,
        "para": True,
        "sts": True,
    }

    # Loaded it is one layer again, under both heads, and answers as the training's last network.
    model = mh.load(run.folder)
    heads: list[Any] = [model.network.head(name) for name in ("para", "sts")]
    assert all(isinstance(head, RelationHead) for head in heads)
    assert all(head._relation[0] is model.network.relation for head in heads)
    assert not isinstance(model.network.head("mood"), RelationHead)
    again = tmp_path / "again"
    model.save(again)
    for task in ("para", "sts"):
        assert mh.load(again, "float32").predict(task, PAIRS) == model.predict(task, PAIRS)
    assert evaluate_runs([run])["dev"].keys() == run.scores.keys()
    for task, scores in evaluate_runs([run])["dev"].items():
        assert scores == pytest.approx(run.scores[task], abs=1e-6)


def test_what_a_loaded_head_computes(tiny: "Tiny", para: Path, tmp_path: Path) -> None:
    """From the two texts' embeddings and the file's tensors alone, in numpy."""
    run = train(tiny, para, tmp_path / "run")
    model = mh.load(run.folder)
    weights = {name: one.numpy() for name, one in load_file(run.model_folder / "heads.safetensors").items()}
    u, v = (model.embed([pair[i] for pair in PAIRS]) for i in range(2))
    lengths = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
    mapped = (u * v / lengths[:, None]) @ weights["relation/weight"].T
    r = 32 * np.where(mapped > 0, mapped, 0.05 * mapped)
    value = r @ weights["sts.output.weight"][0] + weights["sts.output.bias"][0]
    found = np.array([one.value for one in model.predict("sts", PAIRS)], dtype=np.float64)
    np.testing.assert_allclose(found, value.clip(0, 5), atol=1e-4)
    logits = r @ weights["para.output.weight"].T + weights["para.output.bias"]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    said = [(one.probabilities or {})["1"] for one in model.predict("para", PAIRS, raw=True)]
    np.testing.assert_allclose(said, shares[:, 1], atol=1e-5)


def test_both_tasks_pull_at_it(tiny: "Tiny", para: Path, tmp_path: Path, watched: "Watched") -> None:
    encoder = {"from": str(tiny.folder / "bert"), "dropout": 0.0}
    train(
        tiny,
        para,
        tmp_path / "run",
        encoder=encoder,
        precision="float64",
        optimizer={"lr": 1e-3, "clip": None},
    )
    seen, whole = watched.passes[0], watched.gradients[0]["relation.weight"]
    assert whole is not None
    layer = seen.network.relation
    assert layer is not None
    pulls = {}
    for part in seen.parts:
        outputs = seen.network(seen.ragged, [(one.task, one.begin, one.end) for one in seen.parts])
        loss = part.kind.loss(outputs[seen.parts.index(part)], part.targets)
        (pulls[part.task],) = torch.autograd.grad(loss, layer.weight, allow_unused=True)
    assert pulls.pop("mood") is None
    assert all(float(one.abs().max()) > 1e-6 for one in pulls.values())
    torch.testing.assert_close(whole, pulls["para"] + pulls["sts"], atol=1e-12, rtol=1e-9)


def test_smart_reaches_through_it(tiny: "Tiny", para: Path, tmp_path: Path, watched: "Watched") -> None:
    """The averaged network's heads share the averaged layer, not the network's own."""
    smart = {"weight": 0.0, "mu": 1.0, "share": 1.0, "momentum": 0.5}
    train(tiny, para, tmp_path / "run", regularize={"smart": smart})
    prefix = "terms.bregman.averaged.relation.weight"
    begun, then = (watched.passes[i].objective[prefix] for i in (0, 2))
    assert torch.equal(begun, watched.passes[0].network.get_parameter("relation.weight"))
    assert float((then - begun).abs().max()) > 1e-5
    assert watched.passes[0].terms == {"bregman": 0.0}
    assert watched.passes[2].terms["bregman"] > 0


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (["para", "mood"], "relation.tasks.1: task 'mood' gives no two vectors of the encoder's width"),
        (["cross"], "relation.tasks.0: task 'cross' gives no two vectors of the encoder's width"),
        (["para", "stss"], "relation.tasks.1: expected one of the tasks"),
    ],
)
def test_tasks_that_cannot_take_part(
    tiny: "Tiny", para: Path, tmp_path: Path, command: "Command", chosen: list[str], told: str
) -> None:
    cross = tiny.pairs(encode="cross", head="linear", range=None)
    recipe = tiny.write(
        tmp_path / "r.yaml",
        tasks={**tasks(tiny, para), "cross": cross},
        relation={"tasks": chosen},
    )
    assert told in command.refused("train", recipe, "--out", tmp_path / "out", "--quiet")
    assert not (tmp_path / "out").exists()


def test_a_model_whose_relation_is_not_described(tiny: "Tiny", para: Path, tmp_path: Path) -> None:
    run = train(tiny, para, tmp_path / "run")
    path = run.model_folder / "heads.json"
    described = json.loads(path.read_text())
    for relation, told in [
        ({}, "'relation' is not described"),
        ({"negative_slope": "steep"}, "'relation' is not described"),
        ([1], "'relation' is not described"),
        (None, "para.output.weight: expected shape"),
    ]:
        path.write_text(json.dumps({**described, "relation": relation}))
        with pytest.raises(mh.InputError, match=told):
            mh.load(run.folder)
