"""Studies: what is trained in which order, what stands in the table, and a study that is killed and goes on."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest

import manyheads as mh
from manyheads import cli
from manyheads.cli.study import study as study_command
from manyheads.evidence import study as studies
from manyheads.evidence.outcome import Outcome
from manyheads.evidence.study import Study, duration, study
from manyheads.evidence.tables import as_csv, as_markdown, table_of
from manyheads.evidence.variants import plan_study
from manyheads.recipe.document import written
from manyheads.training.journal import Journal

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny
    from tests.evidence.conftest import Answers, MakeRun

TWO: dict[str, Any] = {"plain": {}, "fast": {"optimizer.lr": 0.01}}


@pytest.fixture(autouse=True)
def _wired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "study", study_command)


@pytest.fixture
def chain(tiny: "Tiny", tmp_path: Path) -> Path:
    """A study of three variants, the last of which starts from the first one's encoder, with two seeds each."""
    return written_study(
        tiny,
        tmp_path,
        {**TWO, "next": {"encoder.from": "variant:plain"}},
        schedule={"steps": 6, "batch_size": 8},
    )


def written_study(
    tiny: "Tiny", folder: Path, variants: dict[str, Any], *, seeds: Sequence[int] = (1, 2), **settings: Any
) -> Path:
    """`study.yaml` and the recipe beside it; `settings` of the study, or of the recipe where it has such a key."""
    keys = {"against", "seeds_of", "split", "presets", "keep", "name", "recipe"}
    tiny.write(folder / "recipe.yaml", **{key: one for key, one in settings.items() if key not in keys})
    plain = {"name": "tiny-study", "recipe": "recipe.yaml", "seeds": list(seeds), "variants": variants}
    path = folder / "study.yaml"
    path.write_text(written({**plain, **{key: one for key, one in settings.items() if key in keys}}))
    return path


def told(folder: Path) -> dict[str, Any]:
    """`study.json` without how long anything took."""
    content: dict[str, Any] = json.loads((folder / "study.json").read_text())
    for one in (*content["table"], *content["runs"]):
        for key in ("seconds", "seconds_per_epoch", "examples_per_second"):
            one.pop(key, None)
    return content


def bits(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.name
        in ("model.safetensors", "heads.safetensors", "scores.json", "mood-dev.csv", "mood-dev.npy")
    }


