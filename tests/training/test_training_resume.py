"""Exact resume: stopped or killed at any moment, a run that goes on ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

import manyheads as mh
from manyheads.encoder import checkpoint
from manyheads.training import loop
from manyheads.training.journal import Journal

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny

# Forks a child for each life of each run. The imports are paid for once; nothing of torch runs before a fork.
# Reports as JSON, for each run, how each life ended and at which checkpoint it began; and how the last one ended.
KILLER = """
import json, os, random, signal, sys, time
from pathlib import Path

import scipy.stats
import sklearn.metrics
import torch
import torch._dynamo  # which the first step of an optimiser imports
import torch.utils.tensorboard
from manyheads.cli import main
import manyheads.training.loop

def step(out):
    found = sorted(out.glob("checkpoints/step-*.safetensors"))
    return int(found[-1].stem[5:]) if found else 0

def begin(recipe, out):
    child = os.fork()
    if child == 0:
        sys.argv = ["manyheads", "train", recipe, "--out", str(out), "--quiet", "--resume"]
        try:
            main()
        except SystemExit as left:
            os._exit(left.code or 0)
        finally:
            os._exit(99)
    return child

def live(recipe, out, steps, kills, seed):
    out, chance, lives = Path(out), random.Random(seed), []
    # At these checkpoints the life ends, some part of a step later: while computing, or while writing the next one.
    targets = sorted(chance.sample(range(steps - 2), kills))
    for target in targets:
        began = step(out)
        child = begin(recipe, out)
        while step(out) < target and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        time.sleep(chance.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        parts = [path.name for path in out.rglob(".*part*")]
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
        lives.append([began, step(out), ended, parts])
    _, status = os.waitpid(begin(recipe, out), 0)
    return [lives, os.WEXITSTATUS(status)]

print(json.dumps([live(*run) for run in json.loads(sys.argv[1])]))
"""

Run = tuple[Path, Path, int, int]
Fate = tuple[list[list[Any]], int]


def killed(*runs: Run, seed: int = 0) -> list[Fate]:
    """For each (recipe, folder, steps, kills): its lives, and the exit status of the last."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    told = [[str(recipe), str(out), steps, kills, seed] for recipe, out, steps, kills in runs]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, json.dumps(told)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(lives, status) for lives, status in json.loads(done.stdout.splitlines()[-1])]


def bits(run: Path) -> tuple[bytes, bytes]:
    model = run / "model"
    return (model / "model.safetensors").read_bytes(), (model / "heads.safetensors").read_bytes()


def steps_of(run: Path) -> list[int]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record["step"] for record in map(json.loads, lines) if record["event"] == "step"]


def events_of(run: Path, event: str) -> list[dict[str, Any]]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["event"] == event]


def methods(tiny: "Tiny", teacher: Path) -> dict[str, dict[str, Any]]:
    """A plain recipe, and others whose steps depend on more than weights and moments, or read more than the rows."""
    together = {"schedule": "round_robin", "combine": True}
    smart = {"epsilon": 1e-3, "sigma": 1e-4, "momentum": 0.9, "mu": 1}
    return {
        "plain": {},
        "smart": {"mixing": together, "regularize": {"smart": smart}},
        "distill": {"distill": {"teachers": {"mood": str(teacher), "pairs": str(teacher)}}},
        "gradients": {
            "mixing": together,
            "gradients": {"weighting": "uncertainty", "surgery": "pcgrad", "affinity_every": 2},
        },
        "relation": {
            "relation": {"tasks": ["pairs"]},
            "regularize": {"smart": {**smart, "share": 1.0}},
        },
        "frozen": {
            "encoder": {"from": str(tiny.folder / "bert"), "freeze": True},
            "tasks": {"mood": tiny.mood(), "again": tiny.mood(sample={"train": 0.5})},
            "distill": {"teachers": {"mood": str(teacher)}, "temperature": 2.0},
        },
    }


# Method → steps, kills, and what the objective remembers beside the weights.
METHODS: dict[str, tuple[int, int, set[str]]] = {
    "plain": (40, 10, set()),
    "smart": (8, 2, {"terms"}),
    "distill": (8, 2, set()),
    "gradients": (8, 2, {"log_variances"}),
    "relation": (8, 2, {"terms"}),
    "frozen": (8, 2, set()),
}


