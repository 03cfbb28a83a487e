"""Distillation: what teachers say, what is made of it, and teachers that do not fit."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

import manyheads as mh
from manyheads.data.encode import TokenCache
from manyheads.encoder.grouped import Grouped
from manyheads.run import Run
from manyheads.tasks.head import Rows
from manyheads.training import loop, teachers
from manyheads.training.evaluate import outputs_of as plain_outputs_of
from manyheads.training.splits import load_task
from manyheads.training.teachers import teach as plain_teach

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny
    from tests.training.conftest import Pass, Watched

SCHEDULE = {"steps": 3, "batch_size": 8, "warmup": 0, "evaluate_every": 100}
TOGETHER = {"schedule": "round_robin", "combine": True}


def settings(tiny: "Tiny", **more: Any) -> dict[str, Any]:
    encoder = {"from": str(tiny.folder / "bert"), "dropout": 0.0}
    return tiny.recipe(**{"encoder": encoder, "schedule": SCHEDULE, "mixing": TOGETHER, **more})


def train(tiny: "Tiny", out: Path, cache: TokenCache | None = None, **more: Any) -> Run:
    return mh.train(mh.Recipe.parse(settings(tiny, **more)), out, quiet=True, cache=cache)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def solo(tiny: "Tiny", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of one task, which is called otherwise than the students' tasks; its labels stand in another order."""
    return train(
        tiny, tmp_path_factory.mktemp("solo") / "run", tasks={"feeling": tiny.mood(labels=["good", "bad"])}
    ).folder


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """What the loop gets of teachers, a mapping for each training."""
    seen: list[dict[str, torch.Tensor]] = []

    def teach(*given: Any, **named: Any) -> dict[str, Grouped]:
        found = plain_teach(*given, **named)
        seen.append({name: answers.rows for name, answers in found.items()})
        return found

    monkeypatch.setattr(loop, "teach", teach)
    return seen


def probabilities(teacher: Path, task: str, tiny: "Tiny") -> NDArray[np.float64]:
    """[48, 2] of `bad` and `good` for the training rows, by the teacher's own `predict`."""
    rows = [row["sentence"] for row in table(tiny.folder / "mood-train.csv")]
    answers = mh.load(teacher).predict(task, rows, raw=True)
    return np.array([[answer.probabilities[name] for name in ("bad", "good")] for answer in answers])  # type: ignore[index]


def values(teacher: Path, tiny: "Tiny") -> NDArray[np.float64]:
    """[48] by the teacher's own `predict`, which keeps to the range."""
    rows = [(row["a"], row["b"]) for row in table(tiny.folder / "pairs-train.csv")]
    return np.array([answer.value for answer in mh.load(teacher).predict("pairs", rows)])


# ---- what teachers say ----


def test_single_to_multi(
    tiny: "Tiny", tiny_run: Path, solo: Path, tmp_path: Path, taught: list[dict[str, torch.Tensor]]
) -> None:
    """Of two teachers, one has a single task of another name, one has several."""
    asked = {"teachers": {"mood": str(solo), "pairs": str(tiny_run)}}
    tasks = {"pairs": tiny.pairs(), "mood": tiny.mood(), "alone": tiny.mood()}
    train(tiny, tmp_path / "run", tasks=tasks, distill=asked)
    (found,) = taught
    assert sorted(found) == ["mood", "pairs"]
    np.testing.assert_allclose(found["mood"].numpy(), probabilities(solo, "feeling", tiny), atol=1e-6)
    np.testing.assert_allclose(found["pairs"].clamp(0, 5).numpy(), values(tiny_run, tiny), atol=1e-5)


def test_the_teacher_s_labels_stand_in_the_student_s_order(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, taught: list[dict[str, torch.Tensor]]
) -> None:
    """Single to single, and a student of its own length of texts: the teacher reads with its own."""
    tasks = {"mood": tiny.mood(labels=["good", "bad"], max_length=4)}
    distill = {"teachers": {"mood": str(tiny_run)}}
    train(tiny, tmp_path / "run", tasks=tasks, distill=distill, mixing={"schedule": "round_robin"})
    wanted = probabilities(tiny_run, "mood", tiny)[:, ::-1]
    np.testing.assert_allclose(taught[0]["mood"].numpy(), wanted, atol=1e-6)


