"""What is written is read back as it was; nothing is left where writing failed."""

import csv
import datetime
import gzip
import io
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyheads.data.read import Dialect, read_rows
from manyheads.data.write import open_writer
from manyheads.errors import InputError, WorkError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.text(
    'a",;\t\r\n ', max_size=6
)


def write_all(
    target: Path | BinaryIO,
    rows: Iterable[dict[str, Any]],
    columns: Sequence[str] = ("a",),
    format: str | None = None,
    error: BaseException | None = None,
) -> None:
    with open_writer(target, columns, format) as writer:
        for row in rows:
            writer.write(row)
        if error is not None:
            raise error


def written(columns: list[str], rows: list[dict[str, Any]], format: str) -> bytes:
    stream = io.BytesIO()
    write_all(stream, rows, columns, format)
    return stream.getvalue()


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_csv_is_read_back_by_the_csv_module_and_by_ours(rows: list[tuple[str, str]]) -> None:
    dicts = [{"a": a, "b": b} for a, b in rows]
    data = written(["a", "b"], dicts, "csv")
    assert list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True)) == dicts
    assert [row.values for row in read_rows(io.BytesIO(data), Dialect(format="csv"))] == dicts


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_tsv_is_read_back_with_csv_quoting(rows: list[tuple[str, str]]) -> None:
    dicts = [{"a": a, "b": b} for a, b in rows]
    data = written(["a", "b"], dicts, "tsv")
    assert list(csv.DictReader(io.StringIO(data.decode(), newline=""), delimiter="\t", strict=True)) == dicts
    assert [row.values for row in read_rows(io.BytesIO(data), Dialect(format="tsv", quoting="csv"))] == dicts


def test_tsv_of_ordinary_text_is_the_same_without_quoting() -> None:
    rows = [{"a": 'he said "yes"', "b": "1,5"}]
    data = written(["a", "b"], rows, "tsv")
    assert data == b'a\tb\nhe said "yes"\t1,5\n'
    assert [row.values for row in read_rows(io.BytesIO(data), Dialect(format="tsv"))] == rows


def test_the_empty_text_of_a_single_column_is_a_row() -> None:
    data = written(["a"], [{"a": ""}, {"a": "x"}], "csv")
    assert [row.values for row in read_rows(io.BytesIO(data))] == [{"a": ""}, {"a": "x"}]


@given(
    st.lists(
        st.fixed_dictionaries({"a": TEXT, "b": st.floats(allow_nan=False, allow_infinity=False)}), min_size=1
    )
)
def test_json_lines_and_parquet_keep_values(rows: list[dict[str, Any]]) -> None:
    for format in ("jsonl", "parquet"):
        data = written(["a", "b"], rows, format)
        assert [row.values for row in read_rows(io.BytesIO(data), Dialect(format=cast(Any, format)))] == rows


def test_values_of_other_types() -> None:
    row = {
        "none": None,
        "true": True,
        "numpy": np.float32(0.5),
        "list": ["é", 1],
        "nan": math.nan,
        "day": datetime.date(2020, 2, 1),
        "flag": np.bool_(False),
        "vector": np.array([1, 2]),
    }
    columns = list(row)
    (line,) = csv.DictReader(io.StringIO(written(columns, [row], "csv").decode()))
    assert line == {
        "none": "",
        "true": "true",
        "numpy": "0.5",
        "list": '["é", 1]',
        "nan": "nan",
        "day": "2020-02-01",
        "flag": "false",
        "vector": "[1, 2]",
    }

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(written(columns, [row], "jsonl"), parse_constant=refuse) == {
        "none": None,
        "true": True,
        "numpy": 0.5,
        "list": ["é", 1],
        "nan": None,
        "day": "2020-02-01",
        "flag": False,
        "vector": [1, 2],
    }
    (found,) = pq.read_table(io.BytesIO(written(columns, [row], "parquet"))).to_pylist()
    assert math.isnan(found.pop("nan"))
    assert found == {
        "none": None,
        "true": True,
        "numpy": 0.5,
        "list": '["é", 1]',
        "day": datetime.date(2020, 2, 1),
        "flag": False,
        "vector": [1, 2],
    }


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz", "a.TSV.GZ", "a.jsonl.gz", "a.parquet"]
)
def test_the_format_is_chosen_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with open_writer(path, ["a", "b"]) as writer:
        writer.write({"b": "2", "a": "1"})
    assert [row.values for row in read_rows(path)] == [{"a": "1", "b": "2"}]
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert name.lower().endswith(".gz") == path.read_bytes().startswith(b"\x1f\x8b")


