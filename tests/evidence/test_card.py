"""The card of a run: its numbers are the run's, what it tells people to do works, and it names no place."""

import csv
import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from manyheads.errors import InputError
from manyheads.evidence.card import card, write_card
from manyheads.run import Run

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny
    from tests.evidence.conftest import MakeRun


@pytest.fixture(scope="module")
def text(tiny_run: Path) -> str:
    return card(Run(tiny_run), "1.2.3")


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Run:
    return Run(shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints")))


def front(told: str) -> dict[str, Any]:
    """What stands between the two lines of dashes at the top."""
    found = yaml.safe_load(told.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def table(told: str, title: str) -> list[dict[str, str]]:
    """The rows of the first table under a title, each by its header; every row must have as many cells."""
    lines = told.split(f"\n## {title}\n")[1].lstrip("\n").splitlines()
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    head, dashes, *body = rows
    assert set(dashes) == {"---"}
    assert {len(row) for row in rows} == {len(head)}
    return [dict(zip(head, row, strict=True)) for row in body]


def blocks(told: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", told, re.DOTALL)


def test_scores_are_the_run_s(text: str, tiny_run: Path) -> None:
    scores = json.loads((tiny_run / "scores.json").read_text())
    rows = table(text, "Scores")
    told = {(row["split"], row["task"].strip("`")): row for row in rows}
    assert set(told) == {(split, task) for split, tasks in scores.items() for task in tasks}
    for (split, task), row in told.items():
        measures = scores[split][task]
        first = next(iter(measures))
        assert (row["measure"], row["score"]) == (first, f"{measures[first]:.4f}")
        for name, value in list(measures.items())[1:]:
            assert (
                f"{name} {value:.4f}" in row["other measures"]
                or f"{name} {value:.2f}" in row["other measures"]
            )


def test_the_interval_is_a_bootstrap_s(text: str, tiny_run: Path) -> None:
    stats = pytest.importorskip("scipy.stats")
    with (tiny_run / "predictions" / "mood-dev.csv").open(encoding="utf-8", newline="") as file:
        right = np.array([float(row["gold"] == row["label"]) for row in csv.DictReader(file)])
    found = stats.bootstrap(
        (right,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1)
    ).confidence_interval
    (row,) = (one for one in table(text, "Scores") if (one["task"], one["split"]) == ("`mood`", "dev"))
    low, high = map(float, row["95% interval"].split(" to "))
    assert (low, high) == pytest.approx((found.low, found.high), abs=1 / len(right) + 1e-9)
    assert int(row["examples"]) == len(right)


def test_data_by_name_rows_and_fingerprint(text: str, tiny: "Tiny") -> None:
    rows = table(text, "Data")
    assert [(row["task"], row["split"]) for row in rows] == [
        *(("`mood`", split) for split in ("train", "dev", "test")),
        *(("`pairs`", split) for split in ("train", "dev")),
    ]
    for row in rows:
        name = f"{row['task'].strip('`')}-{row['split']}.csv"
        content = (tiny.folder / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:16]
        assert row["files, with the first digits of their SHA-256"] == f"`{name}` {digest}"
        assert int(row["rows"]) == content.count(b"\n") - 1


def test_what_hubs_read(text: str) -> None:
    assert front(text) == {
        "library_name": "manyheads",
        "tags": ["manyheads", "bert", "classification", "regression"],
        "metrics": ["accuracy", "pearson"],
    }


def test_no_place_of_this_machine(text: str, tiny: "Tiny", tiny_run: Path) -> None:
    for place in (tiny.folder, tiny_run, Path.home()):
        assert str(place) not in text
    assert not re.search(r"(?<![\w.])/(?!\*)\w", text.replace("</", ""))
    assert "`bert`" in text  # the checkpoint's name alone


def test_labels_temperature_and_version(text: str, tiny_run: Path) -> None:
    told = json.loads((tiny_run / "model" / "heads.json").read_text())["tasks"]
    rows = {row["task"]: row for row in table(text, "Tasks")}
    labels = told["mood"]["facts"]["labels"]
    assert rows["`mood`"]["labels, in their order"] == ", ".join(f"`{label}`" for label in labels)
    assert rows["`pairs`"]["reads"] == "a pair: `a`, `b`"
    temperature = told["mood"]["facts"].get("temperature")
    assert temperature is None or f"`mood` {temperature:.3f}" in text
    assert "| manyheads | 1.2.3 |" in text
    assert "| seed | 7 |" in text


def test_its_commands_and_its_python_run(
    text: str, tiny_run: Path, command: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_run)
    asked = [line for block in blocks(text, "sh") for line in block.splitlines() if " ask " in line]
    assert len(asked) == 2
    for line in asked:
        ended = command(*shlex.split(line)[1:])
        assert ended.status == 0, ended
    (code,) = blocks(text, "python")
    exec(compile(code, "card", "exec"), {})


def test_what_the_packaged_encoder_has_seen_is_said(copied: Run) -> None:
    recipe = yaml.safe_load((copied.folder / "recipe.yaml").read_text())
    recipe["encoder"] = {"from": "minilm"}
    recipe["data"] = None
    recipe["tasks"]["pairs"]["files"]["train"] = ["/srv/data/quora-train.csv", "../elsewhere/QQP/dev.tsv"]
    (copied.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    told = card(copied)
    assert "files of `pairs` come from Quora's question pairs" in told
    assert "files of `mood`" not in told
    assert front(told)["language"] == ["en"]
    assert front(told)["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert "/srv" not in told
    assert "`quora-train.csv`; `dev.tsv`" in told


def test_names_that_mean_something_to_markdown(copied: Run) -> None:
    recipe = yaml.safe_load((copied.folder / "recipe.yaml").read_text())
    recipe["tasks"]["mood"]["text"] = "a|b <i>"
    recipe["tasks"]["mood"]["files"]["dev"] = ["mood|dev `1`.csv"]
    (copied.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    told = card(copied)
    assert r"a\|b \<i\>" in told
    assert r"mood\|dev \`1\`.csv" in told


def test_it_is_a_file_of_the_run(copied: Run) -> None:
    path = write_card(copied, "1.2.3")
    assert path == copied.folder / "README.md"
    assert path.read_text(encoding="utf-8") == card(copied, "1.2.3")


def test_a_run_without_scores_or_a_model_is_told(make_run: "MakeRun", copied: Run) -> None:
    folder = make_run("bare", {"mood": ([1, 0, 1, 1], [1, 0, 0, 1])})
    with pytest.raises(InputError, match="the run has no model"):
        card(Run(folder))
    (copied.folder / "scores.json").unlink()
    with pytest.raises(InputError, match="no scores yet"):
        card(copied)
