"""Every dialect that occurs in real data reads; everything that is wrong with a file is named."""

import csv
import gzip
import io
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from manyheads.data.read import Dialect, Row, column_names, read_rows
from manyheads.errors import InputError

STSB = ["genre", "file", "year", "id", "score", "sentence1", "sentence2"]
Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Put a file into a temporary folder."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return put


def values(source: Path | BinaryIO, **settings: Any) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(source, Dialect(**settings))]


def refusal(source: Path | BinaryIO, need: tuple[str, ...] = (), **settings: Any) -> str:
    """The one line that is said of a bad source, without the folder."""
    with pytest.raises(InputError) as caught:
        list(read_rows(source, Dialect(**settings), need=need))
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{source.parent}{os.sep}", "") if isinstance(source, Path) else message


# ---- the real files ----

NO_HEADER: dict[str, Any] = {"header": False}


@pytest.mark.parametrize(
    ("file", "rows", "settings", "columns"),
    [
        ("sst5/sst5-train.tsv", 8544, {}, ["sentence", "label"]),
        ("sst5/ids-sst-dev.csv", 1101, {}, ["", "id", "sentence", "sentiment"]),
        ("sst5/ids-sst-test-student.csv", 2210, {}, ["0", "", "id", "sentence"]),
        ("cfimdb/ids-cfimdb-train.csv", 1707, {}, ["", "id", "sentence", "sentiment"]),
        ("cfimdb/ids-cfimdb-test-student.csv", 488, {}, ["0", "", "id", "sentence"]),
        ("cad_imdb/orig-train.tsv", 1707, {"quoting": "csv"}, ["Sentiment", "Text"]),
        ("cad_nli/all_combined-dev.tsv", 1000, {"quoting": "csv"}, ["sentence1", "sentence2", "gold_label"]),
        ("quora/quora-dev.csv", 20214, {}, ["", "id", "sentence1", "sentence2", "is_duplicate"]),
        (
            "quora/quora-train-pre-left.csv",
            8507,
            NO_HEADER | {"columns": ["", "id", "a", "b", "label"]},
            None,
        ),
        ("quora/train-assembled.tsv", 49324, {}, ["sentence1", "sentence2", "is_duplicate", "source"]),
        ("quora/bimpm-dev.tok.tsv.gz", 10000, NO_HEADER | {"columns": ["a", "b", "label"]}, None),
        (
            "quora/qqp-random-test.tsv.gz",
            10000,
            NO_HEADER | {"columns": ["label", "a", "b", "n"], "encoding": "latin-1"},
            None,
        ),
        ("stsb/sts-train.csv", 6040, {}, ["", "id", "sentence1", "sentence2", "similarity"]),
        (
            "stsb/stsbenchmark-sts-train.csv",
            5749,
            NO_HEADER | {"columns": STSB, "quoting": "none", "extra_columns": "ignore"},
            None,
        ),
        (
            "stsb/stsbenchmark-sts-dev.csv",
            1500,
            NO_HEADER | {"columns": STSB, "quoting": "none", "extra_columns": "ignore"},
            None,
        ),
        ("glue/SST-2/train.tsv", 67349, {}, ["sentence", "label"]),
        ("glue/MRPC/train.tsv", 3668, {}, ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]),
        (
            "glue/MRPC/msr_paraphrase_train.txt",
            4076,
            {},
            ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
        ),
        ("glue/RTE/train.tsv", 2490, {}, ["index", "sentence1", "sentence2", "label"]),
        ("glue/CoLA/train.tsv", 8551, NO_HEADER | {"columns": ["source", "label", "mark", "sentence"]}, None),
        ("glue/CoLA/test.tsv", 1063, {}, ["index", "sentence"]),
        ("glue/MNLI/dev_matched.jsonl", 9815, {}, ["premise", "hypothesis", "label"]),
        ("snli/dev.jsonl", 9842, {}, ["premise", "hypothesis", "label"]),
        ("snli/dev.tok.txt", 9842, NO_HEADER | {"columns": ["premise", "hypothesis", "label"]}, None),
        ("smp2020/raw/virus_train.txt", 8606, {}, ["id", "content", "label"]),
        ("smp2020/clean/virus_train.txt", 8592, {}, ["id", "content", "label"]),
        ("wikiqa/dev.txt.gz", 2733, NO_HEADER | {"columns": ["question", "sentence", "label"]}, None),
        ("chinese_sentiment/ChnSentiCorp_htl_all.csv", 7766, {}, ["label", "review"]),
        ("sick/SICK.tsv", 9840, {}, None),
        ("codah/full_data.tsv", 2776, NO_HEADER | {"columns": ["kind", "prompt", *"0123", "label"]}, None),
        ("pretrain_zh/zhwiki_mrc_contexts.jsonl.gz", 1912, {}, ["source", "title", "text"]),
    ],
)
def test_real_files_have_the_rows_that_their_description_counts(
    shared_data: Path, file: str, rows: int, settings: dict[str, Any], columns: list[str] | None
) -> None:
    dialect = Dialect(**settings)
    found = list(read_rows(shared_data / file, dialect))
    assert len(found) == rows
    assert [row.number for row in found] == list(range(1, rows + 1))
    names = column_names(shared_data / file, dialect)
    assert names == (columns or settings.get("columns") or names)
    assert all(set(row.values) == set(names) for row in found)


