"""SQuAD's measures against the official scripts' algorithms, written out anew, on the real dev sets."""

import collections
import gzip
import json
import math
import random
import re
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyheads.formulas.metrics.squad import (
    best_threshold,
    cmrc,
    cmrc_match,
    squad_v1,
    squad_v1_match,
    squad_v2,
    squad_v2_match,
)

Data = dict[str, Any]

# ---- the scripts: what evaluate-v1.1.py and evaluate-v2.0.py compute, line by line ----


PUNCTUATION = set(string.punctuation)


def normalize(text: str) -> str:
    text = text.lower()
    text = "".join(sign for sign in text if sign not in PUNCTUATION)
    text = re.sub(r"\b(a|an|the)\b", " ", text)
    return " ".join(text.split())


def words_in_common(gold: list[str], said: list[str]) -> int:
    return sum((collections.Counter(gold) & collections.Counter(said)).values())


def harmonic(same: int, gold: int, said: int) -> float:
    precision = 1.0 * same / said
    recall = 1.0 * same / gold
    return (2 * precision * recall) / (precision + recall)


def script_v1(dataset: list[Data], predictions: dict[str, str]) -> dict[str, float]:
    f1: float = 0
    exact_match: float = 0
    total = 0
    for article in dataset:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                total += 1
                if qa["id"] not in predictions:
                    continue
                golds = [answer["text"] for answer in qa["answers"]]
                said = predictions[qa["id"]]
                exact_match += max(normalize(said) == normalize(gold) for gold in golds)
                scores: list[float] = []
                for gold in golds:
                    left, right = normalize(gold).split(), normalize(said).split()
                    same = words_in_common(left, right)
                    scores.append(0 if same == 0 else harmonic(same, len(left), len(right)))
                f1 += max(scores)
    return {"exact_match": 100.0 * exact_match / total, "f1": 100.0 * f1 / total}


def words_v2(text: str) -> list[str]:
    return normalize(text).split() if text else []


def f1_v2(gold: str, said: str) -> float:
    left, right = words_v2(gold), words_v2(said)
    if len(left) == 0 or len(right) == 0:
        return int(left == right)
    same = words_in_common(left, right)
    return 0 if same == 0 else harmonic(same, len(left), len(right))


def script_v2(
    dataset: list[Data], predictions: dict[str, str], na_probs: dict[str, float] | None, limit: float = 1.0
) -> dict[str, float]:
    given = na_probs is not None
    odds = na_probs if na_probs is not None else dict.fromkeys(predictions, 0.0)
    has_answer = {}
    exact_raw: dict[str, float] = {}
    f1_raw: dict[str, float] = {}
    for article in dataset:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                qid = qa["id"]
                has_answer[qid] = bool(qa["answers"])
                golds = [answer["text"] for answer in qa["answers"] if normalize(answer["text"])]
                if not golds:
                    golds = [""]
                if qid not in predictions:
                    continue
                said = predictions[qid]
                exact_raw[qid] = max(int(normalize(gold) == normalize(said)) for gold in golds)
                f1_raw[qid] = max(f1_v2(gold, said) for gold in golds)

    def applied(scores: dict[str, float]) -> dict[str, float]:
        return {
            qid: float(not has_answer[qid]) if odds[qid] > limit else score for qid, score in scores.items()
        }

    def percents(qids: list[str], prefix: str) -> dict[str, float]:
        total = len(qids)
        return {
            f"{prefix}exact": 100.0 * sum(exact[qid] for qid in qids) / total,
            f"{prefix}f1": 100.0 * sum(f1[qid] for qid in qids) / total,
            f"{prefix}total": total,
        }

    exact, f1 = applied(exact_raw), applied(f1_raw)
    found = percents(list(exact), "")
    with_answer = [qid for qid, yes in has_answer.items() if yes]
    without = [qid for qid, yes in has_answer.items() if not yes]
    if with_answer:
        found |= percents(with_answer, "HasAns_")
    if without:
        found |= percents(without, "NoAns_")
    if given:
        for name, raw in (("exact", exact_raw), ("f1", f1_raw)):
            score: float = sum(1 for qid in has_answer if not has_answer[qid])
            best_score, best_thresh = score, 0.0
            for qid in sorted(odds, key=lambda one: odds[one]):
                if qid not in raw:
                    continue
                if has_answer[qid]:
                    diff = raw[qid]
                elif predictions[qid]:
                    diff = -1
                else:
                    diff = 0
                score += diff
                if score > best_score:
                    best_score = score
                    best_thresh = odds[qid]
            found[f"best_{name}"] = 100.0 * best_score / len(raw)
            found[f"best_{name}_thresh"] = best_thresh
    return found


