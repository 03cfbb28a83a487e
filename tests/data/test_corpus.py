"""The corpus on disk, its cache, its chunks, and the spans that training reads, each against a plain reckoning."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from manyheads.data import corpus as module
from manyheads.data.corpus import Chunks, Corpus, Pairs, Places, build_corpus
from manyheads.data.documents import DocumentSettings
from manyheads.data.encode import TokenCache
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError

WORDS = [f"w{number}" for number in range(4000)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CLS, SEP, FIRST = 2, 3, 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer([*SPECIAL, *WORDS])


def counted(
    sizes: list[list[int]], folder: Path, tokenizer: Tokenizer, cache: TokenCache | None = None
) -> Corpus:
    """A corpus whose token at place p is word p: documents of sentences of so many words."""
    words, rows = iter(WORDS), []
    for document in sizes:
        rows.append("\n".join(" ".join(next(words) for _ in range(size)) for size in document))
    file = folder / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return build_corpus([file], tokenizer, language="lines", cache=cache)


SIZES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=2, max_size=6)


def places(sizes: list[list[int]]) -> tuple[list[int], list[int]]:
    """Where sentences begin, and documents, in tokens; with the end."""
    starts = np.concatenate([[0], np.cumsum([size for document in sizes for size in document])])
    documents = np.concatenate([[0], np.cumsum([sum(document) for document in sizes])])
    return starts.tolist(), documents.tolist()


# ---- building ----


def test_a_document_comes_back_as_the_tokens_of_its_sentences(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "a.txt"
    # The second sentence and the third document have no tokens at all.
    file.write_text("w1 w2. W3!\n\x01\nw4 nothing.\n\n\x02\n\nw5", encoding="utf-8")
    corpus = build_corpus([file], tokenizer, language="lines")
    expected = [["w1 w2. W3!", "w4 nothing."], ["w5"]]
    assert (corpus.documents, corpus.sentences) == (2, 3)
    for number, texts in enumerate(expected):
        ids = [one[1:-1] for one in tokenizer(texts).input_ids]
        assert [one.tolist() for one in corpus.document(number)] == ids
    assert corpus.tokens == sum(len(one) for number in range(2) for one in corpus.document(number))
    assert corpus.ids.dtype == np.uint16
    folder = corpus.folder
    del corpus
    assert not folder.exists()  # without a cache it goes with the object


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, at_once=st.integers(1, 9))
def test_documents_end_where_they_end_however_the_text_is_cut(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, sizes: list[list[int]], at_once: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("manyheads.encoder.tokenizer.TEXTS_AT_ONCE", at_once)
        corpus = counted(sizes, tmp_path_factory.mktemp("corpus"), tokenizer)
    sentences, documents = places(sizes)
    assert corpus.sentence_starts.tolist() == sentences
    assert corpus.sentence_starts[corpus.document_starts].tolist() == documents
    assert corpus.ids.tolist() == list(range(FIRST, FIRST + sentences[-1]))


def test_a_large_vocabulary_takes_wider_ids(tmp_path: Path) -> None:
    tokenizer = Tokenizer([*SPECIAL, *(f"w{number}" for number in range(70_000))])
    file = tmp_path / "a.txt"
    file.write_text("w69999 w1", encoding="utf-8")
    corpus = build_corpus([file], tokenizer)
    assert corpus.ids.dtype == np.int32
    assert corpus.ids.tolist() == [70_004, 6]


def test_it_is_found_again_by_content(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = TokenCache(tmp_path / "cache")
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "w1. w2."}\nbroken\n{"text": "w3"}\n', encoding="utf-8")
    seen: list[tuple[int, int]] = []
    first = build_corpus([file], tokenizer, cache=cache, progress=lambda *told: seen.append(told))
    assert seen == sorted(seen)
    assert seen[-1] == (file.stat().st_size, file.stat().st_size)
    moved = file.rename(tmp_path / "b.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(module, "Documents", None)
        again = build_corpus([moved], tokenizer, cache=cache)
    assert again.folder == first.folder
    assert (again.documents, again.skipped) == (2, 1)
    assert str(again.problems[0]).startswith(f"{moved}, row 2 (line 2): not JSON")
    with pytest.raises(InputError, match="not JSON"):
        build_corpus([moved], tokenizer, DocumentSettings(strict=True), cache=cache)
    others = [
        build_corpus([moved], Tokenizer([*SPECIAL, "w1"]), cache=cache),
        build_corpus([moved], tokenizer, language="lines", cache=cache),
    ]
    moved.write_text('{"text": "w1. w4."}\n', encoding="utf-8")
    others.append(build_corpus([moved], tokenizer, cache=cache))
    assert len({one.folder for one in [first, *others]}) == 4


def test_a_damaged_folder_is_made_anew(tmp_path: Path, tokenizer: Tokenizer) -> None:
    cache = TokenCache(tmp_path / "cache")
    first = counted([[3, 2], [2]], tmp_path, tokenizer, cache)
    ids = first.ids.tolist()
    with (first.folder / "ids.bin").open("r+b") as file:
        file.truncate(4)
    again = counted([[3, 2], [2]], tmp_path, tokenizer, cache)
    assert again.folder == first.folder
    assert again.ids.tolist() == ids


def test_what_fails_leaves_nothing_behind(tmp_path: Path, tokenizer: Tokenizer) -> None:
    cache = TokenCache(tmp_path / "cache")
    file = tmp_path / "a.txt"
    file.write_text("w1\n\nw2", encoding="utf-8")

    def stop(read: int, whole: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_corpus([file], tokenizer, cache=cache, progress=stop)
    file.write_text(" \n", encoding="utf-8")
    with pytest.raises(InputError, match="no documents with any text"):
        build_corpus([file], tokenizer, cache=cache)
    assert list((tmp_path / "cache" / "corpora").iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from manyheads.data.corpus import build_corpus
from manyheads.data.encode import TokenCache
from manyheads.encoder.tokenizer import Tokenizer
folder = Path(sys.argv[1])
tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "w1"])
kill = lambda *told: os.kill(os.getpid(), signal.SIGKILL)
build_corpus([folder / "a.txt"], tokenizer, cache=TokenCache(folder / "cache"), progress=kill)
"""


