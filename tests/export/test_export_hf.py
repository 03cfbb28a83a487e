"""Folders for transformers: its classes load them with our labels and say what our heads say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import manyheads as mh
from manyheads.encoder.bert import Encoder
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.export import hf
from manyheads.export.described import labels_of
from manyheads.model import Model
from manyheads.tasks.head import plain

transformers = pytest.importorskip("transformers")

CLASSES = {
    "topic": "AutoModelForSequenceClassification",
    "weibo": "AutoModelForSequenceClassification",
    "yes": "AutoModelForSequenceClassification",
    "nli": "AutoModelForSequenceClassification",
    "grade": "AutoModelForSequenceClassification",
    "best": "AutoModelForSequenceClassification",
    "names": "AutoModelForTokenClassification",
    "where": "AutoModelForQuestionAnswering",
    "ends": "AutoModelForMultipleChoice",
}


@pytest.fixture(scope="module")
def folder(every: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hf") / "out"
    hf.write(every, place)
    return place


def theirs(folder: Path, task: str) -> Any:
    model = getattr(transformers, CLASSES[task]).from_pretrained(folder / task).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder / task)


def padded(ids: list[list[int]], segments: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, ids))
    return {
        "input_ids": torch.tensor([[*one, *[0] * (width - len(one))] for one in ids]),
        "attention_mask": torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids]),
        "token_type_ids": torch.tensor([[*one, *[0] * (width - len(one))] for one in segments]),
    }


def laid(model: Model, task: str, given: list[Any]) -> tuple[np.ndarray[Any, Any], Any]:
    """Our head's numbers for inputs, and how they were laid out."""
    kind = model.task(task).kind
    outputs, layout = model.outputs(task, [kind.input(kind.given(one)) for one in given])
    return plain(outputs).double().numpy(), layout


def check_parity(model: Model, folder: Path, task: str, given: list[Any], ours: Any = None) -> None:
    if ours is None or task in ("names", "where"):
        ours, layout = laid(model, task, given)
    them, tokenizer = theirs(folder, task)
    cut = {"truncation": True, "padding": True, "return_tensors": "pt"}
    with torch.inference_mode():
        if task in ("names", "where"):  # windows and words are ours: they are given the same ids
            ends = np.cumsum(layout.lengths)[:-1]
            batch = padded(
                [one.tolist() for one in np.split(layout.ids, ends)],
                [one.tolist() for one in np.split(layout.segments, ends)],
            )
            marks = np.zeros(batch["input_ids"].shape, bool)
            marks[batch["attention_mask"].numpy() != 0] = layout.marks
            said = them(**batch)
            found = said.logits if task == "names" else torch.stack([said.start_logits, said.end_logits], 2)
            found = found.double().numpy()[marks]
        elif task in ("ends", "best"):
            rows = []
            for text, candidates in given:
                batch = tokenizer([text] * len(candidates), candidates, **cut)
                if task == "ends":
                    batch = {name: one[None] for name, one in batch.items()}
                rows.append(them(**batch).logits.double().reshape(-1, 1).numpy())
            found = np.concatenate(rows)
        else:
            texts = [(one,) if isinstance(one, str) else one for one in given]
            batch = tokenizer(*map(list, zip(*texts, strict=True)), **cut)
            found = them(**batch).logits.double().numpy()
            if task == "yes":
                ours = np.concatenate([np.zeros_like(ours), ours], 1)
    assert found.shape == ours.shape
    assert ours.std() > 1e-3
    assert np.abs(found - ours).max() < 1e-4 * max(1, np.abs(ours).max())


@pytest.mark.parametrize("task", CLASSES)
def test_a_class_says_what_our_head_says(
    every: Model,
    folder: Path,
    sections: dict[str, Any],
    inputs: Callable[..., list[Any]],
    task: str,
) -> None:
    check_parity(every, folder, task, inputs(sections[task]))


@pytest.mark.parametrize("task", ["topic", "weibo", "yes", "nli", "names"])
def test_labels_stand_in_the_run_s_order(every: Model, folder: Path, task: str) -> None:
    config = theirs(folder, task)[0].config
    labels = labels_of(every.task(task).kind)
    assert tuple(config.id2label[number] for number in range(config.num_labels)) == labels
    assert [config.label2id[label] for label in labels] == list(range(len(labels)))


def test_a_pipeline_gives_our_probabilities(every: Model, folder: Path) -> None:
    pipeline = transformers.pipeline("text-classification", str(folder / "yes"), top_k=None)
    text = "the film was superb"
    found = {one["label"]: one["score"] for one in pipeline([text])[0]}
    (ours,) = every.predict("yes", [text])
    assert found == pytest.approx(ours.probabilities, abs=1e-5)


