"""Tasks that learn from documents: corpora, spans of them, and what is asked of each span, drawn anew for each batch.

Knows corpora, document kinds and sections of recipes. Must not know models, optimisers or the loop.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from manyheads.data.corpus import Chunks, Part, Places, build_corpus
from manyheads.data.documents import DocumentSettings, shards
from manyheads.data.encode import TokenCache
from manyheads.data.select import sampled
from manyheads.encoder.layout import Layout, spread
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.recipe import TaskSettings
from manyheads.tasks.documents import DocumentKind
from manyheads.tasks.documents import DocumentSettings as DocumentTask

__all__ = ["Answers", "Drawn", "Spans", "Working", "load_spans"]

Working = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Says what is being done, and gives what tells how much of that many pieces is done."""

_AT_ONCE = 512  # spans that are drawn together where a whole split is read


@dataclass(frozen=True, eq=False)
class Answers:
    """What one task should say of n examples."""

    targets: NDArray[np.float64]
    """[M] the target numbers of all examples end to end."""
    sizes: NDArray[np.int64]
    """[n] how many each example has."""

    def take(self, examples: NDArray[np.int64]) -> "Answers":
        """Those of some of the examples."""
        return Answers(self.targets[spread(self.sizes, examples)], self.sizes[examples])


@dataclass(frozen=True, eq=False)
class Drawn:
    """Examples as a step reads them, and what each task that reads them should say."""

    layout: Layout
    answers: tuple[Answers, ...]
    """Those of the task itself, then of each that reads with it."""

    def take(self, examples: NDArray[np.int64]) -> "Drawn":
        """Some of the examples."""
        return Drawn(self.layout.take(examples), tuple(one.take(examples) for one in self.answers))


@dataclass(frozen=True, eq=False)
class Spans:
    """The spans of one split of a corpus, one beginning where the one before ends."""

    chunks: Chunks
    places: Places
    """The chunks that may be taken."""
    sample: NDArray[np.int64] | None
    """[n] which of these are; None: all."""
    kinds: tuple[DocumentKind, ...]
    """The task's own kind, and those of the tasks that read with it."""

    def __len__(self) -> int:
        return len(self.places) if self.sample is None else len(self.sample)

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """[n] the chunks of some spans."""
        return self.places.at(numbers if self.sample is None else self.sample[numbers])

    def draw(self, rows: NDArray[np.int64], generator: np.random.Generator) -> Drawn:
        """Some spans, in that order, with what is asked of them drawn from the generator."""
        layout, follows = self._laid(rows, generator)
        answers = []
        for kind in self.kinds:
            layout, targets, sizes = kind.draw(layout, follows, generator)
            answers.append(Answers(targets, sizes))
        return Drawn(layout, tuple(answers))

    def _laid(
        self, rows: NDArray[np.int64], generator: np.random.Generator
    ) -> tuple[Layout, NDArray[np.bool_] | None]:
        chosen, room = self.rows(rows), self.chunks.max_tokens
        if self.pairs:
            return self.chunks.pair(chosen, room, generator)
        return self.chunks.single(chosen, room), None

    def blocks(self) -> Iterator[Drawn]:
        """All spans in their order, a block after the other, with the same questions each time."""
        for rows, generator in self._blocks():
            yield self.draw(rows, generator)

    def names(self) -> Iterator[tuple[int, str]]:
        """(tokens, a name for the ids) of each span as `blocks` has it before anything is masked."""
        for rows, generator in self._blocks():
            layout, _ = self._laid(rows, generator)
            ends = np.cumsum(layout.lengths, dtype=np.int64)
            for end, length in zip(ends.tolist(), layout.lengths.tolist(), strict=True):
                ids = np.ascontiguousarray(layout.ids[end - length : end])
                yield length, hashlib.blake2b(ids.data, digest_size=8).hexdigest()

    def _blocks(self) -> Iterator[tuple[NDArray[np.int64], np.random.Generator]]:
        for begin in range(0, len(self), _AT_ONCE):
            seed = hashlib.blake2b(f"block {begin}".encode(), digest_size=8).digest()
            rows = np.arange(begin, min(begin + _AT_ONCE, len(self)), dtype=np.int64)
            yield rows, np.random.default_rng(int.from_bytes(seed, "little"))

    @property
    def pairs(self) -> bool:
        """Whether they are pairs of spans."""
        return any(kind.takes_pairs for kind in self.kinds)

    @cached_property
    def digest(self) -> str:
        """A name for the content: other spans have another one."""
        digest = hashlib.blake2b(self.chunks.digest.encode(), digest_size=16)
        for begin in range(0, len(self), _AT_ONCE):
            rows = self.rows(np.arange(begin, min(begin + _AT_ONCE, len(self)), dtype=np.int64))
            digest.update(np.ascontiguousarray(rows).data)
        digest.update(b"pairs" if self.pairs else b"single")
        return digest.hexdigest()


