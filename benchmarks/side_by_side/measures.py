"""Measures that are the same for both sides: scikit-learn's for labels, the official algorithms for the rest.

Knows examples and answers. Must not know models or manyheads, whose own measures are compared with these.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from side_by_side.examples import entities

__all__ = ["MEASURES", "Answers", "squad_scores"]

Answers = Sequence[Any]
"""What a contender says of each example: a label (text), tags, an answer's text ("" for none), the number of an
ending, or a score for each candidate."""


def label_measures(positive: str | None = None) -> Callable[[Sequence[Any], Answers], dict[str, float]]:
    """Accuracy, Matthews correlation and, with a `positive` label, its F1."""

    def measure(examples: Sequence[Any], answers: Answers) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

        gold = [str(one.label) for one in examples]
        guess = [str(answer) for answer in answers]
        found = {
            "accuracy": float(accuracy_score(gold, guess)),
            "matthews": float(matthews_corrcoef(gold, guess)),
        }
        if positive is not None:
            found["f1"] = float(f1_score(gold, guess, pos_label=positive, average="binary"))
        return found

    return measure


def entity_measures(examples: Sequence[Any], answers: Answers) -> dict[str, float]:
    """Precision, recall and F1 of whole entities with their types, as conlleval counts them."""
    right = said = meant = 0
    for one, tags in zip(examples, answers, strict=True):
        if len(tags) != len(one.words):
            raise SystemExit(f"error: {len(tags)} tags for {len(one.words)} words ({' '.join(one.words)!r})")
        gold, guess = set(entities(one.tags)), set(entities(tags))
        right, said, meant = right + len(gold & guess), said + len(guess), meant + len(gold)
    return {
        "f1": 2 * right / (said + meant) if said + meant else 0.0,
        "precision": right / said if said else 0.0,
        "recall": right / meant if meant else 0.0,
    }


# ---- SQuAD ----


def normal(text: str) -> str:
    """As the official scripts compare answers: lower case, without punctuation, articles and spare blanks."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def exact(gold: str, guess: str) -> float:
    """1 where both are the same answer, else 0."""
    return float(normal(gold) == normal(guess))


def answer_f1(gold: str, guess: str) -> float:
    """F1 of the words that both share, 0 where either has none."""
    meant, said = normal(gold).split(), normal(guess).split()
    shared = (Counter(meant) & Counter(said)).total()
    return 2 * shared / (len(meant) + len(said)) if shared else 0.0


def squad_scores(question: Any, answer: str, may_be_none: bool) -> tuple[float, float]:
    """(F1, exact match) of an answer, the best over the question's own.

    By the rules of the v2.0 script where there `may_be_none`: answers without words are none, a question without
    an answer wants none, and a right none counts 1. The v1.1 script knows no such rule.
    """
    gold = [text for text, _ in question.answers]
    if may_be_none:
        gold = [text for text in gold if normal(text)] or [""]
        if not normal(answer) or gold == [""]:
            right = float(not normal(answer) and gold == [""])
            return right, right
    return max(answer_f1(one, answer) for one in gold), max(exact(one, answer) for one in gold)


def answer_measures(may_be_none: bool) -> Callable[[Sequence[Any], Answers], dict[str, float]]:
    """F1 and exact match in percent, as the official scripts count."""

    def measure(examples: Sequence[Any], answers: Answers) -> dict[str, float]:
        scores = [
            squad_scores(one, answer, may_be_none) for one, answer in zip(examples, answers, strict=True)
        ]
        f1, matches = (100 * sum(one) / len(scores) for one in zip(*scores, strict=True))
        return {"f1": f1, "exact": matches}

    return measure


# ---- ranking ----


def ranking_measures(examples: Sequence[Any], answers: Answers) -> dict[str, float]:
    """MAP, MRR and accuracy of the first, over the questions that have an answer; of candidates with the same
    score the earlier one comes first."""
    precisions, reciprocals, firsts = [], [], []
    for one, scores in zip(examples, answers, strict=True):
        if not any(one.relevant):
            continue
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        places = [place for place, i in enumerate(order, 1) if one.relevant[i]]
        precisions.append(sum(found / place for found, place in enumerate(places, 1)) / len(places))
        reciprocals.append(1 / places[0])
        firsts.append(float(places[0] == 1))
    count = len(precisions)
    return {
        "map": sum(precisions) / count,
        "mrr": sum(reciprocals) / count,
        "accuracy_at_1": sum(firsts) / count,
    }


MEASURES: dict[str, Callable[[Sequence[Any], Answers], dict[str, float]]] = {
    "labels": label_measures(),
    "paraphrases": label_measures(positive="1"),
    "entities": entity_measures,
    "answers": answer_measures(may_be_none=False),
    "answers_or_none": answer_measures(may_be_none=True),
    "ranking": ranking_measures,
}