def test_a_real_file_with_quoting_equals_the_csv_module(shared_data: Path) -> None:
    path = shared_data / "cad_imdb" / "new-train.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        expected = list(csv.DictReader(file, delimiter="\t"))
    assert values(path, quoting="csv") == expected
    assert values(path) != expected  # without it the doubled quotes stay


def test_a_real_file_without_quoting_keeps_its_quotes(shared_data: Path) -> None:
    rows = values(shared_data / "glue" / "MRPC" / "dev.tsv")
    assert rows[0]["#2 String"].startswith('"The foodservice pie business')


def test_a_real_file_with_broken_text_names_the_line(shared_data: Path) -> None:
    path = shared_data / "quora" / "qqp-random-dev.tsv.gz"
    raw = gzip.decompress(path.read_bytes()).split(b"\n")
    bad = next(number for number, line in enumerate(raw, 1) if not decodes(line))
    rows = read_rows(path, Dialect(header=False, columns=["label", "a", "b", "n"]))
    assert sum(1 for _ in zip(range(bad - 1), rows, strict=False)) == bad - 1  # all before it arrive
    with pytest.raises(InputError, match=rf"row {bad} \(line {bad}\): byte 0xe2 is not UTF-8"):
        next(rows)


def decodes(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- csv and tsv ----


def test_rows_have_numbers_lines_and_values(write: Write) -> None:
    path = write("a.csv", "text,label\nfine,1\nbad,0\n")
    assert list(read_rows(path)) == [
        Row(1, 2, {"text": "fine", "label": "1"}),
        Row(2, 3, {"text": "bad", "label": "0"}),
    ]


def test_a_quoted_field_may_hold_line_ends_and_the_row_has_its_first_line(write: Write) -> None:
    path = write("a.csv", 'a,b\n"one\r\ntwo\n\nthree",1\n"say ""x""",2\n')
    assert list(read_rows(path)) == [
        Row(1, 2, {"a": "one\r\ntwo\n\nthree", "b": "1"}),
        Row(2, 6, {"a": 'say "x"', "b": "2"}),
    ]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_empty_lines_are_skipped_and_still_counted(write: Write, name: str) -> None:
    mark = "," if name == "a.csv" else "\t"
    path = write(name, f"\na{mark}b\n\n1{mark}2\r\n\r\n3{mark}\n\n\n")
    rows = list(read_rows(path))
    assert [(row.number, row.line) for row in rows] == [(1, 4), (2, 6)]
    assert rows[1].values == {"a": "3", "b": ""}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_crlf_bom_no_last_line_end_and_a_cr_inside_a_field(write: Write, name: str) -> None:
    mark = "," if name == "a.csv" else "\t"
    path = write(name, b"\xef\xbb\xbf" + f"a{mark}b\r\nx\ry{mark}1\r\nz{mark}2".encode())
    assert values(path) == [{"a": "x\ry", "b": "1"}, {"a": "z", "b": "2"}]


def test_a_quote_is_text_in_tsv_unless_quoting_is_said(write: Write) -> None:
    path = write("a.tsv", 'a\tb\n"x ""y"""\t5" disk\n')
    assert values(path) == [{"a": '"x ""y"""', "b": '5" disk'}]
    assert values(path, quoting="csv") == [{"a": 'x "y"', "b": '5" disk'}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\tb,c\n1\t2\n", {"a": "1", "b,c": "2"}),
        ("a;b,c\n1;2,3\n", {"a;b": "1;2", "c": "3"}),
        ("a;b\n1;2,5\n", {"a": "1", "b": "2,5"}),
        ('a,"b\tc"\n1,2\n', {"a": "1", "b\tc": "2"}),
        ("alone\n1\n", {"alone": "1"}),
    ],
)
def test_the_delimiter_of_csv_is_found_in_its_first_line(
    write: Write, content: str, expected: dict[str, str]
) -> None:
    assert values(write("a.csv", content)) == [expected]


