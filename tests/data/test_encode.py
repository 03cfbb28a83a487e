"""Rows to token ids: the same as direct tokenization, found again in the cache, and never a stale or damaged copy."""

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from manyheads.data.encode import EncodedRows, Place, TokenCache, encode_rows, file_fingerprint
from manyheads.data.read import Row, read_rows
from manyheads.encoder.tokenizer import SPECIAL, Tokenizer
from manyheads.errors import InputError
from manyheads.tasks.classification import Classification, ClassificationSettings
from manyheads.tasks.tagging import Tagging, TaggingSettings

WORDS = ["the", "film", "was", "good", "bad", "and", "long", "very", "short", "a", "story", "of"]
TEXTS = [" ".join(WORDS[number % 7 : number % 7 + 1 + number % 9]) for number in range(23)]


def tokenizer(*more: str) -> Tokenizer:
    return Tokenizer([*SPECIAL, *WORDS, *more])


def rows_of(texts: Sequence[Any], labels: Sequence[Any] | None = None, **columns: Sequence[Any]) -> list[Row]:
    found = []
    for number, text in enumerate(texts):
        values = {"text": text, **{name: column[number] for name, column in columns.items()}}
        if labels is not None:
            values["label"] = labels[number]
        found.append(Row(number + 1, number + 2, values))
    return found


def kind_of(columns: Sequence[str], apart: bool = False) -> Classification:
    """A kind that reads these columns, a pair packed or apart."""
    if len(columns) == 1:
        return Classification(ClassificationSettings(text=columns[0]))
    encode: Literal["siamese", "cross"] = "siamese" if apart else "cross"
    return Classification(ClassificationSettings(pair=(columns[0], columns[1]), encode=encode))


class Source:
    """A file of rows that counts how often it is read."""

    def __init__(self, rows: list[Row], name: str = "x.csv") -> None:
        self.rows, self.name, self.reads = rows, name, 0

    def __call__(self) -> Iterator[Row]:
        self.reads += 1
        return iter(self.rows)


def encode(*sources: Source, **settings: Any) -> EncodedRows:
    kind = kind_of(settings.pop("columns", ["text"]), settings.pop("apart", False))
    default: dict[str, Any] = {"kind": kind, "target": "label", "tokenizer": tokenizer(), "max_length": 8}
    return encode_rows([(source.name, source) for source in sources], **{**default, **settings})


def labelled(texts: Sequence[str] = TEXTS) -> Source:
    return Source(rows_of(texts, [str(number % 3) for number in range(len(texts))]))


def same(left: EncodedRows, right: EncodedRows) -> None:
    for name in ("ids", "segments", "lengths", "dropped", "counts"):
        one_array, other = getattr(left.layout, name), getattr(right.layout, name)
        assert one_array.dtype == other.dtype, name
        assert np.array_equal(one_array, other), name
    assert left.values == right.values
    assert left.places == right.places
    assert left.unlabelled == right.unlabelled
    assert left.inputs == right.inputs


@pytest.fixture
def cache(tmp_path: Path) -> TokenCache:
    return TokenCache(tmp_path / "cache")


# ---- what is encoded ----


def agrees(encoded: EncodedRows, direct: Any, rows: Sequence[int]) -> None:
    """`batch` gives what the tokenizer gives for these sequences, in this order."""
    batch = encoded.batch(np.array(rows, dtype=np.int64))
    ids, segments, lengths = batch.ids, batch.segments, batch.lengths
    k = int(encoded.layout.counts[0])
    assert batch.counts.tolist() == [k] * len(rows)
    which = [row * k + place for row in rows for place in range(k)]
    assert lengths.tolist() == [len(direct["input_ids"][number]) for number in which]
    assert ids.tolist() == [token for number in which for token in direct["input_ids"][number]]
    assert segments.tolist() == [kind for number in which for kind in direct["token_type_ids"][number]]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("rows", [[0], [22, 0, 7, 7], list(range(23))])
def test_single_texts(cache: TokenCache, cached: bool, rows: list[int]) -> None:
    encoded = encode(labelled(), cache=cache if cached else None, key=1)
    direct = tokenizer()(TEXTS, max_length=8)
    agrees(encoded, direct, rows)
    assert len(encoded) == 23
    assert encoded.lengths.tolist() == [len(ids) for ids in direct["input_ids"]]
    assert encoded.dropped.tolist() == encoded.layout.dropped.tolist() == direct["dropped"]
    assert encoded.truncated == sum(count > 0 for count in direct["dropped"]) > 0
    assert encoded.values == [str(number % 3) for number in range(23)]
    assert encoded.places[4] == Place("x.csv", 5, 6)
    assert encoded.unlabelled == []