# ---- what a model might answer ----


def perturbed(text: str, context: str, chance: random.Random) -> str:
    """An answer that is right, nearly right or wrong, in the ways that models and writers have."""
    words, stray = text.split(" "), chance.choice(context.split() or ["x"])
    return chance.choice(
        [
            text,
            text.upper() + ".",
            "the  " + text,
            " ".join(words[1:]),
            " ".join([*words, *words]),
            f"{text}, and {stray}",
            " ".join(chance.sample(words, len(words))),
            stray,
            "",
            "a",
            "\u2019".join(words),
            f"\t{text}\u00a0",
        ]
    )


def answered(dataset: list[Data], seed: int) -> dict[str, str]:
    chance = random.Random(seed)
    return {
        qa["id"]: perturbed(chance.choice([a["text"] for a in qa["answers"]] or [""]), p["context"], chance)
        for article in dataset
        for p in article["paragraphs"]
        for qa in p["qas"]
    }


def loaded(path: Path) -> Any:
    with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
        return json.load(file)


@pytest.mark.parametrize(
    "file", ["squad/dev-v1.1.json.gz", "squad/xquad.en.json", "chinese_mrc/xquad.zh.json"]
)
def test_v1_is_the_scripts_on_real_questions(shared_data: Path, file: str) -> None:
    dataset = loaded(shared_data / file)
    predictions = answered(dataset["data"], 1)
    expected = script_v1(dataset["data"], predictions)
    assert 5 < expected["exact_match"] < expected["f1"] < 95
    assert squad_v1(dataset, predictions) == expected
    assert squad_v1(dataset["data"], predictions) == expected
    some = dict(list(predictions.items())[::3])  # the others count as wrong
    assert squad_v1(dataset, some) == script_v1(dataset["data"], some)


@pytest.mark.parametrize("file", ["dev-v2.0.cs224n.json", "dev-v2.0.first5articles.json", "xquad.en.json"])
def test_v2_is_the_scripts_on_real_questions(shared_data: Path, file: str) -> None:
    dataset = loaded(shared_data / "squad" / file)
    predictions = answered(dataset["data"], 2)
    chance = random.Random(3)
    # Log-odds that know a little: higher where the question has no answer, and some of them equal.
    odds = {
        qa["id"]: round(chance.gauss(-2 if qa["answers"] else 2, 3), 1)
        for article in dataset["data"]
        for p in article["paragraphs"]
        for qa in p["qas"]
    }
    plain = squad_v2(dataset, predictions)
    assert plain == script_v2(dataset["data"], predictions, None)
    assert list(plain)[:3] == ["exact", "f1", "total"]
    swept = squad_v2(dataset, predictions, odds)
    expected = script_v2(dataset["data"], predictions, odds)
    assert swept == expected
    assert expected["best_f1_thresh"] != 0.0
    assert list(swept) == list(expected)
    high = squad_v2(dataset, predictions, odds, threshold=3.5)
    assert high == script_v2(dataset["data"], predictions, odds, 3.5)


def asked(*answers: list[str]) -> list[Data]:
    questions = [
        {"id": str(number), "answers": [{"text": text} for text in one]} for number, one in enumerate(answers)
    ]
    return [{"paragraphs": [{"qas": questions}]}]


WORDS = st.lists(
    st.sampled_from(["a", "the", "An", "cat", "Cat.", "-", "1,000", "1000", "é", "", "don't", "\u00a0"]),
    max_size=4,
).map(" ".join)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(WORDS, max_size=3), st.none() | WORDS, st.floats(-2, 2).map(lambda x: round(x, 1)))
    )
)
def test_the_quirks_are_the_scripts(questions: list[tuple[list[str], str | None, float]]) -> None:
    dataset = asked(*(answers for answers, _, _ in questions))
    predictions = {str(n): said for n, (_, said, _) in enumerate(questions) if said is not None}
    odds = {str(n): odd for n, (_, said, odd) in enumerate(questions) if said is not None}
    if len(predictions) == len(questions) > 0:  # where one is missing, the script of 2.0 breaks off
        assert squad_v2(dataset, predictions, odds) == script_v2(dataset, predictions, odds)
        assert squad_v2(dataset, predictions) == script_v2(dataset, predictions, None)
    if questions and all(answers for answers, _, _ in questions):
        assert squad_v1(dataset, predictions) == script_v1(dataset, predictions)