def test_the_delimiter_may_be_said(write: Write) -> None:
    assert values(write("a.csv", "a|b\n1,0|2\n"), delimiter="|") == [{"a": "1,0", "b": "2"}]


def test_columns_without_a_name(write: Write) -> None:
    assert values(write("a.tsv", "0\t\tid\n1\t2\t3\n")) == [{"0": "1", "": "2", "id": "3"}]
    path = write("b.tsv", "\t\tid\n1\t2\t3\n")  # two of them: neither can be asked for
    assert values(path) == [{"id": "3"}]
    assert "no column ''" in refusal(path, need=("",))


def test_extra_fields_are_dropped_where_that_is_said(write: Write) -> None:
    path = write("a.tsv", "a\tb\n1\t2\t3\t4\n5\t6\n")
    assert values(path, extra_columns="ignore") == [{"a": "1", "b": "2"}, {"a": "5", "b": "6"}]


@pytest.mark.parametrize("encoding", ["latin-1", "gb18030", "utf-16", "utf-16-le", "shift_jis", "utf-8-sig"])
def test_encodings(write: Write, encoding: str) -> None:
    text = "a\tb\nx é\t1\n" if encoding == "latin-1" else "a\tb\n好\t1\n"
    last = text.split("\n")[1].split("\t")[0]
    assert values(write("a.tsv", text.encode(encoding)), encoding=encoding) == [{"a": last, "b": "1"}]


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
            st.text('a"\n\r,\t ', max_size=8),
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 7),
)
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]], end: str, piece: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    source = cast(
        BinaryIO, Trickle(text.getvalue().encode(), piece)
    )  # every boundary falls inside something once
    assert [tuple(row.values.values()) for row in read_rows(source, Dialect(format="csv"))] == rows


class Trickle(io.RawIOBase):
    """A pipe: not seekable, a few bytes at a time."""

    def __init__(self, data: bytes, piece: int = 3) -> None:
        self.data, self.piece = data, piece

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part, self.data = self.data[: self.piece], self.data[self.piece :]
        buffer[: len(part)] = part
        return len(part)


# ---- JSON and parquet ----


def test_json_lines(write: Write) -> None:
    path = write("a.jsonl", '{"a": "é", "b": 1}\n\n  \n{"b": [1, {"c": null}], "a": "\\ud83d\\ude00"}')
    assert list(read_rows(path, need=["a"])) == [
        Row(1, 1, {"a": "é", "b": 1}),
        Row(2, 4, {"b": [1, {"c": None}], "a": "😀"}),
    ]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_gives_each_item_its_line(write: Write, indent: int | None) -> None:
    items = [{"a": "x\n]},{"}, {"a": 2, "b": []}, {}]
    text = "\n" + json.dumps(items, indent=indent) + "\n "
    rows = list(read_rows(write("a.json", text)))
    assert [row.values for row in rows] == items
    lines = [2, 2, 2] if indent is None else [3, 6, 10]
    assert [row.line for row in rows] == lines


def test_a_json_file_may_hold_an_object_a_line(write: Write) -> None:
    assert values(write("a.json", '{"a": 1}\n{"a": 2}\n')) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('\n [\n {"a": 1}]', {"a": 1}),
        ('{"a": 1}\n', {"a": 1}),
        ("a\n[tears] {x}\n", {"a": "[tears] {x}"}),
        ("[a]\tb\n1\t2\n", {"[a]": "1", "b": "2"}),
    ],
)
def test_a_txt_file_is_what_it_begins_with(write: Write, content: str, expected: dict[str, Any]) -> None:
    assert values(write("a.txt", content)) == [expected]


