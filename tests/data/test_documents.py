"""Documents of every kind of file, sharing them out, and what happens to broken ones."""

import codecs
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from manyheads.data import documents as module
from manyheads.data.documents import Documents, DocumentSettings, shards
from manyheads.errors import InputError


def texts(*files: Path, **settings: object) -> list[str]:
    return [one.text for one in Documents(shards(files), DocumentSettings.model_validate(settings))]


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_a_blank_line_ends_a_document(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(codecs.BOM_UTF8 + b"\r\nOne.\r\nTwo.\r\n \t\r\n\n\nThree.\n\nFour.")
    found = list(Documents([file]))
    assert [(one.text, one.row, one.line) for one in found] == [
        ("One.\nTwo.", 1, 2),
        ("Three.", 2, 7),
        ("Four.", 3, 9),
    ]
    assert texts(file, boundary="line") == ["One.", "Two.", "Three.", "Four."]
    assert texts(file, boundary="file") == ["One.\nTwo.\n \t\n\n\nThree.\n\nFour."]


def test_a_line_of_any_white_space_is_blank(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("第一。\n　\u00a0\n第二。\n\u2003\u3000\n\n第三。", encoding="utf-8")
    assert texts(tmp_path / "a.txt") == ["第一。", "第二。", "第三。"]


def test_other_encodings_and_quotes_that_are_text(tmp_path: Path) -> None:
    said = "天气很好"
    plain, packed, table = tmp_path / "a.txt", tmp_path / "b.jsonl.gz", tmp_path / "c.tsv"
    plain.write_bytes(f"{said}\n\n{said}".encode("gb18030"))
    row = json.dumps({"text": said}, ensure_ascii=False)
    packed.write_bytes(gzip.compress(row.encode("gb18030")))
    table.write_bytes(f'id\ttext\n1\t"{said}\n2\tb'.encode("gb18030"))
    assert texts(plain, packed, table, encoding="gb18030") == [said, said, said, f'"{said}', "b"]
    broken = Documents([plain, packed], DocumentSettings())
    assert (list(broken), broken.skipped) == ([], 3)
    table.write_text('text,more\n"a,1\nb,2\n', encoding="utf-8")
    assert texts(table, format="csv", quoting="none") == ['"a', "b"]
    for name in ("utf-16", "utf-9", "utf-32-le"):
        with pytest.raises(ValidationError, match="line ends of one byte"):
            DocumentSettings(encoding=name)


def test_a_link_to_nowhere_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("here", encoding="utf-8")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone.txt")
    documents = Documents(shards([tmp_path]), DocumentSettings())
    assert [one.text for one in documents] == ["here"]
    assert [str(problem) for problem in documents.problems] == [
        f"{tmp_path / 'b.txt'}: cannot be read: it has vanished"
    ]


def test_json_lines_and_parquet_name_their_column(tmp_path: Path) -> None:
    plain, packed, table = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "c.parquet"
    plain.write_text(lines({"body": "a\n\nb"}, {"body": "c"}), encoding="utf-8")
    packed.write_bytes(gzip.compress(lines({"body": "d"}).encode()))
    pq.write_table(pa.table({"body": ["e", "f"]}), table)
    assert texts(plain, packed, table, text="body") == ["a\n\nb", "c", "d", "e", "f"]


def test_a_folder_is_its_shards_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "a.txt", "c.txt.gz", ".hidden.txt", ".git/x.txt", "notes.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    assert texts(tmp_path) == [
        "a.txt",
        "b/1.txt",
        "b/2.txt",
        "c.txt.gz",
    ]  # packed or not is seen by the content


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "no such file or folder"),
        ("a.pdf", "unknown kind of file"),
        ("empty", "no documents: expected files"),
    ],
)
def test_no_files_are_an_error(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.pdf").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        shards([tmp_path / name])


def vanished(file: Path) -> None:
    file.unlink()


def written(content: bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_bytes(content)

    return write


GOOD = {"text": "good"}


@pytest.mark.parametrize(
    ("name", "spoil", "place", "message", "left"),
    [
        ("b.jsonl", written((lines(GOOD) + "{no\n" + lines(GOOD)).encode()), "row 2 (line 2)", "not JSON", 2),
        (
            "b.jsonl",
            written(b'\n{"text": "\xff"}\n' + lines(GOOD).encode()),
            "row 1 (line 2)",
            "0xff is not UTF-8",
            1,
        ),
        ("b.jsonl", written(lines([1], GOOD).encode()), "row 1 (line 1)", "expected an object", 1),
        ("b.jsonl", written(lines({"txt": "a"}, GOOD).encode()), "row 1 (line 1)", "did you mean 'txt'", 1),
        ("b.jsonl", written(lines({"text": None}, GOOD).encode()), "row 1 (line 1)", "expected a text", 1),
        ("b.jsonl", written(lines({"text": " "}, GOOD).encode()), "row 1 (line 1)", "the text is empty", 1),
        (
            "b.jsonl",
            written(b'{"text": "\\ud800"}\n' + lines(GOOD).encode()),
            "row 1 (line 1)",
            "surrogate",
            1,
        ),
        (
            "b.jsonl",
            written(b"[" * 100_000 + b"\n" + lines(GOOD).encode()),
            "row 1 (line 1)",
            "too deeply",
            1,
        ),
        ("b.txt", written(b"a\n\nb\nc\xe4d\n\ne"), "row 2 (line 4)", "0xe4 is not UTF-8", 2),
        ("b.txt", written(b""), "", "the file is empty", 0),
        ("b.parquet", written(b""), "", "the file is empty", 0),
        ("b.parquet", written(b"PAR1 no more"), "", "not a parquet file", 0),
        (
            "b.jsonl.gz",
            written(gzip.compress(lines(*[GOOD] * 9).encode(), mtime=0)[:-9]),
            "line",
            "cut off",
            None,
        ),
        ("b.txt", written("a".encode("utf-16")), "", "UTF-16", 0),
        ("b.txt", written(b"\n \t\n\n"), "", "no documents", 0),
        ("b.txt", written(codecs.BOM_UTF8), "", "no documents", 0),
        ("b.jsonl", written(b"\n\n"), "", "no documents", 0),
        ("b.jsonl.gz", written(gzip.compress(b"")), "", "no documents", 0),
        ("b.csv", written(b"text\n"), "", "no rows", 0),
        ("b.csv", written(b"text\ngood\n\xff\n"), "row 2 (line 3): byte 0xff", "is not UTF-8", 1),
        ("b.csv", written(b"txt\ngood\n"), "line 1", "did you mean 'txt'", 0),
        ("b.json", written(b'[{"text": "good"}, {"text": 3}]'), "row 2", "found 3, expected a text", 1),
        ("b.txt", vanished, "", "it has vanished", 0),
        ("b.parquet", vanished, "", "it has vanished", 0),
    ],
)
def test_what_is_broken_is_left_out_counted_and_listed(
    tmp_path: Path, name: str, spoil: Callable[[Path], None], place: str, message: str, left: int | None
) -> None:
    files = [tmp_path / "a.txt", tmp_path / name, tmp_path / "c.txt"]
    for file in files:
        file.write_text("before or after", encoding="utf-8")
    for strict in (False, True):
        files[1].write_text("before", encoding="utf-8")
        spoil(files[1])
        documents = Documents(files, DocumentSettings(strict=strict))
        if strict:
            with pytest.raises(InputError) as raised:
                list(documents)
            assert message in str(raised.value)
            assert "left out" not in str(raised.value)
            assert str(raised.value).startswith(f"{files[1]}, {place}" if place else f"{files[1]}")
            continue
        found = [one.text for one in documents if one.file == files[1]]
        assert left is None or len(found) == left
        assert [one.text for one in documents if one.file != files[1]] == ["before or after"] * 2
        assert documents.skipped == 1
        [problem] = documents.problems
        assert str(problem).startswith(f"{files[1]}, {place}" if place else f"{files[1]}: ")
        assert message in str(problem)
        assert documents.disturbed is (spoil is vanished)
        assert documents.bytes_read == documents.bytes_in_all


def test_a_file_without_line_ends_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST", 16)
    file = tmp_path / "a.txt"
    wordy = "wordy w\n" * 5
    file.write_text(f"one\n{'x' * 100}\ntwo\n\n{wordy}", encoding="utf-8")
    documents = Documents([file])
    assert [one.text for one in documents] == [
        "one",
        "two",
        "wordy w\nwordy w",
        "wordy w\nwordy w",
        "wordy w",
    ]
    assert [problem.line for problem in documents.problems] == [2]


def test_only_so_many_problems_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTED", 3)
    file = tmp_path / "a.jsonl"
    file.write_text("no\n" * 10, encoding="utf-8")
    documents = Documents([file])
    assert list(documents) == []
    assert (documents.skipped, len(documents.problems)) == (10, 3)


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    world=st.integers(1, 3),
    workers=st.integers(1, 3),
    gone=st.integers(0, 3),
)
def test_readers_share_without_overlap(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], world: int, workers: int, gone: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    expected = []
    for number, size in enumerate(sizes):
        rows = [{"text": f"{number}.{row}"} for row in range(size)]
        expected += [row["text"] for row in rows]
        (folder / f"{number}.jsonl").write_text("broken\n" + lines(*rows), encoding="utf-8")
    readers = [
        Documents(shards([folder]), rank=rank, world=world, worker=worker, workers=workers)
        for rank in range(world)
        for worker in range(workers)
    ]
    found = [one.text for reader in readers for one in reader]
    assert sorted(found) == sorted(expected)
    assert sum(reader.skipped for reader in readers) == len(sizes)
    # A file that only the last reader misses: what the others get stays what it was.
    first = [one.text for reader in readers[:-1] for one in reader]
    (folder / f"{gone % len(sizes)}.jsonl").unlink()
    rest = [one.text for one in readers[-1]]
    assert set(first).isdisjoint(rest)


def test_a_reader_that_is_none_of_them_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 2 of 2"):
        Documents([], rank=2, world=2)


def test_a_format_that_the_name_does_not_say(tmp_path: Path) -> None:
    rows = [{"content": "one"}, {"content": "two\nlines"}]
    whole, lines = tmp_path / "posts.txt", tmp_path / "posts.dump"
    whole.write_text(json.dumps(rows), encoding="utf-8")
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for file, format in ((whole, "json"), (lines, "jsonl")):
        settings = DocumentSettings.model_validate({"format": format, "text": "content"})
        documents = Documents(shards([file], any_name=True), settings)
        assert [one.text for one in documents] == ["one", "two\nlines"]
    with pytest.raises(InputError, match="unknown kind of file"):
        shards([lines])