@pytest.mark.parametrize("cached", [True, False])
def test_packed_pairs(cache: TokenCache, cached: bool) -> None:
    source = Source(rows_of(TEXTS, [1] * 23, other=TEXTS[::-1]))
    encoded = encode(source, columns=["text", "other"], cache=cache if cached else None, key=1)
    direct = tokenizer()(TEXTS, TEXTS[::-1], max_length=8)
    agrees(encoded, direct, [3, 1, 22])
    assert set(encoded.layout.segments.tolist()) == {0, 1}
    assert encoded.truncated == sum(count > 0 for count in direct["dropped"])


@pytest.mark.parametrize("cached", [True, False])
def test_pairs_apart(cache: TokenCache, cached: bool) -> None:
    source = Source(rows_of(TEXTS, [1] * 23, other=TEXTS[::-1]))
    encoded = encode(
        source,
        columns=["text", "other"],
        apart=True,
        cache=cache if cached else None,
        key=1,
    )
    direct = tokenizer()(
        [text for pair in zip(TEXTS, TEXTS[::-1], strict=True) for text in pair], max_length=8
    )
    agrees(encoded, direct, [3, 1, 22])
    sizes = [len(ids) for ids in direct["input_ids"]]
    assert encoded.lengths.tolist() == [sizes[2 * row] + sizes[2 * row + 1] for row in range(23)]
    cut = direct["dropped"]
    assert encoded.truncated == sum(cut[2 * row] + cut[2 * row + 1] > 0 for row in range(23))
    assert encoded.truncated < sum(count > 0 for count in cut)  # an example counts once


def test_more_rows_than_are_encoded_at_once(cache: TokenCache) -> None:
    texts = [TEXTS[number % 23] for number in range(2501)]
    same(encode(labelled(texts), cache=cache, key=1), encode(labelled(texts)))
    agrees(encode(labelled(texts)), tokenizer()(texts, max_length=8), [0, 999, 1000, 2000, 2500])


def test_several_files_are_one_split(cache: TokenCache) -> None:
    first, second = labelled(TEXTS[:5]), Source(rows_of(TEXTS[5:], ["0"] * 18), "y.csv")
    for encoded in (encode(first, second), encode(first, second, cache=cache, key=1)):
        agrees(encoded, tokenizer()(TEXTS, max_length=8), range(23))
        assert encoded.places[4] == Place("x.csv", 5, 6)
        assert encoded.places[5] == Place("y.csv", 1, 2)


def test_a_word_of_a_conll_file_has_a_line_of_its_own(cache: TokenCache, tmp_path: Path) -> None:
    """In memory, written into the cache and found there; beside a file whose rows have one line each."""
    path = tmp_path / "a.conll"
    path.write_text("\n\nthe O\nfilm O\n\n-DOCSTART- O\n\ngood B-X\nfilm I-X\nof O\n")
    other = Source([Row(1, 1, {"words": ["a", "film"], "tags": ["O", "O"]})], "b.jsonl")
    sources: list[tuple[str, Callable[[], Iterator[Row]]]] = [
        (str(path), lambda: read_rows(path)),
        (other.name, other),
    ]
    plain: dict[str, Any] = {"target": "tags", "tokenizer": tokenizer(), "max_length": 8}
    for _ in range(2):
        for settings in (plain, {**plain, "cache": cache, "key": 1}):
            encoded = encode_rows(sources, kind=Tagging(TaggingSettings()), **settings)
            assert [place.line for place in encoded.places] == [3, 8, 1]
            for place, lines in zip(encoded.places, [[3, 4], [8, 9, 10], [1, 1]], strict=True):
                assert [place.of_word(word).line for word in range(len(lines))] == lines
                assert place.of_word(None) == place
    assert other.reads == 3  # the cache had it the second time


def test_an_error_about_a_word_names_its_line(tmp_path: Path) -> None:
    class Refusing(Tagging):  # type: ignore[misc]
        def input(self, values: Any) -> Any:
            error = ValueError("word 3: found it")
            error.word = 2  # type: ignore[attr-defined]
            raise error

    path = tmp_path / "a.conll"
    path.write_text("\ngood B-X\nfilm I-X\nof O\n")
    for rows, line in ((lambda: read_rows(path), 4), (lambda: iter([Row(1, 2, {"words": ["a"]})]), 2)):
        with pytest.raises(InputError, match=rf"a\.conll, row 1 \(line {line}\): word 3: found it$"):
            encode_rows(
                [("a.conll", rows)],
                kind=Refusing(TaggingSettings()),
                target=None,
                tokenizer=tokenizer(),
                max_length=8,
            )