def test_parquet(tmp_path: Path) -> None:
    expected = [{"text": f"row {i}", "score": i / 2, "tags": ["a", str(i)]} for i in range(3000)]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(expected), path, row_group_size=700)
    rows = list(read_rows(path, need=["text"]))
    assert [row.values for row in rows] == expected
    assert rows[2999][:2] == (3000, None)
    assert column_names(path) == ["text", "score", "tags"]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt"])
def test_gzip_of_every_text_format(write: Write, name: str) -> None:
    content = {
        "a.csv": "a,b\n1,2\n",
        "a.tsv": "a\tb\n1\t2\n",
        "a.txt": "a\tb\n1\t2\n",
        "a.jsonl": '{"a": "1", "b": "2"}\n',
        "a.json": '[{"a": "1", "b": "2"}]',
    }[name]
    assert values(write(name + ".gz", gzip.compress(content.encode()))) == [{"a": "1", "b": "2"}]
    assert values(write(name.upper(), content)) == [{"a": "1", "b": "2"}]


def test_a_said_format_goes_before_the_name(write: Write) -> None:
    assert values(write("a.data", "a,b\n1,2\n"), format="csv") == [{"a": "1", "b": "2"}]
    assert values(write("b.csv", '{"a": 1}\n'), format="jsonl") == [{"a": 1}]


# ---- streams ----


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b"a\tb\n1\t2\n",
        b"\n\ta\tb\n0\t1\t2\n",
        b'{"a": "1", "b": "2"}\n',
        b'[\n\n {"a": "1", "b": "2"}]',
        gzip.compress(b"a,b\n1,2\n"),
        b"\xef\xbb\xbfa,b\n1,2",
    ],
)
def test_a_stream_tells_its_format(content: bytes) -> None:
    for source in (Trickle(content), io.BufferedReader(Trickle(content)), io.BytesIO(content)):
        (row,) = values(cast(BinaryIO, source))
        assert (row["a"], row["b"]) == ("1", "2")
        assert not source.closed


def test_a_stream_with_tabs_is_read_like_a_tsv_file() -> None:
    content = b'a\tb\n"x\ty\n'
    assert values(io.BytesIO(content)) == [{"a": '"x', "b": "y"}]


def test_parquet_from_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    for format in ("auto", "parquet"):
        assert values(cast(BinaryIO, Trickle(path.read_bytes(), 100)), format=format) == [{"a": 1}, {"a": 2}]


def test_rows_of_a_pipe_arrive_before_its_end() -> None:
    asked = []

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.pieces = iter([b"a,b\n1,2\n3,4\n", b"5,6\n", b""])

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            asked.append(len(buffer))
            piece = next(self.pieces)
            buffer[: len(piece)] = piece
            return len(piece)

    for source in (Pipe(), io.BufferedReader(Pipe())):
        asked.clear()
        rows = read_rows(cast(BinaryIO, source))
        assert next(rows).values == {"a": "1", "b": "2"}
        assert next(rows).values == {"a": "3", "b": "4"}
        assert len(asked) == 1  # a second time would have waited for what is not there yet
        assert next(rows).values == {"a": "5", "b": "6"}
        assert len(asked) == 2


