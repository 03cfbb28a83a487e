"""A tagging task from its files to its predictions: CoNLL columns in, entities in the caller's text out."""

import csv
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import manyheads as mh
from manyheads.formulas.metrics.entities import entity_f1
from manyheads.run import Run

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny

UP = ("fine", "good"), ("great", "lovely")  # how an entity begins, how it goes on
DOWN = ("bad", "awful"), ("dull", "poor")
PLAIN = ("film", "the", "a", "was", "story", "actor", "x1y2z3"), ("film", "the")


def write_sentences(path: Path, count: int, seed: int, scheme: str = "iob2") -> list[list[str]]:
    """Sentences in which words of praise and blame are entities of one or two words, three a document."""
    chance = random.Random(seed)
    lines, sentences = [], []
    for number in range(count):
        if number % 3 == 0:
            lines.append("-DOCSTART- -X- O\n")
        words = []
        for _ in range(chance.randint(2, 6)):
            names, type_ = chance.choice([(PLAIN, ""), (PLAIN, ""), (UP, "UP"), (DOWN, "DOWN")])
            size = chance.randint(1, 2)
            begins = "I" if scheme == "iob1" else "B"
            for place in range(size):
                tag = f"{'I' if place else begins}-{type_}" if type_ else "O"
                words.append((chance.choice(names[place]), "X", tag))
            words.append(("and", "X", "O"))  # so that no two entities touch, and IOB1 has no B
        lines += [" ".join(word) + "\n" for word in words] + ["\n"]
        sentences.append([word for word, _, _ in words])
    path.write_text("".join(lines), encoding="utf-8")
    return sentences


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tagged")
    write_sentences(made / "train.conll", 60, 1, "iob1")
    write_sentences(made / "dev.conll", 20, 2)
    return made


def recipe(tiny: "Tiny", folder: Path, task: dict[str, Any] | None = None, **settings: Any) -> mh.Recipe:
    files = {"train": str(folder / "train.conll"), "dev": str(folder / "dev.conll")}
    ner = {"kind": "tagging", "max_length": 32, "files": files, **(task or {})}
    plain = {
        "tasks": {"ner": ner},
        "schedule": {"epochs": 8, "batch_size": 8, "warmup": 0},
        "optimizer": {"lr": 5e-3},
    }
    return mh.Recipe.parse(tiny.recipe(**{**plain, **settings}))


def table(run: Run) -> list[dict[str, str]]:
    with (run.folder / "predictions" / "ner-dev.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "task",
    [
        {},
        {"context": "document", "decode": "valid"},
        {"inside": "bioes", "head": "bilstm", "width": 24, "layers": "sum_all", "max_length": 9},
    ],
    ids=["plain", "context", "bioes"],
)
def test_it_learns_and_its_table_is_what_was_scored(
    tiny: "Tiny", folder: Path, tmp_path: Path, task: dict[str, Any]
) -> None:
    frozen = task.get("head") == "bilstm"
    encoder = {"from": str(tiny.folder / "bert"), "freeze": frozen, "dropout": 0.0}
    rate = {"lr": 3e-2 if frozen else 1e-2}
    schedule = {"epochs": 30 if frozen else 8, "batch_size": 8, "warmup": 0}  # random states tell little
    asked = recipe(tiny, folder, task, encoder=encoder, optimizer=rate, schedule=schedule)
    run = mh.train(asked, tmp_path / "run", quiet=True)
    scores = run.scores["ner"]
    assert list(scores) == ["f1", "precision", "recall", "accuracy", "loss"]
    assert scores["f1"] > 0.5  # each word tells its type: it can be learnt
    rows = table(run)
    assert len(rows) == 20
    gold, said = ([row[name].split() for row in rows] for name in ("gold", "tags"))
    found = entity_f1(gold, said, task.get("inside", "iob2"))
    assert [scores[name] for name in found] == pytest.approx(list(found.values()), rel=1e-12)

    sentences = write_sentences(tmp_path / "again.conll", 20, 2)
    for words, row in zip(sentences, rows, strict=True):
        text = " ".join(words)
        for span in json.loads(row["spans"]):
            assert text[span["start"] : span["end"]] == span["text"]
            assert span["label"] in ("UP", "DOWN")
            assert 0 < span["score"] <= 1

    model = mh.load(run.folder)
    if "context" not in task:  # a sentence given alone has none
        again = model.predict("ner", sentences)
        assert [[word.label for word in one.tokens] for one in again] == said
    (one,) = model.predict("ner", ["the  film was good good ."])
    assert [word.text for word in one.tokens] == ["the", "film", "was", "good", "good", "."]
    assert one.tokens[3].start == 14


