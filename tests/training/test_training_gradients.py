"""The tasks' gradients in the loop: learnt weights, surgery and affinity, against autograd on each task alone."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import manyheads as mh
from manyheads.formulas.gradients import pcgrad
from manyheads.model import Network
from manyheads.run import Run
from manyheads.training import loop
from manyheads.training.conflict import affinity as plain_affinity
from manyheads.training.conflict import draw_affinity
from manyheads.training.journal import Journal

if TYPE_CHECKING:
    from tests.conftest import Tiny
    from tests.training.conftest import Pass, Watched

SCHEDULE = {"steps": 3, "batch_size": 8, "warmup": 0, "evaluate_every": 100}
TOGETHER = {"schedule": "round_robin", "combine": True}
PCGRAD = {"surgery": "pcgrad"}


def train(tiny: "Tiny", out: Path, *, dropout: float = 0.0, resume: bool = False, **settings: Any) -> Run:
    plain = {
        "encoder": {"from": str(tiny.folder / "bert"), "dropout": dropout},
        "schedule": SCHEDULE,
        "mixing": TOGETHER,
        "optimizer": {"lr": 1e-3, "clip": None},
        "precision": "float64",
    }
    recipe = mh.Recipe.parse(tiny.recipe(**{**plain, **settings}))
    return mh.train(recipe, out, resume=resume, quiet=True)


def records(run: Run, event: str) -> list[dict[str, Any]]:
    lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def last_checkpoint(run: Run) -> dict[str, Tensor]:
    (path,) = run.checkpoints.glob("step-*.safetensors")
    return load_file(path)


def alone(seen: "Pass", network: Network, task: str) -> dict[str, Tensor | None]:
    """The gradient of one task's loss in a batch of several, by autograd, for every parameter."""
    network = copy.deepcopy(network)
    outputs = network(seen.ragged, [(part.task, part.begin, part.end) for part in seen.parts])
    for part, output in zip(seen.parts, outputs, strict=True):
        if part.task == task:
            part.kind.loss(output, part.targets).backward()  # type: ignore[no-untyped-call]
    return {name: one.grad for name, one in network.named_parameters()}


def flat(gradients: Mapping[str, Tensor | None], like: Mapping[str, Tensor | None]) -> Tensor:
    """End to end, for every parameter that has a gradient in `like`; zeros where there is none."""
    parts = []
    for name, one in like.items():
        found = gradients[name]
        if one is not None:
            parts.append((torch.zeros_like(one) if found is None else found).reshape(-1))
    return torch.cat(parts)


# ---- weights that are learnt ----


def test_uncertainty_weighting_by_hand(tiny: "Tiny", tmp_path: Path, watched: "Watched") -> None:
    tasks = {"mood": tiny.mood(weight=0.5), "pairs": tiny.pairs()}
    run = train(
        tiny,
        tmp_path / "run",
        tasks=tasks,
        gradients={"weighting": "uncertainty"},
        optimizer={"lr": 1e-1, "clip": None},
    )
    assert [list(seen.objective["log_variances"]) for seen in watched.passes[:1]] == [[0, 0]]
    for seen in watched.passes:
        mood, pairs = seen.objective["log_variances"].tolist()
        # A cross entropy counts whole, a squared error half (Kendall et al. 2018, equations 7 and 10).
        total = 0.5 * (math.exp(-mood) * seen.losses["mood"] + mood / 2)
        total += 0.5 * math.exp(-pairs) * seen.losses["pairs"] + pairs / 2
        assert seen.total == pytest.approx(total, rel=1e-6)
    assert min(abs(watched.passes[2].objective["log_variances"])) > 0.05
    # What the log tells are the losses as they are; what weighs them belongs to the training, not to the model.
    assert [one["loss"] for one in records(run, "step")] == [seen.losses for seen in watched.passes]
    kept = last_checkpoint(run)["objective/log_variances"].tolist()
    (end,) = records(run, "end")
    wanted = {"mood": math.exp(-kept[0]), "pairs": math.exp(-kept[1]) / 2}
    assert end["learnt_weights"] == pytest.approx(wanted, rel=1e-6)
    assert not any("variance" in name for name in load_file(run.model_folder / "heads.safetensors"))
    (groups,) = ([group["name"] for group in one.param_groups] for one in watched.optimizers)
    where = [name for name in groups if name.endswith("no decay")]
    assert where  # a number like this one is never decayed


def test_a_task_alone_moves_its_own_variance(tiny: "Tiny", tmp_path: Path, watched: "Watched") -> None:
    train(
        tiny,
        tmp_path / "run",
        mixing={"schedule": "round_robin"},
        gradients={"weighting": "uncertainty"},
        precision="float32",
    )
    after_mood, after_pairs = (watched.passes[i].objective["log_variances"] for i in (1, 2))
    assert float(after_mood[0]) != 0 == float(after_mood[1])
    assert float(after_pairs[1]) != 0


# ---- surgery ----