@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl"])
def test_memory_does_not_grow_with_the_file(format: str) -> None:
    line = b'{"a": "%s"}\n' % (b"x" * 990) if format == "jsonl" else b"x" * 999 + b"\n"

    class Endless(io.RawIOBase):
        left = 20_000  # lines of 1 kB

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            lines = min(self.left, len(buffer) // len(line))
            self.left -= lines
            buffer[: lines * len(line)] = line * lines
            return lines * len(line)

    tracemalloc.start()
    try:
        count = sum(1 for _ in read_rows(cast(BinaryIO, Endless()), Dialect(format=cast(Any, format))))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count >= 19_999
    assert peak < 3_000_000


def test_the_file_is_closed_after_the_last_row(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[BinaryIO] = []
    original = Path.open

    def spy(self: Path, *args: Any, **rest: Any) -> Any:
        opened.append(cast(BinaryIO, original(self, *args, **rest)))
        return opened[-1]

    monkeypatch.setattr(Path, "open", spy)
    path = write("a.csv", "a\n1\n2\n")
    opened.clear()
    list(read_rows(path))
    rows = read_rows(path)
    del rows  # not read to the end
    column_names(path)
    assert len(opened) == 3
    assert all(file.closed for file in opened)


# ---- bad input: the source ----


def test_a_missing_file_names_its_neighbour(write: Write) -> None:
    path = write("train.tsv", "a\n1\n")
    assert refusal(path.with_name("trian.tsv")) == "trian.tsv: no such file; did you mean 'train.tsv'?"
    assert "no such file: there is no folder" in refusal(path.parent / "none" / "a.tsv")


def test_it_is_refused_at_once_and_not_at_the_first_row(write: Write) -> None:
    with pytest.raises(InputError):
        read_rows(write("a.csv", "a,b\n1,2\n"), need=["c"])


def test_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a.csv"
    folder.mkdir()
    assert refusal(folder) == "a.csv: is a folder; expected a file"


def test_no_permission(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.csv", "a\n1\n")

    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # a chmod would not keep root out
    assert refusal(path) == "a.csv: no permission to read it"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt", "a.csv.gz", "a.json.gz"])
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file(write: Write, name: str, content: bytes) -> None:
    path = write(name, gzip.compress(content) if name.endswith(".gz") else content)
    assert "empty" in refusal(path)
    if "json" in name:
        assert list(read_rows(path, allow_empty=True)) == []
        assert column_names(path) == []
    else:  # without a header no one knows the columns
        with pytest.raises(InputError, match="the file is empty; expected a header line"):
            read_rows(path, allow_empty=True)


def test_no_rows(write: Write, tmp_path: Path) -> None:
    path = write("a.csv", "a,b\n\n")
    assert refusal(path) == "a.csv: no rows: empty, or nothing but a header"
    assert list(read_rows(path, need=["a"], allow_empty=True)) == []
    with pytest.raises(InputError, match="no column 'c'"):
        read_rows(path, need=["c"], allow_empty=True)
    assert "no rows" in refusal(write("a.json", "[ ]"))
    assert "no rows" in refusal(write("b.tsv", "\n"), header=False, columns=["a"])
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert "no rows" in refusal(tmp_path / "a.parquet")


def test_a_stream_is_called_by_the_given_name() -> None:
    with pytest.raises(InputError, match=r"^standard input: no rows"):
        read_rows(io.BytesIO(b"a,b\n"), name="standard input")


def test_an_unknown_ending(write: Write) -> None:
    said = refusal(write("a.xlsx", "x"))
    assert said.startswith("a.xlsx: unknown kind of file '.xlsx'; expected .csv, .tsv, .txt, .jsonl")
    assert said.endswith("or say `format: …`")
    assert "its name has no ending" in refusal(write("plain", "x"))
    assert "'.parquet.gz'" in refusal(write("a.parquet.gz", "x"))


# ---- bad input: bytes ----


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_latin_1_bytes_name_row_and_line(write: Write, name: str, bom: bytes) -> None:
    content = {
        "a.csv": b'a,b\n"x\ny",1\ncaf\xe9,2\n',
        "a.tsv": b"a\tb\n\n1\t1\ncaf\xe9\t2\n",
        "a.jsonl": b'\n\n{"a": 1}\n{"a": "caf\xe9"}\n',
        "a.json": b'[{"a": 1},\n\n\n{"a": "caf\xe9"}]',
    }[name]
    place = "line 4" if name == "a.json" else "row 2 (line 4)"
    said = refusal(write(name, bom + content))
    assert said == (
        f"{name}, {place}: byte 0xe9 is not UTF-8; if the file is Latin-1 say `encoding: latin-1`"
    )


def test_a_bad_byte_far_from_the_start_of_a_stream(write: Write) -> None:
    lines = [b"caf\xc3\xa9"] * 30_000
    lines[25_000] = b"caf\xe9"
    assert "row 25000 (line 25001): byte 0xe9" in refusal(write("a.tsv", b"\n".join(lines)))


def test_bad_bytes_in_other_places(write: Write) -> None:
    assert refusal(write("a.csv", b"caf\xe9\n1\n")).startswith("a.csv, line 1: byte 0xe9 is not UTF-8")
    assert "row 1 (line 2): byte 0xc3" in refusal(write("b.csv", b"a\ncaf\xc3"))  # cut inside a character
    said = refusal(write("c.csv", b"a\nx\xff\n"), encoding="ascii")
    assert said == "c.csv, row 1 (line 2): byte 0xff is not ASCII"


def test_a_nul_byte(write: Write) -> None:
    assert refusal(write("a.csv", b"a,b\n1,2\n3,\0\n")).startswith("a.csv, row 2 (line 3): found a NUL byte")
    assert refusal(write("a.tsv", b"a\n1\n\0\n")).startswith("a.tsv, row 2 (line 3): found a NUL byte")


def test_what_is_no_text(write: Write) -> None:
    assert "say `encoding: utf-16`" in refusal(write("a.csv", "a,b\n1,2\n".encode("utf-16")))
    assert "found gzip data" in refusal(write("b.csv", gzip.compress(b"a\n1\n")))
    assert "zip archive or a spreadsheet" in refusal(write("c.csv", b"PK\x03\x04rest"))
    assert "say `format: parquet`" in refusal(write("d.csv", b"PAR1rest"))


def test_truncated_gzip(write: Write) -> None:
    content = "".join(f"row {i * i}\t{i}\n" for i in range(20_000)).encode()
    packed = gzip.compress(b"a\tb\n" + content)
    said = refusal(write("a.tsv.gz", packed[: len(packed) // 2]))
    assert said.startswith("a.tsv.gz, row ")
    assert said.endswith("the gzip data ends too early: the file was cut off")
    assert "cut off" in refusal(write("b.tsv.gz", packed[:5]))


def test_damaged_gzip(write: Write) -> None:
    packed = bytearray(gzip.compress(os.urandom(1000).hex().encode() * 20))
    packed[40:60] = b"\xff" * 20
    assert "gzip" in refusal(write("a.tsv.gz", bytes(packed)))


def test_gz_that_is_no_gzip(write: Write) -> None:
    assert refusal(write("a.csv.gz", "a,b\n1,2\n")).startswith(
        "a.csv.gz: expected gzip data (the name ends in"
    )


# ---- bad input: tables ----


def test_a_column_twice(write: Write) -> None:
    assert refusal(write("a.csv", "\na,b,a\n1,2,3\n")) == "a.csv, line 2: the header names column 'a' twice"


def test_a_missing_column_lists_what_was_found(write: Write) -> None:
    said = refusal(write("a.csv", "sentence,label\nx,1\n"), need=("label", "sentense"))
    assert said == (
        "a.csv, line 1: no column 'sentense'; found 'sentence', 'label'; did you mean 'sentence'?"
    )
    many = ",".join(f"c{i}" for i in range(30))
    assert "'c19' and 10 more" in refusal(write("b.csv", many + "\n"), need=("x",))


def test_a_missing_column_hints_at_the_dialect(write: Write) -> None:
    assert "say `quoting: csv`" in refusal(write("a.tsv", '"text"\t"label"\n"x"\t"1"\n'), need=("text",))
    assert "is the `delimiter` another one?" in refusal(write("b.tsv", "text,label\nx,1\n"), need=("text",))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "a,b,c\n1,2,3\n\n1,2\n", "row 2 (line 4): found 2 fields, expected 3 ('a', 'b', 'c')"),
        ("a.tsv", "a\tb\n1\t2\nx\n", "row 2 (line 3): found 1 field, expected 2 ('a', 'b')"),
        (
            "a.csv",
            'a,b\n"1\n",2\n1,2,3\n',
            "row 2 (line 4): found 3 fields, expected 2 ('a', 'b'); "
            "`extra_columns: ignore` drops what is beyond",
        ),
        (
            "a.tsv",
            'a\tb\n"one\ttwo"\t1\n',
            "row 1 (line 2): found 3 fields, expected 2 ('a', 'b'); "
            "a field begins with a quote: if fields are quoted say `quoting: csv`",
        ),
    ],
)
def test_ragged_rows(write: Write, name: str, content: str, said: str) -> None:
    assert refusal(write(name, content)) == f"{name}, {said}"


def test_a_short_row_is_wrong_also_where_extra_columns_are_ignored(write: Write) -> None:
    assert "found 1 field" in refusal(write("a.tsv", "a\tb\n1\n"), extra_columns="ignore")


def test_a_quote_that_is_never_closed(write: Write) -> None:
    content = 'a,b\n"x\ny",1\n"ok\n","open\n' + "more,text\n" * 50
    said = refusal(write("a.csv", content))
    assert said.startswith("a.csv, row 2 (line 4): the quote that opens in line 5 is never closed")
    assert said.endswith("say `quoting: none`")
    assert "line 1: the quote that opens in line 1" in refusal(write("b.csv", 'a,"b\n1,2\n'))


def test_a_quote_that_is_never_closed_does_not_fill_the_memory(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = csv.field_size_limit(1000)
    monkeypatch.setattr("manyheads.data.read._LONGEST_FIELD", 1000)
    try:
        said = refusal(write("a.csv", 'a\n"x\n' + "yyyyyyyyy\n" * 1000))
        assert "row 1 (line 2): the quote that opens in line 2 is never closed, or not within 1,000" in said
        said = refusal(write("b.csv", "a\n" + "y" * 2000))
        assert said == "b.csv, row 1 (line 2): a field is longer than 1,000 characters"
    finally:
        csv.field_size_limit(before)


def test_a_long_field_is_read(write: Write) -> None:
    assert len(values(write("a.csv", "a\n" + "y" * 300_000))[0]["a"]) == 300_000


def test_text_after_a_closing_quote(write: Write) -> None:
    said = refusal(write("a.csv", 'a,b\n"x\ny" z,1\n'))
    assert said.startswith(
        "a.csv, row 1 (line 2): text after the closing quote of the field that opens in line 2"
    )


def test_lines_that_end_in_cr_alone(write: Write) -> None:
    for name in ("a.csv", "a.tsv"):
        assert "lines end in CR alone" in refusal(write(name, "a\r1\r2\r"))


# ---- bad input: JSON and parquet ----


def test_json_with_a_trailing_comma(write: Write) -> None:
    said = refusal(write("a.json", '[\n {"a": 1},\n {"a": 2},\n]\n'))
    assert said == (
        "a.json, line 3: not JSON: a comma after the last item (character 10); expected an array of objects"
    )
    said = refusal(write("b.json", '[{"a": 1},\n {"a": 2,}]'))
    assert said.startswith("b.json, row 2 (line 2): not JSON: ")
    assert "(character " in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"a": 1}\n {"a": 2}]', "line 2: not JSON: found no ',' or ']' after item 1 (character 2)"),
        (
            '[{"a": 1}',
            "line 1: not JSON: the text ends after item 1, before the ']' of the array (character 10)",
        ),
        (
            '[{"a": 1},\n{"a":\n "b',
            "row 2 (line 3): not JSON: Unterminated string starting at (character 2); "
            "the text ends within the item, which begins in line 2",
        ),
        (
            '[\n{"a": 1},\n',
            "row 2 (line 3): not JSON: Expecting value (character 1); the text ends before the item",
        ),
        (
            '[{"a": 1},\n{"a":\n 1 "b": 2}]',
            "row 2 (line 3): not JSON: Expecting ',' delimiter (character 4); expected an object",
        ),
        ('[{"a": 1}] x', "line 1: not JSON: text after the array (character 12)"),
        ('"text"', "line 1: not JSON: found no array (character 1)"),
        ("[", "row 1 (line 1): not JSON: Expecting value (character 2)"),
        ('[{"a": 1},\n3]', "row 2 (line 2): found 3, expected an object {…}"),
        ('{\n "data": []\n}', "row 1 (line 1): not JSON: "),
        ("[" + "[" * 100_000, "row 1 (line 1): not JSON: nested too deeply"),
    ],
)
def test_json_that_is_no_array_of_objects(write: Write, content: str, said: str) -> None:
    assert refusal(write("a.json", content)).startswith(f"a.json, {said}")