def times(folder: Path) -> dict[str, int]:
    """When each file of the runs was last written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.glob("*/seed-*/*") if path.is_file()}


def without_speed(table: str) -> list[list[str]]:
    return [line.split("|")[:-3] for line in table.splitlines() if line.startswith("|")]


# ---- a whole study ----


def test_a_study_trains_every_variant_with_every_seed_and_tells(
    chain: Path, tmp_path: Path, command: "Command"
) -> None:
    out = tmp_path / "out"
    ended = command("study", chain, "--out", out)
    assert ended.status == 0, ended.err
    lines = [line.partition(" · about")[0] for line in ended.err.splitlines() if line.startswith("[")]
    assert lines == [
        "[1/6] plain, seed 1",
        "[2/6] fast, seed 1",
        "[3/6] next, seed 1",
        "[4/6] plain, seed 2",
        "[5/6] fast, seed 2",
        "[6/6] next, seed 2",
    ]
    for variant in ("plain", "fast", "next"):
        for seed in (1, 2):
            run = mh.Run.open(out / variant / f"seed-{seed}")
            assert run.recipe.seed == seed
            assert run.recipe.optimizer.lr == (0.01 if variant == "fast" else 1e-3)
            assert not run.checkpoints.exists()
    assert mh.Run(out / "next" / "seed-2").recipe.encoder.from_ == str(out / "plain" / "seed-2")

    content = told(out)
    assert [row["variant"] for row in content["table"]] == ["plain", "fast", "next"]
    assert content["reference"] == "plain"
    plain = content["table"][0]
    scores = [mh.Run(out / "plain" / f"seed-{seed}").scores["mood"]["accuracy"] for seed in (1, 2)]
    assert plain["tasks"]["mood"]["scores"] == {"1": scores[0], "2": scores[1]}
    assert plain["tasks"]["mood"]["median"] == pytest.approx(np.mean(scores))
    assert (plain["finished"], plain["planned"]) == (2, 2)
    assert [(one["name"], one["task"]) for one in content["comparisons"]] == [
        ("fast", "mood"),
        ("fast", "pairs"),
        ("next", "mood"),
        ("next", "pairs"),
    ]
    assert content["resamples"] == 10_000
    for one in content["comparisons"]:
        assert (
            "2 seeds each cannot decide between the methods (the smallest possible p is 0.33)"
            in one["sentence"]
        )
        assert one["sentence"] in (out / "table.md").read_text()
        assert one["sentence"] in ended.out
    assert [run["state"] for run in content["runs"]] == ["finished"] * 6
    assert set(content["runs"][0]["scores"]) == {"dev", "test"}
    assert (
        "| variant | mood accuracy | pairs pearson | seeds | s/epoch | examples/s |"
        in (out / "table.md").read_text()
    )
    with (out / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows] == ["plain", "fast", "next"]
    assert float(rows[0]["mood accuracy median"]) == pytest.approx(np.mean(scores))
    assert float(rows[0]["examples a second"]) > 0
    drawn = (out / "plot.svg").read_text()
    ElementTree.fromstring(drawn)
    assert all(word in drawn for word in ("mood", "accuracy", "plain", "fast", "next"))

    before = times(out)
    again = command("study", chain, "--out", out, "--json")
    assert again.status == 0
    assert json.loads(again.out)["table"] == json.loads((out / "study.json").read_text())["table"]
    assert "6 of 6 runs have finished already" in again.err
    assert times(out) == before
    assert told(out) == content


def test_quiet_says_nothing(tiny: "Tiny", tmp_path: Path, command: "Command") -> None:
    path = written_study(tiny, tmp_path, {"plain": None}, seeds=[1], schedule={"steps": 1})
    assert command("study", path, "--out", tmp_path / "out", "--quiet") == (0, "", "")


def test_a_half_finished_study_shows_a_table_and_a_plot(
    tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written_study(tiny, tmp_path, TWO, schedule={"steps": 2})
    seen: list[Any] = []

    def watched(*given: Any, **named: Any) -> Any:
        content = told(tmp_path / "out")
        seen.append([(row["finished"], row["planned"]) for row in content["table"]])
        assert (tmp_path / "out" / "table.md").is_file()
        assert (tmp_path / "out" / "plot.svg").is_file()
        return mh.train(*given, **named)

    monkeypatch.setattr(studies, "train", watched)
    found = study(path, tmp_path / "out", quiet=True)
    assert seen == [[(0, 2), (0, 2)], [(1, 2), (0, 2)], [(1, 2), (1, 2)], [(2, 2), (1, 2)]]
    assert found.finished


def test_the_default_folder_bears_the_names_of_study_and_preset(
    tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written_study(tiny, tmp_path, {"plain": {}}, presets={"small": {"schedule.steps": 1}})
    monkeypatch.chdir(tmp_path)
    assert plan_study(path).folder == tmp_path / "runs" / "tiny-study"
    assert plan_study(path, preset="small").folder == tmp_path / "runs" / "tiny-study-small"


# ---- what a run is told ----


def test_the_later_of_preset_set_variant_and_seed_wins(tiny: "Tiny", tmp_path: Path) -> None:
    path = written_study(
        tiny,
        tmp_path,
        {"plain": {}, "own": {"optimizer.lr": 0.03, "regularize": {"smart": {"weight": 5}}}},
        presets={"small": {"optimizer.lr": 0.01, "schedule.epochs": 2, "seed": 99}},
    )

    def settings(**given: Any) -> list[tuple[float, float, int]]:
        runs = plan_study(path, tmp_path / "out", **given).runs
        return [(run.recipe.optimizer.lr, run.recipe.schedule.epochs, run.recipe.seed) for run in runs[:2]]

    assert settings() == [(1e-3, 1, 1), (0.03, 1, 1)]
    assert settings(preset="small") == [(0.01, 2, 1), (0.03, 2, 1)]
    assert settings(preset="small", overrides=["optimizer.lr=0.02", "seed=7"]) == [(0.02, 2, 1), (0.03, 2, 1)]
    assert settings(seeds=[4])[0][2] == 4


def test_the_data_variable_stands_above_the_file_and_below_the_rest(
    tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written_study(tiny, tmp_path, {"plain": {}}, data="nowhere")
    monkeypatch.setenv("MANYHEADS_DATA", str(tiny.folder))
    assert plan_study(path).runs[0].recipe.data == str(tiny.folder)
    monkeypatch.setenv("MANYHEADS_DATA", str(tmp_path))
    assert plan_study(path, overrides=[f"data={tiny.folder}"]).runs[0].recipe.data == str(tiny.folder)


def test_seeds_of_a_variant_and_seeds_of_the_command(tiny: "Tiny", tmp_path: Path) -> None:
    path = written_study(tiny, tmp_path, {**TWO, "slow": {}}, seeds=[1, 2], seeds_of={"slow": [2, 3, 4]})

    def keys(**given: Any) -> list[tuple[str, int]]:
        return [run.key for run in plan_study(path, **given).runs]

    assert keys() == [
        *(("plain", 1), ("fast", 1)),
        *(("plain", 2), ("fast", 2), ("slow", 2)),
        *(("slow", 3), ("slow", 4)),
    ]
    assert keys(seeds=[4, 1]) == [("plain", 4), ("fast", 4), ("slow", 4), ("plain", 1), ("fast", 1)]


def test_a_run_that_names_another_seed_comes_after_it(tiny: "Tiny", tmp_path: Path) -> None:
    path = written_study(
        tiny, tmp_path, {"plain": {}, "next": {"encoder.from": "variant:plain@3"}}, seeds=[1, 2, 3]
    )
    plan = plan_study(path, tmp_path / "out")
    assert [run.key for run in plan.runs] == [
        *(("plain", 1), ("plain", 3), ("next", 1)),
        *(("plain", 2), ("next", 2), ("next", 3)),
    ]
    assert {run.recipe.encoder.from_ for run in plan.of("next")} == {
        str(tmp_path / "out" / "plain" / "seed-3")
    }
    assert plan.named == {("plain", 3)}


def test_references_are_found_inside_lists_and_mappings(tiny: "Tiny", tmp_path: Path) -> None:
    path = written_study(
        tiny,
        tmp_path,
        {"a": {}, "b": {}, "c": {"distill": {"teachers": {"mood": "variant:a", "pairs": "variant:b@2"}}}},
    )
    run = plan_study(path, tmp_path / "out").of("c")[0]
    assert run.needs == (("a", 1), ("b", 2))
    assert run.recipe.distill is not None
    assert run.recipe.distill.teachers["pairs"] == str(tmp_path / "out" / "b" / "seed-2")


def test_only_a_run_that_another_names_keeps_its_model_where_scores_are_enough(
    tiny: "Tiny", tmp_path: Path
) -> None:
    variants = {**TWO, "next": {"encoder.from": "variant:plain@1"}}
    path = written_study(tiny, tmp_path, variants, keep="scores", schedule={"steps": 2})
    found = study(path, tmp_path / "out", quiet=True)
    kept = sorted(
        str(run.relative_to(tmp_path / "out")) for run in tmp_path.glob("out/*/*") if (run / "model").exists()
    )
    assert kept == ["plain/seed-1"]
    assert not list(tmp_path.glob("out/*/*/checkpoints"))
    assert len(found.judgements) == 4
    before = told(tmp_path / "out")
    study(path, tmp_path / "out", quiet=True)
    assert told(tmp_path / "out") == before
    more = {**variants, "late": {"encoder.from": "variant:fast"}}
    written_study(tiny, tmp_path, more, keep="scores", schedule={"steps": 2})
    with pytest.raises(
        mh.InputError, match=r"fast/seed-1: its model was not kept, and late, seed 1 needs it"
    ):
        study(path, tmp_path / "out", quiet=True)


def test_checkpoints_stay_where_everything_is_kept(tiny: "Tiny", tmp_path: Path) -> None:
    path = written_study(tiny, tmp_path, {"plain": {}}, seeds=[1], keep="all", schedule={"steps": 2})
    study(path, tmp_path / "out", quiet=True)
    assert (tmp_path / "out" / "plain" / "seed-1" / "checkpoints" / "best.safetensors").is_file()


# ---- killed, stopped, failed ----

# Forks a child for each life of a study: the imports are paid for once.
KILLER = """
import glob, json, os, random, signal, sys, time