@pytest.fixture(scope="module")
def fates(
    tiny: "Tiny", tiny_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path, Fate, Fate]]:
    """{method: a run that is left alone, one that is killed again and again, what befell them}."""
    folder = tmp_path_factory.mktemp("fates")
    runs: list[Run] = []
    for name, settings in methods(tiny, tiny_run).items():
        steps, kills, _ = METHODS[name]
        schedule = {"steps": steps, "batch_size": 8, "evaluate_every": 4, "checkpoint_every": 1}
        recipe = tiny.write(folder / f"{name}.yaml", **{"schedule": schedule, **settings})
        runs.append((recipe, folder / name / "whole", steps, 0))
        runs.append((recipe, folder / name / "killed", steps, kills))
    found = [(out, fate) for (_, out, _, _), fate in zip(runs, killed(*runs), strict=True)]
    both = zip(METHODS, found[0::2], found[1::2], strict=True)
    return {name: (one[0], other[0], one[1], other[1]) for name, one, other in both}


@pytest.mark.parametrize("method", METHODS)
def test_killed_again_and_again_a_run_ends_with_the_same_bits(
    fates: dict[str, tuple[Path, Path, Fate, Fate]], method: str
) -> None:
    whole, pieces, plain, (lives, status) = fates[method]
    steps, kills, remembered = METHODS[method]
    assert plain == ([], 0)
    assert status == 0
    ends = [how for _, _, how, _ in lives]
    assert len(ends) == kills
    assert set(ends[:-1]) == {signal.SIGKILL}
    assert ends[-1] in (signal.SIGKILL, 0)  # where the machine is very busy the last comes too late
    assert all(began <= ended <= steps for began, ended, _, _ in lives)

    # The model, and the last checkpoint with the moments and all that the objective remembers.
    assert bits(pieces) == bits(whole)
    (last,) = (whole / "checkpoints").glob("step-*.safetensors")
    with (
        safe_open(last, framework="pt") as one,
        safe_open(pieces / "checkpoints" / last.name, framework="pt") as other,
    ):
        names = set(one.keys())
        assert names == set(other.keys())
        assert all(one.get_tensor(name).equal(other.get_tensor(name)) for name in names)
    objective = [name.split("/")[1] for name in names if name.startswith("objective/")]
    assert {name.split(".")[0] for name in objective} == remembered

    # The log has everything once.
    assert steps_of(pieces) == steps_of(whole) == list(range(1, steps + 1))
    for event in ("step", "evaluation", "affinity"):
        # But for how fast this life was, and what its own batches said before it was cut.
        for one, other in zip(events_of(pieces, event), events_of(whole, event), strict=True):
            alike = set(one) & set(other) - {"seconds", "tokens_per_second", "train"}
            assert {key: one[key] for key in alike} == {key: other[key] for key in alike}
            assert {"event", "step"} < alike
    for event in ("start", "end"):
        assert len(events_of(pieces, event)) == len(events_of(whole, event)) == 1
    assert len(events_of(whole, "affinity")) == (4 if method == "gradients" else 0)

    # No features of the frozen encoder are left, and of the checkpoints that were cut no halves.
    files = [
        {path.relative_to(run).as_posix() for path in run.rglob("*") if path.parent.name != "tensorboard"}
        for run in (whole, pieces)
    ]
    halves = (".part-", "/.tmp")  # elsewhere one may be left, where a kill met the writing of the model
    assert files[0] == {name for name in files[1] if not any(half in name for half in halves)}
    assert not list((pieces / "checkpoints").glob(".*"))
    tables = [name for name in files[0] if name.startswith("predictions/")]
    assert len(tables) >= 4
    for name in ("scores.json", "recipe.yaml", *tables):
        assert (pieces / name).read_bytes() == (whole / name).read_bytes()


# ---- in this process: stopped at a chosen place ----


class PowerCutError(BaseException):
    """Ends a training as a kill does: nothing catches it."""


def train(tiny: "Tiny", out: Path, *, resume: bool = False, **settings: Any) -> Path:
    schedule = {"steps": 9, "batch_size": 8, "evaluate_every": 3, "checkpoint_every": 2}
    recipe = mh.Recipe.parse(tiny.recipe(**{"schedule": schedule, **settings}))
    return mh.train(recipe, out, resume=resume, quiet=True).folder


@pytest.fixture
def whole(tiny: "Tiny", tmp_path: Path) -> Path:
    return train(tiny, tmp_path / "whole")


