"""BERT's WordPiece tokenizer: texts become token ids, offsets and the number of tokens that were cut.

Knows texts, vocabularies and the files that hold them; the work itself is done by the Rust library
`tokenizers`. Knows nothing of tensors, padding, tasks or recipes. Sequences are [CLS] a [SEP] or
[CLS] a [SEP] b [SEP]; both the cut and the special tokens are put in here, not by the library, so that
every token that is lost is counted (and because the library keeps what it cuts: of two long texts every
remainder of one with every remainder of the other).

The library's own threads are left on. TOKENIZERS_PARALLELISM must not be set to true by anyone who forks:
unset, a forked child works on one thread; set, it waits for threads that the fork did not copy.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Self, final

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from manyheads.encoder.sources import resolve
from manyheads.errors import InputError, shown
from manyheads.files import write_text

__all__ = ["Encoding", "FlatEncoding", "Tokenizer", "Word"]

Integers = npt.NDArray[np.int32]

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION = "##"
# What is handed to the library at once: enough texts for its threads, not so many that memory grows.
TEXTS_AT_ONCE = 1000
CHARACTERS_AT_ONCE = 1_000_000
SURROGATE = re.compile("[\ud800-\udfff]")
# What an added token is made of beside its content.
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# A pair's sequence in the words of a tokenizer.json.
PAIR_TEMPLATE = [
    {"SpecialToken": {"id": CLS, "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}},
    {"SpecialToken": {"id": SEP, "type_id": 0}},
    {"Sequence": {"id": "B", "type_id": 1}},
    {"SpecialToken": {"id": SEP, "type_id": 1}},
]


@final
@dataclass(frozen=True, eq=False, slots=True)
class Encoding(Mapping[str, list[Any]]):
    """Token ids of texts or pairs: every field has one entry a text and can be had as `enc[name]` too."""

    input_ids: list[list[int]]
    token_type_ids: list[list[int]]
    """0 up to and including the first [SEP], 1 after it."""
    attention_mask: list[list[int]]
    """All ones: nothing is padded."""
    offsets: list[list[tuple[int, int]]]
    """For each token (start, end) in code points of the text it came from; (0, 0) for [CLS] and [SEP]."""
    dropped: list[int]
    """Tokens cut to meet `max_length`, of both texts together."""

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self:
            raise KeyError(name)
        value: list[Any] = getattr(self, name)
        return value

    def __contains__(self, name: object) -> bool:
        return any(field.name == name for field in fields(self))

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))

    def __len__(self) -> int:
        """The number of fields, as for any mapping; the number of texts is `len(enc.input_ids)`."""
        return len(fields(self))


class FlatEncoding(NamedTuple):
    """Many texts or pairs end to end, int32; text i has `lengths[i]` tokens, special tokens among them."""

    ids: Integers
    """[tokens] token ids."""
    segments: Integers
    """[tokens] 0 up to and including the first [SEP] of a text, 1 after it."""
    lengths: Integers
    """[texts] tokens of each text."""
    dropped: Integers
    """[texts] tokens cut of each text to meet `max_length`."""


class Word(NamedTuple):
    """A word as the pre-tokenizer sees it: `text` is the given text from `start` to `end` (code points)."""

    text: str
    start: int
    end: int


@final
class Tokenizer:
    """A WordPiece tokenizer as BERT defines it, with a vocabulary whose ids are the positions in the list.

    `vocabulary` must hold [PAD], [UNK], [CLS], [SEP] and [MASK]. `strip_accents` of None means: where
    `lowercase` is on. `split_chinese` makes every CJK character a word. Words longer than
    `max_word_length` characters become [UNK]. `added` are tokens that are found in the text before
    anything else and get the ids after the vocabulary's (or their own, where it has them).

    Special tokens written out in a text, such as `[MASK]`, become those tokens, as in transformers.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        lowercase: bool = True,
        strip_accents: bool | None = None,
        split_chinese: bool = True,
        max_word_length: int = 100,
        added: Sequence[AddedToken] = (),
        model_max_length: int | None = None,
    ) -> None:
        check_vocabulary(vocabulary)
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.split_chinese = split_chinese
        self.max_word_length = max_word_length
        self.model_max_length = model_max_length
        """The longest sequence that the model was made for, where its files say so; nothing is cut by it."""
        self._vocabulary = list(vocabulary)
        rust = tokenizers.Tokenizer(
            models.WordPiece(
                vocab={token: index for index, token in enumerate(vocabulary)},
                unk_token=UNK,
                max_input_chars_per_word=max_word_length,
                continuing_subword_prefix=CONTINUATION,
            )
        )
        rust.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=split_chinese,
            strip_accents=strip_accents,
            lowercase=lowercase,
        )
        rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        rust.decoder = decoders.WordPiece(prefix=CONTINUATION)
        extra = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
        extra += [token for token in added if token.content not in SPECIAL]
        self._added: dict[int, AddedToken] = {}
        for token in extra:
            # The library keeps two lists; a special token belongs to the first, which decode leaves out.
            (rust.add_special_tokens if token.special else rust.add_tokens)([token])
            index = rust.token_to_id(token.content)
            if index is not None:  # the library does not add a token of no characters
                self._added[index] = token
        self._rust = rust
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            self._vocabulary.index(token) for token in SPECIAL
        )
        # Only files that we save need it: transformers and others put the special tokens in by it.
        rust.post_processor = processors.TemplateProcessing(
            single=f"{CLS}:0 $A:0 {SEP}:0",
            pair=f"{CLS}:0 $A:0 {SEP}:0 $B:1 {SEP}:1",
            special_tokens=[(CLS, self.cls_id), (SEP, self.sep_id)],
        )

    # ---- from files and back ----

    @classmethod
    def from_pretrained(cls, name_or_dir: str | os.PathLike[str]) -> Self:
        """The tokenizer of a folder or hub name (see `sources.resolve`): `tokenizer.json`, else `vocab.txt`.

        The settings of `tokenizer_config.json` (do_lower_case, strip_accents, tokenize_chinese_chars) win
        over those in `tokenizer.json`, as in transformers; where it says nothing `tokenizer.json` does. The
        truncation and padding baked into a `tokenizer.json` are left out. With `vocab.txt` alone and
        nothing said, text is lower-cased unless the model's name says cased (`bert-base-cased`; the name is
        the one given, the folder's, or `_name_or_path` in config.json).

        Raises `InputError` for anything but a BERT WordPiece tokenizer, and where `vocab.txt` and
        `tokenizer.json` are both there and differ.
        """
        folder = resolve(name_or_dir, weights=False)
        said = read_json(folder / "tokenizer_config.json")
        whole, listed = folder / "tokenizer.json", folder / "vocab.txt"
        if not whole.is_file() and not listed.is_file():
            raise InputError("found neither tokenizer.json nor vocab.txt", file=folder)
        settings: dict[str, Any]
        if whole.is_file():
            settings = parse_tokenizer_json(whole)
            if listed.is_file():
                check_same_vocabulary(settings["vocabulary"], whole, read_vocabulary(listed), listed)
        else:
            names = (os.fspath(name_or_dir), folder.resolve().name, said.get("name_or_path"))
            cased = any(map(says_cased, (*names, read_json(folder / "config.json").get("_name_or_path"))))
            settings = {"vocabulary": read_vocabulary(listed), "lowercase": not cased}
            if read_json(folder / "added_tokens.json"):
                raise InputError(
                    "tokens added beside vocab.txt are not read; save the tokenizer again as tokenizer.json",
                    file=folder / "added_tokens.json",
                )
        settings |= settings_said(said, folder / "tokenizer_config.json")
        vocabulary = settings.pop("vocabulary")
        return cls(vocabulary, **settings)

    @classmethod
    def from_vocabulary(
        cls,
        path: str | os.PathLike[str],
        *,
        lowercase: bool | None = None,
        strip_accents: bool | None = None,
        split_chinese: bool | None = None,
    ) -> Self:
        """The tokenizer of a lone list of tokens, one a line, its id the number of the line from 0.

        What the arguments leave open is said by `tokenizer_config.json` beside a `vocab.txt`, else text is lower-cased,
        accents go with it, and Chinese characters are words. Where `path` is a folder it is read as by
        `from_pretrained`: its files say how text is read, and what the arguments say has no meaning.
        """
        path = Path(path)
        if path.is_dir():
            return cls.from_pretrained(path)
        beside = path.with_name("tokenizer_config.json")
        settings = settings_said(read_json(beside), beside) if path.name == "vocab.txt" else {}
        given = {"lowercase": lowercase, "strip_accents": strip_accents, "split_chinese": split_chinese}
        settings |= {name: value for name, value in given.items() if value is not None}
        return cls(read_vocabulary(path), **settings)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write tokenizer.json, vocab.txt and tokenizer_config.json, which transformers reads alike.

        Each file is written beside its place and then renamed.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": self.strip_accents,
            "tokenize_chinese_chars": self.split_chinese,
            "pad_token": PAD,
            "unk_token": UNK,
            "cls_token": CLS,
            "sep_token": SEP,
            "mask_token": MASK,
        }
        if self.model_max_length is not None:
            config["model_max_length"] = self.model_max_length
        write_text(folder / "tokenizer.json", self._rust.to_str() + "\n")
        write_text(folder / "vocab.txt", "".join(f"{token}\n" for token in self._vocabulary))
        write_text(folder / "tokenizer_config.json", json.dumps(config, ensure_ascii=False, indent=2) + "\n")

    # ---- texts to tokens ----

    def __call__(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, max_length: int | None = None
    ) -> Encoding:
        """The tokens of each text, or of each text with its partner in `pairs`, as lists.

        `max_length` bounds a sequence with its special tokens. What is too long loses tokens at the right,
        the longer text of a pair first (transformers' `longest_first`); `dropped` says how many.
        A lone surrogate is read as U+FFFD, which BERT skips, so offsets stay those of the given text.
        """
        room = room_for_text(max_length, paired=pairs is not None)
        result = Encoding([], [], [], [], [])
        for columns in chunks(texts, pairs):
            sides = [self._rust.encode_batch(column, add_special_tokens=False) for column in columns]
            keep = kept([np.array([len(one) for one in side], np.int32) for side in sides], room)
            for row, k in zip(zip(*sides, strict=True), zip(*keep, strict=True), strict=True):
                ids, segments, offsets, dropped = [self.cls_id], [0], [(0, 0)], 0
                for segment, (encoding, size) in enumerate(zip(row, map(int, k), strict=True)):
                    ids += [*encoding.ids[:size], self.sep_id]
                    segments += [segment] * (size + 1)
                    offsets += [*encoding.offsets[:size], (0, 0)]
                    dropped += len(encoding) - size
                result.input_ids.append(ids)
                result.token_type_ids.append(segments)
                result.attention_mask.append([1] * len(ids))
                result.offsets.append(offsets)
                result.dropped.append(dropped)
        return result

    def encode_batch(
        self, texts: Iterable[str], pairs: Iterable[str] | None = None, max_length: int | None = None
    ) -> FlatEncoding:
        """The same tokens as a call gives, end to end in int32 arrays and without offsets: for training.

        `texts` and `pairs` may be iterators; see `encode_stream` for what does not fit in memory.
        """
        parts = list(self.encode_stream(texts, pairs, max_length))
        if not parts:
            return FlatEncoding(*(np.empty(0, np.int32) for _ in range(4)))
        return FlatEncoding(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def encode_stream(
        self, texts: Iterable[str], pairs: Iterable[str] | None = None, max_length: int | None = None
    ) -> Iterator[FlatEncoding]:
        """`encode_batch` in pieces of at most 1000 texts or about a million characters, in order."""
        room = room_for_text(max_length, paired=pairs is not None)
        return (self._flat(columns, room) for columns in chunks(texts, pairs))

    def _flat(self, columns: list[list[str]], room: int | None) -> FlatEncoding:
        """One piece of `encode_stream`: boolean masks over the output say where each token goes."""
        sides = [self._bare(column) for column in columns]
        keep = kept([lengths for _, lengths in sides], room)
        # [texts, sides] tokens of each side with the [SEP] that ends it, the first one's with its [CLS].
        widths = np.stack(keep, axis=1) + np.array([2, 1][: len(sides)], np.int32)
        ends = np.cumsum(widths.ravel(), dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[:: len(sides)]
        which = np.arange(len(sides), dtype=np.int32)
        segments = np.repeat(np.tile(which, len(widths)), widths.ravel())

        ids = np.full(ends[-1], self.sep_id, np.int32)
        ids[starts] = self.cls_id
        text = np.ones(ends[-1], np.bool_)
        text[starts] = text[ends - 1] = False
        dropped = np.zeros(len(widths), np.int32)
        for side, ((source, lengths), size) in enumerate(zip(sides, keep, strict=True)):
            ids[text & (segments == side)] = source[leading(lengths, size)]
            dropped += lengths - size
        return FlatEncoding(ids, segments, widths.sum(axis=1, dtype=np.int32), dropped)

    def _bare(self, texts: list[str]) -> tuple[Integers, Integers]:
        """Ids of all texts end to end [tokens] without special tokens or cut, and their lengths [texts]."""
        encodings = self._rust.encode_batch_fast(texts, add_special_tokens=False)
        lengths = np.array([len(one) for one in encodings], np.int32)
        ids = np.fromiter(
            chain.from_iterable(one.ids for one in encodings),
            np.int32,
            count=int(lengths.sum(dtype=np.int64)),
        )
        return ids, lengths

    def words(self, text: str) -> list[Word]:
        """The words of `text` before they are cut into pieces: runs of letters, single punctuation marks,
        single CJK characters; as many as the tokens know apart.
        """
        encoding = self._rust.encode(fit(text, "text", 0), add_special_tokens=False)
        spans: dict[int | None, tuple[int, int]] = {}
        for word, (start, end) in zip(encoding.word_ids, encoding.offsets, strict=True):
            first, last = spans.get(word, (start, end))
            spans[word] = (min(first, start), max(last, end))
        return [Word(text[start:end], start, end) for start, end in spans.values()]

    # ---- the vocabulary ----

    @property
    def vocab_size(self) -> int:
        """Tokens that have an id, added ones among them: the rows that an embedding needs."""
        return int(self._rust.get_vocab_size(with_added_tokens=True))

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that stand for no text: [PAD], [UNK], [CLS], [SEP], [MASK] and added special tokens."""
        return frozenset(one for one, token in self._added.items() if token.special)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex of all that decides the ids of a text: two tokenizers that share it agree."""
        strip = self.lowercase if self.strip_accents is None else self.strip_accents
        content = {
            "vocabulary": self._vocabulary,
            "added": {str(one): described(token) for one, token in self._added.items()},
            "lowercase": self.lowercase,
            "strip_accents": strip,
            "split_chinese": self.split_chinese,
            "max_word_length": self.max_word_length,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def token_to_id(self, token: str) -> int | None:
        """The id of `token`, or None where the vocabulary does not have it."""
        return self._rust.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """The token of `token_id`, or None where no token has it."""
        return self._rust.id_to_token(token_id) if token_id >= 0 else None

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Readable text of token ids: pieces joined, no space before punctuation; lost case stays lost."""
        return self._rust.decode([int(one) for one in ids], skip_special_tokens=skip_special_tokens)

    def __repr__(self) -> str:
        return f"Tokenizer({self.vocab_size} tokens, {'lower-cased' if self.lowercase else 'cased'})"


# ---- cutting ----


def room_for_text(max_length: int | None, *, paired: bool) -> int | None:
    """Tokens that `max_length` leaves beside the special ones."""
    if max_length is None:
        return None
    special = 3 if paired else 2
    if max_length < special:
        what = "a pair" if paired else "a text"
        raise InputError(
            f"found max_length {max_length}, expected {special} or more: {what} has {special} special tokens"
        )
    return max_length - special


def kept(lengths: Sequence[Integers], room: int | None) -> list[Integers]:
    """Tokens [texts] that each side keeps of its `lengths` [texts] in `room` tokens; one side or two.

    The outcome of transformers' `longest_first`: the shorter text of a pair keeps all up to half of the
    room, the longer one what is then left. Of two equally long ones the second gets the odd token.
    """
    if room is None:
        return list(lengths)
    if len(lengths) == 1:
        return [np.minimum(lengths[0], np.int32(room))]
    first, second = lengths
    short = np.minimum(np.minimum(first, second), np.int32(room // 2))
    long = np.minimum(np.maximum(first, second), np.int32(room) - short)
    return [np.where(first > second, long, short), np.where(first > second, short, long)]


def leading(lengths: Integers, keep: Integers) -> npt.NDArray[np.bool_]:
    """For texts end to end [tokens]: True at the first `keep[i]` tokens of text i, which has `lengths[i]`."""
    both = np.stack([keep, lengths - keep], axis=1).ravel()
    return np.repeat(np.tile(np.array([True, False]), len(lengths)), both)


# ---- texts in ----


def chunks(texts: Iterable[str], pairs: Iterable[str] | None) -> Iterator[list[list[str]]]:
    """[texts] or [texts, pairs], a bounded piece at a time, each text checked as it comes."""
    for name, given in (("texts", texts), ("pairs", pairs)):
        if isinstance(given, str | bytes):
            raise TypeError(
                f"{name} is one {type(given).__name__}, expected a list of texts: [{shown(given)}]"
            )
    return pieces(rows(texts, pairs))


def pieces(rows: Iterable[tuple[str, ...]]) -> Iterator[list[list[str]]]:
    """Rows of texts -> columns of texts, at most so many texts and (but for the last) characters at once."""
    block: list[tuple[str, ...]] = []
    characters = 0
    for row in rows:
        block.append(row)
        characters += sum(map(len, row))
        if len(block) == TEXTS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield [list(column) for column in zip(*block, strict=True)]
            block, characters = [], 0
    if block:
        yield [list(column) for column in zip(*block, strict=True)]


def rows(texts: Iterable[str], pairs: Iterable[str] | None) -> Iterator[tuple[str, ...]]:
    """Each text, with its partner where there are pairs, fit for the library."""
    if pairs is None:
        for index, text in enumerate(texts):
            yield (fit(text, "texts", index),)
        return
    missing: Any = object()
    for index, (text, partner) in enumerate(zip_longest(texts, pairs, fillvalue=missing)):
        if text is missing or partner is missing:
            raise InputError(
                f"found {'more' if text is missing else 'fewer'} pairs than texts (from index {index} on)"
            )
        yield fit(text, "texts", index), fit(partner, "pairs", index)


def fit(text: object, name: str, index: int) -> str:
    """`text` as the library takes it: a Python string may hold half a UTF-16 pair, the library's may not."""
    if not isinstance(text, str):
        # A tuple would pass as a pair further down, with other ids and no error.
        raise TypeError(f"{name}[{index}] is {shown(text)}, expected a str")
    return text if text.isascii() else SURROGATE.sub("\ufffd", text)


# ---- files ----


def check_vocabulary(tokens: Sequence[str], file: Path | None = None) -> None:
    """Raise `InputError` unless `tokens` can be a BERT vocabulary; `file` is the list they were read from."""
    if not tokens:
        raise InputError("the vocabulary is empty", file=file)
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        line = index + 1 if file else None
        if not token.strip(" \t") or re.search(r"[\n\r\ud800-\udfff]", token):
            raise InputError(f"found {shown(token)}, expected a token", file=file, line=line)
        if token in seen:
            first = f"line {seen[token] + 1}" if file else f"id {seen[token]}"
            raise InputError(f"found {shown(token)} again, {first} has it too", file=file, line=line)
        seen[token] = index
    missing = [token for token in SPECIAL if token not in seen]
    if missing:
        raise InputError(f"the vocabulary lacks {', '.join(missing)}", file=file)


def read_vocabulary(file: Path) -> list[str]:
    """The tokens of a `vocab.txt`, checked; blank lines at its end are left out."""
    # utf-8-sig: a byte order mark is not part of the first token. Text mode takes \r\n as an end of line, and
    # only real ends of line: splitlines would cut at U+2028, which may be a token.
    try:
        tokens = file.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        found = shown(error.object[error.start : error.end])
        raise InputError(f"found the bytes {found}, expected UTF-8", file=file, line=line) from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file) from error
    while tokens and not tokens[-1].strip(" \t"):
        tokens.pop()
    check_vocabulary(tokens, file)
    return tokens


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file) from error
    except ValueError as error:
        raise InputError(f"not JSON: {error}", file=file) from error
    if not isinstance(found, dict):
        raise InputError(f"found {shown(found)}, expected a JSON object", file=file)
    return found


def parse_tokenizer_json(file: Path) -> dict[str, Any]:
    """The arguments of `Tokenizer` out of a `tokenizer.json`; `InputError` for any but BERT's WordPiece.

    Its truncation and padding are not among them: all-MiniLM's file cuts and pads to 128 by itself.
    """
    content = read_json(file)

    def part(name: str, *types: str) -> dict[str, Any]:
        value = content.get(name)
        found = value.get("type") if isinstance(value, dict) else value
        if not isinstance(value, dict) or found not in types:
            expected = " or ".join(types)
            raise InputError(f"{name} is {shown(found)}, expected {expected} (BERT's WordPiece)", file=file)
        return value

    model = content.get("model")
    if isinstance(model, dict) and "continuing_subword_prefix" in model:
        model.setdefault("type", "WordPiece")  # files of old versions do not name it
    model = part("model", "WordPiece")
    normalizer = part("normalizer", "BertNormalizer")
    part("pre_tokenizer", "BertPreTokenizer")
    for name, found, expected in (
        ("model.unk_token", model.get("unk_token"), UNK),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), CONTINUATION),
        ("normalizer.clean_text", normalizer.get("clean_text"), True),
    ):
        if found != expected:
            raise InputError(f"{name} is {shown(found)}, expected {shown(expected)}", file=file)
    strip = normalizer.get("strip_accents")
    if strip is not None and not isinstance(strip, bool):
        raise InputError(f"normalizer.strip_accents is {shown(strip)}, expected true or false", file=file)
    if content.get("post_processor") is not None:
        template = part("post_processor", "TemplateProcessing", "BertProcessing")
        if template["type"] == "TemplateProcessing" and template.get("pair") != PAIR_TEMPLATE:
            raise InputError(
                "post_processor does not build [CLS] a [SEP] b [SEP] with segments 0 and 1", file=file
            )

    longest = model.get("max_input_chars_per_word", 100)
    if not isinstance(longest, int) or longest < 1:
        raise InputError(f"model.max_input_chars_per_word is {shown(longest)}, expected 1 or more", file=file)
    vocabulary = model.get("vocab")
    if (
        not isinstance(vocabulary, dict)
        or not all(isinstance(one, int) for one in vocabulary.values())
        or sorted(vocabulary.values()) != list(range(len(vocabulary)))
    ):
        raise InputError("model.vocab does not number its tokens 0, 1, 2 … without gaps", file=file)
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    try:
        check_vocabulary(tokens)
    except InputError as error:
        raise InputError(str(error), file=file) from None
    return {
        "vocabulary": tokens,
        "lowercase": bool(normalizer.get("lowercase")),
        "strip_accents": strip,
        "split_chinese": bool(normalizer.get("handle_chinese_chars")),
        "max_word_length": longest,
        "added": added_tokens(content.get("added_tokens", []), vocabulary, file),
    }


