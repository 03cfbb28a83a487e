"""Fixtures that every test may use."""

import csv
import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from manyheads.model import Model

# Before torch is imported. The encoders of the tests are too small to share out, and on a busy machine threads
# that wait for each other by spinning make them a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; tests that need it are skipped where it is absent."""
    root = Path(os.environ.get("MANYHEADS_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (root / "sst5" / "sst5-train.tsv").is_file():
        pytest.skip(f"the real data sets are not at {root} (set MANYHEADS_DATA)")
    return root


# ---- a whole training in a second: a random encoder of 2 layers × 32, and small tables ----

GOOD = ("fine", "good", "great", "lovely", "bright", "superb", "funny", "warm")
BAD = ("bad", "awful", "dull", "poor", "cold", "sad", "ugly", "weak")
PLAIN = (
    "film",
    "the",
    "a",
    "was",
    "story",
    "actor",
    "music",
    "end",
    "scene",
    "plot",
    "and",
    "but",
    "it",
    "very",
)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-:;()/"


def tiny_vocabulary() -> list[str]:
    """About 150 pieces: the special tokens, some words, and every letter at the start and inside of a word."""
    inside = [f"##{letter}" for letter in LETTERS if letter.isalnum()]
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    return list(dict.fromkeys((*special, *GOOD, *BAD, *PLAIN, *LETTERS, *inside)))


@dataclass(frozen=True)
class Tiny:
    """A folder with `bert/`, `mood-*.csv` (sentence, label: bad or good) and `pairs-*.csv` (a, b, score 0–5)."""

    folder: Path

    @staticmethod
    def csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
        """A csv file with a header, as the csv module writes it."""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
        return path

    def recipe(self, **settings: Any) -> dict[str, Any]:
        """A recipe as nested mappings, two tasks of 48 training rows; `settings` replace top-level ones."""
        plain: dict[str, Any] = {
            "name": "tiny",
            "seed": 7,
            "encoder": {"from": str(self.folder / "bert"), "dropout": 0.1},
            "data": str(self.folder),
            "tasks": {"mood": self.mood(), "pairs": self.pairs()},
            "mixing": {"schedule": "round_robin"},
            "optimizer": {"lr": 1e-3},
            "schedule": {"epochs": 1, "batch_size": 8},
            "precision": "float32",
        }
        return {**plain, **settings}

    def mood(self, **settings: Any) -> dict[str, Any]:
        """The section of a classification task."""
        files = {"train": "mood-train.csv", "dev": "mood-dev.csv", "test": "mood-test.csv"}
        plain = {"kind": "classification", "files": files, "text": "sentence", "max_length": 16}
        return {**plain, **settings}

    def pairs(self, **settings: Any) -> dict[str, Any]:
        """The section of a regression task on pairs that are encoded apart."""
        return {
            "kind": "regression",
            "files": {"train": "pairs-train.csv", "dev": "pairs-dev.csv"},
            "pair": ["a", "b"],
            "label": "score",
            "encode": "siamese",
            "head": "cosine",
            "range": [0, 5],
            "max_length": 24,
            **settings,
        }

    def write(self, path: Path, **settings: Any) -> Path:
        """`recipe(**settings)` as a file."""
        path.write_text(json.dumps(self.recipe(**settings), indent=1), encoding="utf-8")  # JSON is YAML
        return path


def sentence(chance: random.Random, words: Sequence[str]) -> str:
    """Three to eight words, one of them from `words`."""
    said = [chance.choice(PLAIN) for _ in range(chance.randint(2, 7))]
    said.insert(chance.randrange(len(said) + 1), chance.choice(words))
    return " ".join(said)


def write_tiny_data(folder: Path) -> None:
    """The tables of `Tiny`."""
    chance = random.Random(0)
    for split, count in {"train": 48, "dev": 20, "test": 12}.items():
        rows = [
            (sentence(chance, GOOD if number % 2 else BAD), "good" if number % 2 else "bad")
            for number in range(count)
        ]
        Tiny.csv(folder / f"mood-{split}.csv", ["sentence", "label"], rows)
        pairs = []
        for number in range(count):
            a, b = sentence(chance, GOOD), sentence(chance, BAD)
            pairs.append((a, a if number % 3 == 0 else b, 5 if number % 3 == 0 else number % 5 / 2))
        Tiny.csv(folder / f"pairs-{split}.csv", ["a", "b", "score"], pairs)


@pytest.fixture(scope="session", autouse=True)
def _own_token_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test leaves anything in the cache of the person who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYHEADS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A random BERT folder and two small tasks; tests must not write into it."""
    import torch

    from manyheads.encoder.bert import Encoder, Shape
    from manyheads.encoder.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    words = tiny_vocabulary()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = Shape(layers=2, hidden=32, heads=2, intermediate=64, vocabulary=len(words), positions=64)
        Encoder(shape).save_pretrained(folder / "bert")
    Tokenizer(words).save_pretrained(folder / "bert")
    write_tiny_data(folder)
    return Tiny(folder)


@pytest.fixture(scope="session")
def tiny_run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of `tiny.recipe()`; tests must not write into it."""
    from manyheads.recipe import Recipe
    from manyheads.training.loop import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return train(Recipe.parse(tiny.recipe()), folder, quiet=True).folder


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


class Command:
    """`manyheads …` in this process: what `main` prints, and its exit status."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.patch, self.capture = patch, capture

    def __call__(self, *arguments: object) -> Ended:
        from manyheads.cli import main

        self.capture.readouterr()
        self.patch.setattr(sys, "argv", ["manyheads", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = self.capture.readouterr()
        status = left.value.code
        assert status is None or isinstance(status, int)
        return Ended(status or 0, out, err)

    def refused(self, *arguments: object, status: int = 2) -> str:
        """The one line that an error is told in."""
        ended = self(*arguments)
        assert ended.status == status, ended
        assert ended.err.startswith("error: "), ended.err
        assert ended.err.count("\n") == 1, ended.err
        assert ended.err.endswith("\n"), ended.err
        return ended.err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process."""
    monkeypatch.delenv("MANYHEADS_DATA", raising=False)
    return Command(monkeypatch, capfd)


KINDS_OF_TASKS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    "mood": ("classification", {"text": "a"}, {"labels": ["bad", "good"]}, 16),
    "short": ("classification", {"text": "a", "pooling": "mean"}, {"labels": ["x", "y", "z"]}, 6),
    "deep": ("classification", {"text": "a", "layers": "sum_all"}, {"labels": ["x", "y"]}, 16),
    "pairs": (
        "regression",
        {"pair": ["a", "b"], "encode": "siamese", "head": "cosine", "range": [0, 5]},
        {},
        24,
    ),
    "packed": ("classification", {"pair": ["a", "b"]}, {"labels": ["no", "yes"]}, 32),
    "names": ("tagging", {}, {"scheme": "iob2", "labels": ["O", "B-PER", "I-PER"]}, 24),
    "answer": ("span", {"stride": 8}, {"no_answer": True, "threshold": 0.0}, 24),
    "ending": ("choice", {"text": "a", "choices": "b"}, {}, 24),
    "order": ("ranking", {"query": "a", "candidates": "b"}, {}, 24),
}


@pytest.fixture(scope="session")
def every_kind(tiny: Tiny) -> Callable[[], "Model"]:
    """Makes a model with untrained heads of every kind on the tiny encoder, each time the same."""
    import torch

    from manyheads.encoder.bert import Encoder
    from manyheads.encoder.tokenizer import Tokenizer
    from manyheads.model import Model, Network, Task
    from manyheads.tasks import KINDS

    def made() -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            encoder = Encoder.from_pretrained(tiny.folder / "bert")
            tasks, heads = [], {}
            for name, (kind, settings, facts, length) in KINDS_OF_TASKS.items():
                one = KINDS[kind](KINDS[kind].Settings.model_validate({"kind": kind, **settings}), facts)
                tasks.append(Task(name, one, length))
                head = one.build_head(32, 0.0, None, encoder)
                for parameter in head.parameters():  # far enough from 0 that answers differ
                    torch.nn.init.normal_(parameter, std=0.5)
                heads[name] = head
            tokenizer = Tokenizer.from_pretrained(tiny.folder / "bert")
            return Model(Network(encoder, heads), tokenizer, tasks, "float32")

    return made