def test_a_split_without_labels(cache: TokenCache) -> None:
    for _ in range(2):
        encoded = encode(Source(rows_of(TEXTS)), target=None, cache=cache, key=1)
        assert encoded.values is None
        assert len(encoded) == 23


def test_numbers_are_written_out() -> None:
    agrees(encode(Source(rows_of([7, 1.5, "a"], [1, 1, 1]))), tokenizer()(["7", "1.5", "a"]), [0, 1, 2])


@pytest.mark.parametrize(("value", "seen"), [(None, "null"), (True, "True"), (["a"], r"\['a'\]"), ({}, "{}")])
def test_what_is_no_text(value: object, seen: str) -> None:
    with pytest.raises(
        InputError, match=rf"^x\.csv, row 2 \(line 3\), column 'text': found {seen}, expected a text"
    ):
        encode(Source(rows_of(["a", value], [1, 1])))


def test_no_rows() -> None:
    with pytest.raises(InputError, match=r"^x\.csv: no rows$"):
        encode(Source([]))
    with pytest.raises(InputError, match=r"^y\.csv: no rows$"):
        encode(labelled(), Source([], "y.csv"))


# ---- blank labels ----


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("blank", ["", "  ", None, "\t"])
def test_a_few_blank_labels_are_left_out_and_listed(cache: TokenCache, cached: bool, blank: object) -> None:
    texts = [TEXTS[number % 23] for number in range(200)]
    labels: list[Any] = ["0"] * 200
    labels[3] = labels[150] = blank
    encoded = encode(Source(rows_of(texts, labels)), cache=cache if cached else None, key=1)
    assert len(encoded) == len(encoded.values or []) == 198
    assert encoded.unlabelled == [Place("x.csv", 4, 5), Place("x.csv", 151, 152)]
    assert [place.row for place in encoded.places] == [row for row in range(1, 201) if row not in (4, 151)]
    agrees(
        encoded, tokenizer()([texts[place.row - 1] for place in encoded.places], max_length=8), [2, 3, 197]
    )


def test_too_many_blank_labels_name_the_first_row() -> None:
    labels = ["0"] * 200
    labels[3] = labels[150] = labels[7] = ""
    with pytest.raises(InputError) as error:
        encode(Source(rows_of([TEXTS[0]] * 200, labels)))
    assert str(error.value).startswith(
        "x.csv, row 4 (line 5), column 'label': no label; 3 of 200 rows have none"
    )
    more = encode(Source(rows_of([TEXTS[0]] * 200, labels)), blank_labels=0.02)
    assert len(more) == 197


def test_each_file_has_its_own_share_of_blanks() -> None:
    good = Source(rows_of([TEXTS[0]] * 500, ["0"] * 500))
    bad = Source(rows_of([TEXTS[0]] * 10, ["0"] * 9 + [""]), "y.csv")
    with pytest.raises(
        InputError, match=r"^y\.csv, row 10 \(line 11\), column 'label': no label; 1 of 10 rows"
    ):
        encode(good, bad)


def test_none_allowed_means_none() -> None:
    with pytest.raises(InputError, match="1 of 200 rows have none"):
        encode(Source(rows_of([TEXTS[0]] * 200, ["0"] * 199 + [""])), blank_labels=0.0)


def test_nothing_but_blank_labels() -> None:
    with pytest.raises(InputError, match=r"^x\.csv: no rows$"):
        encode(Source(rows_of(["a"] * 3, [""] * 3)), blank_labels=1.0)


@pytest.mark.parametrize("value", [0, 0.0, False, math.nan, "0"])
def test_a_false_value_is_not_blank(value: object) -> None:
    assert len(encode(Source(rows_of(["a", "a"], [value, value])))) == 2


# ---- the cache ----


def test_the_second_time_nothing_is_read(cache: TokenCache) -> None:
    source = labelled()
    first = encode(source, cache=cache, key="content")
    second = encode(source, cache=cache, key="content")
    assert source.reads == 1
    same(first, second)
    same(first, encode(source))
    assert isinstance(second.layout.ids, np.memmap)


def test_the_name_of_the_file_does_not_matter(cache: TokenCache) -> None:
    source = labelled()
    encode(source, cache=cache, key="content")
    source.name = "moved.csv"
    assert encode(source, cache=cache, key="content").places[0] == Place("moved.csv", 1, 2)
    assert source.reads == 1


