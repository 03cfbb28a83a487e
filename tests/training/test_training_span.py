"""Training on questions, from the file to the official predictions: windows, the threshold, several windows a text."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import manyheads as mh
from manyheads.formulas.metrics.squad import squad_v1, squad_v2

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny

GOOD = ("fine", "great", "lovely", "bright", "superb", "funny", "warm")
PLAIN = ("film", "the", "was", "story", "actor", "music", "end", "scene", "plot", "and", "but", "it", "very")


def questions(
    folder: Path, name: str, count: int, *, impossible: bool = False, shift: int = 0
) -> dict[str, Any]:
    """A file in SQuAD's JSON: the answer is the one good word, in a context of up to eighty words."""
    chance = random.Random(name)
    articles: list[Any] = []
    for number in range(count):
        words = [chance.choice(PLAIN) for _ in range(chance.choice([4, 8, 12, 80]))]
        answers: list[dict[str, Any]] = []
        if not (impossible and number % 2):
            place = chance.randrange(len(words))
            words.insert(place, chance.choice(GOOD))
            start = len(" ".join([*words[:place], ""]))
            answers = [{"text": words[place], "answer_start": start + shift}]
        asked: dict[str, Any] = {"id": f"{name}-{number}", "question": "was it the?", "answers": answers}
        if impossible:
            asked["is_impossible"] = not answers
        paragraph = {"context": " ".join(words), "qas": [asked]}
        articles.append({"title": f"{name} {number // 4}", "paragraphs": [paragraph]})
    content = {"version": "v2.0", "data": articles}
    (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return content


def section(**more: Any) -> dict[str, Any]:
    return {
        "kind": "span",
        "files": {"train": "train.json", "dev": "dev.json"},
        "read": {"format": "squad"},
        "max_length": 40,
        "question_length": 6,
        "stride": 12,
        "answer_length": 3,
        **more,
    }


def trained(tiny: "Tiny", folder: Path, tasks: Mapping[str, Any], **more: Any) -> mh.Run:
    """A run in `folder` that has seen each question a few times."""
    settings = {
        "tasks": tasks,
        "data": str(folder),
        "mixing": {"schedule": "proportional"},
        "optimizer": {"lr": 5e-3},
        "schedule": {"epochs": 5, "batch_size": 16},
    }
    return mh.train(mh.Recipe.parse(tiny.recipe(**{**settings, **more})), out=folder / "run", quiet=True)


def predicted(run: mh.Run, name: str) -> Any:
    return json.loads((run.folder / "predictions" / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def with_impossible(tiny: "Tiny", tmp_path_factory: pytest.TempPathFactory) -> tuple[mh.Run, dict[str, Any]]:
    """A run on questions half of which have no answer, and its dev set."""
    folder = tmp_path_factory.mktemp("impossible")
    questions(folder, "train", 192, impossible=True)
    dev = questions(folder, "dev", 40, impossible=True)
    return trained(tiny, folder, {"ask": section()}), dev


def test_a_small_encoder_learns_where_the_answer_stands(tiny: "Tiny", tmp_path: Path) -> None:
    questions(tmp_path, "train", 128)
    dev, unknown = questions(tmp_path, "dev", 30), questions(tmp_path, "test", 6)
    for article in unknown["data"]:
        article["paragraphs"][0]["qas"][0]["answers"] = []
    (tmp_path / "test.json").write_text(json.dumps(unknown), encoding="utf-8")
    files = {name: f"{name}.json" for name in ("train", "dev", "test")}
    run = trained(tiny, tmp_path, {"ask": section(files=files)})
    scores = run.scores["ask"]
    assert list(scores) == ["f1", "exact_match", "loss"]
    assert scores["f1"] > 80
    official = predicted(run, "ask-dev.json")
    assert squad_v1(dev, official) == pytest.approx({name: scores[name] for name in ("f1", "exact_match")})
    assert not (run.folder / "predictions" / "ask-dev-null-odds.json").exists()
    described = json.loads((run.folder / "model" / "heads.json").read_text(encoding="utf-8"))
    assert described["tasks"]["ask"]["facts"] == {"no_answer": False, "threshold": 0.0}
    assert sorted(predicted(run, "ask-test.json")) == [f"test-{number}" for number in range(6)]  # no labels


def test_scores_with_no_answer_are_the_official_scripts(
    with_impossible: tuple[mh.Run, dict[str, Any]],
) -> None:
    run, dev = with_impossible
    scores = run.scores["ask"]
    assert scores["HasAns_f1"] > 60
    assert scores["NoAns_f1"] > 60
    official = squad_v2(dev, predicted(run, "ask-dev.json"))
    assert {name: scores[name] for name in scores if name != "loss"} == pytest.approx(
        {name: value for name, value in official.items() if not name.endswith("total")}
    )
    odds = predicted(run, "ask-dev-null-odds.json")
    threshold = json.loads((run.folder / "model" / "heads.json").read_text())["tasks"]["ask"]["facts"][
        "threshold"
    ]
    silent = {name for name, text in predicted(run, "ask-dev.json").items() if not text}
    assert silent == {name for name, one in odds.items() if one > threshold}
    tallies = np.load(run.folder / "predictions" / "ask-dev.npy")
    assert 100 * tallies[:, 1].mean() == pytest.approx(scores["f1"])


def test_the_saved_model_answers_as_the_run_did(with_impossible: tuple[mh.Run, dict[str, Any]]) -> None:
    run, dev = with_impossible
    model = mh.load(run.folder)
    asked = [
        (question["question"], paragraph["context"], question["id"])
        for article in dev["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    answers = model.predict("ask", [(question, context) for question, context, _ in asked])
    said = predicted(run, "ask-dev.json")
    assert {name: one.label for (_, _, name), one in zip(asked, answers, strict=True)} == said
    for (_, context, _), one in zip(asked, answers, strict=True):
        assert all(span.text == context[span.start : span.end] for span in one.spans)
        assert not one.truncated
    (long,) = model.predict("ask", [("was it the " * 9, asked[0][1])])
    assert long.truncated
    assert long.tokens_dropped == 27 - 6


def test_a_dev_set_held_out_by_article(tiny: "Tiny", tmp_path: Path) -> None:
    questions(tmp_path, "train", 96, impossible=True)
    one = section(files={"train": "train.json"}, hold_out={"dev": 0.3, "by": "title"})
    run = trained(tiny, tmp_path, {"ask": one}, schedule={"steps": 1, "batch_size": 4})
    held = predicted(run, "ask-dev.json")
    assert 10 < len(held) < 60
    articles = {int(name.removeprefix("train-")) // 4 for name in held}
    assert len(held) == 4 * len(articles)  # whole articles


@pytest.mark.parametrize("smart", [False, True])
def test_beside_another_task(tiny: "Tiny", tmp_path: Path, smart: bool) -> None:
    questions(tmp_path, "train", 24)
    questions(tmp_path, "dev", 8)
    mood = tiny.mood(files={name: str(tiny.folder / f"mood-{name}.csv") for name in ("train", "dev")})
    more: dict[str, Any] = {"regularize": {"smart": {}}} if smart else {}
    run = trained(
        tiny, tmp_path, {"ask": section(), "mood": mood}, schedule={"steps": 4, "batch_size": 8},
        mixing={"schedule": "proportional", "in_batch": True}, **more,
    )  # fmt: skip
    assert set(run.scores) == {"ask", "mood"}
    assert np.isfinite(run.scores["ask"]["loss"])


def test_a_teacher(tiny: "Tiny", with_impossible: tuple[mh.Run, dict[str, Any]], tmp_path: Path) -> None:
    teacher, _ = with_impossible
    questions(tmp_path, "train", 64, impossible=True)
    questions(tmp_path, "dev", 20, impossible=True)
    run = trained(
        tiny,
        tmp_path,
        {"ask": section()},
        distill={"teachers": {"ask": str(teacher.folder)}, "anneal": "none"},
    )
    assert run.scores["ask"]["HasAns_f1"] > 30  # from the teacher alone


def test_a_frozen_encoder(tiny: "Tiny", tmp_path: Path) -> None:
    questions(tmp_path, "train", 48)
    questions(tmp_path, "dev", 12)
    encoder = {"from": str(tiny.folder / "bert"), "freeze": True}
    run = trained(tiny, tmp_path, {"ask": section()}, encoder=encoder)
    assert run.scores["ask"]["f1"] > 0


def test_a_wrong_offset_is_named_with_file_and_row(tiny: "Tiny", command: "Command", tmp_path: Path) -> None:
    questions(tmp_path, "train", 12)
    questions(tmp_path, "dev", 4, shift=1)
    recipe = tiny.write(tmp_path / "recipe.yaml", data=str(tmp_path), tasks={"ask": section()})
    told = command.refused("train", recipe, "--out", tmp_path / "run")
    assert f"{tmp_path / 'dev.json'}, row 1, column 'answers': question dev-0: the answer '" in told
    assert "'answers_at: nearest' takes the closest place" in told
    mended = ["--set", "tasks.ask.answers_at=nearest", "--set", "schedule.steps=1"]
    assert command("train", recipe, "--out", tmp_path / "run", "--quiet", *mended).status == 0


def test_an_id_that_two_questions_have(
    tiny: "Tiny", command: "Command", with_impossible: tuple[mh.Run, dict[str, Any]], tmp_path: Path
) -> None:
    questions(tmp_path, "train", 12)
    content = questions(tmp_path, "dev", 4)
    content["data"][3]["paragraphs"][0]["qas"][0]["id"] = "dev-1"
    (tmp_path / "dev.json").write_text(json.dumps(content), encoding="utf-8")
    recipe = tiny.write(tmp_path / "recipe.yaml", data=str(tmp_path), tasks={"ask": section()})
    told = command.refused("train", recipe, "--out", tmp_path / "run")
    assert f"{tmp_path / 'dev.json'}: found the id 'dev-1' twice" in told
    out = tmp_path / "answers.json"
    told = command.refused(
        *("predict", with_impossible[0].folder, "--task", "ask", "--format", "squad"),
        *(tmp_path / "dev.json", "--out", out),
    )
    assert "found the id 'dev-1' twice" in told
    assert not out.exists()


def test_a_table_of_questions(tiny: "Tiny", tmp_path: Path) -> None:
    rows = [
        {"frage": "was it?", "text": "the film was fine", "antwort": [{"text": "fine", "answer_start": 13}]},
        {
            "frage": "was it?",
            "text": "the end was great",
            "antwort": {"text": ["great"], "answer_start": [12]},
        },
    ]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    one = section(question="frage", context="text", answers="antwort") | {
        "files": {"train": "train.jsonl", "dev": "dev.jsonl"},
        "read": {},
    }
    run = trained(tiny, tmp_path, {"ask": one}, schedule={"steps": 30, "batch_size": 2})
    assert run.scores["ask"]["exact_match"] == 100
    assert not (run.folder / "predictions" / "ask-dev.json").exists()  # the questions have no names