def test_one_binary_output_teaches_two_and_is_taught(
    tiny: "Tiny", solo: Path, tmp_path: Path, taught: list[dict[str, torch.Tensor]], watched: "Watched"
) -> None:
    tasks = {"mood": tiny.mood(loss="binary_cross_entropy")}
    one = train(tiny, tmp_path / "one", tasks=tasks, distill={"teachers": {"mood": str(solo)}})
    seen = watched.passes[0]
    (part,) = seen.parts
    with torch.no_grad():
        (logit,) = seen.network(seen.ragged, [("mood", 0, part.end)])
    share = torch.sigmoid(logit[:, 0].double())
    assert part.teacher is not None
    soft = part.teacher[:, 1].double()
    wanted = -(soft * share.log() + (1 - soft) * (1 - share).log()).mean()
    assert seen.losses["mood"] == pytest.approx(float(wanted), rel=1e-5)

    train(
        tiny,
        tmp_path / "two",
        tasks={"mood": tiny.mood()},
        distill={"teachers": {"mood": str(one.folder)}, "temperature": 2.0},
    )
    odds = probabilities(one.folder, "mood", tiny)
    soft_odds = np.sqrt(odds) / np.sqrt(odds).sum(1, keepdims=True)  # T = 2: half the logits
    np.testing.assert_allclose(taught[1]["mood"].numpy(), soft_odds, atol=1e-6)


def test_a_part_of_the_rows_is_taught_as_that_part(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, taught: list[dict[str, torch.Tensor]]
) -> None:
    files = {"train": "mood-train.csv"}
    tasks = {"mood": tiny.mood(files=files, hold_out={"dev": 0.3}, sample={"train": 10})}
    train(tiny, tmp_path / "run", tasks=tasks, distill={"teachers": {"mood": str(tiny_run)}})
    task = load_task(
        "mood",
        mh.Recipe.load(tmp_path / "run" / "recipe.yaml"),
        mh.Tokenizer.from_pretrained(tiny.folder / "bert"),
        positions=64,
    )
    rows = [place.row - 1 for place in task.splits["train"].rows.places]
    assert len(rows) == 10
    assert rows != list(range(10))
    wanted = probabilities(tiny_run, "mood", tiny)[rows]
    np.testing.assert_allclose(taught[0]["mood"].numpy(), wanted, atol=1e-6)


# ---- asked once ----