@pytest.mark.parametrize(
    "change",
    [
        {"key": "other content"},
        {"key": {"content": 1}},
        {"max_length": 9},
        {"tokenizer": tokenizer("more")},
        {"tokenizer": Tokenizer([*SPECIAL, *WORDS], lowercase=False)},
        {"columns": ["other"]},
        {"target": None},
        {"target": "other"},
        {"blank_labels": 0.5},
    ],
    ids=lambda change: ", ".join(change),
)
def test_whatever_decides_the_tokens_is_part_of_the_key(cache: TokenCache, change: dict[str, Any]) -> None:
    source = Source(rows_of(TEXTS, ["0"] * 23, other=TEXTS[::-1]))
    usual: dict[str, Any] = {"cache": cache, "key": "content"}
    before = encode(source, **usual)
    after = encode(source, **{**usual, **change})
    assert source.reads == 2
    same(after, encode(source, **change))
    same(encode(source, **usual), before)  # both are kept
    assert source.reads == 3


def test_without_a_key_nothing_is_kept(cache: TokenCache) -> None:
    source = labelled()
    encode(source, cache=cache)
    encode(source, cache=cache)
    assert source.reads == 2
    assert not cache.folder.exists()


def entry(cache: TokenCache) -> Path:
    """The one folder in the cache; nothing else is left lying there."""
    (found,) = cache.folder.iterdir()
    return found


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def garbage(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size + 3))


def wrong_json(file: Path) -> None:
    file.write_bytes(json.dumps({"places": 3}).encode())


@pytest.mark.parametrize(
    "name", ["ids.bin", "segments.bin", "lengths.npy", "dropped.npy", "counts.npy", "table.json"]
)
@pytest.mark.parametrize("damage", [cut, empty, garbage, wrong_json, Path.unlink])
def test_a_damaged_entry_is_made_anew(cache: TokenCache, name: str, damage: Callable[[Path], None]) -> None:
    source = labelled()
    before = encode(source)
    encode(source, cache=cache, key=1)
    damage(entry(cache) / name)
    same(encode(source, cache=cache, key=1), before)
    assert source.reads == 3
    same(encode(source, cache=cache, key=1), before)
    assert source.reads == 3
    assert sorted(os.listdir(entry(cache))) == [
        "counts.npy",
        "dropped.npy",
        "ids.bin",
        "lengths.npy",
        "segments.bin",
        "table.json",
    ]


@pytest.mark.parametrize("name", ["", "deeper/still"])
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no folder")
    source = labelled()
    for _ in range(2):
        same(encode(source, cache=TokenCache(tmp_path / "file" / name), key=1), encode(source))
    assert source.reads == 4
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_file_where_the_entry_should_be(cache: TokenCache) -> None:
    source = labelled()
    encode(source, cache=cache, key=1)
    place = entry(cache)
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
    place.write_text("in the way")
    same(encode(source, cache=cache, key=1), encode(source))


def test_an_error_leaves_nothing_behind(cache: TokenCache) -> None:
    with pytest.raises(InputError):
        encode(Source(rows_of(["a", None], [1, 1])), cache=cache, key=1)
    assert list(cache.folder.iterdir()) == []


def test_an_interrupted_run_leaves_nothing_to_be_found(cache: TokenCache) -> None:
    def stopped() -> Iterator[Row]:
        yield from rows_of(TEXTS, ["0"] * 23)
        raise KeyboardInterrupt

    source = labelled()
    source_rows: Any = stopped
    with pytest.raises(KeyboardInterrupt):
        encode_rows(
            [("x.csv", source_rows)],
            kind=kind_of(["text"]),
            target="label",
            tokenizer=tokenizer(),
            max_length=8,
            cache=cache,
            key=1,
        )
    assert list(cache.folder.iterdir()) == []
    same(encode(source, cache=cache, key=1), encode(source))


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYHEADS_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert TokenCache().folder == tmp_path / "a" / "tokens"
    assert TokenCache(tmp_path / "c").folder == tmp_path / "c" / "tokens"
    monkeypatch.delenv("MANYHEADS_CACHE")
    assert TokenCache().folder == tmp_path / "b" / "manyheads" / "tokens"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert TokenCache().folder == tmp_path / ".cache" / "manyheads" / "tokens"


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
        (tmp_path / name).write_bytes(content)
    assert file_fingerprint(tmp_path / "a") == file_fingerprint(tmp_path / "b")
    assert file_fingerprint(tmp_path / "a") != file_fingerprint(tmp_path / "c")
    with pytest.raises(InputError, match="none: no such file"):
        file_fingerprint(tmp_path / "none")
    with pytest.raises(InputError, match="is a folder, expected a file"):
        file_fingerprint(tmp_path)
