"""Graphs for OpenVINO: in float32 they say what torch says; in int8 only where the gate lets a head."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import manyheads as mh
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.export import graph, openvino
from manyheads.export.gate import Int8, Verdict, verdicts
from manyheads.model import Model
from manyheads.run import Run
from manyheads.tasks.head import plain

if TYPE_CHECKING:
    from tests.conftest import Command

pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
for library in ("onnx", "onnxscript"):
    pytest.importorskip(library)

pytestmark = pytest.mark.timeout(900)


def of_onnx(folder: Path) -> Callable[..., None]:
    """In place of tracing the network once more: the graph that has been written already."""

    def copy(path: Path, *given: object) -> None:
        shutil.copy(folder / "model.onnx", path)

    return copy


@pytest.fixture(scope="module")
def written(
    every: Model, graph_of_every: tuple[Path, list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Any]]:
    place = tmp_path_factory.mktemp("openvino") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino, "write_graph", of_onnx(graph_of_every[0]))
        return place, openvino.write(every, place)


@pytest.fixture
def copied(written: tuple[Path, list[Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[0], tmp_path / "copy"))


def test_every_head_says_what_torch_says(
    every: Model, written: tuple[Path, list[Any]], sections: dict[str, Any], inputs: Callable[..., list[Any]]
) -> None:
    loaded = openvino.load(written[0], "float32")
    assert set(loaded.tasks) == set(sections)
    for task, section in sections.items():
        given = inputs(section)
        kind = every.task(task).kind
        ours = plain(every.outputs(task, [kind.input(kind.given(one)) for one in given])[0]).numpy()
        found = plain(loaded.outputs(task, given)).numpy()
        assert found.shape == ours.shape
        assert np.abs(found - ours).max() < 1e-4 * max(1, np.abs(ours).max()), task
    for raw in (False, True):
        (one,), (other,) = (model.predict("topic", ["a good film"], raw=raw) for model in (loaded, every))
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


def test_what_is_written(written: tuple[Path, list[Any]], every: Model) -> None:
    folder, lines = written
    assert {path.name for path in folder.iterdir()} == {
        *("model.xml", "model.bin", "heads.json"),
        *("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    }
    assert [line.name for line in lines] == ["encoder", *every.tasks]
    told = json.loads((folder / "heads.json").read_text(encoding="utf-8"))
    assert {one["graph"] for one in told["tasks"].values()} == {"float"}
    assert told["tokenizer"] == every.tokenizer.fingerprint


def change_labels(told: Any) -> None:
    for labels in (told["tasks"]["topic"]["facts"]["labels"], told["tasks"]["topic"]["labels"]):
        labels.reverse()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_labels, "other labels"),
        (lambda told: told["tasks"]["topic"].update(max_length=64), "other labels, lengths"),
        (lambda told: told.update(tokenizer="other"), "the tokenizer beside it is not the one"),
        (lambda told: told.update(graphs={}), "expected 'graphs'"),
        (lambda told: told.update(graphs={"../x": {}}), "expected 'graphs'"),
        (lambda told: told["tasks"]["topic"].update(graph="int8"), "'topic': no graph 'int8'"),
        (lambda told: told["tasks"]["near"].update(outputs=["far"]), "no output 'far'"),
    ],
)
def test_another_heads_json_is_refused(copied: Path, change: Callable[[Any], Any], said: str) -> None:
    path = copied / "heads.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    change(described)
    path.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(InputError, match=said) as caught:
        openvino.load(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.xml", "heads.json", "model.bin"])
def test_a_damaged_or_missing_file_is_told(copied: Path, name: str) -> None:
    (copied / name).write_bytes((copied / name).read_bytes()[:100])
    with pytest.raises(InputError) as caught:
        openvino.load(copied)
    assert "\n" not in str(caught.value)
    (copied / name).unlink()
    with pytest.raises(InputError):
        openvino.load(copied)


def test_another_tokenizer_and_another_precision_are_refused(copied: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'float32'"):
        openvino.load(copied, "float")  # type: ignore[arg-type]
    words = (copied / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    Tokenizer([*words[:10], words[11], words[10], *words[12:]]).save_pretrained(copied)
    with pytest.raises(InputError, match="tokenizer"):
        openvino.load(copied)


def test_without_the_libraries_it_says_what_to_install(
    every: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"OpenVINO needs openvino and .*pip install 'manyheads\[openvino\]'"
    ):
        openvino.write(every, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_two_hundred_sentences_through_minilm(
    minilm_model: Model,
    minilm_graph: Path,
    asked: dict[str, list[Any]],
    our_outputs: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino, "write_graph", of_onnx(minilm_graph))
    openvino.write(minilm_model, tmp_path / "out")
    loaded = openvino.load(tmp_path / "out", "float32")
    for task, given in asked.items():
        found = plain(loaded.outputs(task, given)).numpy()
        assert np.abs(found - our_outputs[task]).max() < 1e-4, task


# ---- int8 ----


@pytest.fixture(scope="module")
def tiny_graph(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX graph of the tiny run."""
    from manyheads.export import onnx

    pytest.importorskip("nncf", reason="the extra `openvino` is not installed")
    pytest.importorskip("onnxruntime")
    place = tmp_path_factory.mktemp("tiny") / "onnx"
    onnx.write(mh.load(tiny_run, "float32"), place)
    return place


