"""Exact match and F1 of answers that are pieces of text, as the scripts of SQuAD 1.1, SQuAD 2.0 and CMRC 2018 count.

Knows texts, and data sets in SQuAD's JSON. Must not know models, tasks or files. Results are percents under the
scripts' own names; their quirks are kept, since figures are compared with those of others.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from manyheads.errors import shown

__all__ = [
    "Match",
    "best_threshold",
    "cmrc",
    "cmrc_match",
    "squad_v1",
    "squad_v1_match",
    "squad_v2",
    "squad_v2_match",
]

Dataset: TypeAlias = Mapping[str, Any] | Sequence[Any]
"""The object of a file in SQuAD's JSON, or the list under its key `data`."""

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
# What the script of CMRC takes for punctuation, each sign a segment of its own.
_CMRC_SIGNS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")  # noqa: RUF001
# A Chinese character; a word with points, or commas between digits, inside; any other sign.
_CMRC_SEGMENT = re.compile(
    r"[\u4e00-\u9fa5]|[^\W\u4e00-\u9fa5]+(?:(?:\.|(?<=\d),(?=\d))[^\W\u4e00-\u9fa5]+)*|[^\w\s]"
)


class Match(NamedTuple):
    """How well a text answers one question: both from 0 to 1, the best over the reference answers."""

    exact: float
    f1: float


# ---- one question ----


def squad_v1_match(prediction: str, answers: Sequence[str]) -> Match:
    """As evaluate-v1.1.py: at least one answer; two texts without a word (such as `the`) have F1 0."""
    if not answers:
        raise ValueError("expected one answer or more: in SQuAD 1.1 every question has one")
    said, meant = _normalized(prediction), [_normalized(answer) for answer in answers]
    return Match(float(said in meant), max(_shared_words(said, one) for one in meant))


def squad_v2_match(prediction: str, answers: Sequence[str]) -> Match:
    """As evaluate-v2.0.py: no answers, or none that has a word, ask for the empty text."""
    said, meant = _normalized(prediction), [_normalized(answer) for answer in answers]
    meant = [one for one in meant if one] or [""]
    # Where nothing is left of one of the two, F1 is whether nothing is left of both.
    f1 = max(_shared_words(said, one) if said and one else float(said == one) for one in meant)
    return Match(float(said in meant), f1)


def cmrc_match(prediction: str, answers: Sequence[str]) -> Match:
    """As cmrc2018_evaluate.py: every Chinese character is a segment, F1 is of the longest run of segments that both
    texts share, and punctuation does not count.

    The script cuts what is not Chinese into words with NLTK; here they are runs of letters and digits, points inside
    them included, and single signs, which differs for English contractions and abbreviations.
    """
    if not answers:
        raise ValueError("expected one answer or more")
    said, meant = _without_signs(prediction), [_without_signs(answer) for answer in answers]
    return Match(float(said in meant), max(_shared_run(said, one) for one in meant))