@pytest.mark.parametrize("step", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("place", ["weights", "rename"])
def test_a_cut_while_a_checkpoint_is_written(
    tiny: "Tiny", tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, step: int, place: str
) -> None:
    plain = save_file

    def half(tensors: Any, path: Any, metadata: Any = None) -> None:
        plain(tensors, path, metadata)
        if int(json.loads((metadata or {}).get("progress", '{"step": 0}'))["step"]) >= step:
            if place == "weights":
                os.truncate(path, os.path.getsize(path) // 2)
            leftover = Path(path).with_name(f".step-{step:08d}.safetensors.part-1")  # as a kill leaves it
            leftover.write_bytes(b"half")
            Path(path).with_name(".tmpAbC123").write_bytes(b"half")  # as safetensors writes beside
            raise PowerCutError

    monkeypatch.setattr(checkpoint, "save_file", half)
    out = tmp_path / "cut"
    with pytest.raises(PowerCutError):
        train(tiny, out)
    monkeypatch.undo()
    train(tiny, out, resume=True)
    assert bits(out) == bits(whole)
    assert steps_of(out) == list(range(1, 10))
    assert not list((out / "checkpoints").glob(".*"))


@pytest.mark.parametrize("what", ["_evaluate", "_finish", "_step"])
def test_a_cut_between_two_checkpoints(
    tiny: "Tiny", tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    plain, calls = getattr(loop, what), 0

    def cut(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        found = plain(*given, **named)
        if calls == {"_evaluate": 2, "_finish": 1, "_step": 4}[what]:
            raise PowerCutError
        return found

    monkeypatch.setattr(loop, what, cut)
    out = tmp_path / "cut"
    with pytest.raises(PowerCutError):
        train(tiny, out)
    monkeypatch.undo()
    train(tiny, out, resume=True)
    assert bits(out) == bits(whole)
    assert steps_of(out) == list(range(1, 10))
    assert len(events_of(out, "end")) == 1
    assert [one["step"] for one in events_of(out, "evaluation")] == [3, 6, 9]


def test_a_stopped_patience_is_remembered(
    tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "tasks": {"mood": tiny.mood()},
        "optimizer": {"lr": 1e-7},
        "schedule": {"steps": 20, "batch_size": 8, "evaluate_every": 3, "patience": 2, "checkpoint_every": 1},
    }
    whole = train(tiny, tmp_path / "whole", **settings)
    plain = Journal.step

    def cut(self: Journal, step: int, *given: Any, **named: Any) -> None:
        plain(self, step, *given, **named)
        if step == 8:
            raise PowerCutError

    monkeypatch.setattr(Journal, "step", cut)
    with pytest.raises(PowerCutError):
        train(tiny, tmp_path / "cut", **settings)
    monkeypatch.undo()
    train(tiny, tmp_path / "cut", resume=True, **settings)
    assert steps_of(tmp_path / "cut") == steps_of(whole) == list(range(1, 10))
    assert bits(tmp_path / "cut") == bits(whole)


def test_resuming_a_finished_run_changes_nothing(tiny: "Tiny", whole: Path) -> None:
    before = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    train(tiny, whole, resume=True)
    after = {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    for path, content in before.items():
        if path.name != "log.jsonl":  # its last record says again how long the training took
            assert after[path] == content, path
    assert {path for path in after if path.parts[0] != "tensorboard"} == {
        path for path in before if path.parts[0] != "tensorboard"
    }
    assert steps_of(whole) == list(range(1, 10))
    assert len(events_of(whole, "end")) == 1


# ---- Ctrl-C ----


def interrupt_after(monkeypatch: pytest.MonkeyPatch, number: int, times: int = 1) -> None:
    plain = Journal.step

    def pressed(self: Journal, step: int, *given: Any, **named: Any) -> None:
        plain(self, step, *given, **named)
        if step == number:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Journal, "step", pressed)


def test_ctrl_c_ends_the_step_writes_a_checkpoint_and_leaves_with_130(
    tiny: "Tiny", tmp_path: Path, command: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = {"steps": 9, "batch_size": 8, "evaluate_every": 3}
    recipe = tiny.write(tmp_path / "r.yaml", schedule=schedule)
    assert command("train", recipe, "--out", tmp_path / "whole", "--quiet").status == 0
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 4)
        ended = command("train", recipe, "--out", tmp_path / "cut")
    assert ended.status == 130
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1] == "stopped after step 4; go on with --resume"
    assert signal.getsignal(signal.SIGINT) is handler
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").glob("step*")] == [
        "step-00000004.safetensors"
    ]
    told = command.refused("evaluate", tmp_path / "cut")
    assert "no model yet; finish it with --resume" in told
    assert command("train", recipe, "--out", tmp_path / "cut", "--resume", "--quiet").status == 0
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")
    assert steps_of(tmp_path / "cut") == list(range(1, 10))


def test_a_second_ctrl_c_does_not_wait(tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5, times=2)
        with pytest.raises(KeyboardInterrupt) as caught:
            train(tiny, tmp_path / "cut")
    assert not isinstance(caught.value, mh.Stopped)
    assert [path.name for path in (tmp_path / "cut" / "checkpoints").glob("step*")] == [
        "step-00000004.safetensors"
    ]


# ---- what is not resumed ----


def test_another_recipe_is_refused_and_the_run_left_alone(tiny: "Tiny", whole: Path) -> None:
    before = bits(whole), (whole / "recipe.yaml").read_bytes(), (whole / "log.jsonl").read_bytes()
    with pytest.raises(mh.InputError, match="written with another recipe"):
        train(tiny, whole, resume=True, seed=8)
    with pytest.raises(mh.InputError, match="written with another recipe"):
        train(
            tiny, whole, resume=True, tasks={"mood": tiny.mood(labels=["good", "bad"]), "pairs": tiny.pairs()}
        )
    assert (bits(whole), (whole / "recipe.yaml").read_bytes(), (whole / "log.jsonl").read_bytes()) == before


@pytest.mark.parametrize("change", ["labels", "texts", "rows", "dev"])
def test_other_data_are_refused(tiny: "Tiny", tmp_path: Path, change: str) -> None:
    names = {path.name: path.read_text() for path in tiny.folder.glob("*.csv")}
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    train(tiny, tmp_path / "run", data=str(tmp_path))
    text = names["mood-train.csv"]
    lines = text.splitlines(keepends=True)
    if change == "labels":
        lines[1], lines[2] = lines[1].replace(",bad", ",good"), lines[2].replace(",good", ",bad")
    elif change == "texts":
        lines[1], lines[3] = lines[3], lines[1]
    elif change == "rows":
        del lines[-1]
    if change == "dev":
        (tmp_path / "mood-dev.csv").write_text("".join(names["mood-dev.csv"].splitlines(keepends=True)[:-1]))
    (tmp_path / "mood-train.csv").write_text("".join(lines))
    with pytest.raises(mh.InputError, match="other data or other labels"):
        train(tiny, tmp_path / "run", resume=True, data=str(tmp_path))


def test_the_data_and_the_run_may_move(tiny: "Tiny", tmp_path: Path) -> None:
    schedule = {"steps": 4, "batch_size": 8}
    train(tiny, tmp_path / "run", schedule=schedule)
    for path in tiny.folder.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "run").rename(tmp_path / "moved")
    train(tiny, tmp_path / "moved", resume=True, schedule=schedule, data=str(tmp_path))


def test_a_damaged_checkpoint_is_refused(tiny: "Tiny", whole: Path) -> None:
    (path,) = (whole / "checkpoints").glob("step*")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(mh.InputError, match=f"{path.name}: not a whole checkpoint"):
        train(tiny, whole, resume=True)


def test_weights_in_the_place_of_a_checkpoint_are_refused(tiny: "Tiny", whole: Path) -> None:
    (path,) = (whole / "checkpoints").glob("step*")
    path.write_bytes((tiny.folder / "bert" / "model.safetensors").read_bytes())
    with pytest.raises(mh.InputError, match=path.name):
        train(tiny, whole, resume=True)


def test_an_existing_run_is_not_trained_over(tiny: "Tiny", tmp_path: Path, whole: Path) -> None:
    before = bits(whole)
    with pytest.raises(mh.InputError, match="exists already; --resume"):
        train(tiny, whole)
    assert bits(whole) == before


def test_where_there_is_nothing_to_resume_a_run_starts(tiny: "Tiny", tmp_path: Path, whole: Path) -> None:
    train(tiny, tmp_path / "none", resume=True)
    assert bits(tmp_path / "none") == bits(whole)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(mh.InputError, match="exists already"):
        train(tiny, tmp_path / "other", resume=True)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_a_cut_before_the_first_file_leaves_a_folder_to_start_in(
    tiny: "Tiny", tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "early"
    out.mkdir()
    (out / ".recipe.yaml.part-123").write_text("na")
    train(tiny, out)
    assert bits(out) == bits(whole)


def test_only_the_newest_checkpoint_is_kept_and_it_holds_the_moments(whole: Path) -> None:
    (path,) = (whole / "checkpoints").glob("step*")
    assert path.name == "step-00000009.safetensors"
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        assert json.loads(file.metadata()["progress"])["step"] == 9
    assert {name.split("/")[0] for name in names} == {"network", "optimizer"}
    assert {name.split("/")[2] for name in names if name.startswith("optimizer")} == {
        "step",
        "exp_avg",
        "exp_avg_sq",
    }