def test_the_same_rows_give_the_same_gzip_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, now in (("a.csv.gz", 1e9), ("b.csv.gz", 2e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        with open_writer(tmp_path / name, ["a"]) as writer:
            writer.write({"a": "x"})
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_a_said_format_goes_before_the_name(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.out.gz", ["a"], "jsonl") as writer:
        writer.write({"a": 1})
    assert gzip.decompress((tmp_path / "a.out.gz").read_bytes()) == b'{"a": 1}\n'


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_no_rows_are_still_a_file(tmp_path: Path, name: str) -> None:
    with open_writer(tmp_path / name, ["a", "b"]):
        pass
    assert list(read_rows(tmp_path / name, allow_empty=True)) == []


def test_json_rows_need_not_be_alike_and_others_must(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"a": 2, "c": 3}, {"c": 4}]
    lines = [json.loads(line) for line in written(["a"], rows, "jsonl").splitlines()]
    assert lines == [{"a": 1}, {"a": 2, "c": 3}, {"a": None, "c": 4}]
    path = tmp_path / "a.csv"
    with pytest.raises(InputError, match=r"a\.csv, row 2, column 'c': the first row lacks"):
        write_all(path, rows)
    assert list(tmp_path.iterdir()) == []


# ---- parquet ----


def test_parquet_is_written_in_groups_and_an_empty_column_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyheads.data.write._ROW_GROUP", 10)
    rows = [{"n": i, "x": None if i < 10 else "late"} for i in range(25)]
    file = pq.ParquetFile(io.BytesIO(written(["n", "x"], rows, "parquet")))
    assert file.num_row_groups == 3
    assert file.read().to_pylist() == rows


@pytest.mark.parametrize(("group", "expected"), [(2, "int64"), (100, "the type of the rows before")])
def test_parquet_of_mixed_types_names_row_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, expected: str
) -> None:
    monkeypatch.setattr("manyheads.data.write._ROW_GROUP", group)
    with pytest.raises(InputError, match=rf"row 4, column 'a': found 'x', expected {expected} "):
        write_all(tmp_path / "a.parquet", [{"a": value} for value in (1, 2, 3, "x", 5)])
    assert list(tmp_path.iterdir()) == []


SPANS: list[Any] = [
    [{"start": 0, "end": 3, "text": "Zoë", "score": 0.5}],
    [],
    [{"start": 0, "end": 1, "text": "a", "score": 1}, {"start": 2, "end": 3, "text": "b", "score": 0.25}],
    None,
]


@pytest.mark.parametrize("group", [2, 100])
def test_parquet_has_lists_and_structs(monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    monkeypatch.setattr("manyheads.data.write._ROW_GROUP", group)
    rows = [{"words": ["a"] * n, "spans": one, "at": {"x": n}} for n, one in enumerate(SPANS, 1)]
    data = written(["words", "spans", "at"], rows, "parquet")
    assert pq.read_table(io.BytesIO(data)).to_pylist() == rows
    assert [row.values for row in read_rows(io.BytesIO(data), Dialect(format="parquet"))] == rows
    schema = pq.read_schema(io.BytesIO(data))
    assert str(schema.field("words").type) in ("list<element: string>", "list<item: string>")
    assert "struct<start: int64, end: int64, text: string, score: double>" in str(schema.field("spans").type)


@pytest.mark.parametrize("late", [1, 3])
def test_parquet_of_lists_that_the_first_rows_leave_empty(monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    """Where `like` says what they hold they are lists; JSON in their place is read; else the column is text."""
    monkeypatch.setattr("manyheads.data.write._ROW_GROUP", 2)
    lists: list[Any] = [[]] * late + [[1, 2]]
    rows = [{"a": one, "b": json.dumps(one), "c": one, "d": None} for one in lists]
    rows[-1]["d"] = 7
    stream = io.BytesIO()
    with open_writer(stream, ["a", "b", "c", "d"], "parquet", like={"a": [0], "b": [0], "d": 0}) as writer:
        for row in rows:
            writer.write(row)
    found = pq.read_table(io.BytesIO(stream.getvalue())).to_pylist()
    assert [row["a"] for row in found] == [row["b"] for row in found] == lists
    assert [row["c"] for row in found] == (lists if late == 1 else [json.dumps(one) for one in lists])
    assert [row["d"] for row in found] == [None] * late + [7]


@pytest.mark.parametrize(
    "cells",
    [
        [["é", 1]],
        [[1], "x"],
        [{"a": 1}, {"b": 2}],  # a struct would have both keys in both rows
        [[{"a": 1}], [{"a": 1, "b": None}]],
        [{}],
        [[]],
        [[2**53 + 1], [0.5]],  # a double would round it
        [np.zeros((2, 2))],
    ],
)
def test_parquet_of_lists_without_a_type_is_json_text(cells: list[Any]) -> None:
    data = written(["a"], [{"a": cell} for cell in cells], "parquet")
    wanted = [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in cells]
    found = pq.read_table(io.BytesIO(data)).to_pylist()
    assert [json.loads(row["a"]) if row["a"] != "x" else "x" for row in found] == wanted


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            [{"a": 1}, {"a": 2}, {"a": 1, "b": 5}],
            r"row 3, column 'a': found {'a': 1, 'b': 5}, expected struct<",
        ),
        ([[1], [2], [3], ["x"]], r"row 4, column 'a': found \['x'\], expected list<"),
    ],
)
def test_parquet_of_another_list_later_names_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[Any], said: str
) -> None:
    monkeypatch.setattr("manyheads.data.write._ROW_GROUP", 2)
    with pytest.raises(InputError, match=said):
        write_all(tmp_path / "a.parquet", [{"a": cell} for cell in cells])
    assert list(tmp_path.iterdir()) == []


