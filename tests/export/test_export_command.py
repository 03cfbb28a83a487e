"""`manyheads export`: what it prints, what it refuses, and that it leaves nothing behind."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import manyheads as mh
from manyheads.errors import WorkError
from manyheads.export import graph, onnx

if TYPE_CHECKING:
    from tests.conftest import Command


def test_hf_tells_what_it_left_out(command: "Command", tiny_run: Path, tmp_path: Path) -> None:
    ended = command("export", tiny_run, "--to", "hf", tmp_path / "out")
    assert ended.status == 0, ended
    said = {line.split()[0]: line for line in ended.out.splitlines()}
    assert "BertForSequenceClassification" in said["mood"]
    assert "left out" in said["pairs"]
    assert "siamese" in said["pairs"] or "cosine" in said["pairs"]
    text = "the film was fine"
    assert mh.load(tmp_path / "out", "float32").predict("mood", [text]) == mh.load(tiny_run).predict(
        "mood", [text]
    )


def test_as_json(command: "Command", tiny_run: Path, tmp_path: Path) -> None:
    ended = command("export", tiny_run, "--to", "sentence-transformers", tmp_path / "out", "--json")
    assert ended.status == 0, ended
    told = json.loads(ended.out)
    assert told["folder"] == str(tmp_path / "out")
    assert [line["name"] for line in told["lines"]] == ["encoder"]
    assert (tmp_path / "out" / "modules.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "onx"], "did you mean 'onnx'"),
        (["--to", "hf", "--task", "pairs"], "'pairs' cannot be exported"),
        (["--to", "hf", "--task", "mod"], "did you mean 'mood'"),
        (["--to", "hf", "--pooling", "cls"], "is for --to sentence-transformers"),
        (["--to", "sentence-transformers", "--task", "mood"], "takes the encoder alone"),
        (["--to", "sentence-transformers", "--pooling", "max"], "--pooling: found 'max'"),
        (["--to", "sentence-transformers", "--max-length", "1"], "expected 3 to 64"),
        (["--to", "onnx", "--int8"], "--int8 is for --to openvino"),
        (["--to", "openvino", "--gate", "1"], "--gate is for --int8"),
        (["--to", "openvino", "--set", "data=x"], "--set is for --int8"),
        (["--to", "openvino", "--int8", "--gate", "-1"], "the gate is in points, 0 or more; found -1"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    command: "Command", tiny_run: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    assert told in command.refused("export", tiny_run, tmp_path / "out", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_anything_in_it_is_left_alone(
    command: "Command", tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").touch()
    assert "is not empty" in command.refused("export", tiny_run, "--to", "hf", tmp_path)
    assert "no such run folder" in command.refused("export", tmp_path / "x", "--to", "hf", tmp_path / "y")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_graph_that_fails_its_check_is_exit_1(
    command: "Command", tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: object) -> None:
        raise WorkError("the graph's output 'mood' is not what torch says")

    monkeypatch.setattr(graph, "find_spec", lambda name: name)
    monkeypatch.setattr(onnx, "write_graph", lambda path, *given: path.touch())
    monkeypatch.setattr(onnx, "_session", lambda path: None)
    monkeypatch.setattr(onnx, "_graph", lambda session: None)
    monkeypatch.setattr(onnx, "check", fails)
    told = command.refused("export", tiny_run, "--to", "onnx", tmp_path / "out", status=1)
    assert "is not what torch says" in told
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_library(command: "Command") -> None:
    ended = command("export", "--help")
    assert ended.status == 0
    assert "--to" in ended.out