def test_heads_that_pass_are_int8_and_the_others_are_not(
    tiny_run: Path, tiny_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mh.load(tiny_run, "float32")
    monkeypatch.setattr(openvino, "write_graph", of_onnx(tiny_graph))
    measured: list[dict[str, Verdict]] = []

    def half(*given: Any) -> dict[str, Verdict]:
        found = verdicts(*given)
        measured.append(found)
        return {**found, "pairs": Verdict(False, "float32: so it is said", "pearson", 0.5, 0.1)}

    monkeypatch.setattr(openvino, "verdicts", half)
    lines = openvino.write(model, tmp_path / "out", int8=Int8(Run(tiny_run).recipe, gate=100, texts=20))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"int8.xml", "int8.bin", "model.xml", "model.bin"} <= names
    dev = Run(tiny_run).scores
    for task, one in measured[0].items():  # float32's score is the run's
        assert one.before == pytest.approx(next(iter(dev[task].values())), abs=1e-4)
    said = {line.name: line for line in lines}
    assert said["mood"].became == "mood (int8.xml)"
    assert said["pairs"].became == "pairs (model.xml)"
    assert "so it is said" in said["pairs"].note
    assert "cosine" in said["encoder"].note
    loaded = openvino.load(tmp_path / "out", "float32")
    texts = ["a good film", "the ugly story was dull"]
    (said_of, ours_of) = (each.predict("pairs", [texts])[0].value for each in (loaded, model))
    assert said_of == pytest.approx(ours_of, abs=1e-4)
    found, ours = plain(loaded.outputs("mood", texts)), plain(model.outputs("mood", [(t,) for t in texts])[0])
    apart = float((found - ours).abs().max())
    assert 0 < apart < 0.5  # near, but in int8
    told = json.loads((tmp_path / "out" / "heads.json").read_text(encoding="utf-8"))
    assert {name: one["graph"] for name, one in told["tasks"].items()} == {"mood": "int8", "pairs": "float"}
    assert told["int8"]["scores"]["pairs"]["passes"] is False


def test_all_in_int8_is_one_graph_through_the_command(
    command: "Command", tiny_run: Path, tiny_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "write_graph", of_onnx(tiny_graph))
    ended = command(
        *("export", tiny_run, "--to", "openvino", tmp_path / "out", "--int8", "--gate", "100", "--json")
    )
    assert ended.status == 0, ended
    told = json.loads(ended.out)  # nothing else is printed
    assert {line["name"] for line in told["lines"]} == {"encoder", "mood", "pairs"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "int8.xml" in names
    assert "model.xml" not in names
    assert openvino.load(tmp_path / "out").predict("mood", ["a good film"])[0].label in ("bad", "good")


def test_int8_needs_the_rows(command: "Command", tiny_run: Path, tmp_path: Path) -> None:
    place = tmp_path / "out"
    told = command.refused(
        "export", tiny_run, "--to", "openvino", place, "--int8", "--set", f"data={tmp_path}"
    )
    assert "no such file" in told
    told = command.refused("export", tiny_run / "model", "--to", "openvino", place, "--int8")
    assert "recipe" in told
    assert list(tmp_path.iterdir()) == []