@pytest.mark.parametrize(
    ("prediction", "answers", "v1", "v2"),
    [
        ("The Broncos!", ["broncos", "Denver Broncos"], (1, 1), (1, 1)),
        ("Denver", ["Denver Broncos"], (0, 2 / 3), (0, 2 / 3)),
        ("the", ["a"], (1, 0), (0, 0)),  # nothing is left of either: exact, but no word in common
        ("", ["of"], (0, 0), (0, 0)),
        ("cat cat", ["cat"], (0, 2 / 3), (0, 2 / 3)),
        ("it's", ["its"], (1, 1), (1, 1)),
        ("a\u2013b", ["ab"], (0, 0), (0, 0)),  # a dash beyond ASCII is no punctuation
    ],
)
def test_examples_by_hand(
    prediction: str, answers: list[str], v1: tuple[float, float], v2: tuple[float, float]
) -> None:
    assert squad_v1_match(prediction, answers) == pytest.approx(v1)
    if answers != ["a"]:
        assert squad_v2_match(prediction, answers) == pytest.approx(v2)


def test_an_answer_without_a_word_asks_for_the_empty_text_in_v2() -> None:
    assert squad_v2_match("", ["the", "..."]) == (1, 1)
    assert squad_v2_match("the", []) == (1, 1)
    assert squad_v2_match("cat", []) == (0, 0)


