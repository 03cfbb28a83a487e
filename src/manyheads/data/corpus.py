"""A corpus as token ids on disk: sentences end to end, made once and found again, and spans of them.

Knows documents, sentences and token ids. Must not know losses, masks or models.

Everything that grows with the corpus lies in memory-mapped files, so that memory does not. They can be read at any
place at once; batches may therefore be drawn from anywhere in any order, and a shuffle in a window is not needed. Spans
of a batch are a function of the corpus, the rows asked for and the generator given, and of nothing else.
"""

import errno
import hashlib
import json
import os
import shutil
import socket
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from threading import get_ident
from typing import Any, BinaryIO, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from manyheads.data.documents import Document, Documents, DocumentSettings, Problem, kind_of, shards
from manyheads.data.encode import TokenCache, file_fingerprint
from manyheads.data.select import part_of
from manyheads.data.sentences import Language, sentences
from manyheads.encoder import clean as cleaners
from manyheads.encoder.layout import Layout
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.files import reporting, write_json

__all__ = ["Chunks", "Corpus", "Pairs", "Part", "Places", "build_corpus", "in_part"]

_LAYOUT = 2  # raise when what is written below, or how sentences are cut, changes
_PACKED = "bounds", "documents", "chunks", "alone"  # files of a packing
_AT_ONCE = 1 << 18  # sentences that are packed at once

Int64s = NDArray[np.int64]
Part = tuple[str, Mapping[str, float]]
"""Some of the documents: which part, and the shares of all parts but `train`."""
Progress = Callable[[int, int], None]


def build_corpus(
    sources: Sequence[Path],
    tokenizer: Tokenizer,
    settings: DocumentSettings | None = None,
    *,
    language: Language = "auto",
    clean: cleaners.Cleaner | None = None,
    part: Part | None = None,
    listed: bool = False,
    cache: TokenCache | None = None,
    progress: Progress | None = None,
) -> "Corpus":
    """The corpus in some files and folders, or the one found in the cache.

    `clean` names how each line is cleaned (`encoder.clean.Cleaner`). `part` takes some of the documents, told by their
    text: (`train`, {`dev`: 0.01}) all but those that are held out for `dev`, (`dev`, {`dev`: 0.01}) these alone.
    `listed` says that the sources are what `shards` has found: one that has gone since is told of, not refused.

    It is found again where the files' content, all these settings and the tokenizer are the same, whatever the
    files are called and wherever they lie. Without a cache, or where it cannot be written, it lies in a temporary
    folder that goes with the object. `progress` is told (bytes read, bytes in all) as the files are read.

    Raises:
        InputError: no documents at all, or with `settings.strict` the first broken one.
        WorkError: the disk is full.
    """
    settings = settings or DocumentSettings()
    files = list(sources) if listed else shards(sources, any_name=settings.format != "auto")
    named = {"layout": _LAYOUT, "settings": settings.model_dump(exclude={"strict"}), "language": language}
    kinds = [kind_of(file, settings) for file in files]
    named |= {
        "tokenizer": tokenizer.fingerprint,
        "files": [_fingerprint(file) for file in files],
        "kinds": kinds,
    }
    named |= {} if clean is None else {"clean": [clean, cleaners.RULES]}
    named |= {} if part is None else {"part": [part[0], dict(part[1])]}
    before = [_state(file) for file in files]
    key = _digest(named)
    home = None if cache is None else cache.folder.parent / "corpora"
    if home is not None and (found := _opened(home / key, files)) is not None:
        if settings.strict and found.problems:
            raise found.problems[0].error()
        return found
    folder, kept = _new_folder(home, key)
    try:
        documents = Documents(files, settings)
        with reporting(folder):
            _write(folder, documents, tokenizer, language, clean, part, progress)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if home is None or not kept:
        corpus = _opened(folder, files)
        assert corpus is not None
        weakref.finalize(corpus, shutil.rmtree, folder, ignore_errors=True)
        return corpus
    if documents.disturbed or before != [_state(file) for file in files]:
        # What was read is not what the key stands for. The same problems get the same folder, not one more each time.
        key = _digest([key, "disturbed", [str(problem) for problem in documents.problems]])
        shutil.rmtree(home / key, ignore_errors=True)
    return _keep(folder, home / key, files)


