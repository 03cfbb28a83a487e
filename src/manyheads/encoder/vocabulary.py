"""Training a WordPiece vocabulary on raw text: texts become the tokens that a tokenizer cuts others into.

Knows texts and characters; the merging itself is done by the Rust library `tokenizers`. Must not know files, documents
or models.

The same texts give the same vocabulary, in any order and however they are cut into pieces between words: the library's
own numbering of the characters inside words depends on the order of a hash table, and its ties are broken by these
numbers, so the characters are counted and numbered here, by frequency and then by code point.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Rust
from tokenizers import models, normalizers, pre_tokenizers, trainers

from manyheads.encoder.tokenizer import CONTINUATION, SPECIAL, Tokenizer
from manyheads.errors import InputError

__all__ = ["Vocabulary", "train_vocabulary"]

# Characters that get a token where the corpus is not Chinese. The rest of them, in English text some foreign names'
# letters and signs, are [UNK]: each would cost a row of the embeddings that a frequent word could have.
CHARACTERS: Final = 1000
SMALLEST: Final = 100
_AT_ONCE = 1 << 20  # characters that are counted at once
_HAN = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f\U0002b820-\U0002ceaf"
    "\uf900-\ufaff\U0002f800-\U0002fa1f]"
)


class Vocabulary(NamedTuple):
    """A tokenizer with the vocabulary that was trained, and how much of the text it knows."""

    tokenizer: Tokenizer
    characters: int
    """Characters of the text, without white space."""
    unknown: int
    """Those of them that have no token: a word with one of them is [UNK]."""


def train_vocabulary(
    texts: Callable[[], Iterable[str]],
    *,
    size: int = 30522,
    cased: bool = False,
    chinese: bool = False,
    min_frequency: int = 2,
    unused: int = 0,
) -> Vocabulary:
    """Train a vocabulary of at most `size` tokens.

    [PAD] is 0, then come [UNK], [CLS], [SEP] and [MASK], as transformers expects, `unused` free places ([unused1] …),
    the characters, their forms inside words (##…), and the pieces in the order in which the library merged them, most
    frequent pairs first (the training of byte-pair encoding, written as WordPiece). A corpus may have too few pieces
    that come `min_frequency` times to fill `size`.

    Every Chinese character is a word by itself, as in BERT. `chinese` gives all of those that come `min_frequency`
    times a token; otherwise the 1000 most frequent characters of any script have one. Without `cased` text is
    lower-cased and accents are taken off.

    `texts` is called twice, to count characters and to count words, and must give the same texts. Memory grows with
    the number of different words, not with the text. Give long texts in pieces: the library holds some hundred of them
    at once.

    Raises:
        InputError: `size` is too small, or the texts have no characters.
    """
    fixed = [*SPECIAL, *(f"[unused{number}]" for number in range(1, unused + 1))]
    if size < SMALLEST + unused:
        raise InputError(f"found size {size}, expected {SMALLEST + unused} or more")
    if min_frequency < 1:
        raise InputError(f"found min_frequency {min_frequency}, expected 1 or more")
    rust = Rust(models.WordPiece(unk_token=SPECIAL[1], continuing_subword_prefix=CONTINUATION))
    rust.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    counts = _characters(rust.normalizer, texts())
    alphabet = _alphabet(counts, size - len(fixed), None if chinese else CHARACTERS, min_frequency)
    if not alphabet:
        if counts.any():
            raise InputError(f"no character of the texts comes {min_frequency} times, as min_frequency asks")
        raise InputError("the texts have no characters to make tokens of")
    inside = [CONTINUATION + one for one in alphabet if not _stands_alone(one)]
    # As special tokens they keep the places given here, and the library's choice among the characters is left none.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        limit_alphabet=0,
        special_tokens=[*fixed, *alphabet, *inside],
        continuing_subword_prefix=CONTINUATION,
        show_progress=False,
    )
    rust.train_from_iterator(texts(), trainer)
    found = rust.get_vocab(with_added_tokens=False)
    tokens = sorted(found, key=found.__getitem__)[:size]
    known = sum(int(counts[ord(one)]) for one in alphabet)
    characters = int(counts.sum())
    return Vocabulary(Tokenizer(tokens, lowercase=not cased), characters, characters - known)


def _characters(normalizer: normalizers.Normalizer, texts: Iterable[str]) -> NDArray[np.int64]:
    """[code points] how often each character comes in the normalised texts; white space is not counted."""
    counts = np.zeros(0x110000, np.int64)
    held, size = list[str](), 0

    def add() -> None:
        text = normalizer.normalize_str("\n".join(held))
        counts[:] += np.bincount(np.frombuffer(text.encode("utf-32-le"), np.uint32), minlength=len(counts))

    for text in texts:
        held.append(text)
        size += len(text)
        if size >= _AT_ONCE:
            add()
            held, size = [], 0
    add()
    for place in np.flatnonzero(counts).tolist():
        if chr(place).isspace():
            counts[place] = 0
    return counts


def _alphabet(counts: NDArray[np.int64], room: int, most: int | None, min_frequency: int) -> list[str]:
    """The characters that get a token, by code point: the most frequent ones, with their form inside words if any."""
    used = np.flatnonzero(counts >= min_frequency)
    order = used[np.lexsort((used, -counts[used]))][:most]
    chosen = list[str]()
    for one in map(chr, order.tolist()):
        room -= 1 if _stands_alone(one) else 2
        if room < 0:
            break
        chosen.append(one)
    return sorted(chosen)


def _stands_alone(character: str) -> bool:
    """Whether BERT's pre-tokenizer makes the character a word by itself: punctuation and Chinese."""
    ascii_sign = character.isascii() and character.isprintable() and not character.isalnum()
    return ascii_sign or unicodedata.category(character).startswith("P") or _HAN.match(character) is not None
