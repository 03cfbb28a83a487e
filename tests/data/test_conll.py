"""CoNLL columns: the real files count what they are known to hold, and every fault is named with its line."""

import gzip
import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyheads.data.conll import read_conll
from manyheads.data.read import Dialect, Row, column_names, read_rows
from manyheads.errors import InputError


def rows(text: str, **settings: Any) -> list[Row]:
    """The rows of a text in CoNLL columns."""
    return list(read_rows(io.BytesIO(text.encode()), Dialect(format="conll", **settings)))


def refusal(text: str, need: tuple[str, ...] = (), **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(
            read_rows(
                io.BytesIO(text.encode()), Dialect(format="conll", **settings), need=need, name="a.conll"
            )
        )
    return str(caught.value)


NEWS = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

Peter NNP I-NP I-PER

-DOCSTART- -X- O O

BRUSSELS NNP I-NP I-LOC
1996-08-22 CD I-NP O
"""


def test_sentences_with_their_documents() -> None:
    found = rows(NEWS)
    assert [row.values for row in found] == [
        {"words": ["EU", "rejects"], "tags": ["I-ORG", "O"], "document": 1},
        {"words": ["Peter"], "tags": ["I-PER"], "document": 1},
        {"words": ["BRUSSELS", "1996-08-22"], "tags": ["I-LOC", "O"], "document": 2},
    ]
    assert [(row.number, row.line) for row in found] == [(1, 3), (2, 6), (3, 10)]


def test_words_stand_in_lines_one_after_the_other() -> None:
    lines = NEWS.splitlines()
    for row in rows(NEWS):
        assert row.line is not None
        for place, word in enumerate(row.values["words"]):
            assert lines[row.line + place - 1].split()[0] == word


def test_named_columns() -> None:
    first = rows(NEWS, columns=["token", "", "chunk", "ner"])[0]
    assert first.values == {
        "token": ["EU", "rejects"],
        "chunk": ["I-NP", "I-VP"],
        "ner": ["I-ORG", "O"],
        "document": 1,
    }
    source = io.BytesIO(NEWS.encode())
    dialect = Dialect(format="conll", header=False, columns=["token", "pos", "chunk", "ner"])
    assert column_names(source, dialect) == ["token", "pos", "chunk", "ner", "document"]
    assert column_names(io.BytesIO(NEWS.encode()), Dialect(format="conll")) == ["words", "tags", "document"]
    assert rows(NEWS, header=False)[1].values["words"] == ["Peter"]


@pytest.mark.parametrize(
    "blank", ["\n", "\r\n", " \n", "\t \n", "\u00a0\n", "\u3000\r\n", "\ufeff\n", "\n\n \n"]
)
def test_lines_of_spaces_end_a_sentence(blank: str) -> None:
    text = f"a O\nb O\n{blank}c B-X\n{blank}"
    assert [row.values["words"] for row in rows(text)] == [["a", "b"], ["c"]]


def test_words_with_spaces_stand_between_tabs() -> None:
    found = rows("New York\tB-LOC\n \tO\n\tO\n\u3000\tO\n\u2028x\x85\tO\n")
    assert found[0].values["words"] == ["New York", " ", "", "\u3000", "\u2028x\x85"]
    assert found[0].values["tags"] == ["B-LOC", "O", "O", "O", "O"]


def test_spaces_and_tabs_of_any_number() -> None:
    assert rows("a   NN  O  \n b\u00a0c NN\tB-X\n")[0].values == {
        "words": ["a", "b\u00a0c"],
        "tags": ["O", "B-X"],
        "document": 0,
    }
    assert rows("a,NN,O\nb c,NN,B-X\n", delimiter=",")[0].values["words"] == ["a", "b c"]


def test_words_alone() -> None:
    assert [row.values for row in rows("a\nb\n\nc\n")] == [
        {"words": ["a", "b"], "document": 0},
        {"words": ["c"], "document": 0},
    ]
    names, found = read_conll(iter(["a\n"]), file="a.conll", need=("words", "document"))
    assert (names, next(found).values) == (["words", "document"], {"words": ["a"], "document": 0})
    assert refusal("a\nb\n", need=("word",)).startswith(
        "a.conll: no column 'word'; found 'words', 'document'"
    )


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("\na\nb\n", {}, "line 2: found 1 column in 'a', expected one for each of 'words', 'tags'"),
        (
            "words,tags\nthe film,O B-UP\n",
            {},
            "line 1: found 1 column in 'words,tags', expected one for each of 'words', 'tags'; is the `delimiter` "
            "another one, or the `format`?",
        ),
        (
            "-DOCSTART- O\n\na O\n",
            {"delimiter": "\t"},
            "line 3: found 1 column in 'a O', expected one for each of 'words', 'tags'; is the `delimiter` "
            "another one, or the `format`?",
        ),
        (
            "a|O\n",
            {"columns": ["words", "tags"]},
            "line 1: found 1 column, expected 2 ('words', 'tags'); `columns` names all from the left; "
            "is the `delimiter` another one, or the `format`?",
        ),
        (
            "a\n",
            {"columns": ["words", "tags"]},
            "line 1: found 1 column, expected 2 ('words', 'tags'); `columns` names all from the left",
        ),
    ],
)
def test_one_column_where_words_and_tags_are_expected(text: str, settings: dict[str, Any], said: str) -> None:
    lines = iter(text.splitlines(keepends=True))
    with pytest.raises(InputError) as caught:
        read_conll(lines, file="a.conll", need=("words", "tags", "document"), **settings)
    assert str(caught.value) == f"a.conll, {said}"


def test_a_document_begins_between_words() -> None:
    found = rows("a O\n-DOCSTART-\nb O\n-DOCSTART- O\n\n-DOCSTART- O\nc O")
    assert [(row.values["words"], row.values["document"]) for row in found] == [
        (["a"], 0),
        (["b"], 1),
        (["c"], 3),
    ]


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("a NN O\nb O\n", {}, "row 1 (line 2): found 2 columns in 'b O', expected 3 as in line 1"),
        ("a O\n\n\nb\n", {}, "row 2 (line 4): found 1 column in 'b', expected 2 as in line 1"),
        ("a\tO\n\nb\tO\tO\n", {}, "row 2 (line 3): found 3 columns in 'b\\tO\\tO', expected 2 as in line 1"),
        ("-DOCSTART- O\n\na O\nb O\n# a comment\n", {}, "row 1 (line 5): found 3 columns in '# a comment'"),
        (
            "a NN O\n",
            {"columns": ["word", "tag"]},
            "line 1: found 3 columns, expected 2 ('word', 'tag'); `columns` names all from the left",
        ),
        (
            "a O\n",
            {"columns": ["document", "tag"]},
            "`columns` names 'document', which every row has already: the number of its document",
        ),
        ("", {}, "no rows: empty, or nothing but a header"),
        ("\n \n-DOCSTART- O\n\n", {}, "no rows: empty, or nothing but a header"),
    ],
)
def test_faults_have_their_place(text: str, settings: dict[str, Any], said: str) -> None:
    found = refusal(text, **settings)
    assert found.removeprefix("a.conll").lstrip(",: ").startswith(said)


def test_missing_columns_are_named() -> None:
    said = refusal(NEWS, need=("words", "tag"))
    assert said == "a.conll: no column 'tag'; found 'words', 'tags', 'document'; did you mean 'tags'?"


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(InputError, match=r"^a, row 2 \(line 3\): byte 0xe9 is not UTF-8"):
        list(read_rows(io.BytesIO(b"a O\n\nb\xe9 O\n"), Dialect(format="conll"), name="a"))
    latin = Dialect(format="conll", encoding="latin-1")
    assert next(read_rows(io.BytesIO(b"b\xe9 O\n"), latin)).values["words"] == ["bé"]


@pytest.mark.parametrize("name", ["a.conll", "a.iob", "a.bio", "a.CONLL", "a.conll.gz"])
def test_the_name_tells(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = ("\ufeff" + NEWS).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert [row.values["words"] for row in read_rows(path)][1] == ["Peter"]


def test_rows_stream() -> None:
    """A hundred thousand sentences in the memory of a few."""
    line = b"word NN I-NP O\n" * 10 + b"\n"

    class Endless(io.RawIOBase):
        left = 100_000

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            if not self.left:
                return 0
            data = (line * min(50, self.left))[: len(buffer)]
            data = data[: len(data) // len(line) * len(line)]
            self.left -= len(data) // len(line)
            buffer[: len(data)] = data
            return len(data)

    tracemalloc.start()
    try:
        found = read_rows(io.BufferedReader(Endless(), 1 << 16), Dialect(format="conll"))
        assert sum(1 for _ in found) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


word = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r\0"), max_size=5).filter(
    lambda text: not text.startswith("-DOCSTART-")
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(word, min_size=1, max_size=5), min_size=1, max_size=5))
def test_any_words_come_back(sentences: list[list[str]]) -> None:
    text = "".join("".join(f"{one}\tB-X\n" for one in words) + "\n" for words in sentences)
    if text.startswith("\ufeff"):  # at the very beginning it is the mark of the encoding
        text = "\ufeff" + text
    assert [row.values["words"] for row in rows(text)] == sentences


# ---- the real files ----


@pytest.mark.parametrize(
    ("file", "sentences", "words", "documents", "settings"),
    [
        ("conll2003/eng.train", 14_041, 203_621, 946, {"format": "conll"}),
        ("conll2003/eng.testa", 3_250, 51_362, 216, {"format": "conll"}),
        ("wnut17/wnut17train.conll", 3_394, 62_730, 0, {}),
        ("wnut17/emerging.dev.conll", 1_009, 15_733, 0, {}),
    ],
)
def test_the_shared_files(
    shared_data: Path, file: str, sentences: int, words: int, documents: int, settings: dict[str, Any]
) -> None:
    found = [row.values for row in read_rows(shared_data / file, Dialect(**settings))]
    assert len(found) == sentences
    assert sum(len(row["words"]) for row in found) == words
    assert all(len(row["words"]) == len(row["tags"]) for row in found)
    assert len({row["document"] for row in found}) == max(1, documents)