def in_part(text: str, part: Part) -> bool:
    """Whether a document, cleaned, belongs to a part: white space tells none apart, nor what is cleaned away."""
    return part_of([" ".join(text.split())], part[1]) == part[0]


def _fingerprint(file: Path) -> str:
    with suppress(InputError):  # it cannot be read: the documents will say so
        return file_fingerprint(file)
    return "absent"


def _state(file: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = file.stat()
        return status.st_size, status.st_mtime_ns
    return None


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _new_folder(home: Path | None, key: str) -> tuple[Path, bool]:
    """A fresh folder to write into, and whether it lies in the cache."""
    if home is not None:
        with suppress(OSError):
            home.mkdir(parents=True, exist_ok=True)
            return _beside(home / key), True
    return Path(tempfile.mkdtemp(prefix="manyheads-corpus-")), False


def _beside(path: Path) -> Path:
    """A fresh folder to be renamed to `path`; what processes that were killed have left there goes."""
    host = socket.gethostname()
    for left in path.parent.glob(f".{path.name}.part-{host}-*"):
        if not _alive(int(left.name.rpartition("-")[2])):
            shutil.rmtree(left, ignore_errors=True)
    beside = path.parent / f".{path.name}.part-{host}-{get_ident()}-{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    return beside


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


def _keep(folder: Path, path: Path, files: Sequence[Path]) -> "Corpus":
    """Give a written folder its name; where another process was faster, its folder is used."""
    if (found := _opened(path, files)) is None:
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            os.replace(folder, path)
        found = _opened(path, files)
    if found is None:  # something else stands there: use what was written where it is
        found = _opened(folder, files)
        assert found is not None
        return found
    shutil.rmtree(folder, ignore_errors=True)
    return found


# ---- writing ----


def _put(file: BinaryIO, array: NDArray[Any]) -> None:
    file.write(np.ascontiguousarray(array).data)


def _write(
    folder: Path,
    documents: Documents,
    tokenizer: Tokenizer,
    language: Language,
    clean: cleaners.Cleaner | None,
    part: Part | None,
    progress: Progress | None,
) -> None:
    """ids.bin, sentences.bin (where each begins, and the end), documents.bin (the same in sentences), table.json."""
    given = 0  # sentences handed to the tokenizer
    ends = list[int]()  # after how many of them a document ends, as far as they are not written yet
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32)

    def texts() -> Iterator[str]:
        nonlocal given
        one: Document
        for one in documents:
            text = cleaners.by_line(one.text, clean)
            if part is not None and not in_part(text, part):
                continue
            for sentence in sentences(text, language):
                given += 1
                yield sentence
            ends.append(given)
            if progress is not None:
                progress(documents.bytes_read, documents.bytes_in_all)

    taken = written = tokens = last = count = 0
    with (
        (folder / "ids.bin").open("wb") as ids_file,
        (folder / "sentences.bin").open("wb") as sentences_file,
        (folder / "documents.bin").open("wb") as documents_file,
    ):
        zero = np.zeros(1, np.int64)
        _put(sentences_file, zero)
        _put(documents_file, zero)
        for piece in tokenizer.encode_stream(texts()):
            stops = np.cumsum(piece.lengths, dtype=np.int64)
            inside = np.ones(len(piece.ids), np.bool_)
            inside[stops - piece.lengths] = inside[stops - 1] = False  # [CLS] and [SEP]
            _put(ids_file, piece.ids[inside].astype(dtype))
            lengths = piece.lengths - 2
            kept = lengths > 0  # a sentence of nothing but control characters has no token
            places = tokens + np.cumsum(lengths[kept], dtype=np.int64)
            _put(sentences_file, places)
            tokens += int(lengths.sum(dtype=np.int64))
            # Documents that end in this piece, counted in the sentences that are kept.
            ready = bisect_right(ends, taken + len(lengths))
            where = written + np.concatenate([zero, np.cumsum(kept, dtype=np.int64)])
            stop = where[np.array(ends[:ready], np.int64) - taken]
            stop = stop[np.diff(stop, prepend=last) > 0]  # a document without tokens is none
            _put(documents_file, stop)
            del ends[:ready]
            taken, written = taken + len(lengths), int(where[-1])
            count += len(stop)
            last = int(stop[-1]) if len(stop) else last
        if written > last:  # the last document's end came after its last piece
            _put(documents_file, np.array([written], np.int64))
            count += 1
        for file in (ids_file, sentences_file, documents_file):
            file.flush()
            os.fsync(file.fileno())
    if not count:
        first = f"; {documents.problems[0]}" if documents.problems else ""
        which = "" if part is None else f" in the part {part[0]!r}; see 'hold_out'"
        raise InputError(f"no documents with any text{which}{first}", file=documents.files[0])
    numbers = {str(file): number for number, file in enumerate(documents.files)}
    table = {"ids": dtype.name, "tokens": tokens, "sentences": written, "documents": count}
    table["vocabulary"] = tokenizer.vocab_size
    table["special"] = [tokenizer.cls_id, tokenizer.sep_id]
    table["skipped"] = documents.skipped
    table["problems"] = [[numbers[one.file], one.row, one.line, one.message] for one in documents.problems]
    write_json(folder / "table.json", table)
    if progress is not None:
        progress(documents.bytes_in_all, documents.bytes_in_all)


