"""The JSON of SQuAD 1.1 and 2.0 as rows: one a question, with its paragraph beside it.

Knows the shape of such an object and its columns. Must not know bytes, files, or whether an answer stands where its
offset says.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from manyheads.errors import nearest, shown

__all__ = ["COLUMNS", "QuestionError", "table"]

COLUMNS = ("id", "title", "question", "context", "answers", "is_impossible")
_LABELS = ("answers", "is_impossible")


class QuestionError(ValueError):
    """What is wrong with the object; `number` is the question's, from 1, or None before the first."""

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.number = number


def table(content: object) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns and the rows of a file's object `{"data": [articles]}`.

    A row's `answers` are a list of {text, answer_start}, offsets in code points of the context; the list is empty
    for a question that the context does not answer (`is_impossible`, by which only SQuAD 2.0 says so too). A question
    that has no key `answers` and is not said to be impossible has None there: nothing is known of it. Where no
    question has answers and none says that it is impossible, as in a test set, the columns `answers` and
    `is_impossible` are left out.

    Raises QuestionError for an object of another shape or without questions, and where `is_impossible` contradicts
    the answers: true beside some, or false beside an empty list in a file that is no test set.
    """
    rows: list[dict[str, Any]] = []
    labelled = False
    unsaid: QuestionError | None = None
    for title, context, asked, place in _asked(content):
        number = len(rows) + 1
        name = asked.get("id")
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise QuestionError(f"{place}.id is {shown(name)}, expected a text", number)
        called = f"{place} (id {shown(str(name))})"
        answers = _answers(asked, place, number)
        impossible = asked.get("is_impossible")
        if impossible is not None and not isinstance(impossible, bool):
            raise QuestionError(
                f"{place}.is_impossible is {shown(impossible)}, expected true or false", number
            )
        if impossible and answers:
            raise QuestionError(
                f"{called} has answers, but 'is_impossible' is true; expected one of the two", number
            )
        if impossible is False and answers == [] and unsaid is None:
            unsaid = QuestionError(
                f"{called} has no answers, but 'is_impossible' is false; expected an answer, or true", number
            )
        if impossible and answers is None:
            answers = []
        labelled |= bool(answers) or impossible is True
        question = _text(asked, "question", place, number)
        values = (str(name), title, question, context, answers, answers == [])
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    if not rows:
        raise QuestionError("no questions: no paragraph of the articles under 'data' has one in its 'qas'")
    if labelled:
        if (
            unsaid is not None
        ):  # in a test set such a question only stands for one whose answers are kept back
            raise unsaid
        return list(COLUMNS), rows
    for row in rows:
        for name in _LABELS:
            del row[name]
    return [name for name in COLUMNS if name not in _LABELS], rows


def _asked(content: object) -> Iterator[tuple[str, str, Mapping[str, Any], str]]:
    """(title, context, question's object, its place in the file) of each question, in order."""
    if not isinstance(content, Mapping) or "data" not in content:
        found = f"an object with {', '.join(map(shown, content))}" if isinstance(content, Mapping) else None
        hint = nearest("data", content) if isinstance(content, Mapping) else ""
        raise QuestionError(
            f"found {found or shown(content)}, expected SQuAD's object with the articles under 'data'{hint}"
        )
    number = 0
    for a, article in enumerate(_listed(content, "data", "", number)):
        place = f"data[{a}]"
        title = article.get("title") or ""
        if not isinstance(title, str):
            raise QuestionError(f"{place}.title is {shown(title)}, expected a text", number + 1)
        for p, paragraph in enumerate(_listed(article, "paragraphs", place, number)):
            place = f"data[{a}].paragraphs[{p}]"
            context = _text(paragraph, "context", place, number + 1)
            for q, asked in enumerate(_listed(paragraph, "qas", place, number)):
                number += 1
                yield title, context, asked, f"{place}.qas[{q}]"


def _answers(asked: Mapping[str, Any], place: str, number: int) -> list[dict[str, Any]] | None:
    if asked.get("answers") is None:
        return None
    found = []
    for n, answer in enumerate(_listed(asked, "answers", place, number - 1)):
        text, start = _text(answer, "text", f"{place}.answers[{n}]", number), answer.get("answer_start")
        if not isinstance(start, int) or isinstance(start, bool):
            raise QuestionError(
                f"{place}.answers[{n}].answer_start is {shown(start)}, expected a whole number", number
            )
        found.append({"text": text, "answer_start": start})
    return found


def _listed(of: Mapping[str, Any], key: str, place: str, before: int) -> list[Mapping[str, Any]]:
    """The objects in a list; `before` is the number of the question before it."""
    where = f"{place}.{key}" if place else key
    found = of.get(key)
    if not isinstance(found, list):
        hint = nearest(key, of) if key not in of else ""
        raise QuestionError(
            f"{where} is {shown(found) if key in of else 'missing'}, expected a list{hint}", before + 1
        )
    for n, one in enumerate(found):
        if not isinstance(one, Mapping):
            raise QuestionError(f"{where}[{n}] is {shown(one)}, expected an object", before + 1)
    return found


def _text(of: Mapping[str, Any], key: str, place: str, number: int) -> str:
    found = of.get(key)
    if not isinstance(found, str):
        said = shown(found) if key in of else "missing"
        raise QuestionError(f"{place}.{key} is {said}, expected a text", number)
    return found