def test_a_json_line_that_is_no_object(write: Write) -> None:
    said = refusal(write("a.jsonl", '{"a": 1}\n\n["b"]\n'))
    assert said == "a.jsonl, row 2 (line 3): found ['b'], expected an object {…}"
    said = refusal(write("b.jsonl", '{"a": 1}\n{"a" 1}\n'))
    assert said.startswith("b.jsonl, row 2 (line 2): not JSON: ")
    assert said.endswith("expected one object a line")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        # The place is one of the line that is named: character 2 of "{", not the first of the next line.
        (
            "a.json",
            '{\n "a": 1\n}\n',
            "(character 2); expected an array of objects, or one object a line; the line ends",
        ),
        (
            "a.jsonl",
            '{"a":\r\n1}\r\n',
            "(character 6); expected one object a line; the line ends within its object",
        ),
        (
            "a.jsonl",
            '{"a": "x\ny"}\n',
            "(character 7); expected one object a line; the line ends within its object",
        ),
        (
            "a.jsonl",
            '[{"a": 1},\n{"a": 2}]\n',
            "(character 11); expected one object a line; an array over several",
        ),
        ("a.jsonl", '{"a": 1} {"a": 2}\n', "Extra data (character 10); expected one object a line"),
    ],
)
def test_a_json_line_that_breaks_off(write: Write, name: str, content: str, said: str) -> None:
    found = refusal(write(name, content))
    assert found.startswith(f"{name}, row 1 (line 1): not JSON: ")
    assert said in found
    assert ("; the line ends" in found) == ("; the line ends" in said)