import matplotlib.figure
import matplotlib.backends.backend_svg
import scipy.stats
import sklearn.metrics
import torch
import torch._dynamo
import torch.utils.tensorboard
import manyheads.evidence.study

path, out, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
chance = random.Random(0)

def begin():
    child = os.fork()
    if child == 0:
        try:
            manyheads.evidence.study.study(path, out, quiet=True)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child

def state():  # glob.glob takes no harm from folders that vanish
    return [len(glob.glob(f"{out}/*/*/scores.json")), sorted(glob.glob(f"{out}/*/*/checkpoints/step-*"))]

lives, over = [], False
while len(lives) < kills and not over:
    began, child = state(), begin()
    # A few checkpoints or runs further, and then some: within a run, while it ends, while the tables are written.
    last = began
    for _ in range(chance.randint(1, 6)):
        while state() == last and not over:
            over = os.waitpid(child, os.WNOHANG) != (0, 0)
            time.sleep(0.001)
        last = state()
    if not over:
        time.sleep(chance.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        over = not os.WIFSIGNALED(status)
    lives.append([began, state(), over])
_, status = os.waitpid(begin(), 0)
print(json.dumps([lives, os.WEXITSTATUS(status)]))
"""


def test_killed_at_eight_moments_a_study_ends_as_if_it_had_not_been(tiny: "Tiny", tmp_path: Path) -> None:
    schedule = {"steps": 10, "batch_size": 8, "evaluate_every": 5, "checkpoint_every": 2}
    variants = {**TWO, "next": {"encoder.from": "variant:plain"}}
    path = written_study(tiny, tmp_path, variants, schedule=schedule)
    study(path, tmp_path / "whole", quiet=True)
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(path), str(tmp_path / "killed"), "8"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lives, status = json.loads(done.stdout.splitlines()[-1])
    assert status == 0, done.stderr
    killed_lives = [life for life in lives if not life[2]]
    assert len(killed_lives) >= 4  # a fast machine may come to the end before the eighth
    assert killed_lives[-1][1][0] > 0  # some runs had ended by then
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert bits(killed) == bits(whole)
    assert len(bits(whole)) == 6 * 5
    assert told(killed) == told(whole)
    tables = [(folder / "table.md").read_text() for folder in (whole, killed)]
    assert without_speed(tables[0]) == without_speed(tables[1])
    assert (killed / "plot.svg").read_bytes() == (whole / "plot.svg").read_bytes()


def test_ctrl_c_writes_a_checkpoint_and_the_same_command_goes_on(
    tiny: "Tiny", tmp_path: Path, command: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written_study(tiny, tmp_path, TWO, seeds=[1], schedule={"steps": 6, "batch_size": 8})
    study(path, tmp_path / "whole", quiet=True)
    plain = Journal.step

    def pressed(self: Journal, step: int, *given: Any, **named: Any) -> None:
        plain(self, step, *given, **named)
        if step == 3 and self.folder.parent.name == "fast":
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", pressed)
        assert command("study", path, "--out", tmp_path / "cut").status == 130
    assert [row["finished"] for row in told(tmp_path / "cut")["table"]] == [1, 0]
    assert [one.name for one in (tmp_path / "cut").glob("fast/*/checkpoints/step*")] == [
        "step-00000003.safetensors"
    ]
    assert command("study", path, "--out", tmp_path / "cut", "--quiet").status == 0
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")
    assert told(tmp_path / "cut") == told(tmp_path / "whole")


def test_a_run_that_fails_stops_only_those_that_name_it(
    tiny: "Tiny", tmp_path: Path, command: "Command"
) -> None:
    variants = {
        "plain": {},
        "wild": {"optimizer.lr": 1e30},
        "next": {"encoder.from": "variant:wild"},
        "last": {},
    }
    path = written_study(tiny, tmp_path, variants, seeds=[1], schedule={"steps": 4, "warmup": 0})
    ended = command("study", path, "--out", tmp_path / "out", "--quiet")
    assert ended.status == 1
    assert ended.err.startswith("error: wild, seed 1: step ")
    assert ended.err.endswith("(and 1 more of 4 runs; study.json has them)\n")
    content = told(tmp_path / "out")
    assert [run["state"] for run in content["runs"]] == ["finished", "failed", "failed", "finished"]
    assert content["runs"][2]["why"] == "not trained, as wild, seed 1 failed"
    assert "## Failed\n\n- wild, seed 1: step " in (tmp_path / "out" / "table.md").read_text()
    assert [row["finished"] for row in content["table"]] == [1, 0, 0, 1]


# ---- side by side ----


def test_the_number_of_workers_changes_no_result(chain: Path, tmp_path: Path) -> None:
    study(chain, tmp_path / "one", quiet=True)
    study(chain, tmp_path / "two", quiet=True, workers=2)
    assert bits(tmp_path / "two") == bits(tmp_path / "one")
    assert told(tmp_path / "two") == told(tmp_path / "one")


def test_a_run_that_fails_in_a_worker_stops_only_those_that_name_it(tiny: "Tiny", tmp_path: Path) -> None:
    variants = {
        "plain": {},
        "wild": {"optimizer.lr": 1e30},
        "next": {"encoder.from": "variant:wild"},
        "last": {},
    }
    path = written_study(tiny, tmp_path, variants, seeds=[1], schedule={"steps": 4, "warmup": 0})
    with pytest.raises(mh.WorkError, match=r"^wild, seed 1: step .*\(and 1 more of 4 runs"):
        study(path, tmp_path / "out", quiet=True, workers=2)
    states = [run["state"] for run in told(tmp_path / "out")["runs"]]
    assert states == ["finished", "failed", "failed", "finished"]


PARENT = """
import signal, sys
from manyheads.evidence.study import study

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
    study(sys.argv[1], sys.argv[2], quiet=True, workers=2)
"""


@pytest.fixture
def parent(tiny: "Tiny", tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that trains two endless runs in two workers."""
    schedule = {"steps": 100_000, "batch_size": 8, "checkpoint_every": 2, "evaluate_every": 100_000}
    path = written_study(tiny, tmp_path, TWO, seeds=[1], schedule=schedule)
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(path), str(tmp_path / "out")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while len({one.parts[-4] for one in tmp_path.glob("out/*/*/checkpoints/step-*")}) < 2:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def newest(folder: Path) -> dict[str, str]:
    return {one.parts[-4]: one.name for one in sorted(folder.glob("*/*/checkpoints/step-*"))}


def test_a_killed_parent_leaves_no_worker_behind(parent: "subprocess.Popen[str]", tmp_path: Path) -> None:
    parent.kill()
    parent.wait()
    for variant in ("plain", "fast"):  # a worker holds its run's lock until it ends
        with studies._alone(tmp_path / "out" / variant / "seed-1"):
            pass
    before = newest(tmp_path / "out")
    time.sleep(1.0)
    assert newest(tmp_path / "out") == before


def test_ctrl_c_stops_the_workers_with_a_checkpoint(parent: "subprocess.Popen[str]", tmp_path: Path) -> None:
    parent.send_signal(signal.SIGINT)
    assert parent.stderr is not None
    text = parent.stderr.read()
    assert parent.wait() != 0
    assert text.count("Traceback") == 1, text  # the parent's own: no command line catches it here
    assert "Stopped" in text
    before = newest(tmp_path / "out")
    time.sleep(0.5)
    assert newest(tmp_path / "out") == before


def test_two_processes_do_not_train_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "_LOCK_SECONDS", 0.2)
    with (
        studies._alone(tmp_path / "run"),
        pytest.raises(mh.InputError, match="run: is being trained by another process"),
        studies._alone(tmp_path / "run"),
    ):
        pass