def added_tokens(entries: object, vocabulary: Mapping[str, int], file: Path) -> list[AddedToken]:
    """The tokens that a `tokenizer.json` adds, in the order of their ids."""
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("id"), int) and isinstance(entry.get("content"), str)
        for entry in entries
    ):
        raise InputError("added_tokens is not a list of tokens with id and content", file=file)
    added = []
    following = len(vocabulary)
    for entry in sorted(entries, key=lambda entry: int(entry["id"])):
        expected = vocabulary.get(entry["content"])
        if expected is None:
            expected, following = following, following + 1
        if entry["id"] != expected:
            found = f"{shown(entry['content'])} has the id {entry['id']}"
            raise InputError(f"added_tokens: {found}, expected {expected}", file=file)
        flags = {name: bool(entry.get(name)) for name in FLAGS}
        added.append(AddedToken(entry["content"], **flags))
    return added


def settings_said(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The arguments of `Tokenizer` that a `tokenizer_config.json` states."""
    settings: dict[str, Any] = {}
    for key, name, may_be_null in (
        ("do_lower_case", "lowercase", False),
        ("strip_accents", "strip_accents", True),
        ("tokenize_chinese_chars", "split_chinese", False),
    ):
        value = config.get(key)
        if isinstance(value, bool) or (value is None and key in config and may_be_null):
            settings[name] = value
        elif value is not None:
            raise InputError(f"{key} is {shown(value)}, expected true or false", file=file)
    longest = config.get("model_max_length")
    # transformers writes about 1e30 where no length is known.
    if isinstance(longest, int) and 0 < longest < 1_000_000:
        settings["model_max_length"] = longest
    return settings


def check_same_vocabulary(tokens: list[str], whole: Path, listed: list[str], list_file: Path) -> None:
    """Raise `InputError` where `vocab.txt` and `tokenizer.json` differ: one of the two is not the model's."""
    if tokens == listed:
        return
    if len(tokens) != len(listed):
        detail = f"{len(listed)} tokens, {whole.name} has {len(tokens)}"
    else:
        place = next(i for i, pair in enumerate(zip(tokens, listed, strict=True)) if pair[0] != pair[1])
        detail = f"{shown(listed[place])} for id {place}, {whole.name} has {shown(tokens[place])}"
    raise InputError(f"found {detail}; expected the same vocabulary in both", file=list_file)


def says_cased(name: object) -> bool:
    """Whether a model's name has `cased` as a word of its own, as in bert-base-cased."""
    return isinstance(name, str) and "cased" in re.split(r"[^a-z]+", name.rsplit("/", 1)[-1].lower())


def described(token: AddedToken) -> dict[str, Any]:
    """An added token as the files describe it."""
    return {"content": token.content, **{name: getattr(token, name) for name in FLAGS}}