def _normalized(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _f1(shared: int, predicted: int, gold: int) -> float:
    if shared == 0:
        return 0.0
    # In the scripts' order: another one would round otherwise.
    precision, recall = 1.0 * shared / predicted, 1.0 * shared / gold
    return (2 * precision * recall) / (precision + recall)


def _shared_words(prediction: str, answer: str) -> float:
    """Of two normalised texts."""
    said, meant = prediction.split(), answer.split()
    return _f1(sum((Counter(said) & Counter(meant)).values()), len(said), len(meant))


def _without_signs(text: str) -> str:
    return "".join(sign for sign in text.lower().strip() if sign not in _CMRC_SIGNS)


def _shared_run(prediction: str, answer: str) -> float:
    said, meant = _CMRC_SEGMENT.findall(prediction), _CMRC_SEGMENT.findall(answer)
    run = SequenceMatcher(None, said, meant, autojunk=False).find_longest_match().size
    return _f1(run, len(said), len(meant))


# ---- a data set ----


def squad_v1(dataset: Dataset, predictions: Mapping[str, str]) -> dict[str, float]:
    """`exact_match` and `f1` in percent, as evaluate-v1.1.py prints them.

    `dataset` is the object of a file in SQuAD's JSON, or its list `data`; `predictions` is {question id: text}. A
    question without a prediction counts as wrong. ValueError where there is no question, a question has no answer,
    or the data set has another shape.
    """
    return _of_all(dataset, predictions, squad_v1_match, ("exact_match", "f1"))


def cmrc(dataset: Dataset, predictions: Mapping[str, str]) -> dict[str, float]:
    """`average`, `f1` and `em` in percent, as cmrc2018_evaluate.py prints them (see `cmrc_match`); the data set is
    in SQuAD's JSON. Otherwise as `squad_v1`."""
    found = _of_all(dataset, predictions, cmrc_match, ("em", "f1"))
    return {"average": (found["em"] + found["f1"]) * 0.5, "f1": found["f1"], "em": found["em"]}


def squad_v2(
    dataset: Dataset,
    predictions: Mapping[str, str],
    no_answer_scores: Mapping[str, float] | None = None,
    threshold: float = 1.0,
) -> dict[str, float]:
    """What evaluate-v2.0.py prints, in percent but for totals and thresholds: `exact`, `f1`, `total`, the same under
    `HasAns_` and `NoAns_` for the questions with and without an answer, and `best_exact`, `best_exact_thresh`,
    `best_f1`, `best_f1_thresh` where `no_answer_scores` are given.

    `predictions` is {question id: text}, "" for no answer. `no_answer_scores` is {question id: number}, the higher
    the less likely is an answer: above `threshold` the prediction counts as "". Only questions with a prediction
    count (where one is missing, the script itself stops with a KeyError). The best thresholds come from the
    script's sweep, which begins with no answer anywhere under the threshold 0.0, whatever the scores.

    ValueError where there is no question or prediction, or a prediction has no score.
    """
    exact: dict[str, float] = {}
    f1: dict[str, float] = {}
    answerable: dict[str, bool] = {}
    for name, answers in _questions(dataset):
        answerable[name] = bool(answers)
        if name in predictions:
            exact[name], f1[name] = squad_v2_match(_text(predictions[name], name), answers)
    if not exact:
        raise ValueError("no question of the data set has a prediction")
    scores = dict.fromkeys(predictions, 0.0) if no_answer_scores is None else no_answer_scores
    for name in exact:
        if name not in scores:
            raise ValueError(f"no_answer_scores: the question {name!r} has a prediction, but no score")
    cut = [
        {name: float(not answerable[name]) if scores[name] > threshold else one for name, one in each.items()}
        for each in (exact, f1)
    ]
    found = _percents(cut[0], cut[1], list(exact))
    for prefix, kind in (("HasAns", True), ("NoAns", False)):
        of_kind = [name for name in exact if answerable[name] is kind]
        if of_kind:
            part = _percents(cut[0], cut[1], of_kind)
            found |= {f"{prefix}_{measure}": value for measure, value in part.items()}
    if no_answer_scores is not None:
        for measure, each in (("exact", exact), ("f1", f1)):
            best, at = _swept(predictions, each, no_answer_scores, answerable)
            found |= {f"best_{measure}": best, f"best_{measure}_thresh": at}
    return found


def best_threshold(
    no_answer_scores: NDArray[np.float64], answered: NDArray[np.float64], silent: NDArray[np.float64]
) -> float:
    """The threshold τ for which the mean score is highest where a question stays unanswered above it.

    Each [n]: no-answer scores, what the question scores if answered, and if not. Of equally good thresholds the
    one that answers least, as in the sweep of evaluate-v2.0.py; it lies half-way between two questions' scores, so
    that noise of the arithmetic moves no question over it (1 beyond the last where all, or none, are answered).
    """
    order = np.argsort(no_answer_scores, kind="stable")
    odds = no_answer_scores[order]
    totals = np.concatenate([[0.0], np.cumsum((answered - silent)[order])])
    # Questions with the same score are answered together or not at all.
    apart = np.concatenate([[True], odds[1:] > odds[:-1], [True]])
    chosen = int(np.argmax(np.where(apart, totals, -np.inf)))
    if chosen == 0:
        return float(odds[0] - 1)
    if chosen == len(odds):
        return float(odds[-1] + 1)
    return float((odds[chosen - 1] + odds[chosen]) / 2)


def _of_all(
    dataset: Dataset,
    predictions: Mapping[str, str],
    match: Callable[[str, Sequence[str]], Match],
    names: tuple[str, str],
) -> dict[str, float]:
    """The two sums in percent of all questions, under `names`."""
    exact = f1 = 0.0
    total = 0
    for name, answers in _questions(dataset):
        total += 1
        if name in predictions:
            try:
                found = match(_text(predictions[name], name), answers)
            except ValueError as error:
                raise ValueError(f"question {name!r}: {error}") from None
            exact, f1 = exact + found.exact, f1 + found.f1
    if not total:
        raise ValueError("the data set has no question")
    return {names[0]: 100.0 * exact / total, names[1]: 100.0 * f1 / total}


def _percents(exact: Mapping[str, float], f1: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    total = len(names)
    return {
        "exact": 100.0 * sum(exact[name] for name in names) / total,
        "f1": 100.0 * sum(f1[name] for name in names) / total,
        "total": total,
    }


def _swept(
    predictions: Mapping[str, str],
    scores: Mapping[str, float],
    no_answer_scores: Mapping[str, float],
    answerable: Mapping[str, bool],
) -> tuple[float, float]:
    """The best score in percent and its threshold: questions are answered one by one, the surest first."""
    current: float = sum(1 for has_answer in answerable.values() if not has_answer)
    best, at = current, 0.0
    for name in sorted(no_answer_scores, key=lambda one: no_answer_scores[one]):
        if name not in scores:
            continue
        if answerable[name]:
            current += scores[name]
        elif predictions[name]:
            current -= 1
        if current > best:
            best, at = current, no_answer_scores[name]
    return 100.0 * best / len(scores), at


def _questions(dataset: Dataset) -> Iterator[tuple[str, list[str]]]:
    """(id, texts of the answers) of each question, in the data set's order."""
    articles = dataset.get("data") if isinstance(dataset, Mapping) else dataset
    if not isinstance(articles, Sequence) or isinstance(articles, str):
        raise ValueError(
            f"expected a data set in SQuAD's JSON or its list 'data', found {shown(articles)} for that list"
        )
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield question["id"], [answer["text"] for answer in question["answers"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            "expected articles with paragraphs, these with qas, these with id and answers of some text each; "
            f"missing there: {error}"
        ) from None


def _text(prediction: object, name: str) -> str:
    if not isinstance(prediction, str):
        raise ValueError(f"the prediction for question {name!r} is {shown(prediction)}, expected a text")
    return prediction
