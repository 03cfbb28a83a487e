"""`manyheads evaluate` with matrices and pictures."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from manyheads.cli.evaluate import _print
from manyheads.evidence.answered import Confusion

if TYPE_CHECKING:
    from tests.conftest import Command


def test_the_matrix_is_printed_and_in_the_json(tiny_run: Path, command: "Command") -> None:
    plain = json.loads(command("evaluate", tiny_run, "--json").out)
    told = json.loads(command("evaluate", tiny_run, "--confusion", "--json").out)
    matrix = told["dev"]["mood"].pop("confusion")
    told["test"]["mood"].pop("confusion")
    assert told == plain  # nothing else is different, and pairs have none
    assert matrix["labels"] == ["bad", "good"]
    assert np.sum(matrix["counts"]) == 20
    right = np.trace(matrix["counts"]) / 20
    assert right == pytest.approx(plain["dev"]["mood"]["accuracy"])
    shown = command("evaluate", tiny_run, "--split", "dev", "--confusion").out
    assert "mood dev: gold down, said across" in shown
    assert "recall" in shown
    assert "pairs dev:" not in shown
    assert "recall" not in command("evaluate", tiny_run).out


def test_a_matrix_that_is_too_wide_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    labels = ("joy", "fear", *(f"some [longer] name {number}" for number in range(40)))
    counts = 9 * np.eye(42, dtype=np.int64)
    counts[1, 0], counts[1, 2] = 3, 1200
    counts[5] = 0
    _print("mood dev", Confusion(labels, counts))
    lines = capsys.readouterr().out.splitlines()
    fear = next(line for line in lines if line.startswith("fear"))
    assert fear.split() == ["fear", "1,212", "0.007", *["some", "[longer]", "name", "0", "1,200", "joy", "3"]]
    assert next(line for line in lines if "name 3 " in line).split()[-2:] == ["0", "–"]
    _print("mood dev", Confusion(labels[:2], counts[:2, :2]))
    assert capsys.readouterr().out.split()[-10:] == [
        "joy",
        "9",
        "·",
        "9",
        "1.000",
        "fear",
        "3",
        "9",
        "12",
        "0.750",
    ]


def test_pictures_lie_in_the_folder(tiny_run: Path, tmp_path: Path, command: "Command") -> None:
    ended = command("evaluate", tiny_run, "--split", "dev", "--pictures", tmp_path / "pictures")
    assert ended.status == 0
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "confusion-mood-dev.svg",
        "classes-mood.svg",
        "lengths-mood.svg",
        "lengths-pairs.svg",
    }
    drawn = (tmp_path / "pictures" / "classes-mood.svg").read_text(encoding="utf-8")
    assert all(split in drawn for split in ("train (48)", "dev (20)", "test (12)"))


def test_a_file_is_no_folder_for_pictures(tiny_run: Path, tmp_path: Path, command: "Command") -> None:
    (tmp_path / "x").touch()
    assert "expected a folder" in command.refused("evaluate", tiny_run, "--pictures", tmp_path / "x")