def test_a_text_goes_through_all_heads_in_one_pass(tiny: "Tiny", folder: Path, tmp_path: Path) -> None:
    whole = recipe(tiny, folder).model_dump(mode="json", exclude_unset=True)["tasks"]
    tasks = {"mood": tiny.mood(), **whole}
    made = mh.Recipe.parse(tiny.recipe(tasks=tasks, schedule={"steps": 4, "batch_size": 8}))
    run = mh.train(made, tmp_path / "run", quiet=True)
    model = mh.load(run.folder)
    texts = ["the film was good", "", "a very " + "dull " * 40 + "story"]
    together = model.analyze(texts)
    assert [set(one) for one in together] == [{"mood", "ner"}] * 3
    assert [len(one["ner"].tokens) for one in together] == [4, 0, 43]
    alone = model.predict("ner", texts)
    for one, other in zip(together, alone, strict=True):
        assert [word.label for word in one["ner"].tokens] == [word.label for word in other.tokens]
    assert together[2]["mood"].truncated
    assert not together[2]["ner"].truncated


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("the O\ngood X\n", ", row 2 (line 5), column 'tags': word 2: found 'X', expected O, or B-"),
        ("the O\ngood\n", ", row 2 (line 5): found 1 column in 'good', expected 2 as in line 1"),
        ("the O\ngood E-UP\nfilm B-UP", ", row 2 (line 5), column 'tags': word 2: found 'E-UP', expected O"),
    ],
)
def test_bad_rows_are_named(command: "Command", tiny: "Tiny", tmp_path: Path, lines: str, said: str) -> None:
    bad = tmp_path / "bad.conll"
    bad.write_text(f"good B-UP\nfilm O\n\n{lines}", encoding="utf-8")
    task = {
        "kind": "tagging",
        "max_length": 32,
        "files": {"train": str(bad), "dev": str(bad)},
        "scheme": "iob2",
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tiny.recipe(tasks={"ner": task})), encoding="utf-8")
    assert command.refused("train", path, "--out", tmp_path / "run").startswith(f"error: {bad}{said}")


def test_other_numbers_of_words_and_tags(command: "Command", tiny: "Tiny", tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    rows = [{"words": ["good"], "tags": ["B-UP"]}, {"words": ["a", "film"], "tags": ["O"]}]
    bad.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {"kind": "tagging", "max_length": 32, "files": {"train": str(bad), "dev": str(bad)}}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tiny.recipe(tasks={"ner": task})), encoding="utf-8")
    said = command.refused("train", path, "--out", tmp_path / "run")
    assert said.startswith(
        f"error: {bad}, row 2 (line 2), column 'tags': found 1 tag for 2 words, expected one each"
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.jsonl",
            '{"words": ["a"], "tags": ["O"]}\n{"words": ["a", "good"], "tags": [0, 1]}\n',
            "row 2 (line 2), column 'tags': word 1: found 0, expected a tag such as O or B-PER",
        ),
        (
            "a.csv",
            'words,tags\na good,"[""O"", ""B-UP""]"\n',
            "row 1 (line 2), column 'tags': found '[\"O\", \"B-UP\"]', a list as text; expected tags with spaces",
        ),
        (
            "b.csv",
            "words,tags\njohn 's,B-UP O\n",
            "row 1 (line 2), column 'tags': found 2 tags for 3 words, expected one each; `split: spaces` would",
        ),
    ],
)
def test_rows_that_are_no_tags_are_named(
    command: "Command", tiny: "Tiny", tmp_path: Path, name: str, content: str, said: str
) -> None:
    bad = tmp_path / name
    bad.write_text(content, encoding="utf-8")
    task = {"kind": "tagging", "max_length": 32, "files": {"train": str(bad), "dev": str(bad)}}
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(tiny.recipe(tasks={"ner": task})), encoding="utf-8")
    refused = command.refused("train", path, "--out", tmp_path / "run")
    assert refused.startswith(f"error: {bad}, {said}")


def test_types_that_training_has_not_seen(
    command: "Command", tiny: "Tiny", folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.conll"
    other.write_text("the O\ngood B-UPS\n", encoding="utf-8")
    files = {"train": str(folder / "train.conll"), "dev": str(other)}
    path = tmp_path / "recipe.yaml"
    made = tiny.recipe(tasks={"ner": {"kind": "tagging", "max_length": 32, "files": files}})
    path.write_text(json.dumps(made), encoding="utf-8")
    said = command.refused("train", path, "--out", tmp_path / "run")
    assert "word 2: found 'B-UPS', expected one of the types DOWN, UP; did you mean 'UP'?" in said