@pytest.fixture(scope="module")
def turned(tiny: "Tiny", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training rows of mood with the other label: a task against it."""
    lines = (tiny.folder / "mood-train.csv").read_text().splitlines()[1:]
    rows = [line.rsplit(",", 1) for line in lines]
    other = {"bad": "good", "good": "bad"}
    path = tmp_path_factory.mktemp("turned") / "train.csv"
    return tiny.csv(path, ["sentence", "label"], [(text, other[label]) for text, label in rows])


def against(tiny: "Tiny", turned: Path) -> dict[str, Any]:
    return {"mood": tiny.mood(), "anti": tiny.mood(files={"train": str(turned)})}


SEED_OF_CONFLICT, SEED_OF_PEACE = 6, 7  # the heads' first weights decide; the tests assert what they need


def first_gradients(watched: "Watched") -> tuple[dict[str, Tensor | None], ...]:
    """What each of the two tasks alone would have done to the first step's parameters."""
    seen = watched.passes[0]
    return tuple(alone(one, seen.network, one.parts[0].task) for one in watched.passes[:2])


@pytest.mark.parametrize("seed", [SEED_OF_CONFLICT, SEED_OF_PEACE])
def test_the_shared_gradient_is_what_pcgrad_leaves(
    tiny: "Tiny", turned: Path, tmp_path: Path, watched: "Watched", seed: int
) -> None:
    tasks = against(tiny, turned)
    train(tiny, tmp_path / "run", tasks=tasks, seed=seed, gradients=PCGRAD)
    each = first_gradients(watched)
    found = watched.gradients[0]
    shared = {name: one for name, one in found.items() if name.startswith("encoder.")}
    rows = torch.stack([flat(one, shared) for one in each])
    conflict = float(rows[0] @ rows[1]) < 0
    assert conflict is (seed == SEED_OF_CONFLICT)
    wanted = pcgrad(rows)  # of two tasks: whatever the order
    torch.testing.assert_close(flat(shared, shared), wanted, atol=1e-13, rtol=1e-9)
    # The heads have gradients of their own.
    for name, one in found.items():
        if name.startswith("heads."):
            (own,) = (gradients[name] for gradients in each if gradients[name] is not None)
            torch.testing.assert_close(one, own, atol=1e-14, rtol=1e-9)

    watched.clear()
    train(tiny, tmp_path / "plain", tasks=tasks, seed=seed)
    summed = watched.gradients[0]
    apart = float((flat(summed, shared) - wanted).abs().max())
    assert apart > 1e-5 if conflict else apart < 1e-12


def test_parts_of_a_batch_are_operated_on_as_one(
    tiny: "Tiny", turned: Path, tmp_path: Path, watched: "Watched"
) -> None:
    """The gradients of a task's micro-batches are added up before they meet the other task's."""
    tasks = against(tiny, turned)
    found = []
    for accumulate in (1, 3):
        watched.clear()
        run = train(
            tiny,
            tmp_path / str(accumulate),
            tasks=tasks,
            gradients=PCGRAD,
            schedule={**SCHEDULE, "accumulate": accumulate},
        )
        assert len(watched.passes) == 3 * 2 * accumulate
        found.append((watched.gradients[0], records(run, "step")))
    (whole, steps), (pieces, again) = found
    torch.testing.assert_close(flat(pieces, whole), flat(whole, whole), atol=1e-13, rtol=1e-8)
    for one, other in zip(steps, again, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-9)
        assert one["examples"] == other["examples"] == {"mood": 8, "anti": 8}


def test_what_no_task_reaches_does_not_decay(
    tiny: "Tiny", turned: Path, tmp_path: Path, watched: "Watched"
) -> None:
    """The pooler of heads that read the mean: without a gradient, with surgery as without."""
    tasks = {name: {**one, "pooling": "mean"} for name, one in against(tiny, turned).items()}
    before = load_file(tiny.folder / "bert" / "model.safetensors")["pooler.dense.weight"]
    optimizer = {"lr": 1e-2, "clip": None, "weight_decay": 0.5}
    for gradients in (PCGRAD, {}):
        run = train(
            tiny, tmp_path / f"run-{len(gradients)}", tasks=tasks, gradients=gradients, optimizer=optimizer
        )
        after = load_file(run.model_folder / "model.safetensors")
        assert torch.equal(after["pooler.dense.weight"].float(), before)
    assert {one["encoder.pooler.dense.weight"] for one in watched.gradients} == {None}


def test_surgery_takes_the_relation_layer_too(tiny: "Tiny", tmp_path: Path, watched: "Watched") -> None:
    pairs = tiny.pairs()
    train(
        tiny,
        tmp_path / "run",
        tasks={"pairs": pairs, "again": {**pairs, "range": [0, 9]}},
        relation={"tasks": ["pairs", "again"]},
        gradients=PCGRAD,
    )
    each = first_gradients(watched)
    shared = {name: one for name, one in watched.gradients[0].items() if not name.startswith("heads.")}
    assert "relation.weight" in shared
    rows = torch.stack([flat(one, shared) for one in each])
    torch.testing.assert_close(flat(shared, shared), pcgrad(rows), atol=1e-12, rtol=1e-9)


# ---- affinity ----


def test_cosines_are_those_of_each_task_s_own_batch(
    tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[Network] = []
    batches: list[list[Any]] = []
    plain_batch = loop._batch

    def batch(*given: Any) -> Any:
        found = plain_batch(*given)
        if batches and len(batches[-1]) < 2:
            batches[-1].append(found)
        return found

    def affinity(network: Network, losses: Mapping[str, Any]) -> Any:
        assert not network.training
        networks.append(copy.deepcopy(network))
        batches.append([])
        return plain_affinity(network, losses)

    monkeypatch.setattr(loop, "_batch", batch)
    monkeypatch.setattr(loop, "affinity", affinity)
    run = train(
        tiny,
        tmp_path / "run",
        dropout=0.3,
        schedule={**SCHEDULE, "steps": 5},
        gradients={"affinity_every": 2},
    )
    events = records(run, "affinity")
    assert [one["step"] for one in events] == [1, 3, 5]
    rows_seen = []
    for event, network, both in zip(events, networks, batches, strict=True):
        assert event["tasks"] == ["mood", "pairs"]
        own = []
        for ragged, (part,) in both:
            some = copy.deepcopy(network)
            (output,) = some(ragged, [(part.task, part.begin, part.end)])
            part.kind.loss(output, part.targets).backward()
            own.append({name: one.grad for name, one in some.encoder.named_parameters()})
            assert len(part.targets) == 8
        rows_seen.append([ragged.token_ids.tolist() for ragged, _ in both])
        floors = {"embeddings": "embeddings.", "layer 1": "layers.0.", "layer 2": "layers.1."}
        assert list(event["cosines"]) == [*floors, "pooler"]
        for floor, prefix in floors.items():
            a, b = (
                np.concatenate(
                    [
                        np.zeros(0) if grad is None else grad.numpy().ravel()
                        for name, grad in one.items()
                        if name.startswith(prefix)
                    ]
                )
                for one in own
            )
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            assert abs(cosine) < 0.999
            np.testing.assert_allclose(event["cosines"][floor], [[1, cosine], [cosine, 1]], atol=1e-9)
        # The pairs' head reads the mean: no gradient, so no direction.
        assert event["cosines"]["pooler"] == [[pytest.approx(1), None], [None, None]]
    assert rows_seen[0] != rows_seen[1]  # drawn anew each time


def test_measuring_changes_no_bit(tiny: "Tiny", tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dropout": 0.3, "precision": "float32"}
    plain = train(tiny, tmp_path / "plain", **settings)
    watched = train(tiny, tmp_path / "watched", gradients={"affinity_every": 1}, **settings)
    wanted, found = last_checkpoint(plain), last_checkpoint(watched)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(one, found[name]) for name, one in wanted.items())
    assert len(records(watched, "affinity")) == 3
    assert not (plain.folder / "affinity.svg").exists()
    root = ElementTree.parse(watched.folder / "affinity.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


class PowerCutError(BaseException):
    """Ends a training as a kill does: nothing catches it."""


def test_a_cut_run_tells_each_measurement_once(
    tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "dropout": 0.3,
        "schedule": {**SCHEDULE, "steps": 9, "checkpoint_every": 3},
        "gradients": {"affinity_every": 2},
    }
    whole = train(tiny, tmp_path / "whole", **settings)
    plain = Journal.step

    def cut(self: Journal, step: int, *given: Any, **named: Any) -> None:
        plain(self, step, *given, **named)
        if step == 5:
            raise PowerCutError

    monkeypatch.setattr(Journal, "step", cut)
    with pytest.raises(PowerCutError):
        train(tiny, tmp_path / "cut", **settings)
    monkeypatch.undo()
    drawn: list[Sequence[Any]] = []

    def draw(path: Path, tasks: Sequence[str], measured: Sequence[Any]) -> None:
        drawn.append(measured)
        draw_affinity(path, tasks, measured)

    monkeypatch.setattr(loop, "draw_affinity", draw)
    run = train(tiny, tmp_path / "cut", resume=True, **settings)
    assert records(run, "affinity") == records(whole, "affinity")
    assert [one["step"] for one in records(run, "affinity")] == [1, 3, 5, 7, 9]
    assert [len(one) for one in drawn] == [5]
    ElementTree.parse(run.folder / "affinity.svg")


def test_the_map_is_drawn_for_many_tasks_and_where_nothing_was_found(tmp_path: Path) -> None:
    import matplotlib

    backend = matplotlib.get_backend()
    one: dict[str, list[list[float | None]]]
    one = {"embeddings": [[1.0, -0.2, None], [-0.2, 1.0, 0.9], [None, 0.9, 1.0]]}
    two: dict[str, list[list[float | None]]]
    two = {"embeddings": [[1.0, None, None], [None, 1.0, 0.1], [None, 0.1, 1.0]]}
    draw_affinity(tmp_path / "map.svg", ["a", "b & c", "<d>"], [one, two])
    ElementTree.parse(tmp_path / "map.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["map.svg"]
    assert matplotlib.get_backend() == backend  # the person's own figures are drawn as before
