"""SQuAD's JSON as rows: the real files, and everything that is wrong with one."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from manyheads.data.read import Dialect, Row, column_names, read_rows
from manyheads.errors import InputError

SQUAD = Dialect(format="squad")
COLUMNS = ["id", "title", "question", "context", "answers", "is_impossible"]


def article(*questions: dict[str, Any], context: str = "Ada wrote it.", title: str = "Ada") -> dict[str, Any]:
    return {"title": title, "paragraphs": [{"context": context, "qas": list(questions)}]}


def asked(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "question": f"{name}?", **more}


def written(folder: Path, *articles: Any, **more: Any) -> Path:
    path = folder / "questions.json"
    path.write_text(json.dumps({"version": "1.1", "data": list(articles), **more}), encoding="utf-8")
    return path


def rows(path: Path, *need: str) -> list[Row]:
    return list(read_rows(path, SQUAD, need=need))


def refusal(path: Path, *need: str) -> str:
    with pytest.raises(InputError) as caught:
        rows(path, *need)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path.parent}/", "")


ADA = {"text": "Ada", "answer_start": 0}


def test_a_row_is_a_question_with_its_paragraph(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        article(asked("a", answers=[ADA, ADA]), asked("b", answers=[], is_impossible=True)),
        article(asked("c", answers=[{**ADA, "id": "7"}], is_impossible=False), context="Ada.", title="B"),
    )
    found = rows(path)
    assert [(row.number, row.line) for row in found] == [(1, None), (2, None), (3, None)]
    assert [list(row.values.values()) for row in found] == [
        ["a", "Ada", "a?", "Ada wrote it.", [ADA, ADA], False],
        ["b", "Ada", "b?", "Ada wrote it.", [], True],
        ["c", "B", "c?", "Ada.", [ADA], False],
    ]
    assert column_names(path, SQUAD) == list(found[0].values) == COLUMNS


def test_gzip_a_stream_and_a_byte_order_mark(tmp_path: Path) -> None:
    plain = written(tmp_path, article(asked("a", answers=[ADA])))
    packed = tmp_path / "questions.json.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes()))
    expected = rows(plain)
    assert rows(packed) == expected
    with packed.open("rb") as stream:
        assert list(read_rows(stream, SQUAD)) == expected


@pytest.mark.parametrize(
    ("file", "questions", "impossible"),
    [
        ("squad/dev-v1.1.json.gz", 10570, 0),
        ("squad/train-v1.1.du-test-split.json.gz", 11877, 0),
        ("squad/train-v1.1-sample.json.gz", 3745, 0),
        ("squad/dev-v2.0.cs224n.json", 6078, 3168),
        ("squad/dev-v2.0.first5articles.json", 1407, 702),
        ("chinese_mrc/cmrc2018_dev.json", 3219, 0),
        ("chinese_mrc/DRCD_dev.json", 3524, 0),
    ],
)
def test_real_files_have_the_questions_that_their_description_counts(
    shared_data: Path, file: str, questions: int, impossible: int
) -> None:
    found = rows(shared_data / file, *COLUMNS)
    assert len(found) == questions
    assert sum(row.values["is_impossible"] for row in found) == impossible
    assert sum(row.values["answers"] == [] for row in found) == impossible


def test_a_test_set_has_no_columns_of_answers(shared_data: Path) -> None:
    path = shared_data / "squad" / "test-v2.0.cs224n.json"
    assert column_names(path, SQUAD) == ["id", "title", "question", "context"]
    assert len(rows(path)) == 5915
    assert "no column 'answers'; found 'id', 'title', 'question', 'context'" in refusal(path, "answers")


def test_a_question_of_which_nothing_is_known(tmp_path: Path) -> None:
    path = written(tmp_path, article(asked("a", answers=[ADA]), asked("b"), asked("c", answers=None)))
    assert [(row.values["answers"], row.values["is_impossible"]) for row in rows(path)] == [
        ([ADA], False),
        (None, False),
        (None, False),
    ]


def test_an_empty_list_is_no_answer_where_others_have_one(tmp_path: Path) -> None:
    path = written(tmp_path, article(asked("a", answers=[ADA]), asked("b", answers=[])))
    assert [row.values["is_impossible"] for row in rows(path)] == [False, True]


def test_a_test_set_may_say_of_every_question_that_it_is_possible(tmp_path: Path) -> None:
    path = written(tmp_path, article(*(asked(name, answers=[], is_impossible=False) for name in "ab")))
    assert [list(row.values) for row in rows(path)] == [["id", "title", "question", "context"]] * 2


def test_a_question_that_is_impossible_needs_no_list(tmp_path: Path) -> None:
    path = written(tmp_path, article(asked("a", is_impossible=True), asked("b", is_impossible=False)))
    assert [(row.values["answers"], row.values["is_impossible"]) for row in rows(path)] == [
        ([], True),
        (None, False),
    ]


def test_an_id_may_be_a_number_and_a_title_may_be_missing(tmp_path: Path) -> None:
    one = article(asked("a", answers=[ADA]) | {"id": 17})
    del one["title"]
    (row,) = rows(written(tmp_path, one))
    assert (row.values["id"], row.values["title"]) == ("17", "")


WITHOUT_QAS = {"title": "t", "paragraphs": [{"context": "c", "qa": []}]}


@pytest.mark.parametrize(
    ("articles", "said"),
    [
        ([WITHOUT_QAS], "row 1: data[0].paragraphs[0].qas is missing, expected a list; did you mean 'qa'?"),
        ([{"title": "t"}], "row 1: data[0].paragraphs is missing, expected a list"),
        (["x"], "row 1: data[0] is 'x', expected an object"),
        ([article(context=3)], "row 1: data[0].paragraphs[0].context is 3, expected a text"),  # type: ignore[arg-type]
        (
            [article(asked("a", answers=[ADA]), asked("b", answers=[{"text": "x", "answer_start": "0"}]))],
            "row 2: data[0].paragraphs[0].qas[1].answers[0].answer_start is '0', expected a whole number",
        ),
        (
            [article(asked("a", answers=[{"answer_start": 0}]))],
            "row 1: data[0].paragraphs[0].qas[0].answers[0].text is missing, expected a text",
        ),
        (
            [article(asked("a", answers=[ADA], is_impossible=True))],
            "row 1: data[0].paragraphs[0].qas[0] (id 'a') has answers, but 'is_impossible' is true; expected one of",
        ),
        (
            [article(asked("a", answers=[ADA]), asked("b", answers=[], is_impossible=False))],
            "row 2: data[0].paragraphs[0].qas[1] (id 'b') has no answers, but 'is_impossible' is false; expected an "
            "answer, or true",
        ),
        (
            [
                article(asked("a", answers=[], is_impossible=False)),
                article(asked("b", answers=[], is_impossible=True)),
            ],
            "row 1: data[0].paragraphs[0].qas[0] (id 'a') has no answers, but 'is_impossible' is false",
        ),
        (
            [article(asked("a", answers=[], is_impossible="no"))],
            "row 1: data[0].paragraphs[0].qas[0].is_impossible is 'no', expected true or false",
        ),
        ([article({"id": "a"})], "row 1: data[0].paragraphs[0].qas[0].question is missing, expected a text"),
        ([article({"question": "a"})], "row 1: data[0].paragraphs[0].qas[0].id is None, expected a text"),
        (
            [article(asked("a", answers={"text": [], "answer_start": []}))],
            "row 1: data[0].paragraphs[0].qas[0].answers is {'text': [], 'answer_start': []}, expected a list",
        ),
        (
            [article(asked("a", answers=[ADA]) | {"question": "\ud800"})],
            "row 1, column 'question': found '\\ud800'",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, articles: list[Any], said: str) -> None:
    assert refusal(written(tmp_path, *articles)).startswith(f"questions.json, {said}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "questions.json: found [], expected SQuAD's object with the articles under 'data'"),
        (
            '{"version": "1.1", "dato": []}',
            "questions.json: found an object with 'version', 'dato', expected SQuAD's object with the articles "
            "under 'data'; did you mean 'dato'?",
        ),
        (
            '{"data": [\n{"title" "x"}]}',
            "questions.json, line 2: not JSON: Expecting ':' delimiter (character 10); expected SQuAD's object",
        ),
        ("", "questions.json: not JSON"),
        ('{"data": []}', "questions.json: no questions"),
        ('{"data": [{"paragraphs": [{"context": "c", "qas": []}]}]}', "questions.json: no questions"),
    ],
)
def test_what_is_no_object_of_squad(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "questions.json"
    path.write_text(content, encoding="utf-8")
    if content:
        assert refusal(path).startswith(said)
        assert refusal(path, "question", "answers").startswith(said)
    else:
        assert "not JSON" in refusal(path)


def test_the_format_is_hinted_at_where_it_is_not_said(tmp_path: Path) -> None:
    path = written(tmp_path, article(asked("a", answers=[ADA])))
    with pytest.raises(InputError, match=r"no key 'question'; .*SQuAD's JSON is read with `format: squad`"):
        list(read_rows(path, need=["question"]))