def documents_of(section: TaskSettings, split: str) -> tuple[tuple[str, ...], DocumentSettings, Part | None]:
    """The files and folders of a split, how documents are read from them, and which of these it is; None: all."""
    assert section.files is not None
    shares = section.hold_out.shares if section.hold_out is not None else {}
    settings = DocumentSettings.model_validate(section.model_dump(include=set(DocumentSettings.model_fields)))
    part = (split, shares) if shares and (split == "train" or split in shares) else None
    return section.files["train" if split in shares else split], settings, part


def load_spans(
    name: str,
    section: TaskSettings,
    kinds: Sequence[DocumentKind],
    splits: Sequence[str],
    tokenizer: Tokenizer,
    max_length: int,
    data: Path,
    *,
    cache: TokenCache | None = None,
    working: Working | None = None,
) -> dict[str, Spans]:
    """The splits of a task on documents, in sequences of at most `max_length` tokens.

    `kinds` are the task's own and those of the tasks that read with it. Raises InputError for files that are not there
    or hold no documents, or too few for pairs.
    """
    assert isinstance(section, DocumentTask)
    assert section.files is not None  # it has no other source
    for kind in kinds:
        kind.bind(tokenizer)
    pairs = any(kind.takes_pairs for kind in kinds)
    special = 3 if pairs else 2
    if max_length < special + 2:
        raise InputError(
            f"tasks.{name}.max_length: expected {special + 2} or more, found {max_length}: "
            f"{special} tokens are special ones"
        )
    found: dict[str, Spans] = {}
    listed: dict[tuple[str, ...], list[Path]] = {}
    for split in splits:
        files, settings, part = documents_of(section, split)
        # Once for all splits that are cut from the same files: a shard that goes in between is told of, not forgotten.
        if files not in listed:
            listed[files] = shards([data / path for path in files], any_name=section.format != "auto")
        sources = listed[files]
        with (working or _quiet)(f"{name} {split}: reading documents", 100) as advance:
            done = 0

            def progress(read: int, whole: int, advance: Callable[[int], None] = advance) -> None:
                nonlocal done
                percent = 100 * read // max(1, whole)
                if percent > done:
                    advance(percent - done)
                    done = percent

            corpus = build_corpus(
                sources,
                tokenizer,
                settings,
                language=section.language,
                clean=section.clean,
                part=part,
                listed=True,
                cache=cache,
                progress=progress,
            )
            chunks = corpus.chunks(max_length - special)
        if pairs and corpus.documents < 2:
            raise InputError(
                "found one document, expected two or more: pairs need text from another document "
                "(see 'boundary' for where documents of a text file end)",
                file=sources[0],
            )
        places, sample = chunks.pairable() if pairs else chunks.every(), None
        if not len(places):
            raise InputError("no document has two tokens, which pairs need", file=sources[0])
        if split in section.sample:
            sample = sampled(len(places), section.sample[split], section.sample_seed, f"{name}/{split}")
        found[split] = Spans(chunks, places, sample, tuple(kinds))
        if split == "dev" and not any(one.answers[0].sizes.any() for one in found[split].blocks()):
            raise InputError("nothing of the dev split is asked, it has too few tokens", file=sources[0])
    return found


def _quiet(text: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    return nullcontext(lambda count: None)