# ---- reading ----


def _opened(folder: Path, files: Sequence[Path]) -> "Corpus | None":
    """The corpus in a folder, if it is whole; `files` are the files' names of today (their content is the same)."""
    try:
        table = json.loads((folder / "table.json").read_text(encoding="utf-8"))
        sizes = {
            "ids": np.dtype(table["ids"]).itemsize * table["tokens"],
            "sentences": 8 * (table["sentences"] + 1),
            "documents": 8 * (table["documents"] + 1),
        }
        if any((folder / f"{name}.bin").stat().st_size != size for name, size in sizes.items()):
            return None
        problems = [Problem(str(files[file]), *rest) for file, *rest in table["problems"]]
        return Corpus(folder, table, problems)
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


class Pairs(NamedTuple):
    """Pairs of spans, and of each whether the second span follows the first in the corpus."""

    layout: Layout
    """[n] sequences [CLS] A [SEP] B [SEP]."""
    follows: NDArray[np.bool_]
    """[n]."""


@final
class Corpus:
    """Documents, sentences and tokens of a corpus that was built."""

    def __init__(self, folder: Path, table: dict[str, Any], problems: list[Problem]) -> None:
        self.folder = folder
        self.documents: int = table["documents"]
        self.sentences: int = table["sentences"]
        self.tokens: int = table["tokens"]
        self.skipped: int = table["skipped"]
        """What was broken and left out when it was built: documents, and rests of files."""
        self.problems = problems
        """The first 1000 of them."""
        self.special: tuple[int, int] = tuple(table["special"])
        """The ids of [CLS] and [SEP]."""
        self.ids = np.memmap(folder / "ids.bin", np.dtype(table["ids"]), "r")
        """[tokens] all sentences end to end, without special tokens."""
        self.sentence_starts = np.memmap(folder / "sentences.bin", np.int64, "r")
        """[sentences + 1] the first token of each, and the end."""
        self.document_starts = np.memmap(folder / "documents.bin", np.int64, "r")
        """[documents + 1] the first sentence of each, and the end."""

    def document(self, number: int) -> list[NDArray[np.int32]]:
        """The sentences of one document as token ids."""
        first, beyond = self.document_starts[number : number + 2]
        places = self.sentence_starts[first : beyond + 1].tolist()
        return [np.asarray(self.ids[start:end], np.int32) for start, end in pairwise(places)]

    def chunks(self, max_tokens: int) -> "Chunks":
        """The corpus packed into chunks of at most `max_tokens` tokens, each of consecutive sentences of one document.

        A chunk takes sentences as long as they fit. A sentence longer than that is cut into pieces, which then stand
        for sentences. The packing is kept beside the corpus and made once.
        """
        if max_tokens < 2:
            raise ValueError(f"found max_tokens {max_tokens}, expected 2 or more")
        folder = self.folder / f"chunks-{max_tokens}"
        if not (folder / "whole").exists():
            try:
                self._pack(folder, max_tokens)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                # A cache that others have made, and only they may write to.
                folder = Path(tempfile.mkdtemp(prefix="manyheads-chunks-")) / folder.name
                self._pack(folder, max_tokens)
                made = Chunks(self, folder, max_tokens)
                weakref.finalize(made, shutil.rmtree, folder.parent, ignore_errors=True)
                return made
        return Chunks(self, folder, max_tokens)

    def _pack(self, folder: Path, most: int) -> None:
        """Write where each piece begins, the first piece of each document and of each chunk, and which chunks are
        documents of a single token."""
        with reporting(self.folder):
            beside = _beside(folder)
            files = {name: (beside / f"{name}.bin").open("wb") for name in _PACKED}
            try:
                pieces = document = count = 0
                while document < self.documents:
                    # Whole documents of about so many sentences; one that is longer is taken alone.
                    goal = int(self.document_starts[document]) + _AT_ONCE
                    beyond = int(np.searchsorted(self.document_starts, goal, "right")) - 1
                    beyond = min(max(beyond, document + 1), self.documents)
                    bounds, firsts, chunks = self._packed(document, beyond, most)
                    _put(files["bounds"], bounds[:-1])
                    _put(files["documents"], pieces + firsts[:-1])
                    _put(files["chunks"], pieces + chunks)
                    alone = np.diff(bounds[firsts])[np.searchsorted(firsts, chunks, "right") - 1] == 1
                    _put(files["alone"], count + np.flatnonzero(alone))
                    pieces, document, count = pieces + len(bounds) - 1, beyond, count + len(chunks)
                _put(files["bounds"], np.array([self.tokens], np.int64))
                for name in ("documents", "chunks"):
                    _put(files[name], np.array([pieces], np.int64))
            finally:
                for file in files.values():
                    file.flush()
                    os.fsync(file.fileno())
                    file.close()
            (beside / "whole").touch()
            try:
                os.replace(beside, folder)
            except OSError:
                shutil.rmtree(beside, ignore_errors=True)
                if not (folder / "whole").exists():
                    raise

    def _packed(self, document: int, beyond: int, most: int) -> tuple[Int64s, Int64s, Int64s]:
        """Of some documents: their pieces' bounds, each document's first piece (both with the end), each chunk's."""
        at = np.asarray(self.document_starts[document : beyond + 1])
        starts = np.asarray(self.sentence_starts[at[0] : at[-1] + 1])
        lengths = np.diff(starts)
        counts = -(-lengths // most)  # pieces of each sentence
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        firsts = before[at - at[0]]
        within = np.arange(before[-1]) - np.repeat(before[:-1], counts)
        bounds = np.append(np.repeat(starts[:-1], counts) + most * within, starts[-1])
        # The first piece that a chunk beginning at each piece cannot take: its tokens or its document are at an end.
        fits = np.searchsorted(bounds, bounds[:-1] + most, "right") - 1
        ends = np.repeat(firsts[1:], np.diff(firsts))
        following = np.minimum(fits, ends).tolist()
        chunks, place = list[int](), 0
        while place < len(following):
            chunks.append(place)
            place = following[place]
        return bounds, firsts, np.array(chunks, np.int64)


@final
class Chunks:
    """Spans of consecutive pieces, one beginning where the one before ends; a piece is a sentence or a part of one."""

    def __init__(self, corpus: Corpus, folder: Path, max_tokens: int) -> None:
        self.corpus = corpus
        self.max_tokens = max_tokens
        self.bounds = np.memmap(folder / "bounds.bin", np.int64, "r")
        """[pieces + 1] the first token of each piece, and the end."""
        self._folder = folder
        self._documents = np.memmap(folder / "documents.bin", np.int64, "r")
        self._chunks = np.memmap(folder / "chunks.bin", np.int64, "r")

    def __len__(self) -> int:
        return len(self._chunks) - 1

    @property
    def first(self) -> Int64s:
        """[chunks] the first piece of each."""
        return self._chunks[:-1]

    @property
    def beyond(self) -> Int64s:
        """[chunks] the piece after the last of each."""
        return self._chunks[1:]

    @cached_property
    def digest(self) -> str:
        """A name for the content: other tokens or other chunks have another one."""
        digest = hashlib.blake2b(digest_size=16)
        # Read and not mapped: pages of a mapping that were looked at once stay in memory.
        for path in (
            self.corpus.folder / "ids.bin",
            *(self._folder / f"{one}.bin" for one in ("bounds", "documents", "chunks")),
        ):
            with path.open("rb") as file:
                while piece := file.read(_AT_ONCE):
                    digest.update(piece)
        return digest.hexdigest()

    def documents(self, rows: Int64s) -> Int64s:
        """[n] the document that each of some chunks belongs to."""
        found: Int64s = np.searchsorted(self._documents, self._chunks[rows], "right") - 1
        return found

    def single(self, rows: Int64s, room: int) -> Layout:
        """Some chunks as [CLS] span [SEP], of each at most the first `room` tokens."""
        if room < 1:
            raise ValueError(f"found room {room}, expected 1 or more")
        starts = np.asarray(self.bounds[self._chunks[rows]])
        lengths = np.asarray(self.bounds[self._chunks[rows + 1]]) - starts
        kept = np.minimum(lengths, room)
        return _laid(self.corpus, [starts], [kept], lengths - kept)

    def pair(self, rows: Int64s, room: int, generator: np.random.Generator) -> Pairs:
        """Some chunks as pairs of spans for next-sentence prediction: [CLS] A [SEP] B [SEP].

        A is the chunk up to one of the places where a sentence in it ends, each as probable. With probability ½ B is
        the rest of the chunk. Else it begins with a random sentence of another document, each document being as
        probable, and takes whole sentences to about the length of that rest, at least one: the length of a pair hardly
        tells what it is. (BERT's own data fill a random B up to the longest length.) A pair of more than
        `room` tokens, the three special ones not counted, loses tokens of its longer span, at random from the front
        and the back.

        A chunk of a single sentence is cut at a random place inside it; one of a single token takes a neighbour along.
        BERT's code never takes such a chunk for a true pair, so that less than half of its pairs are.

        Raises:
            ValueError: `room` is less than 2.
            InputError: the corpus has a single document, or a document of a single token was asked for.
        """
        if room < 2:
            raise ValueError(f"found room {room}, expected 2 or more")
        corpus = self.corpus
        if corpus.documents < 2:
            raise InputError(
                "found one document, expected two or more: pairs need text from another document"
            )
        count = len(rows)
        where, coins, others, beginnings = generator.random((4, count))

        first, beyond = np.asarray(self._chunks[rows]), np.asarray(self._chunks[rows + 1])
        start, end = np.asarray(self.bounds[first]), np.asarray(self.bounds[beyond])
        own = self.documents(rows)
        lone = end - start == 1
        if lone.any():
            begins, ends = (np.asarray(self.bounds[self._documents[own + one]]) for one in (0, 1))
            back = lone & (start > begins)
            start, end = start - back, end + (lone & ~back & (end < ends))
            if (end - start == 1).any():
                raise InputError(
                    "a document of a single token cannot be cut into a pair; see `Chunks.pairable`"
                )
        sentence = np.asarray(self.bounds[first + 1 + _below(where, np.maximum(beyond - first - 1, 1))])
        cut = np.where(beyond - first > 1, sentence, start + 1 + _below(where, end - start - 1))

        follows = coins < 0.5
        other = _below(others, np.full(count, corpus.documents - 1))
        other += other >= own
        low, high = np.asarray(self._documents[other]), np.asarray(self._documents[other + 1])
        piece = low + _below(beginnings, high - low)
        begin = np.asarray(self.bounds[piece])
        # Whole sentences up to the place where B would be as long as the rest of the chunk, or the next one if that
        # is nearer to it and fits.
        goal = begin + (end - cut)
        stop = np.minimum(np.maximum(np.searchsorted(self.bounds, goal, "right") - 1, piece + 1), high)
        near, next_ = (np.asarray(self.bounds[np.minimum(stop + one, high)]) for one in (0, 1))
        further = (next_ - goal < goal - near) & (cut - start + next_ - begin <= room)
        far = np.where(further, next_, near)

        starts = [start, np.where(follows, cut, begin)]
        lengths = [cut - start, np.where(follows, end, far) - starts[1]]
        total = lengths[0] + lengths[1]
        short = np.minimum(np.minimum(*lengths), room // 2)
        long = np.minimum(np.maximum(*lengths), room - short)
        a_is_long = lengths[0] > lengths[1]
        kept = [np.where(a_is_long, long, short), np.where(a_is_long, short, long)]
        # Each token is lost at the front or the back with equal probability: a binomial number of them at the front.
        for side in (0, 1):
            starts[side] = starts[side] + generator.binomial(lengths[side] - kept[side], 0.5)
        return Pairs(_laid(corpus, starts, kept, total - kept[0] - kept[1]), follows)

    def every(self) -> "Places":
        """All chunks."""
        return Places(len(self), np.empty(0, np.int64))

    def pairable(self) -> "Places":
        """The chunks that `pair` can take: all but documents of a single token."""
        return Places(len(self), np.fromfile(self._folder / "alone.bin", np.int64))


@final
class Places:
    """The numbers from 0 below `count` but for some, ascending: memory is for those left out alone."""

    def __init__(self, count: int, left_out: Int64s) -> None:
        self._count = count - len(left_out)
        self._before = left_out - np.arange(len(left_out))  # numbers that stand before each that is left out

    def __len__(self) -> int:
        return self._count

    def at(self, places: Int64s) -> Int64s:
        """[n] the numbers that stand at some places."""
        found: Int64s = places + np.searchsorted(self._before, places, "right")
        return found


def _below(uniform: NDArray[np.float64], bound: Int64s) -> Int64s:
    """[n] whole numbers from 0 to bound - 1 out of uniform ones in [0, 1)."""
    found: Int64s = np.minimum((uniform * bound).astype(np.int64), bound - 1)
    return found


def _laid(corpus: Corpus, starts: Sequence[Int64s], lengths: Sequence[Int64s], dropped: Int64s) -> Layout:
    """Spans of the corpus (one side or two, [n] each) between the special tokens."""
    sides, count = len(starts), len(starts[0])
    cls, sep = corpus.special
    widths = np.stack(lengths, axis=1) + np.array([2, 1][:sides])  # with [SEP], the first with [CLS] too
    ends = np.cumsum(widths.ravel())
    begins = ends - widths.ravel()
    begins[::sides] += 1  # where the text of each side begins
    flat = np.stack(lengths, axis=1).ravel()
    offset = np.arange(int(flat.sum())) - np.repeat(np.cumsum(flat) - flat, flat)
    ids = np.full(int(ends[-1]) if count else 0, sep, np.int32)
    ids[np.repeat(begins, flat) + offset] = corpus.ids[
        np.repeat(np.stack(starts, axis=1).ravel(), flat) + offset
    ]
    ids[begins[::sides] - 1] = cls
    segments = np.repeat(np.tile(np.arange(sides, dtype=np.uint8), count), widths.ravel())
    return Layout(
        ids,
        segments,
        widths.sum(axis=1).astype(np.int32),
        dropped.astype(np.int32),
        np.ones(count, np.int32),
    )