def test_its_probabilities_are_those_before_calibration(every: Model, folder: Path) -> None:
    pipeline = transformers.pipeline("text-classification", str(folder / "topic"), top_k=None)
    text = "the film was superb"
    found = {one["label"]: one["score"] for one in pipeline([text])[0]}
    (raw,), (ours,) = every.predict("topic", [text], raw=True), every.predict("topic", [text])
    assert found == pytest.approx(raw.probabilities, abs=1e-5)
    assert found != pytest.approx(ours.probabilities, abs=1e-2)


def test_what_has_no_class_is_told_with_the_reason(every: Model, in_classes: Any, tmp_path: Path) -> None:
    lines = {line.name: line for line in hf.write(every, tmp_path / "out")}
    assert list(lines) == ["encoder", *every.tasks]
    left_out = {name: line.note for name, line in lines.items() if line.became is None}
    assert set(left_out) == set(every.tasks) - set(in_classes) - {"follows"}
    for name, word in {
        "mean": "pooling: mean",
        "first": "pooling: cls",
        "deep": "layers: sum_all",
        "share": "sigmoid",
        "apart": "siamese",
        "near": "head: cosine",
        "related": "head: relation",
        "steps": "head: answer_network",
        "recur": "head: bilstm",
        "places": "head: bilstm",
        "ordered": "pooling: mean",
    }.items():
        assert word in left_out[name]
        assert not (tmp_path / "out" / name).exists()
    assert "clean: weibo" in lines["weibo"].note
    assert "0 … 5" in lines["grade"].note
    assert lines["follows"].became == "BertForNextSentencePrediction"


def test_the_folder_itself_is_the_encoder_and_our_model(
    every: Model, folder: Path, sections: dict[str, Any]
) -> None:
    text = "the film was a story"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        states = transformers.AutoModel.from_pretrained(folder).eval()(**tokenizer(text, return_tensors="pt"))
    assert states.last_hidden_state[0].mean(0).numpy() == pytest.approx(every.embed([text])[0], abs=1e-5)
    assert mh.load(folder, "float32").predict("topic", [text]) == every.predict("topic", [text])


def test_lengths_labels_cleaning_and_fingerprint_travel_along(
    every: Model, folder: Path, in_classes: Any, sections: dict[str, Any]
) -> None:
    for name in in_classes:
        told = json.loads((folder / name / "manyheads.json").read_text(encoding="utf-8"))
        assert told["task"] == name
        assert told["tokenizer"] == every.tokenizer.fingerprint
        assert told["labels"] == list(labels_of(every.task(name).kind))
        assert told["clean"] == sections[name].get("clean")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / name)
        assert told["max_length"] == tokenizer.model_max_length == 32
        assert Tokenizer.from_pretrained(folder / name).fingerprint == told["tokenizer"]


def test_causal_attention_is_a_decoder_there(
    build: Callable[..., Model], tiny: Any, sharp: Any, sections: Any, inputs: Any, tmp_path: Path
) -> None:
    encoder = Encoder.from_pretrained(tiny.folder / "bert", causal=True)
    encoder.load_state_dict(sharp().state_dict())
    names = {"names": sections["names"]}
    model = build(encoder, Tokenizer.from_pretrained(tiny.folder / "bert"), names)
    hf.write(model, tmp_path / "out")
    check_parity(model, tmp_path / "out", "names", inputs(sections["names"]))


def test_a_task_that_was_named_and_has_no_class_is_an_error(every: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'near' cannot be exported .*head: cosine"):
        hf.write(every, tmp_path / "out", ["topic", "near"])
    with pytest.raises(InputError, match="did you mean 'topic'"):
        hf.write(every, tmp_path / "out", ["topik"])
    assert list(tmp_path.iterdir()) == []
    lines = hf.write(every, tmp_path / "out", ["topic", "topic"])
    assert [line.name for line in lines] == ["encoder", "topic"]


@pytest.mark.timeout(600)
def test_two_hundred_sentences_of_minilm(
    minilm_model: Model, asked: dict[str, list[Any]], our_outputs: dict[str, Any], tmp_path: Path
) -> None:
    left_out = {line.name for line in hf.write(minilm_model, tmp_path / "out") if line.became is None}
    assert left_out == {"mean", "near"}
    for task, given in asked.items():
        if task not in left_out:
            check_parity(minilm_model, tmp_path / "out", task, given, our_outputs[task])