def test_a_killed_process_leaves_nothing_that_is_taken_for_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w1 w1", encoding="utf-8")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=100, check=False)
    assert ended.returncode == -signal.SIGKILL
    left = list((tmp_path / "cache" / "corpora").iterdir())
    assert [path.name.startswith(".") for path in left] == [True]
    tokenizer = Tokenizer([*SPECIAL, "w1"])
    corpus = build_corpus([tmp_path / "a.txt"], tokenizer, cache=TokenCache(tmp_path / "cache"))
    assert corpus.tokens == 2
    assert list((tmp_path / "cache" / "corpora").iterdir()) == [corpus.folder]


def test_a_shard_that_vanishes_is_not_kept_as_the_whole_corpus(tmp_path: Path, tokenizer: Tokenizer) -> None:
    cache = TokenCache(tmp_path / "cache")
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(3):
        (shards / f"{number}.txt").write_text(f"w{number}", encoding="utf-8")
    gone = shards / "2.txt"

    def vanish(read: int, whole: int) -> None:
        gone.unlink(missing_ok=True)

    corpus = build_corpus([shards], tokenizer, cache=cache, progress=vanish)
    assert (corpus.documents, corpus.skipped) == (2, 1)
    assert str(corpus.problems[0]) == f"{gone}: cannot be read: it has vanished"
    gone.write_text("w2", encoding="utf-8")
    assert build_corpus([shards], tokenizer, cache=cache).documents == 3


