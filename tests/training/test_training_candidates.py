"""Tasks on candidates from files to predictions: SWAG's csv, queries in rows and in lists; scores as transformers'."""

import csv
import gzip
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers

import manyheads as mh
from manyheads.encoder.bert import Encoder
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.formulas.metrics.ranking import mean_average_precision
from manyheads.recipe import Recipe
from manyheads.tasks.choice import Choice, ChoiceSettings
from manyheads.tasks.heads.candidates import CandidatesHead
from manyheads.training.loop import train

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny

GOOD = ("fine", "good", "great", "lovely", "bright", "superb", "funny", "warm")
BAD = ("bad", "awful", "dull", "poor", "cold", "sad", "ugly", "weak")
PLAIN = ("film", "the", "a", "was", "story", "actor", "music", "end", "scene", "plot")
SWAG = ("", "video-id", "fold-ind", "startphrase", "sent1", "sent2", "gold-source")
ENDINGS = ("ending0", "ending1", "ending2", "ending3")


def saying(chance: random.Random, words: Sequence[str]) -> str:
    return " ".join([*chance.choices(PLAIN, k=3), chance.choice(words), *chance.choices(PLAIN, k=2)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`swag-*.csv` in the released layout and `answers-*.txt.gz` in WikiQA's: the right one says something good."""
    path, chance = tmp_path_factory.mktemp("candidates"), random.Random(0)
    for split, count in {"train": 64, "dev": 24}.items():
        with (path / f"swag-{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*SWAG, *ENDINGS, "label"])
            for number in range(count):
                right = chance.randrange(4)
                endings = [saying(chance, GOOD if one == right else BAD) for one in range(4)]
                start = saying(chance, PLAIN)
                writer.writerow([number, "v_1", number, f"{start} it", start, "it", "gold", *endings, right])
        with gzip.open(path / f"answers-{split}.txt.gz", "wt") as file:
            for number in range(count):
                for _ in range(chance.randint(1, 5)):
                    right = int(chance.random() < 0.4)
                    said = saying(chance, GOOD if right else BAD)
                    file.write(f"{' '.join(PLAIN[:4])} {number} ?\t{said}\t{right}\n")
    return path


def recipe(tiny: "Tiny", folder: Path, **tasks: dict[str, Any]) -> Recipe:
    common = {"max_length": 48, "pooling": "mean"}
    swag = {
        "kind": "choice",
        "files": {"train": "swag-train.csv", "dev": "swag-dev.csv"},
        "text": "sent1",
        "second": "sent2",
        "choices": list(ENDINGS),
    }
    answers = {
        "kind": "ranking",
        "files": {"train": "answers-train.txt.gz", "dev": "answers-dev.txt.gz"},
        "read": {"header": False, "columns": ["question", "sentence", "label"]},
        "query": "question",
        "candidate": "sentence",
        "relevance": "label",
    }
    told = tiny.recipe(
        data=str(folder),
        tasks=tasks or {"swag": {**common, **swag}, "answers": {**common, **answers}},
        optimizer={"lr": 3e-3},
        schedule={"epochs": 6, "batch_size": 8},
    )
    return Recipe.parse(told)


@pytest.fixture(scope="module")
def run(tiny: "Tiny", folder: Path, tmp_path_factory: pytest.TempPathFactory) -> mh.Run:
    return train(recipe(tiny, folder), tmp_path_factory.mktemp("runs") / "both", quiet=True)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_both_kinds_learn_in_one_model(run: mh.Run) -> None:
    assert list(run.scores["swag"]) == ["accuracy", "loss"]
    assert run.scores["swag"]["accuracy"] > 0.9
    assert list(run.scores["answers"]) == ["map", "mrr", "accuracy_at_1", "queries", "loss"]
    assert run.scores["answers"]["map"] > 0.9


def test_the_table_of_choices_holds_the_scores(run: mh.Run, folder: Path) -> None:
    said = table(run.folder / "predictions" / "swag-dev.csv")
    given = table(folder / "swag-dev.csv")
    assert [row["gold"] for row in said] == [row["label"] for row in given]
    right = [row["label"] == row["gold"] for row in said]
    assert np.mean(right) == pytest.approx(run.scores["swag"]["accuracy"])
    for row in said:
        shares = [float(row[f"p:{number}"]) for number in range(4)]
        assert sum(shares) == pytest.approx(1)
        assert float(row["score"]) == max(shares) == shares[int(row["label"])]


def test_the_table_of_candidates_has_a_line_for_each_row_of_the_file(run: mh.Run, folder: Path) -> None:
    said = table(run.folder / "predictions" / "answers-dev.csv")
    with gzip.open(folder / "answers-dev.txt.gz", "rt") as file:
        given = [line.rstrip("\n").split("\t") for line in file]
    assert [row["gold"] for row in said] == [label for _, _, label in given]
    assert [int(row["row"]) for row in said] == list(range(1, len(given) + 1))
    queries: dict[str, list[tuple[float, int, int]]] = {}
    for row, (question, _, label) in zip(said, given, strict=True):
        queries.setdefault(question, []).append((float(row["score"]), int(label), int(row["rank"])))
    found = mean_average_precision(
        ([s for s, _, _ in one], [r for _, r, _ in one]) for one in queries.values()
    )
    assert found == pytest.approx(run.scores["answers"]["map"])
    assert sum(any(r for _, r, _ in one) for one in queries.values()) == run.scores["answers"]["queries"]
    for one in queries.values():
        assert sum(score for score, _, _ in one) == pytest.approx(1)
        by_score = sorted(one, reverse=True)
        assert [rank for _, _, rank in by_score] == list(range(1, len(one) + 1))


def test_the_tallies_hold_the_scores(run: mh.Run) -> None:
    for task, measure in (("swag", "accuracy"), ("answers", "map")):
        tallies = np.load(run.folder / "predictions" / f"{task}-dev.npy")
        assert tallies[:, 1].sum() / tallies[:, 0].sum() == pytest.approx(run.scores[task][measure])


def test_a_model_is_asked(run: mh.Run) -> None:
    model = mh.load(run.folder)
    two, five = model.predict(
        "swag", [("the film", ["it was bad", "it was good"]), ("a", ["dull"] * 4 + ["warm"])]
    )
    assert (two.label, five.label) == ("1", "4")
    assert len(five.shares) == 5
    (ranked,) = model.predict("answers", [("a 1 ?", ["it was sad", "the plot was superb", "ugly"])])
    assert ranked.label == "the plot was superb"
    assert ranked.ranking[0] == 1
    assert sorted(ranked.ranking) == [0, 1, 2]


def test_rows_that_hold_lists_give_the_same_model(tiny: "Tiny", folder: Path, tmp_path: Path) -> None:
    """The same data as lists: the same loss bit for bit, whatever way it is written."""
    for split in ("train", "dev"):
        rows = [
            {
                "text": row["sent1"],
                "options": [f"it {row[name]}" for name in ENDINGS],
                "label": int(row["label"]),
            }
            for row in table(folder / f"swag-{split}.csv")
        ]
        (tmp_path / f"swag-{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        with gzip.open(folder / f"answers-{split}.txt.gz", "rt") as file:
            queries: dict[str, list[list[str]]] = {}
            for line in file:
                question, *rest = line.rstrip("\n").split("\t")
                queries.setdefault(question, []).append(rest)
        lists = [
            {"q": question, "all": [one for one, _ in each], "right": [int(label) for _, label in each]}
            for question, each in queries.items()
        ]
        (tmp_path / f"answers-{split}.jsonl").write_text("\n".join(map(json.dumps, lists)))
    columns = recipe(tiny, folder)
    common = {"max_length": 48, "pooling": "mean"}
    as_lists = recipe(
        tiny,
        tmp_path,
        swag={
            **common,
            "kind": "choice",
            "files": {"train": "swag-train.jsonl", "dev": "swag-dev.jsonl"},
            "text": "text",
            "choices": "options",
        },
        answers={
            **common,
            "kind": "ranking",
            "files": {"train": "answers-train.jsonl", "dev": "answers-dev.jsonl"},
            "query": "q",
            "candidates": "all",
            "relevance": "right",
        },
    )
    short = ["schedule.epochs=1"]
    one = train(columns.with_overrides(short), tmp_path / "columns", quiet=True)
    other = train(as_lists.with_overrides(short), tmp_path / "lists", quiet=True)
    assert one.scores == other.scores
    said = table(tmp_path / "lists" / "predictions" / "answers-dev.csv")
    assert list(said[0]) == ["row", "gold", "label", "score", "ranking", "shares", "truncated"]


@pytest.mark.parametrize(
    "settings",
    [
        ["encoder.freeze=true"],
        ["regularize.smart.weight=1"],
        ["mixing={schedule: proportional, in_batch: true}"],
        ["schedule.accumulate=2"],
        ["distill={teachers: {swag: RUN, answers: RUN}, temperature: 2}"],
    ],
    ids=lambda one: one[0].partition("=")[0],
)
def test_methods(tiny: "Tiny", folder: Path, run: mh.Run, tmp_path: Path, settings: list[str]) -> None:
    said = [one.replace("RUN", str(run.folder)) for one in settings]
    found = train(
        recipe(tiny, folder).with_overrides([*said, "schedule.steps=3"]), tmp_path / "run", quiet=True
    )
    assert all(np.isfinite(value) for measures in found.scores.values() for value in measures.values())


BAD_ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "an index out of range": (
        {"kind": "choice", "text": "s", "choices": ["a", "b"]},
        "s,a,b,label\nx,y,z,1\nx,y,z,3\n",
        r"train.csv, row 2 \(line 3\), column 'label': found '3', expected the number of a choice, 0 to 1",
    ),
    "an empty choice": (
        {"kind": "choice", "text": "s", "choices": ["a", "b"]},
        "s,a,b,label\nx,y,z,1\nx,y,,0\n",
        r"train.csv, row 2 \(line 3\), column 'b': choice 1 is empty, expected a text",
    ),
    "an empty text": (
        {"kind": "choice", "text": "s", "choices": ["a", "b"]},
        "s,a,b,label\nx,y,z,1\n ,y,z,0\n",
        r"train.csv, row 2 \(line 3\), column 's': found the empty text ' ', expected a text",
    ),
    "an empty query": (
        {"kind": "ranking", "query": "s", "candidate": "a"},
        "s,a,relevance\nx,y,1\n,v,0\n,w,1\n",
        r"train.csv, row 2 \(line 3\), column 's': found the empty text '', expected a text",
    ),
    "an empty candidate": (
        {"kind": "ranking", "query": "s", "candidate": "a"},
        "s,a,relevance\nx,y,1\nx,,0\n",
        r"train.csv, row 2 \(line 3\), column 'a': found the empty text '', expected a text",
    ),
    "a relevance that is none": (
        {"kind": "ranking", "query": "s", "candidate": "a"},
        "s,a,relevance\nx,y,1\nz,y,0\nz,v,high\n",
        r"train.csv, row 2 \(line 3\), column 'relevance': found 'high' for candidate 2 of 2 of this query, "
        "expected a number; 'positive: NAME' says which name means relevant",
    ),
    "a missing column": (
        {"kind": "ranking", "query": "s", "candidate": "b"},
        "s,a,relevance\nx,y,1\n",
        "train.csv, line 1: no column 'b'",
    ),
    "nothing relevant": (
        {"kind": "ranking", "query": "s", "candidate": "a", "positive": "yes"},
        "s,a,relevance\nx,y,ye\nx,z,no\n",
        "no candidate has the relevance 'yes' of 'positive', found no, ye; did you mean 'ye'",
    ),
}


@pytest.mark.parametrize(("task", "rows", "said"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_refused_in_one_line(
    tiny: "Tiny", command: "Command", tmp_path: Path, task: dict[str, Any], rows: str, said: str
) -> None:
    (tmp_path / "train.csv").write_text(rows)
    section = {**task, "files": {"train": "train.csv", "dev": "train.csv"}, "max_length": 16}
    written = tiny.write(tmp_path / "recipe.yaml", data=str(tmp_path), tasks={"x": section})
    told = command.refused("train", written, "--out", tmp_path / "run")
    assert re.search(said, told), told


def test_an_index_beyond_its_own_row_is_refused(tiny: "Tiny", command: "Command", tmp_path: Path) -> None:
    rows = [{"s": "x", "o": ["a", "b", "c"], "label": 2}, {"s": "x", "o": ["a", "b"], "label": 2}]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    section = {"kind": "choice", "text": "s", "choices": "o", "max_length": 16}
    section["files"] = {"train": "train.jsonl", "dev": "train.jsonl"}
    written = tiny.write(tmp_path / "recipe.yaml", data=str(tmp_path), tasks={"x": section})
    told = command.refused("train", written, "--out", tmp_path / "run")
    assert (
        "train.jsonl, row 2 (line 2), column 'label': found 2, expected the number of a choice, 0 to 1"
        in told
    )


def test_the_scores_are_those_of_transformers(tiny: "Tiny") -> None:
    """BertForMultipleChoice with the same weights, on padded sequences."""
    reference = transformers.BertForMultipleChoice.from_pretrained(tiny.folder / "bert", dtype=torch.float64)
    reference.eval()  # type: ignore[no-untyped-call]
    head = CandidatesHead(32, pooling="pooled", dropout=0.0).double()
    with torch.no_grad():
        reference.classifier.weight.copy_(head.vector)
        reference.classifier.bias.fill_(0.25)  # lost in the softmax
    tokenizer = Tokenizer.from_pretrained(tiny.folder / "bert")
    encoder = Encoder.from_pretrained(tiny.folder / "bert").double()
    kind = Choice(ChoiceSettings(text="t", choices=("a", "b", "c")))
    rows = [("the film was", ["good", "a very bad story", "dull and cold"]), ("it", ["x", "warm", "end"])]
    ragged = Ragged.of_layout(kind.lay(rows, tokenizer, 12))
    with torch.no_grad():
        outputs = head(head.read(encoder.encode(ragged)))
    ids = torch.zeros(2, 3, 12, dtype=torch.long)
    mask, segments = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (text, choices) in enumerate(rows):
        coded = tokenizer([text] * 3, choices, max_length=12)
        for choice, (tokens, kinds) in enumerate(zip(coded.input_ids, coded.token_type_ids, strict=True)):
            ids[row, choice, : len(tokens)] = torch.tensor(tokens)
            segments[row, choice, : len(tokens)] = torch.tensor(kinds)
            mask[row, choice, : len(tokens)] = 1
    targets = torch.tensor([2, 0])
    with torch.no_grad():
        wanted = reference(ids, attention_mask=mask, token_type_ids=segments, labels=targets)
    torch.testing.assert_close(outputs.rows.view(2, 3) + 0.25, wanted.logits, rtol=0, atol=1e-9)
    torch.testing.assert_close(kind.loss(outputs, targets), wanted.loss, rtol=0, atol=1e-9)