# ---- what is refused, before anything is trained ----

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"seed": [1]}, r"study.yaml, line \d+: seed: unknown key; did you mean 'seeds'"),
    "unknown recipe": (
        {"recipe": "none.yaml"},
        r"study.yaml, line \d+: recipe: no such file 'none.yaml' in the cu",
    ),
    "no seeds": ({"seeds": []}, r"line \d+: seeds: expected a list that is not empty"),
    "seed twice": ({"seeds": [1, 1]}, r"line \d+: seeds.1: 1 stands twice"),
    "seed a text": ({"seeds": ["a"]}, r"line \d+: seeds.0: expected a whole number"),
    "no variants": ({"variants": {}}, r"line \d+: variants: expected a mapping that is not empty"),
    "a path as name": ({"variants": {"../x": {}}}, r"line \d+: variants.*expected a plain name"),
    "seeds of none": (
        {"seeds_of": {"fats": [1]}},
        r"line \d+: seeds_of.fats: no such variant; did you mean 'fast'",
    ),
    "against none": (
        {"against": {"fast": "plian"}},
        r"line \d+: against.fast: no variant 'plian'; did you mean 'plain'",
    ),
    "against of none": (
        {"against": {"fats": "plain"}},
        r"line \d+: against.fats: no variant 'fats'; did you",
    ),
    "against itself": (
        {"against": {"fast": "fast"}},
        r"line \d+: against.fast: a variant cannot be compared",
    ),
    "unknown split": (
        {"split": "tset"},
        r"line \d+: split: no task has a split 'tset'; .*did you mean 'test'",
    ),
    "keep": (
        {"keep": "modle"},
        r"line \d+: keep: expected one of scores, model, all, found 'modle'; did you mean",
    ),
    "unknown setting": (
        {"variants": {"plain": {}, "fast": {"optimiser.lr": 1}}},
        r"study.yaml, line \d+, variant 'fast': optimiser: unknown key; did you mean 'optimizer'",
    ),
    "bad value": (
        {"variants": {"plain": {}, "fast": {"optimizer.lr": -1}}},
        r"study.yaml, line \d+, variant 'fast': optimizer.lr: expected a number greater than 0, found -1",
    ),
    "no path": (
        {"variants": {"plain": {"optimizer..lr": 1}}},
        r"study.yaml, line \d+: variants.plain: expected a key of the recipe such as optimizer.lr, found 'optimi",
    ),
    "through a value": (
        {"variants": {"plain": {"name.x": 1}}},
        r"line \d+, variant 'plain': name: expected a mapping or a list, found 'tiny'",
    ),
    "unknown variant": (
        {"variants": {"plain": {}, "next": {"encoder.from": "variant:plian"}}},
        r"line \d+: variants.next.encoder.from: there is no variant 'plian'; did you mean 'plain'",
    ),
    "later variant": (
        {"variants": {"next": {"encoder.from": "variant:plain"}, "plain": {}}},
        r"line \d+: .*the variant 'next' names 'plain', which stands after it; expected one that stands before",
    ),
    "itself": (
        {"variants": {"next": {"encoder.from": "variant:next"}}},
        r"the variant 'next' names itself",
    ),
    "another seed": (
        {"variants": {"plain": {}, "next": {"encoder.from": "variant:plain@9"}}},
        r"the variant 'next' names 'plain' with seed 9, which is not among its seeds",
    ),
    "half a reference": (
        {"variants": {"plain": {}, "next": {"encoder.from": "variant:"}}},
        r"expected variant:NAME or variant:NAME@SEED, found 'variant:'",
    ),
    "bad preset": (
        {"presets": {"small": {"schedule.epochs": 0}}},
        r"study.yaml, line \d+, preset 'small': schedule.epochs: expected a number greater than 0",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_study_is_one_line_and_nothing_is_trained(
    tiny: "Tiny", tmp_path: Path, command: "Command", case: str
) -> None:
    settings, expected = BAD[case]
    tiny.write(tmp_path / "recipe.yaml")
    plain = {"name": "tiny-study", "recipe": "recipe.yaml", "seeds": [1, 2], "variants": TWO}
    path = tmp_path / "study.yaml"
    path.write_text(written({**plain, **settings}))
    more = ("--preset", "small") if "presets" in settings else ()
    line = command.refused("study", path, "--out", tmp_path / "out", *more)
    import re

    assert re.search(expected, line), line
    assert not (tmp_path / "out").exists()


def test_bad_arguments_are_one_line(tiny: "Tiny", tmp_path: Path, command: "Command") -> None:
    path = written_study(
        tiny, tmp_path, TWO, presets={"small": {"schedule.epochs": 1}}, seeds_of={"plain": [5]}
    )
    assert "no preset 'smal', there are small; did you mean 'small'?" in command.refused(
        "study", path, "--preset", "smal"
    )
    assert "--seeds: expected whole numbers such as 1,2,3, found '1,x'" in command.refused(
        "study", path, "--seeds", "1,x"
    )
    assert "--seeds: expected different whole numbers" in command.refused("study", path, "--seeds", "1,1")
    assert "none of --seeds is among the seeds of 'plain'" in command.refused("study", path, "--seeds", "1")
    assert "--set optimizer.lr=x: optimizer.lr: expected a number" in command.refused(
        "study", path, "--set", "optimizer.lr=x"
    )
    assert command("study", path, "--workers", "0").status == 2
    assert "no such file" in command.refused("study", tmp_path / "none.yaml")


def test_a_missing_file_of_the_last_variant_is_found_first(
    tiny: "Tiny", tmp_path: Path, command: "Command"
) -> None:
    files = {"tasks.mood.files": {"train": "gone.csv", "dev": "mood-dev.csv"}}
    path = written_study(tiny, tmp_path, {**TWO, "last": files})
    line = command.refused("study", path, "--out", tmp_path / "out")
    assert "gone.csv: no such file (variant 'last', tasks.mood.files)" in line
    teachers = {"distill.teachers.mood": str(tmp_path / "nobody")}
    path = written_study(tiny, tmp_path, {**TWO, "last": teachers})
    assert "nobody: no such run folder" in command.refused("study", path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_of_another_recipe_are_refused_and_left_alone(
    tiny: "Tiny", tmp_path: Path, command: "Command"
) -> None:
    path = written_study(tiny, tmp_path, TWO, seeds=[1], schedule={"steps": 2})
    out = tmp_path / "out"
    study(path, out, quiet=True)
    before = times(out), (out / "study.json").read_bytes()
    line = command.refused("study", path, "--out", out, "--set", "schedule.steps=3")
    assert (
        "plain/seed-1: was trained with another recipe (schedule.steps: 2, now 3); name another --out" in line
    )
    written_study(tiny, tmp_path, TWO, seeds=[1], schedule={"steps": 2}, name="another")
    assert "out: belongs to the study 'tiny-study', not to 'another'" in command.refused(
        "study", path, "--out", out
    )
    assert (times(out), (out / "study.json").read_bytes()) == before


def test_a_folder_with_something_else_in_it_is_refused(
    tiny: "Tiny", tmp_path: Path, command: "Command"
) -> None:
    path = written_study(tiny, tmp_path, TWO)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    assert "thesis: exists already and holds no study" in command.refused(
        "study", path, "--out", tmp_path / "thesis"
    )
    assert "is a file, expected a folder" in command.refused("study", path, "--out", path)


def test_the_study_and_its_data_may_move(chain: Path, tiny: "Tiny", tmp_path: Path) -> None:
    study(chain, tmp_path / "out", quiet=True)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    for path in tiny.folder.glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    before = times(tmp_path / "elsewhere")
    study(chain, tmp_path / "elsewhere", quiet=True, overrides=[f"data={tmp_path}"])
    assert times(tmp_path / "elsewhere") == before


# ---- the table, of runs made by hand ----


def right(share: float, count: int = 100) -> "Answers":
    gold = np.arange(count) % 2
    said = gold.copy()
    said[: round(count * (1 - share))] ^= 1
    return said.tolist(), gold.tolist()


def line(noise: float, seed: int) -> "Answers":
    gold = np.linspace(0, 5, 60)
    return (gold + noise * np.random.default_rng(seed).normal(size=60)).tolist(), gold.tolist()


def test_the_table_has_median_quartiles_seeds_and_speed(make_run: "MakeRun") -> None:
    shares = (0.70, 0.80, 0.90, 0.60)
    plain = {
        str(seed): Outcome(make_run(f"plain/{seed}", {"mood": right(share)}, seconds=20.0 + seed))
        for seed, share in enumerate(shares)
    }
    both = {"0": Outcome(make_run("both/0", {"mood": right(0.5), "pairs": line(0.5, 1)}))}
    table = table_of({"plain": plain, "both": both, "later": {}}, {"plain": 5, "both": 5, "later": 5}, "dev")
    assert table.columns == (("mood", "accuracy"), ("pairs", "pearson"))
    cell = table.rows[0].cells["mood", "accuracy"]
    assert cell.median == pytest.approx(0.75)
    assert cell.quartiles == pytest.approx((0.675, 0.825))
    # 80% of 20 … 23 seconds in two epochs and 80 examples.
    assert table.rows[0].seconds_per_epoch == pytest.approx(21.5 * 0.8 / 2)
    assert table.rows[0].examples_per_second == pytest.approx(
        np.median([80 / (0.8 * s) for s in range(20, 24)])
    )
    text = as_markdown(table).splitlines()
    assert text[2] == "| plain | 0.750 [0.675–0.825] |  | 4/5 | 8.6 | 4.65 |"
    assert text[3].startswith("| both | 0.500 | 0.9")
    assert text[4] == "| later |  |  | 0/5 |  |  |"
    rows = list(csv.reader(as_csv(table).splitlines()))
    assert rows[0][:4] == [
        "variant",
        "mood accuracy median",
        "mood accuracy first quartile",
        "mood accuracy third quartile",
    ]
    assert rows[3] == ["later", *[""] * 6, "0", "5", "", ""]


def test_old_logs_give_seconds_and_examples_too(make_run: "MakeRun") -> None:
    run = make_run("old", {"mood": right(0.7)}, seconds=16.0)
    records = [json.loads(text) for text in (run / "log.jsonl").read_text().splitlines()]
    for key in ("step_seconds", "examples"):
        records[-1].pop(key)
    (run / "log.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records) + '{"event": "st')
    speed = Outcome(run).speed
    assert (speed.seconds, speed.seconds_per_epoch, speed.examples_per_second) == (16.0, 8.0, 80 / 16)


def test_an_undefined_score_is_counted_beside_the_median(make_run: "MakeRun") -> None:
    flat: Answers = ([2.5] * 60, line(0, 0)[1])
    runs = {
        "1": Outcome(make_run("a/1", {"pairs": flat})),
        "2": Outcome(make_run("a/2", {"pairs": line(0, 0)})),
    }
    table = table_of({"a": runs}, {"a": 2}, "dev")
    assert table.lines[0][1] == "1.000 (1 undefined)"
    assert table_of({"a": {"1": runs["1"]}}, {"a": 2}, "dev").lines[0][1] == "undefined"


def made_study(
    tiny: "Tiny", folder: Path, make_run: "MakeRun", runs: dict[str, list[dict[str, Any]]], **more: Any
) -> Study:
    """A study all of whose runs were made by hand: variant → what each seed answered."""
    count = len(next(iter(runs.values())))
    path = written_study(tiny, folder, {name: {} for name in runs}, seeds=list(range(count)), **more)
    for name, seeds in runs.items():
        for seed, answers in enumerate(seeds):
            made = make_run(f"out/{name}/seed-{seed}", answers)
            recipe = plan_study(path, folder / "out").of(name)[seed].recipe
            mh.Run(made).write_recipe(recipe)
    (folder / "out" / "study.json").write_text('{"study": "tiny-study"}')
    return study(path, folder / "out", quiet=True)


def test_the_sentences_of_a_study_of_two_tasks(tiny: "Tiny", tmp_path: Path, make_run: "MakeRun") -> None:
    found = made_study(
        tiny,
        tmp_path,
        make_run,
        {
            "plain": [{"mood": right(0.60 + i / 100), "pairs": line(0.5, i)} for i in range(5)],
            "smart": [{"mood": right(0.80 + i / 100), "pairs": line(0.5, 9 + i)} for i in range(5)],
            "alone": [{"mood": right(0.58 + i / 100)} for i in range(5)],
        },
    )
    assert found.finished
    verdicts = {(one.name, one.task): one.verdict for one in found.judgements}
    assert verdicts == {
        ("smart", "mood"): "better",
        ("smart", "pairs"): "undecided",
        ("alone", "mood"): "undecided",
    }
    better, undecided, _ = found.judgements
    assert better.sentence.startswith(
        "smart is better than plain on mood (accuracy 0.820 against 0.620, +0.200; Mann–Whitney p = 0.024 after Holm "
        "over 3 comparisons, 5 seeds each; on the dev examples the bootstrap interval is +0."
    )
    assert undecided.sentence.startswith("smart is undecided against plain on pairs: pearson 0.9")
    assert f"about {undecided.seeds_needed} seeds each would decide" in undecided.sentence
    text = (tmp_path / "out" / "table.md").read_text()
    assert "## Against plain\n\n- smart is better than plain on mood" in text
    assert "| alone | 0.600 [0.590–0.610] |  | 5/5 |" in text


def test_each_variant_against_the_one_that_it_is_about(
    tiny: "Tiny", tmp_path: Path, make_run: "MakeRun"
) -> None:
    """Also the first variant, and one whose task the first has not."""
    found = made_study(
        tiny,
        tmp_path,
        make_run,
        {
            "source": [{"mood": right(0.5)}],
            "small": [{"pairs": line(0.5, 1)}],
            "small-more": [{"pairs": line(0.5, 2)}],
            "other": [{"mood": right(0.9)}],
        },
        against={"small-more": "small", "source": "other"},
    )
    named = [(one.name, one.reference, one.task) for one in found.judgements]
    assert named == [
        ("source", "other", "mood"),
        ("small-more", "small", "pairs"),
        ("other", "source", "mood"),
    ]
    text = (tmp_path / "out" / "table.md").read_text()
    headings = [line_ for line_ in text.splitlines() if line_.startswith("## ")]
    assert headings == ["## Against other", "## Against small", "## Against source"]


def test_variants_of_other_dev_examples_are_not_compared(
    tiny: "Tiny", tmp_path: Path, make_run: "MakeRun"
) -> None:
    found = made_study(
        tiny, tmp_path, make_run, {"plain": [{"mood": right(0.6)}], "fewer": [{"mood": right(0.6, count=50)}]}
    )
    (one,) = found.judgements
    assert one.verdict == "not comparable"
    assert one.sentence.startswith(
        "fewer cannot be compared with plain on mood: task 'mood': the dev examples of "
    )


def test_durations_are_told_roughly() -> None:
    seconds = (0.2, 40, 89, 91, 750, 5399, 5401, 90_000)
    assert [duration(one) for one in seconds] == [
        "1 s",
        "40 s",
        "89 s",
        "2 min",
        "12 min",
        "90 min",
        "1.5 h",
        "25.0 h",
    ]