def test_a_teacher_is_asked_once(
    tiny: "Tiny",
    tiny_run: Path,
    solo: Path,
    tmp_path: Path,
    taught: list[dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = TokenCache(tmp_path / "cache")
    asked: list[str] = []

    def outputs_of(network: Any, task: str, *given: Any) -> Rows:
        asked.append(task)
        return plain_outputs_of(network, task, *given)

    monkeypatch.setattr(teachers, "outputs_of", outputs_of)

    def go(out: str, **more: Any) -> None:
        distill = {"teachers": {"mood": str(tiny_run), "pairs": str(tiny_run)}, **more}
        train(tiny, tmp_path / out, cache, distill=distill)

    go("first")
    assert asked == ["mood", "pairs"]
    # Another temperature asks for the same outputs.
    go("second", temperature=3.0)
    assert asked == ["mood", "pairs"]
    assert torch.equal(taught[0]["pairs"], taught[1]["pairs"])
    assert not torch.equal(taught[0]["mood"], taught[1]["mood"])
    # What is damaged is computed anew; so is what another teacher, or the same with other rows, would say.
    for path in (tmp_path / "cache" / "teachers").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    go("third")
    assert asked == ["mood", "pairs"] * 2
    assert torch.equal(taught[0]["mood"], taught[2]["mood"])
    go("fourth", teachers={"mood": str(solo)})
    assert asked == ["mood", "pairs"] * 2 + ["feeling"]
    fewer = {"mood": tiny.mood(sample={"train": 20})}
    train(tiny, tmp_path / "fifth", cache, tasks=fewer, distill={"teachers": {"mood": str(tiny_run)}})
    assert asked[5:] == ["mood"]


def test_a_cache_that_cannot_be_written_is_done_without(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, taught: list[dict[str, torch.Tensor]]
) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    cache = TokenCache(tmp_path / "cache")
    train(tiny, tmp_path / "run", cache, distill={"teachers": {"mood": str(tiny_run)}})
    np.testing.assert_allclose(taught[0]["mood"].numpy(), probabilities(tiny_run, "mood", tiny), atol=1e-6)


# ---- what is made of it ----


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return found


def losses_by_hand(
    seen: "Pass", share: float, temperature: float, said: NDArray[np.float64], numbers: NDArray[np.float64]
) -> dict[str, float]:
    """Of a step with mood and pairs: numpy alone, from the student's outputs and the teacher's answers (T = 1)."""
    with torch.no_grad():
        outputs = seen.network(seen.ragged, [(part.task, part.begin, part.end) for part in seen.parts])
    logits, cosine = (one.double().numpy() for one in outputs)
    mood, pairs = seen.parts
    labels = mood.targets.long().numpy()
    gold = -log_softmax(logits)[np.arange(len(labels)), labels].mean()
    soft = said ** (1 / temperature)
    soft /= soft.sum(1, keepdims=True)
    taught = -(soft * log_softmax(logits / temperature)).sum(1).mean()
    target = share * pairs.targets.numpy() + (1 - share) * numbers
    return {
        "mood": share * gold + (1 - share) * temperature**2 * taught,
        "pairs": ((5 * cosine[:, 0] - target) ** 2).mean(),
    }


@pytest.mark.parametrize(
    ("anneal", "shares", "temperature"),
    [
        ("linear", [0, 0.5, 1], 1.0),
        ("linear", [0, 0.5, 1], 2.5),
        ("none", [0, 0, 0], 1.0),
        ("constant:0.25", [0.25] * 3, 4.0),
        ("gold", [1, 1, 1], 3.0),
    ],
)
def test_the_losses_by_hand(
    tiny: "Tiny",
    tiny_run: Path,
    tmp_path: Path,
    taught: list[dict[str, torch.Tensor]],
    watched: "Watched",
    anneal: str,
    shares: list[float],
    temperature: float,
) -> None:
    """Multi to multi: one teacher for both tasks."""
    teacher = str(tiny_run)
    distill = {"teachers": {"mood": teacher, "pairs": teacher}, "anneal": anneal, "temperature": temperature}
    run = train(tiny, tmp_path / "run", precision="float64", distill=distill)
    said, numbers = probabilities(tiny_run, "mood", tiny), taught[0]["pairs"].double().numpy()
    log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    logged = [record["loss"] for record in log if record["event"] == "step"]
    schedule = mh.mixing.schedule("round_robin", {"mood": 48, "pairs": 48}, 8, 7)
    for number, (seen, share) in enumerate(zip(watched.passes, shares, strict=True)):
        mood, pairs = (schedule[2 * number + i].rows for i in range(2))
        wanted = losses_by_hand(seen, share, temperature, said[mood], numbers[pairs])
        assert logged[number] == pytest.approx(wanted, rel=1e-6)
        assert seen.total == pytest.approx(sum(wanted.values()), rel=1e-6)


def test_a_student_with_a_sigmoid_learns_its_teacher_s_values(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, taught: list[dict[str, torch.Tensor]], watched: "Watched"
) -> None:
    tasks = {"pairs": tiny.pairs(encode="cross", head="linear", output="sigmoid")}
    train(
        tiny,
        tmp_path / "run",
        tasks=tasks,
        distill={"teachers": {"pairs": str(tiny_run)}, "temperature": 5.0},  # numbers have nothing to soften
    )
    seen = watched.passes[1]
    assert seen.progress == 0.5
    (part,) = seen.parts
    with torch.no_grad():
        (outputs,) = seen.network(seen.ragged, [("pairs", 0, part.end)])
    rows = mh.mixing.schedule("round_robin", {"pairs": 48}, 8, 7)[1].rows
    target = 0.5 * part.targets.numpy() + 0.5 * taught[0]["pairs"].numpy()[rows]
    wanted = np.mean((5 / (1 + np.exp(-outputs[:, 0].numpy())) - target) ** 2)
    assert seen.losses["pairs"] == pytest.approx(wanted, rel=1e-5)


def test_where_the_teacher_alone_speaks_the_labels_do_not_matter(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path
) -> None:
    rows = table(tiny.folder / "mood-train.csv")
    turned = [(row["sentence"], "bad" if row["label"] == "good" else "good") for row in rows]
    tiny.csv(tmp_path / "turned.csv", ["sentence", "label"], turned)
    found: list[dict[str, torch.Tensor]] = []
    for name in ("mood-train.csv", str(tmp_path / "turned.csv")):
        run = train(
            tiny,
            tmp_path / f"run-{len(found)}",
            tasks={"mood": tiny.mood(files={"train": name})},
            distill={"teachers": {"mood": str(tiny_run)}, "anneal": "none"},
        )
        found.append(load_file(run.model_folder / "model.safetensors"))
    assert all(torch.equal(one, found[1][name]) for name, one in found[0].items())


def test_into_a_smaller_student(tiny: "Tiny", tiny_run: Path, tmp_path: Path, watched: "Watched") -> None:
    encoder = {"from": str(tiny_run), "layers": [2], "hidden": 16, "intermediate": 24, "dropout": 0.0}
    distill = {"teachers": {"mood": str(tiny_run), "pairs": str(tiny_run)}}
    run = train(tiny, tmp_path / "run", encoder=encoder, distill=distill)
    config = json.loads((run.model_folder / "config.json").read_text())
    assert [config[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size")] == [1, 16, 24]
    whole = load_file(tiny_run / "model" / "model.safetensors")
    begun = watched.passes[0].network.encoder.state_dict()
    assert torch.equal(
        begun["layers.0.feedforward.up.weight"],
        whole["encoder.layer.1.intermediate.dense.weight"][:24, :16],
    )
    answers = mh.load(run.folder).predict("mood", ["a fine film", "the end was awful"])
    assert all(math.isclose(sum((one.probabilities or {}).values()), 1, abs_tol=1e-6) for one in answers)


# ---- teachers that do not fit ----


@pytest.mark.parametrize(
    ("task", "change", "teacher", "told"),
    [
        ("mood", {}, "nowhere", "distill.teachers.mood: {nowhere}: no such run folder"),
        ("mood", {}, "data", "distill.teachers.mood: {data}: not a run folder"),
        ("mood", {}, "begun", "distill.teachers.mood: {begun}: the run has no model yet; finish it"),
        (
            *("mood", {"labels": ["bad", "good", "odd"]}, "run"),
            "distill.teachers.mood: the teacher {run} has the labels bad, good, expected bad, good, odd",
        ),
        (
            *("pairs", {}, "solo"),
            "distill.teachers.pairs: the teacher {solo} is of kind classification, expected regression",
        ),
        (
            *("moot", {}, "run"),
            "distill.teachers.moot: {run} has no task 'moot', only mood, pairs; did you mean 'mood'?",
        ),
        (
            *("mood", {"text": "label", "label": "label"}, "run"),
            "distill.teachers.mood: the teacher {run} reads sentence, the task label",
        ),
    ],
    ids=["unknown", "no run", "unfinished", "labels", "kind", "no such task", "columns"],
)
def test_a_teacher_that_does_not_fit(
    tiny: "Tiny",
    tiny_run: Path,
    solo: Path,
    tmp_path: Path,
    command: "Command",
    task: str,
    change: dict[str, Any],
    teacher: str,
    told: str,
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(tiny_run / "recipe.yaml", begun)
    places = {
        "nowhere": tmp_path / "no" / "where",
        "data": tiny.folder,
        "begun": begun,
        "run": tiny_run,
        "solo": solo,
    }
    section = tiny.pairs(**change) if task == "pairs" else tiny.mood(**change)
    distill = {"teachers": {task: str(places[teacher])}}
    recipe = tiny.write(tmp_path / "r.yaml", tasks={task: section}, distill=distill)
    found = command.refused("train", recipe, "--out", tmp_path / "out", "--quiet")
    assert found.startswith("error: " + told.format(**places)), found
    assert not (tmp_path / "out").exists()


def test_a_share_out_of_range(tiny: "Tiny", tiny_run: Path, tmp_path: Path, command: "Command") -> None:
    distill = {"teachers": {"mood": str(tiny_run)}, "anneal": "constant:1.5"}
    recipe = tiny.write(tmp_path / "r.yaml", distill=distill)
    told = command.refused("train", recipe, "--out", tmp_path / "out", "--quiet")
    assert "distill.anneal: 'constant:' expects a share from 0 to 1 after it, found '1.5'" in told
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_leaves_other_rows_out(tiny: "Tiny", tiny_run: Path, tmp_path: Path) -> None:
    """Each answer must stand beside its own row: the teacher's label column has a gap that the student's has not."""
    rows = [(row["sentence"], row["label"], row["label"]) for row in table(tiny.folder / "mood-train.csv")]
    rows[3] = (rows[3][0], "", rows[3][2])
    path = tiny.csv(tmp_path / "gap.csv", ["sentence", "label", "other"], rows)
    tasks = {"mood": tiny.mood(files={"train": str(path)}, label="other", blank_labels=0.5)}
    with pytest.raises(mh.InputError, match=r"distill.teachers.mood: the teacher .* column 'label'"):
        train(tiny, tmp_path / "out", tasks=tasks, distill={"teachers": {"mood": str(tiny_run)}})
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_with_the_teacher_it_began_with(
    tiny: "Tiny", tiny_run: Path, solo: Path, tmp_path: Path
) -> None:
    def go(teacher: Path) -> None:
        distill = {"teachers": {"mood": str(teacher)}}
        recipe = mh.Recipe.parse(settings(tiny, tasks={"mood": tiny.mood()}, distill=distill))
        mh.train(recipe, tmp_path / "run", resume=True, quiet=True)

    go(tiny_run)
    moved = shutil.copytree(tiny_run, tmp_path / "moved")
    go(moved)  # the same teacher elsewhere
    with pytest.raises(mh.InputError, match="written with another recipe"):
        go(solo)