def test_where_the_cache_cannot_be_written_it_is_built_all_the_same(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (tmp_path / "cache").touch()
    corpus = counted([[2], [3]], tmp_path, tokenizer, TokenCache(tmp_path / "cache"))
    assert corpus.tokens == 5
    assert len(corpus.chunks(4)) == 2


# ---- chunks ----


def packed(sizes: list[list[int]], most: int) -> list[tuple[int, int]]:
    """Chunks as (first token, one beyond the last): sentences are added as long as they fit."""
    found, place = [], 0
    for document in sizes:
        pieces = [min(most, size - at) for size in document for at in range(0, size, most)]
        begin = place
        for piece in pieces:
            if place + piece - begin > most:
                found.append((begin, place))
                begin = place
            place += piece
        found.append((begin, place))
    return found


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, most=st.integers(2, 12), at_once=st.integers(1, 8))
def test_chunks_are_packed_as_by_hand(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: Tokenizer,
    sizes: list[list[int]],
    most: int,
    at_once: int,
) -> None:
    corpus = counted(sizes, tmp_path_factory.mktemp("corpus"), tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_AT_ONCE", at_once)
        chunks = corpus.chunks(most)
    expected = packed(sizes, most)
    found = list(zip(chunks.bounds[chunks.first], chunks.bounds[chunks.beyond], strict=True))
    assert found == expected
    assert chunks.every().at(np.arange(len(chunks))).tolist() == [*range(len(expected))]
    documents = places(sizes)[1]
    owners = np.searchsorted(documents, [start for start, _ in expected], "right") - 1
    assert chunks.documents(np.arange(len(chunks))).tolist() == owners.tolist()
    again = corpus.chunks(most)  # found, not made
    assert again.bounds.tolist() == chunks.bounds.tolist()
    assert sorted(path.name for path in corpus.folder.iterdir() if path.is_dir()) == [f"chunks-{most}"]


def test_too_small_a_chunk_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    corpus = counted([[2], [2]], tmp_path, tokenizer)
    with pytest.raises(ValueError, match="max_tokens 1"):
        corpus.chunks(1)
    with pytest.raises(ValueError, match="room 0"):
        corpus.chunks(2).single(np.arange(2), 0)
    with pytest.raises(ValueError, match="room 1"):
        corpus.chunks(2).pair(np.arange(2), 1, np.random.default_rng(0))


# ---- spans ----


def sequences(ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> list[list[int]]:
    return [one.tolist() for one in np.split(ids, np.cumsum(lengths)[:-1])]


def test_single_spans_are_cut_at_the_end_and_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    chunks = counted([[3, 4], [2]], tmp_path, tokenizer).chunks(7)
    layout = chunks.single(np.array([1, 0]), 5)
    assert sequences(layout.ids, layout.lengths) == [[CLS, 12, 13, SEP], [CLS, 5, 6, 7, 8, 9, SEP]]
    assert layout.dropped.tolist() == [0, 2]
    assert layout.counts.tolist() == [1, 1]
    assert not layout.segments.any()
    assert layout.ids.dtype == np.int32
    assert layout.segments.dtype == np.uint8


def spans(pairs: Pairs) -> list[tuple[range, range, int]]:
    """Of each pair the places of A and of B in the corpus, and the tokens lost; checks how it is laid out."""
    layout, found = pairs.layout, []
    segments = np.split(layout.segments, np.cumsum(layout.lengths)[:-1])
    for ids, segment, lost in zip(
        sequences(layout.ids, layout.lengths), segments, layout.dropped, strict=True
    ):
        assert (ids[0], ids[-1], ids.count(SEP), ids.count(CLS)) == (CLS, SEP, 2, 1)
        middle = ids.index(SEP)
        assert segment.tolist() == [0] * (middle + 1) + [1] * (len(ids) - middle - 1)
        a, b = ids[1:middle], ids[middle + 1 : -1]
        assert a == list(range(a[0], a[0] + len(a)))
        assert b == list(range(b[0], b[0] + len(b)))
        found.append(
            (range(a[0] - FIRST, a[-1] + 1 - FIRST), range(b[0] - FIRST, b[-1] + 1 - FIRST), int(lost))
        )
    return found


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, most=st.integers(2, 12), seed=st.integers(0, 999))
def test_pairs_are_what_they_say(
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: Tokenizer,
    sizes: list[list[int]],
    most: int,
    seed: int,
) -> None:
    chunks = counted(sizes, tmp_path_factory.mktemp("corpus"), tokenizer).chunks(most)
    every = chunks.pairable()
    rows = every.at(np.arange(len(every)))
    documents = np.array(places(sizes)[1])
    lonely = {place for place, size in zip(documents.tolist(), map(sum, sizes), strict=False) if size == 1}
    expected = packed(sizes, most)
    assert rows.tolist() == [row for row, (start, _) in enumerate(expected) if start not in lonely]
    if not len(rows):
        return
    bounds = chunks.bounds.tolist()
    pairs = chunks.pair(rows, most + 2, np.random.default_rng(seed))
    again = chunks.pair(rows, most + 2, np.random.default_rng(seed))
    assert again.layout.ids.tolist() == pairs.layout.ids.tolist()
    for row, follows, (a, b, lost) in zip(rows, pairs.follows, spans(pairs), strict=True):
        start, end = expected[row]
        own, other = (int(np.searchsorted(documents, side.start, "right")) for side in (a, b))
        assert documents[own - 1] <= a.start < a.stop <= documents[own]
        assert documents[other - 1] <= b.start < b.stop <= documents[other]
        assert lost == 0 or not follows
        if end - start > 1 and not lost:
            assert a.start == start
            inner = [place for place in bounds if start < place < end]
            assert a.stop in inner or not inner
        if follows:
            assert (b.start, b.stop) == (a.stop, end) or end - start == 1
        else:
            assert own != other
            if not lost:
                assert b.start in bounds
                assert b.stop in bounds
                before = bounds[
                    bounds.index(b.stop) - 1
                ]  # without its last sentence it is no longer than the rest
                assert before == b.start or before - b.start <= end - a.stop


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Chunks:
    sizes = np.random.default_rng(0).integers(1, 9, (12, 60)).tolist()
    return counted(sizes, tmp_path_factory.mktemp("large"), tokenizer).chunks(40)


def test_half_of_the_pairs_follow_and_cuts_and_documents_are_even(large: Chunks) -> None:
    count, row = 20_000, 5
    rows = np.full(count, row)
    pairs = large.pair(rows, 1000, np.random.default_rng(1))
    follows = int(pairs.follows.sum())
    assert stats.binomtest(follows, count, 0.5).pvalue > 1e-4
    found, kept = spans(pairs), pairs.follows.tolist()
    assert not any(lost for _, _, lost in found)
    ends = [a.stop for a, _, _ in found]
    inner = large.bounds[large.first[row] + 1 : large.beyond[row]]
    followed = np.array([a.stop for (a, _, _), one in zip(found, kept, strict=True) if one])
    assert set(ends) <= set(inner.tolist())
    assert stats.chisquare([int((followed == place).sum()) for place in inner]).pvalue > 1e-4
    begun = np.array([b.start for (_, b, _), one in zip(found, kept, strict=True) if not one])
    own = int(large.documents(np.array([row]))[0])
    documents = np.searchsorted(large.bounds[large._documents], begun, "right") - 1
    assert own not in documents
    counts = np.bincount(documents, minlength=12)
    assert stats.chisquare(np.delete(counts, own)).pvalue > 1e-4


def test_what_is_too_long_loses_tokens_at_both_ends_of_the_longer_span(large: Chunks) -> None:
    rows = np.tile(np.arange(len(large)), 4)
    whole = large.pair(rows, 1000, np.random.default_rng(2))
    cut = large.pair(rows, 12, np.random.default_rng(2))
    assert cut.follows.tolist() == whole.follows.tolist()
    front = back = 0
    for (a, b, lost), (long_a, long_b, none), follows in zip(
        spans(cut), spans(whole), cut.follows, strict=True
    ):
        assert none == 0
        assert len(a) + len(b) <= 12
        if not follows:  # a random B is chosen with an eye to the room
            continue
        assert lost == max(0, len(long_a) + len(long_b) - 12)
        assert len(a) + len(b) == min(12, len(long_a) + len(long_b))
        for short, long in ((a, long_a), (b, long_b)):
            assert long.start <= short.start < short.stop <= long.stop
            assert len(short) >= min(len(long), 6)
            front, back = front + short.start - long.start, back + long.stop - short.stop
    assert front + back > 100
    assert stats.binomtest(front, front + back, 0.5).pvalue > 1e-4


def test_length_tells_little_of_what_a_pair_is(large: Chunks) -> None:
    rows = np.tile(np.arange(len(large)), 40)
    pairs = large.pair(rows, 40, np.random.default_rng(3))
    lengths = pairs.layout.lengths
    right = max(((lengths > edge) == pairs.follows).mean() for edge in range(5, 45))
    assert right < 0.7  # a B that always fills the room would be told by its length nearly everywhere


def test_one_document_makes_no_pairs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    chunks = counted([[3, 4]], tmp_path, tokenizer).chunks(10)
    with pytest.raises(InputError, match="found one document, expected two or more"):
        chunks.pair(np.array([0]), 10, np.random.default_rng(0))


def test_a_document_of_one_token_makes_no_pair(tmp_path: Path, tokenizer: Tokenizer) -> None:
    chunks = counted([[3, 4], [1]], tmp_path, tokenizer).chunks(10)
    pairable = chunks.pairable()
    assert len(pairable) == 1
    assert pairable.at(np.arange(1)).tolist() == [0]
    with pytest.raises(InputError, match="single token"):
        chunks.pair(np.array([1]), 10, np.random.default_rng(0))


@given(st.integers(0, 60), st.sets(st.integers(0, 59)))
def test_places_are_the_numbers_that_are_left(count: int, left_out: set[int]) -> None:
    gone = sorted(number for number in left_out if number < count)
    places = Places(count, np.array(gone, np.int64))
    expected = [number for number in range(count) if number not in left_out]
    assert len(places) == len(expected)
    assert places.at(np.arange(len(places))).tolist() == expected
    assert places.at(np.arange(len(places))[::-2]).tolist() == expected[::-2]


def test_what_pairs_can_take_is_found_piece_by_piece(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [[1], [3, 9, 1], [1], [1, 1], [12], [1]]
    found = []
    for at_once in (1, 3, 1 << 18):
        monkeypatch.setattr(module, "_AT_ONCE", at_once)
        folder = tmp_path / str(at_once)
        folder.mkdir()
        chunks = counted(sizes, folder, tokenizer).chunks(4)
        places = chunks.pairable()
        found.append(places.at(np.arange(len(places))).tolist())
    owners = chunks.documents(np.arange(len(chunks))).tolist()
    assert found == [[row for row, owner in enumerate(owners) if sum(sizes[owner]) > 1]] * 3


def test_no_rows_are_no_sequences(large: Chunks) -> None:
    none = np.zeros(0, np.int64)
    assert len(large.single(none, 5)) == 0
    assert len(large.pair(none, 5, np.random.default_rng(0)).layout) == 0


def test_memory_mapped_not_read(large: Chunks) -> None:
    assert isinstance(large.corpus.ids, np.memmap)
    assert isinstance(large.bounds, np.memmap)
    assert os.path.samefile(large.bounds.filename or "", large.corpus.folder / "chunks-40" / "bounds.bin")


# ---- parts and cleaning ----


def test_parts_are_told_by_the_text_and_make_up_the_whole(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file, turned = tmp_path / "a.txt", tmp_path / "b.txt"
    texts = [f"w{2 * number} w{2 * number + 1}" for number in range(300)]
    file.write_text("\n\n".join(texts), encoding="utf-8")
    turned.write_text("\n\n".join(reversed(texts)), encoding="utf-8")
    shares = {"dev": 0.2, "test": 0.1}
    parts = {name: build_corpus([file], tokenizer, part=(name, shares)) for name in ("train", "dev", "test")}
    ids = {name: set(corpus.ids.tolist()) for name, corpus in parts.items()}
    assert sum(corpus.documents for corpus in parts.values()) == 300
    assert len(set.union(*ids.values())) == sum(map(len, ids.values())) == 600
    low, high = stats.binom.interval(1 - 1e-9, 300, 0.2)
    assert low <= parts["dev"].documents <= high
    other = build_corpus([turned], tokenizer, part=("dev", shares))
    assert set(other.ids.tolist()) == ids["dev"]


def test_lines_are_cleaned_one_by_one(tmp_path: Path) -> None:
    own = Tokenizer([*SPECIAL, "在", "台", "湾", "好", "http"])
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "在臺灣 http://t.cn/x\n好"}), encoding="utf-8")
    plain = build_corpus([file], own, language="lines")
    clean = build_corpus([file], own, language="lines", clean="weibo")
    assert [own.id_to_token(int(one)) for one in clean.ids] == ["在", "台", "湾", "好"]
    assert clean.sentences == 2
    assert len(plain.ids) > len(clean.ids)
