"""One graph for every head: onnxruntime says what torch says, at any shape; a folder tampered with is refused."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError, WorkError
from manyheads.export import graph, onnx
from manyheads.export.graph import GraphModel
from manyheads.model import Model
from manyheads.tasks import Prediction
from manyheads.tasks.head import plain

for library in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(library)

pytestmark = pytest.mark.timeout(900)  # the exporter takes its time where the processor is busy


@pytest.fixture(scope="module")
def written(graph_of_every: tuple[Path, list[Any]]) -> tuple[Path, list[Any]]:
    return graph_of_every


@pytest.fixture(scope="module")
def loaded(written: tuple[Path, list[Any]]) -> GraphModel:
    return onnx.load(written[0])


@pytest.fixture(scope="module")
def session(written: tuple[Path, list[Any]]) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(written[0] / "model.onnx"), providers=["CPUExecutionProvider"])


@pytest.fixture
def copied(written: tuple[Path, list[Any]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written[0], tmp_path / "copy"))


def alike(found: Prediction, ours: Prediction) -> None:
    """The same answer, all numbers within 1e-4."""
    assert (found.label, found.truncated, found.tokens_dropped) == (
        ours.label,
        ours.truncated,
        ours.tokens_dropped,
    )
    assert found.dropped == ours.dropped
    assert found.ranking == ours.ranking
    assert found.shares == pytest.approx(ours.shares, abs=1e-4)
    for name in ("score", "value", "probabilities"):
        one, other = getattr(found, name), getattr(ours, name)
        assert one == (None if other is None else pytest.approx(other, abs=1e-4))
    said: list[Any] = [*found.spans, *found.tokens]
    wanted: list[Any] = [*ours.spans, *ours.tokens]
    for one, other in zip(said, wanted, strict=True):
        assert (one.text, one.start, one.end, one.label) == (other.text, other.start, other.end, other.label)
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_every_task_is_answered_alike(
    every: Model, loaded: GraphModel, sections: dict[str, Any], inputs: Callable[..., list[Any]]
) -> None:
    assert set(loaded.tasks) == set(sections)
    for task in sections:
        given = inputs(sections[task])
        for raw in (False, True):
            ours = every.predict(task, given, raw=raw)
            for found, wanted in zip(loaded.predict(task, given, raw=raw), ours, strict=True):
                alike(found, wanted)
        assert loaded.predict(task, []) == []


def test_names_and_free_shapes(written: tuple[Path, list[Any]], session: Any, every: Model) -> None:
    square, row = ["batch", "length"], ["batch"]
    assert {one.name: one.shape for one in session.get_inputs()} == {
        "input_ids": square,
        "attention_mask": square,
        "token_type_ids": square,
        "partner": row,
        "marks": square,
    }
    shapes = {one.name: one.shape for one in session.get_outputs()}
    assert next(iter(shapes)) == "embedding"
    assert set(shapes) == {"embedding", "where.start", "where.end", *every.tasks} - {"where"}
    assert shapes["topic"] == ["batch", 3]
    assert shapes["names"] == ["batch", "length", 5]
    assert shapes["where.start"] == square
    folder, lines = written
    assert {path.name for path in folder.iterdir()} == {
        "model.onnx",
        "heads.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    assert [line.name for line in lines] == ["encoder", *every.tasks]
    assert {line.name: line.became for line in lines}["where"] == "where.start, where.end"


@pytest.mark.parametrize(("batch", "length"), [(1, 4), (1, 64), (2, 5), (3, 17), (8, 33)])
def test_a_caller_may_pad_as_he_likes(every: Model, session: Any, batch: int, length: int) -> None:
    chance = random.Random(length)
    words = ["the", "film", "was", "a", "good", "story", "and", "bad"]
    texts = [" ".join(chance.choices(words, k=chance.randint(0, length - 2))) for _ in range(batch)]
    read = every.tokenizer(texts, max_length=length)
    given: dict[str, Any] = {
        name: np.zeros((batch, length), np.int64)
        for name in ("input_ids", "attention_mask", "token_type_ids", "marks")
    }
    for row, ids in enumerate(read.input_ids):
        given["input_ids"][row, : len(ids)] = ids
        given["attention_mask"][row, : len(ids)] = 1
    given["partner"] = np.arange(batch)
    names = ["embedding", "topic", "first"]
    vectors, topic, first = session.run(names, given)
    ours = every.embed(texts, max_length=length)
    assert np.abs(vectors - ours).max() < 1e-4
    if length <= 32:
        logits = every.outputs("topic", [(text,) for text in texts])[0]
        assert isinstance(logits, torch.Tensor)
        assert np.abs(topic - logits.numpy()).max() < 1e-4
        values = [one.value for one in every.predict("first", texts)]
        assert first[:, 0].tolist() == pytest.approx(values, abs=1e-4)


def test_what_travels_along(written: tuple[Path, list[Any]], every: Model, sections: dict[str, Any]) -> None:
    told = json.loads((written[0] / "heads.json").read_text(encoding="utf-8"))
    assert told["tokenizer"] == every.tokenizer.fingerprint
    assert told["graph"]["positions"] == 64
    assert Tokenizer.from_pretrained(written[0]).fingerprint == every.tokenizer.fingerprint
    topic, weibo = told["tasks"]["topic"], told["tasks"]["weibo"]
    assert topic["labels"] == ["world", "sport", "arts"]
    assert topic["max_length"] == 32
    assert topic["outputs"] == ["topic"]
    assert (topic["clean"], weibo["clean"]) == (None, "weibo")


def test_cleaning_is_done(every: Model, loaded: GraphModel) -> None:
    ((dirty,), (clean,)) = (
        loaded.predict("weibo", [text])
        for text in ("THE film @ada was good https://t.cn/abc", "the film was good")
    )
    assert dirty == clean


# ---- refusals ----


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda told: told["tasks"]["topic"]["facts"]["labels"].reverse(),
            "'topic' is not described as expected",
        ),
        (
            lambda told: (
                told["tasks"]["topic"]["facts"]["labels"].reverse(),
                told["tasks"]["topic"]["labels"].reverse(),
            ),
            "other labels",
        ),
        (lambda told: told["tasks"]["topic"].update(max_length=64), "other labels, lengths"),
        (lambda told: told["tasks"]["weibo"].update(clean=None), "'weibo' is not described as expected"),
        (lambda told: told.update(tokenizer="other"), "the tokenizer beside it is not the one"),
        (lambda told: told.update(format=9), "format 9"),
        (lambda told: told.pop("tasks"), "expected an object"),
        (lambda told: told["tasks"]["near"].pop("kind"), "'near' is not described"),
        (lambda told: told["tasks"]["near"].update(outputs=["far"]), "no output 'far'"),
        (lambda told: told["tasks"].pop("near"), "other labels"),
    ],
)
def test_another_heads_json_is_refused(copied: Path, change: Callable[[Any], Any], told: str) -> None:
    path = copied / "heads.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    change(described)
    path.write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(InputError, match=told) as caught:
        onnx.load(copied)
    assert "\n" not in str(caught.value)


def test_another_tokenizer_is_refused(copied: Path) -> None:
    words = (copied / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    Tokenizer([*words[:10], words[11], words[10], *words[12:]]).save_pretrained(copied)
    with pytest.raises(InputError, match="tokenizer"):
        onnx.load(copied)


@pytest.mark.parametrize("name", ["heads.json", "model.onnx", "tokenizer.json"])
def test_a_damaged_or_missing_file_is_told(copied: Path, name: str) -> None:
    (copied / name).write_bytes((copied / name).read_bytes()[:100])
    with pytest.raises(InputError) as caught:
        onnx.load(copied)
    assert str(copied) in str(caught.value)
    assert "\n" not in str(caught.value)
    for path in copied.glob("vocab.txt"):
        path.unlink()
    (copied / name).unlink()
    with pytest.raises(InputError, match=r"no such file|neither"):
        onnx.load(copied)


def test_wrong_inputs_are_told(loaded: GraphModel) -> None:
    with pytest.raises(InputError, match=r"no task 'topik'.*did you mean 'topic'"):
        loaded.predict("topik", ["a"])
    with pytest.raises(InputError, match="topic: expected a list of inputs"):
        loaded.predict("topic", "a text")
    with pytest.raises(InputError, match="nli: input 2: expected a pair"):
        loaded.predict("nli", [("a", "b"), "c"])


def test_without_the_libraries_it_says_what_to_install(
    every: Model, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"onnx and onnxscript and onnxruntime: pip install 'manyheads\[export\]'"
    ):
        onnx.write(every, tmp_path / "out")
    with pytest.raises(InputError, match=r"needs onnxruntime: pip install"):
        onnx.load(copied)


def test_a_name_that_the_graph_needs_is_refused(
    every: Model, build: Callable[..., Model], sections: dict[str, Any], tmp_path: Path
) -> None:
    model = build(every.network.encoder, every.tokenizer, {"marks": sections["topic"]})
    with pytest.raises(InputError, match="'marks'"):
        onnx.write(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_head_for_the_vocabulary_is_left_out(
    every: Model, build: Callable[..., Model], tmp_path: Path
) -> None:
    model = build(every.network.encoder, every.tokenizer, {"words": {"kind": "mlm"}})
    with pytest.raises(InputError, match=r"'words' cannot be exported.*vocabulary"):
        onnx.write(model, tmp_path / "out", ["words"])
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_says_something_else_is_not_left_behind(
    every: Model,
    sharp: Any,
    build: Callable[..., Model],
    written: tuple[Path, list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sections: dict[str, Any],
) -> None:
    other = build(sharp(), every.tokenizer, sections)
    with torch.no_grad():
        other.network.head("topic").get_parameter("output.bias")[1] += 3e-3
    there = written[0] / "model.onnx"
    monkeypatch.setattr(onnx, "write_graph", lambda path, *rest: shutil.copy(there, path))
    with pytest.raises(WorkError, match="output 'topic' is not what torch says"):
        onnx.write(other, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_two_hundred_sentences_through_minilm(
    minilm_graph: Path, asked: dict[str, list[Any]], our_outputs: dict[str, Any]
) -> None:
    loaded = onnx.load(minilm_graph)
    for task, given in asked.items():
        found = plain(loaded.outputs(task, given)).numpy()
        assert found.shape == our_outputs[task].shape
        assert np.abs(found - our_outputs[task]).max() < 1e-4, task