@pytest.mark.parametrize(("name", "form"), [("a.jsonl", "{}\n{}"), ("a.json", "[{},\n{}]")])
def test_a_missing_key_names_the_row(write: Write, name: str, form: str) -> None:
    content = form.replace("{}", '{"text": "x", "label": 1}', 1).replace("{}", '{"txet": "y", "label": 0}')
    said = refusal(write(name, content), need=("label", "text"))
    assert said == f"{name}, row 2 (line 2): no key 'text'; found 'txet', 'label'; did you mean 'txet'?"


def test_half_a_surrogate_pair(write: Write) -> None:
    said = refusal(write("a.jsonl", '{"a": "ok", "b": ["\\uD83D"]}\n'))
    assert said.startswith("a.jsonl, row 1 (line 1), column 'b': found ")
    assert "half of a surrogate pair" in said


def test_parquet_that_is_none(write: Write, tmp_path: Path) -> None:
    assert refusal(write("a.parquet", "a,b\n1,2\n")).startswith("a.parquet: not a parquet file")
    assert refusal(write("b.parquet", b"")).startswith("b.parquet: not a parquet file")
    pq.write_table(pa.table({"a": ["x"] * 1000}), tmp_path / "c.parquet")
    whole = (tmp_path / "c.parquet").read_bytes()
    assert "cut off" in refusal(write("d.parquet", whole[:-20]))
    damaged = whole[:4] + b"\xff" * 40 + whole[44:]
    assert "damaged after row 0" in refusal(write("e.parquet", damaged))