def test_a_question_without_a_prediction_is_wrong_in_v1_and_left_out_in_v2() -> None:
    dataset = asked(["cat"], ["dog"], [])
    assert squad_v1(dataset[:1], {}) == {"exact_match": 0.0, "f1": 0.0}
    assert squad_v2(dataset, {"0": "cat", "2": "cow"}) == {
        "exact": 50.0,
        "f1": 50.0,
        "total": 2,
        "HasAns_exact": 100.0,
        "HasAns_f1": 100.0,
        "HasAns_total": 1,
        "NoAns_exact": 0.0,
        "NoAns_f1": 0.0,
        "NoAns_total": 1,
    }


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="no question"):
        squad_v1([], {})
    with pytest.raises(ValueError, match=r"question '0': expected one answer or more"):
        squad_v1(asked([]), {"0": "x"})
    with pytest.raises(ValueError, match="no question of the data set has a prediction"):
        squad_v2(asked(["x"]), {"7": "x"})
    with pytest.raises(ValueError, match=r"question '0' has a prediction, but no score"):
        squad_v2(asked(["x"]), {"0": "x"}, {})
    with pytest.raises(ValueError, match=r"prediction for question '0' is 3, expected a text"):
        squad_v1(asked(["x"]), {"0": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="expected articles with paragraphs"):
        squad_v1([{"paragraph": []}], {})
    with pytest.raises(ValueError, match="found None for that list"):
        squad_v1({"version": "1.1"}, {})


# ---- the threshold that a model keeps ----

SCORED = st.lists(
    st.tuples(st.integers(-4, 4), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.sampled_from([0.0, 1.0])),
    min_size=1,
)


@settings(deadline=None)
@given(SCORED)
def test_no_threshold_is_better_than_the_chosen_one(questions: list[tuple[int, float, float]]) -> None:
    odds, answered_, silent = (np.array(column, dtype=float) for column in zip(*questions, strict=True))

    def score(threshold: float) -> float:
        return float(np.where(odds > threshold, silent, answered_).mean())

    chosen = best_threshold(odds, answered_, silent)
    tried = [-math.inf, *np.unique(odds), math.inf]
    assert score(chosen) == pytest.approx(max(map(score, tried)))
    lower = [score(one) for one in tried if np.sum(odds <= one) < np.sum(odds <= chosen)]
    assert all(one < score(chosen) for one in lower)  # of equally good ones the first
    assert np.abs(odds - chosen).min() >= 0.5  # half-way between whole numbers


def test_the_chosen_threshold_reaches_the_scripts_best_f1(shared_data: Path) -> None:
    dataset = loaded(shared_data / "squad" / "dev-v2.0.cs224n.json")["data"]
    # In its sweep alone the script takes an article, said where there is no answer, for a wrong answer.
    predictions = {name: text if normalize(text) else "x" for name, text in answered(dataset, 4).items()}
    chance = random.Random(5)
    golds = {
        qa["id"]: [answer["text"] for answer in qa["answers"]]
        for article in dataset
        for p in article["paragraphs"]
        for qa in p["qas"]
    }
    odds = {name: chance.gauss(-2 if answers else 2, 3) for name, answers in golds.items()}
    f1 = {
        name: (squad_v2_match(predictions[name], answers).f1, squad_v2_match("", answers).f1)
        for name, answers in golds.items()
    }
    columns = [np.array([one[side] for one in f1.values()]) for side in (0, 1)]
    chosen = best_threshold(np.array(list(odds.values())), columns[0], columns[1])
    cut = {name: "" if odds[name] > chosen else text for name, text in predictions.items()}
    best = squad_v2(dataset, predictions, odds)
    assert best["best_f1"] > best["NoAns_total"] / best["total"] * 100
    assert squad_v2(dataset, cut)["f1"] == pytest.approx(best["best_f1"])


# ---- Chinese ----


def script_cmrc(golds: list[str], said: str) -> tuple[float, float]:
    """cmrc2018_evaluate.py, for texts that are Chinese but for whole Latin words between spaces."""
    signs = list("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")  # noqa: RUF001

    def segments(text: str) -> list[str]:
        found: list[str] = []
        pending = ""
        for sign in str(text).lower().strip():
            if sign in signs:
                continue
            if re.search(r"[\u4e00-\u9fa5]", sign):
                found += pending.split()
                pending = ""
                found.append(sign)
            else:
                pending += sign
        return found + pending.split()

    def longest(a: list[str], b: list[str]) -> int:
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        most = 0
        for i, left in enumerate(a):
            for j, right in enumerate(b):
                if left == right:
                    table[i + 1][j + 1] = table[i][j] + 1
                    most = max(most, table[i + 1][j + 1])
        return most

    def plain(text: str) -> str:
        return "".join(sign for sign in text.lower().strip() if sign not in signs)

    f1 = []
    for gold in golds:
        a, b = segments(gold), segments(said)
        run = longest(a, b)
        f1.append(0 if run == 0 else harmonic(run, len(a), len(b)))
    return float(any(plain(gold) == plain(said) for gold in golds)), max(f1)


CHINESE_SIGNS = "光荣和战国无双，。《》"  # noqa: RUF001
CHINESE = st.lists(st.sampled_from([*CHINESE_SIGNS, "ω", " KOEI ", " 3 "]), max_size=8).map("".join)


@settings(deadline=None)
@given(st.lists(CHINESE, min_size=1, max_size=3), CHINESE)
def test_cmrc_is_the_scripts(golds: list[str], said: str) -> None:
    assert cmrc_match(said, golds) == pytest.approx(script_cmrc(golds, said))


def test_cmrc_on_real_questions(shared_data: Path) -> None:
    dataset = loaded(shared_data / "chinese_mrc" / "cmrc2018_trial.json")
    chance = random.Random(6)
    plain_enough = re.compile(r"[\u4e00-\u9fa5，。《》、“”A-Za-z0-9 ]*")  # noqa: RUF001 (NLTK has nothing to cut)
    predictions, expected = {}, []
    for article in dataset["data"]:
        for p in article["paragraphs"]:
            for qa in p["qas"]:
                gold = [answer["text"] for answer in qa["answers"]]
                begin = chance.randrange(3)
                predictions[qa["id"]] = gold[0][begin : len(gold[0]) - chance.randrange(3)]
                if plain_enough.fullmatch("".join(gold)):
                    expected.append((qa["id"], script_cmrc(gold, predictions[qa["id"]])))
    assert len(expected) > 500
    golds = {
        qa["id"]: [answer["text"] for answer in qa["answers"]]
        for article in dataset["data"]
        for p in article["paragraphs"]
        for qa in p["qas"]
    }
    for name, match in expected:
        assert cmrc_match(predictions[name], golds[name]) == pytest.approx(match)
    found = cmrc(dataset, predictions)
    assert 0 < found["em"] < found["average"] < found["f1"] < 100


def test_cmrc_by_hand() -> None:
    # Shared in one run: 光荣 (2 segments of 2 and of 3); what comes after the gap does not count.
    assert cmrc_match("光荣社", ["光荣"]) == pytest.approx((0, 0.8))
    assert cmrc_match("光社荣", ["光荣"]) == pytest.approx((0, 0.4))
    assert cmrc_match("《光荣》。", ["光荣"]) == (1, 1)
    assert cmrc_match("1,000 人", ["1,000人"]) == pytest.approx((0, 1))
    assert cmrc_match("12b人", ["12人"]) == pytest.approx((0, 0.5))
    assert cmrc_match("getchu.com", ["com"]) == (0, 0)
    with pytest.raises(ValueError, match="expected one answer or more"):
        cmrc_match("x", [])