def test_half_a_parquet_stream_does_not_look_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyheads.data.write._ROW_GROUP", 2)
    stream = io.BytesIO()
    with pytest.raises(RuntimeError):
        write_all(stream, [{"a": value} for value in range(5)], format="parquet", error=RuntimeError())
    assert stream.getvalue().startswith(b"PAR1")
    assert not stream.getvalue().endswith(b"PAR1")


# ---- where it goes ----


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_a_pipe(format: str) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as source:
        with open(writing, "wb") as pipe:
            with open_writer(pipe, ["a"], format) as writer:
                writer.write({"a": "1"})
            assert not pipe.closed
        assert [row.values for row in read_rows(source)] == [{"a": "1"}]


def test_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with open_writer("-", ["a"]) as writer:
        writer.write({"a": "é"})
    assert capfdbinary.readouterr().out == "a\né\n".encode()
    assert not sys.stdout.closed


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.parquet"])
def test_an_exception_leaves_the_old_file_alone(
    tmp_path: Path, name: str, error: type[BaseException]
) -> None:
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(error):
        write_all(path, [{"a": "x"}], error=error())
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "parquet"])
def test_a_full_device(format: str) -> None:
    with pytest.raises(WorkError, match="/dev/full: the disk is full"):
        write_all(Path("/dev/full"), [{"a": "x" * 1000}] * 100, format=format)
    assert not Path("/dev/full").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_standard_output() -> None:
    stream = open("/dev/full", "wb")  # noqa: SIM115 - its own close fails as well
    with pytest.raises(WorkError, match="standard output: the disk is full"), open_writer(stream, ["a"]):
        pass
    with pytest.raises(OSError, match="No space left"):
        stream.close()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 100 kB, as on a full disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.csv.gz"])
def test_a_file_that_cannot_grow_is_removed(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0)
    with pytest.raises(WorkError, match=rf"{name}: cannot be written: File too large"):
        write_all(tmp_path / name, [{"a": noise.bytes(1000).hex()} for _ in range(300)])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_and_a_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"the folder '.*none' does not exist"),
        open_writer(tmp_path / "none" / "a.csv", ["a"]),
    ):
        pass
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"), open_writer(tmp_path / "b.csv", ["a"]):
        pass


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)  # a chmod would not keep root out
    with pytest.raises(InputError, match=r"a\.csv: no permission"), open_writer(tmp_path / "a.csv", ["a"]):
        pass


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.json", "a.parquet.gz"])
def test_an_unknown_ending(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(InputError, match=r"unknown kind of output file .* expected \.csv, \.tsv, \.jsonl"),
        open_writer(tmp_path / name, ["a"]),
    ):
        pass


def test_an_unknown_format() -> None:
    with (
        pytest.raises(InputError, match=r"unknown output format 'josnl'.* did you mean 'jsonl'"),
        open_writer(cast(BinaryIO, io.BytesIO()), ["a"], "josnl"),
    ):
        pass