def test_parquet_without_a_needed_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    said = refusal(tmp_path / "a.parquet", need=("txt",))
    assert said == "a.parquet: no column 'txt'; found 'text'; did you mean 'text'?"


# ---- the dialect itself ----


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"delimiter": ", "}, "one character"),
        ({"delimiter": '"'}, "one character"),
        ({"delimiter": "\n"}, "one character"),
        ({"encoding": "klingon"}, "such as utf-8"),
        ({"encoding": "rot13"}, "such as utf-8"),
        ({"header": False}, "needs `columns"),
        ({"columns": ["a"]}, "header: false"),
        ({"header": False, "columns": ["a", "b", "a"]}, "'a' twice"),
        ({"format": "xlsx"}, "'csv'"),
        ({"separator": ","}, "separator"),
    ],
)
def test_a_dialect_that_makes_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Dialect(**settings)


def test_every_field_of_the_dialect_says_what_it_means() -> None:
    assert all(field.description for field in Dialect.model_fields.values())


def test_fields_beyond_the_last_column_can_be_part_of_it(write: Write) -> None:
    path = write("a.all", "0 how  are you ?\n1 what\n")
    dialect = {"format": "tsv", "delimiter": " ", "extra_columns": "join"}
    found = values(path, **dialect, **NO_HEADER, columns=["label", "text"])
    assert found == [{"label": "0", "text": "how  are you ?"}, {"label": "1", "text": "what"}]
