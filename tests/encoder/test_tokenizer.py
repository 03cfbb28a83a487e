# ruff: noqa: RUF001 - look-alike characters are what is tested here
"""Token ids, offsets and cuts against transformers' BertTokenizerFast; files that load, and that must not."""

import csv
import gzip
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer
from transformers.models.bert.tokenization_bert import BertTokenizerFast

from manyheads.encoder import tokenizer as module
from manyheads.encoder.sources import PACKAGE, PACKAGE_MODULE, resolve
from manyheads.encoder.tokenizer import SPECIAL, FlatEncoding, Tokenizer, Word
from manyheads.errors import InputError

# A vocabulary in which most things are one character, some are words, and plenty is unknown.
LETTERS = "abcdefghijklmnoprstuvwxyzABCDEFé0123456789"
WORDS = [
    "the",
    "film",
    "##ing",
    "how",
    "old",
    "cafe",
    "café",
    "Café",
    "naive",
    "中",
    "国",
    "人",
    "🙂",
    "ال",
]
VOCABULARY = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS, *".,!?'\"()[]-#@/"]

NASTY = [
    "",
    " ",
    "\t\n\r\x0b\x0c \u00a0\u3000\u2028",
    "The film's café, naïve — “quoted” …",
    "Cafe\u0301 e\u0301\u0323\u0301x A\u030a \u0301alone",
    "ÀÉÎÕÜ ß ẞ ﬁ Ⅷ ① İstanbul ıI ǅ ŉ",
    "中国人abc人，。！「中」𠀀𪚥 カタカナ ひらがな 한국어",
    "العَرَبِيَّة السلام עִבְרִית हिन्दी ไทย ქართული",
    "🙂 👩\u200d👩\u200d👧 👍🏽 🇩🇪 ❤\ufe0f #\ufe0f\u20e3",
    "a\x00b\x01c\x7fd\u200be\u200df\ufeffg\ufffdh\u00adi\u2060j\ue000k\uffffl",
    "x" * 99 + " " + "x" * 100 + " " + "x" * 101 + " " + "é" * 100,
    "[MASK] [mask] [CLS]a[SEP] [UNK][PAD] [ MASK ]",
    "don't e-mail@me.example http://x.y/z?q=1#a $5.00 50% a_b `c` ~d^ <e> {f}|g\\h",
    "a\tb  c   d\r\ne",
    "1,234.5 ½ ² Å Ω ﷺ ㍿",
]


@cache
def ours(**settings: Any) -> Tokenizer:
    return Tokenizer(VOCABULARY, **settings)


@cache
def theirs(**settings: Any) -> Any:
    return BertTokenizerFast(vocab={token: index for index, token in enumerate(VOCABULARY)}, **settings)


@pytest.fixture(scope="module")
def packaged() -> tuple[Tokenizer, Any]:
    """(ours, theirs) for the packaged model's 30,522 tokens."""
    if importlib.util.find_spec(PACKAGE_MODULE) is None:
        pytest.skip(f"the package {PACKAGE} is not installed")
    folder = resolve("minilm", weights=False)
    return Tokenizer.from_pretrained(folder), unbounded(BertTokenizerFast.from_pretrained(folder))


def unbounded(reference: Any) -> Any:
    """`reference` without the cut and the padding that all-MiniLM's tokenizer.json carries."""
    reference.backend_tokenizer.no_truncation()
    reference.backend_tokenizer.no_padding()
    return reference


def assert_same(
    tokenizer: Tokenizer,
    reference: Any,
    texts: list[str],
    pairs: list[str] | None = None,
    max_length: int | None = None,
) -> None:
    """A call and the flat arrays equal transformers' ids, segments, mask and offsets; the cut is counted."""
    cut = {} if max_length is None else {"truncation": "longest_first", "max_length": max_length}
    expected = reference(texts, pairs, return_offsets_mapping=True, **cut)
    found = tokenizer(texts, pairs, max_length=max_length)
    assert found.input_ids == expected["input_ids"]
    assert found.token_type_ids == expected["token_type_ids"]
    assert found.attention_mask == expected["attention_mask"]
    assert found.offsets == expected["offset_mapping"]
    whole = reference(texts, pairs)["input_ids"]
    assert found.dropped == [len(full) - len(ids) for full, ids in zip(whole, found.input_ids, strict=True)]
    flat = tokenizer.encode_batch(texts, pairs, max_length)
    assert [array.dtype for array in flat] == [np.dtype(np.int32)] * 4
    assert flat.ids.tolist() == [one for ids in found.input_ids for one in ids]
    assert flat.segments.tolist() == [one for ids in found.token_type_ids for one in ids]
    assert flat.lengths.tolist() == [len(ids) for ids in found.input_ids]
    assert flat.dropped.tolist() == found.dropped


# ---- against transformers ----

KINDS = [
    {},
    {"lowercase": False},
    {"lowercase": False, "strip_accents": True},
    {"strip_accents": False},
    {"split_chinese": False},
]
THEIR_NAMES = {
    "lowercase": "do_lower_case",
    "strip_accents": "strip_accents",
    "split_chinese": "tokenize_chinese_chars",
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_nasty_lines(kind: dict[str, bool]) -> None:
    reference = theirs(**{THEIR_NAMES[name]: value for name, value in kind.items()})
    assert_same(ours(**kind), reference, NASTY)
    assert_same(ours(**kind), reference, NASTY, NASTY[::-1])
    assert_same(ours(**kind), reference, NASTY, NASTY[::-1], max_length=9)


def test_nasty_lines_in_the_packaged_vocabulary(packaged: tuple[Tokenizer, Any]) -> None:
    assert_same(*packaged, NASTY)
    assert_same(*packaged, NASTY, NASTY[::-1], max_length=12)


# Any code point that a file can hold, with those that matter here made likely.
TEXTS = st.lists(
    st.text(
        st.characters(codec="utf-8") | st.sampled_from("abcéÀ \t中国🙂\u0301\u200d\x00.,'-[]#" + LETTERS),
        max_size=40,
    )
    | st.sampled_from([*NASTY, *WORDS]),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(texts=TEXTS, max_length=st.none() | st.integers(2, 24))
def test_singles(texts: list[str], max_length: int | None) -> None:
    assert_same(ours(), theirs(), texts, None, max_length)


@settings(max_examples=200, deadline=None)
@given(texts=TEXTS, pairs=TEXTS, max_length=st.none() | st.integers(3, 24))
def test_pairs(texts: list[str], pairs: list[str], max_length: int | None) -> None:
    rows = min(len(texts), len(pairs))
    assert_same(ours(), theirs(), texts[:rows], pairs[:rows], max_length)


@settings(max_examples=100, deadline=None)
@given(texts=TEXTS, pairs=TEXTS, max_length=st.none() | st.integers(3, 24))
def test_packaged_vocabulary(
    packaged: tuple[Tokenizer, Any], texts: list[str], pairs: list[str], max_length: int | None
) -> None:
    rows = min(len(texts), len(pairs))
    assert_same(*packaged, texts, None, max_length)
    assert_same(*packaged, texts[:rows], pairs[:rows], max_length)


def test_every_cut_of_short_pairs() -> None:
    """All lengths to 9, all bounds to 16: ties, odd rooms, one side longer than the whole room."""
    lengths = [(first, second) for first in range(10) for second in range(10)]
    texts, pairs = ["a " * first for first, _ in lengths], ["b " * second for _, second in lengths]
    for max_length in range(3, 17):
        assert_same(ours(), theirs(), texts, pairs, max_length)


def some_lines(file: Path, count: int) -> list[str]:
    """Up to `count` lines evenly over a text file (the first of a compressed one), cut to 500 characters.

    Bytes that are no UTF-8 become U+FFFD.
    """
    lines: list[bytes] = []
    if file.suffix == ".gz":
        with gzip.open(file) as packed:
            lines = list(islice(packed, count))
    else:
        with file.open("rb") as stream:
            for part in range(count):
                stream.seek(file.stat().st_size * part // count)
                if part:
                    stream.readline()  # from the middle of a line to its end
                lines.append(stream.readline())
    return [line.rstrip(b"\n").decode("utf-8", "replace")[:500] for line in lines]


def test_lines_of_every_shared_file(packaged: tuple[Tokenizer, Any], shared_data: Path) -> None:
    files = [file for file in sorted(shared_data.rglob("*")) if file.is_file() and file.suffix != ".zip"]
    texts = [line for file in files for line in some_lines(file, 12)]
    assert len(files) > 50
    assert len(texts) > 600
    assert_same(*packaged, texts)
    assert_same(*packaged, texts[1:], texts[:-1], max_length=64)


def test_offsets_point_at_the_pieces(packaged: tuple[Tokenizer, Any], shared_data: Path) -> None:
    tokenizer, _ = packaged
    with (shared_data / "sst5" / "sst5-train.tsv").open(encoding="utf-8", newline="") as stream:
        texts = [row[0] for row in islice(csv.reader(stream, "excel-tab", quoting=csv.QUOTE_NONE), 1, 300)]
    texts.append("Ünïcödé naïve CAFÉ Ångström — 中国人 façade’s")
    encoding = tokenizer(texts)
    checked = 0
    for text, ids, offsets in zip(texts, encoding.input_ids, encoding.offsets, strict=True):
        assert offsets[0] == offsets[-1] == (0, 0)
        for one, (start, end) in zip(ids[1:-1], offsets[1:-1], strict=True):
            if one != tokenizer.unk_id:
                bare = unicodedata.normalize("NFD", text[start:end].lower())
                bare = "".join(letter for letter in bare if unicodedata.category(letter) != "Mn")
                assert bare == str(tokenizer.id_to_token(one)).removeprefix("##")
                checked += 1
    assert checked > 5000


# ---- a call's manners ----


def test_encoding_is_attributes_and_mapping() -> None:
    encoding = ours()(["the film", "old"], ["how", "a"], max_length=5)
    assert encoding["input_ids"] is encoding.input_ids
    assert list(encoding) == ["input_ids", "token_type_ids", "attention_mask", "offsets", "dropped"]
    assert dict(encoding)["dropped"] == [1 + 1 - 1, 0]
    assert encoding.offsets == [
        [(0, 0), (0, 3), (0, 0), (0, 3), (0, 0)],
        [(0, 0), (0, 3), (0, 0), (0, 1), (0, 0)],
    ]
    assert "offsets" in encoding
    assert "__len__" not in encoding
    with pytest.raises(KeyError):
        encoding["__len__"]


def test_nothing_in_nothing_out() -> None:
    assert ours()([]).input_ids == []
    flat = ours().encode_batch([], [])
    assert [len(array) for array in flat] == [0, 0, 0, 0]
    assert flat.ids.dtype == np.int32


@pytest.mark.parametrize(
    "encode", [ours().__call__, ours().encode_batch, ours().encode_stream], ids=lambda f: f.__name__
)
def test_one_string_is_not_a_list(encode: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"texts is one str, expected a list of texts: \['the film'\]"):
        encode("the film")
    with pytest.raises(TypeError, match="pairs is one str"):
        encode(["the film"], "old")
    with pytest.raises(TypeError, match="texts is one bytes"):
        encode(b"the film")


@pytest.mark.parametrize("wrong", [None, 3, b"a", ("a", "b"), ["a"], float("nan")])
def test_items_are_strings(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"texts\[1\] is .*, expected a str"):
        ours()(["a", wrong])
    with pytest.raises(TypeError, match=r"pairs\[0\] is .*, expected a str"):
        ours().encode_batch(["a", "b"], [wrong, "b"])


@pytest.mark.parametrize(("pairs", "word"), [(["a"], "fewer"), (["a", "b", "c"], "more"), ([], "fewer")])
def test_as_many_pairs_as_texts(pairs: list[str], word: str) -> None:
    for encode in (ours(), ours().encode_batch):
        with pytest.raises(InputError, match=f"found {word} pairs than texts"):
            encode(["a", "b"], pairs)


def test_smallest_max_length() -> None:
    assert ours()(["the film"], max_length=2).dropped == [2]
    assert ours()(["the film"], ["old"], max_length=3).dropped == [3]
    for encode in (ours(), ours().encode_batch, ours().encode_stream):
        with pytest.raises(InputError, match="max_length 1, expected 2 or more"):
            encode(["a"], max_length=1)
        with pytest.raises(InputError, match="max_length 2, expected 3 or more"):
            encode(["a"], ["b"], max_length=2)


def test_lone_surrogates_are_skipped_and_offsets_stay() -> None:
    text = "the \ud800 film\udfff old"
    assert ours()([text]).input_ids == ours()(["the film old"]).input_ids
    assert [text[start:end] for start, end in ours()([text]).offsets[0][1:-1]] == ["the", "film", "old"]
    assert ours().encode_batch(["a"], [text]).ids.tolist() == ours()(["a"], [text]).input_ids[0]
    assert [word.text for word in ours().words(text)] == ["the", "film", "old"]


def test_pieces_of_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the film " * (row % 7) for row in range(50)]
    pairs = ["how old " * (row % 5) for row in range(50)]
    whole = ours().encode_batch(texts, pairs, 12)
    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 8)
    monkeypatch.setattr(module, "CHARACTERS_AT_ONCE", 200)
    parts = list(ours().encode_stream(iter(texts), iter(pairs), 12))
    assert len(parts) > 50 / 8
    assert max(len(part.lengths) for part in parts) <= 8
    assert (
        max(len(part.lengths) for part in ours().encode_stream(["a" * 90] * 20)) == 3
    )  # 200 characters reached
    for joined, array in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(joined), array)
    assert ours()(texts, pairs, 12).dropped == whole.dropped.tolist()


def test_stream_reads_no_further_than_asked() -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "the film"

    first = next(ours().encode_stream(endless()))
    assert isinstance(first, FlatEncoding)
    assert len(first.lengths) == taken == 1000


def test_words() -> None:
    text = "The café's 中国, [MASK] Cafe\u0301!"
    assert ours().words(text) == [
        *(Word("The", 0, 3), Word("café", 4, 8), Word("'", 8, 9), Word("s", 9, 10)),
        *(Word("中", 11, 12), Word("国", 12, 13), Word(",", 13, 14), Word("[MASK]", 15, 21)),
        *(Word("Cafe", 22, 26), Word("!", 27, 28)),
    ]
    assert ours().words("x" * 200) == [Word("x" * 200, 0, 200)]
    assert ours().words(" \t") == []
    with pytest.raises(TypeError):
        ours().words(["a"])  # type: ignore[arg-type]


# ---- the vocabulary ----


def test_ids_and_names() -> None:
    tokenizer = ours()
    assert (
        tokenizer.pad_id,
        tokenizer.unk_id,
        tokenizer.cls_id,
        tokenizer.sep_id,
        tokenizer.mask_id,
    ) == tuple(range(5))
    assert tokenizer.special_ids == frozenset(range(5))
    assert tokenizer.vocab_size == len(VOCABULARY)
    assert [tokenizer.token_to_id(token) for token in VOCABULARY] == list(range(len(VOCABULARY)))
    assert [tokenizer.id_to_token(one) for one in range(len(VOCABULARY))] == VOCABULARY
    assert tokenizer.token_to_id("nowhere") is None
    assert tokenizer.id_to_token(len(VOCABULARY)) is None
    assert tokenizer.id_to_token(-1) is None
    assert tokenizer.lowercase
    assert not ours(lowercase=False).lowercase


@pytest.mark.parametrize("skip", [True, False])
def test_decode(skip: bool, packaged: tuple[Tokenizer, Any]) -> None:
    tokenizer, reference = packaged
    ids = tokenizer(["How old are you, don't you know? Tokenization!"]).input_ids[0]
    expected = reference.backend_tokenizer.decode(ids, skip_special_tokens=skip)
    assert tokenizer.decode(np.array(ids), skip_special_tokens=skip) == expected
    assert "how old are you, don ' t you know? tokenization!" in expected
    assert ("[CLS]" in expected) is not skip


def test_fingerprint_tells_what_decides_the_ids() -> None:
    kinds: list[dict[str, Any]] = [*KINDS, {"max_word_length": 50}, {"added": (AddedToken("<e>"),)}]
    prints = [ours(**kind).fingerprint for kind in kinds]
    swapped = [*VOCABULARY[:-2], VOCABULARY[-1], VOCABULARY[-2]]
    prints.append(Tokenizer(swapped).fingerprint)
    assert len(set(prints)) == len(prints)
    assert all(len(one) == 64 for one in prints)
    # Accents go with case unless said otherwise, and a length that cuts nothing decides nothing.
    assert Tokenizer(VOCABULARY, strip_accents=True, model_max_length=512).fingerprint == ours().fingerprint


def test_pickles() -> None:
    copy = pickle.loads(pickle.dumps(ours(lowercase=False)))
    assert copy.fingerprint == ours(lowercase=False).fingerprint
    assert copy(NASTY).input_ids == ours(lowercase=False)(NASTY).input_ids


def test_threads_survive_a_fork_without_a_word() -> None:
    code = (
        "import os, sys\n"
        "from manyheads.encoder.tokenizer import SPECIAL, Tokenizer\n"
        "tokenizer = Tokenizer([*SPECIAL, 'a'])\n"
        "tokenizer.encode_batch(['a a a'] * 5000)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if tokenizer.encode_batch(['a a a'] * 5000).lengths.sum() == 25000 else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---- files ----


@pytest.mark.parametrize("kind", [*KINDS, {"model_max_length": 77}], ids=str)
def test_saved_files_load_alike_everywhere(kind: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = ours(**kind)
    tokenizer.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("tokenizer.json", "tokenizer_config.json", "vocab.txt")
    ]
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.model_max_length == kind.get("model_max_length")
    assert_same(tokenizer, AutoTokenizer.from_pretrained(tmp_path), NASTY, NASTY[::-1])
    assert_same(loaded, BertTokenizerFast.from_pretrained(tmp_path), NASTY, NASTY[::-1])
    (tmp_path / "tokenizer.json").unlink()
    listed = Tokenizer.from_pretrained(tmp_path)
    assert listed.fingerprint == tokenizer.fingerprint
    assert_same(listed, BertTokenizerFast.from_pretrained(tmp_path), NASTY)


def test_files_that_transformers_saves_load_here(tmp_path: Path) -> None:
    reference = theirs(do_lower_case=False)
    reference.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).fingerprint == ours(lowercase=False).fingerprint


def test_added_tokens_are_kept(tmp_path: Path) -> None:
    added = (
        AddedToken("<entity>", special=True),
        AddedToken("film", special=False),
        AddedToken("Xq", special=False),
    )
    tokenizer = Tokenizer(VOCABULARY, added=added)
    assert tokenizer.vocab_size == len(VOCABULARY) + 2
    assert tokenizer.special_ids == frozenset({0, 1, 2, 3, 4, len(VOCABULARY)})
    tokenizer.save_pretrained(tmp_path)
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    texts = [*NASTY, "the <entity> films xq Xqs"]
    assert loaded(texts).input_ids == tokenizer(texts).input_ids
    assert_same(loaded, AutoTokenizer.from_pretrained(tmp_path), texts)
    assert_same(loaded, BertTokenizerFast.from_pretrained(tmp_path), texts)


def test_packaged_model(packaged: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    tokenizer, reference = packaged
    assert tokenizer.vocab_size == len(reference) == 30522
    assert tokenizer.model_max_length == 512
    assert len(tokenizer(["a " * 300]).input_ids[0]) == 302  # its file would cut at 128 …
    assert len(tokenizer(["a"]).input_ids[0]) == 3  # … and pad to 128
    folder = resolve("minilm", weights=False)
    assert Tokenizer.from_vocabulary(folder / "vocab.txt").fingerprint == tokenizer.fingerprint
    tokenizer.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).fingerprint == tokenizer.fingerprint
    assert_same(tokenizer, AutoTokenizer.from_pretrained(tmp_path), NASTY)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 512


def test_save_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text("old")

    def refuse(*_: Any) -> None:
        raise OSError("refused")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="refused"):
        ours().save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    assert (tmp_path / "tokenizer.json").read_text() == "old"


Saved = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Builds a saved folder: tokenizer.json changed by a function, other files replaced or (None) removed."""

    def build(change: Callable[[dict[str, Any]], Any] | None = None, **files: str | bytes | None) -> Path:
        folder = tmp_path / "model"
        ours().save_pretrained(folder)
        if change is not None:
            content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
            change(content)
            (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")
        for name, text in files.items():
            file = folder / {"vocab": "vocab.txt"}.get(name, f"{name}.json")
            if text is None:
                file.unlink()
            else:
                file.write_bytes(text.encode() if isinstance(text, str) else text)
        return folder

    return build


def test_config_wins_over_tokenizer_json_as_in_transformers(saved: Saved) -> None:
    folder = saved(
        tokenizer_config='{"do_lower_case": false, "strip_accents": true, "tokenizer_class": "BertTokenizer"}'
    )
    assert_same(Tokenizer.from_pretrained(folder), BertTokenizerFast.from_pretrained(folder), NASTY)
    assert not Tokenizer.from_pretrained(folder).lowercase


def test_silent_config_leaves_it_to_tokenizer_json(saved: Saved) -> None:
    folder = saved(lambda content: content["normalizer"].update(lowercase=False), tokenizer_config=None)
    assert Tokenizer.from_pretrained(folder).fingerprint == ours(lowercase=False).fingerprint


def test_baked_cut_and_padding_are_left_out(saved: Saved) -> None:
    def bake(content: dict[str, Any]) -> None:
        content["truncation"] = {
            "max_length": 8,
            "strategy": "LongestFirst",
            "stride": 0,
            "direction": "Right",
        }
        content["padding"] = {
            "strategy": {"Fixed": 8},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        }

    tokenizer = Tokenizer.from_pretrained(saved(bake))
    assert [len(ids) for ids in tokenizer(["a " * 20, "a"]).input_ids] == [22, 3]


def test_old_tokenizer_json_without_the_models_type(saved: Saved) -> None:
    folder = saved(lambda content: content["model"].pop("type"))
    assert Tokenizer.from_pretrained(folder).fingerprint == ours().fingerprint


@pytest.mark.parametrize(
    ("name", "files", "lowercase"),
    [
        ("bert-base-cased", {}, False),
        ("bert-base-uncased", {}, True),
        ("bert_base_multilingual_Cased", {}, False),
        ("bert-showcased", {}, True),
        ("model", {}, True),
        ("cased/model", {}, True),
        ("model", {"config.json": '{"_name_or_path": "owner/bert-large-cased"}'}, False),
        ("cased", {"tokenizer_config.json": '{"do_lower_case": true}'}, True),
        ("uncased", {"tokenizer_config.json": '{"do_lower_case": false}'}, False),
    ],
)
def test_vocabulary_alone_is_lower_cased_unless_it_says_cased(
    name: str, files: dict[str, str], lowercase: bool, tmp_path: Path
) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), "utf-8")
    for file, text in files.items():
        (folder / file).write_text(text)
    assert Tokenizer.from_pretrained(folder).lowercase is lowercase


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("finish", ["", "1", "3"])
def test_forms_of_a_vocabulary_file(start: str, end: str, finish: str, tmp_path: Path) -> None:
    tokens = [*VOCABULARY, "\u2028", "\x85x", "\u3000"]  # ends of line to str.splitlines, not to this format
    text = start + end.join(tokens) + end * int(finish or 0)
    (tmp_path / "vocab.txt").write_bytes(text.encode())
    tokenizer = Tokenizer.from_vocabulary(tmp_path / "vocab.txt")
    assert tokenizer.fingerprint == Tokenizer(tokens).fingerprint


@pytest.mark.parametrize("files", [["vocab.txt", "tokenizer_config.json"], ["tokenizer.json"]], ids=str)
def test_a_folder_says_itself_how_text_is_read(files: list[str], tmp_path: Path) -> None:
    saved = Tokenizer(VOCABULARY, lowercase=False, split_chinese=False, model_max_length=77)
    saved.save_pretrained(tmp_path)
    for file in tmp_path.iterdir():
        if file.name not in files:
            file.unlink()
    read = Tokenizer.from_vocabulary(str(tmp_path))
    assert (read.lowercase, read.split_chinese) == (False, False)
    assert read.fingerprint == saved.fingerprint
    assert Tokenizer(VOCABULARY).fingerprint != saved.fingerprint


def test_a_list_of_tokens_is_read_as_the_file_beside_it_says(tmp_path: Path) -> None:
    saved = Tokenizer(VOCABULARY, lowercase=False, split_chinese=False)
    saved.save_pretrained(tmp_path)
    assert Tokenizer.from_vocabulary(tmp_path / "vocab.txt").fingerprint == saved.fingerprint
    assert Tokenizer.from_vocabulary(tmp_path / "vocab.txt", lowercase=True).lowercase
    (tmp_path / "vocab.txt").rename(tmp_path / "tokens.txt")
    alone = Tokenizer.from_vocabulary(tmp_path / "tokens.txt")
    assert alone.fingerprint == Tokenizer(VOCABULARY).fingerprint


AGAIN = f"vocab.txt, line {len(VOCABULARY) + 1}: found {VOCABULARY[90]!r} again, line 91 has it too"
LISTED = [token.encode() for token in VOCABULARY]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (LISTED + LISTED[90:91], AGAIN),
        ([], "vocab.txt: the vocabulary is empty"),
        ([b"", b""], "vocab.txt: the vocabulary is empty"),
        ([*LISTED[:4], *LISTED[5:]], "vocab.txt: the vocabulary lacks [MASK]"),
        ([*LISTED[:1], *LISTED[4:]], "vocab.txt: the vocabulary lacks [UNK], [CLS], [SEP]"),
        ([*LISTED[:7], b"", *LISTED[7:]], "vocab.txt, line 8: found '', expected a token"),
        ([*LISTED[:7], b" \t", *LISTED[7:]], "vocab.txt, line 8: found ' \\t', expected a token"),
        ([*LISTED[:9], b"caf\xe9"], "vocab.txt, line 10: found the bytes b'\\xe9', expected UTF-8"),
    ],
)
def test_vocabulary_files_that_cannot_be(lines: list[bytes], error: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"\n".join(lines))
    with pytest.raises(InputError) as caught:
        Tokenizer.from_pretrained(tmp_path)
    assert str(caught.value) == f"{tmp_path}/{error}"
    with pytest.raises(InputError) as caught:
        Tokenizer.from_vocabulary(tmp_path / "vocab.txt")
    assert str(caught.value) == f"{tmp_path}/{error}"


def test_no_tokenizer_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found neither tokenizer\.json nor vocab\.txt"):
        Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"found neither tokenizer\.json nor vocab\.txt"):
        Tokenizer.from_vocabulary(tmp_path)
    with pytest.raises(InputError, match=r"none\.txt: cannot be read \(No such file"):
        Tokenizer.from_vocabulary(tmp_path / "none.txt")


def set_in(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (set_in("model", "type", to="BPE"), "model is 'BPE', expected WordPiece (BERT's WordPiece)"),
        (set_in("model", to=None), "model is None, expected WordPiece"),
        (set_in("normalizer", to=None), "normalizer is None, expected BertNormalizer"),
        (
            set_in("normalizer", to={"type": "Lowercase"}),
            "normalizer is 'Lowercase', expected BertNormalizer",
        ),
        (set_in("normalizer", "clean_text", to=False), "normalizer.clean_text is False, expected True"),
        (set_in("pre_tokenizer", "type", to="Whitespace"), "pre_tokenizer is 'Whitespace'"),
        (set_in("model", "unk_token", to="<unk>"), "model.unk_token is '<unk>', expected '[UNK]'"),
        (set_in("model", "continuing_subword_prefix", to="@@"), "continuing_subword_prefix is '@@'"),
        (set_in("post_processor", "type", to="RobertaProcessing"), "post_processor is 'RobertaProcessing'"),
        (set_in("post_processor", "pair", to=[]), "post_processor does not build [CLS] a [SEP] b [SEP]"),
        (set_in("model", "vocab", "the", to=9999), "model.vocab does not number its tokens"),
        (set_in("model", "vocab", "the", to="x"), "model.vocab does not number its tokens"),
        (set_in("model", "vocab", "the", to=[1]), "model.vocab does not number its tokens"),
        (
            set_in("normalizer", "strip_accents", to="no"),
            "normalizer.strip_accents is 'no', expected true or",
        ),
        (set_in("model", "vocab", to=[]), "model.vocab does not number its tokens"),
        (set_in("model", "vocab", to={}), "the vocabulary is empty"),
        (set_in("model", "vocab", to={"[PAD]": 0}), "the vocabulary lacks [UNK], [CLS], [SEP], [MASK]"),
        (set_in("model", "vocab", "new", to=len(VOCABULARY)), f"vocab.txt: found {len(VOCABULARY)} tokens"),
        (
            set_in("added_tokens", to=[{"id": 7, "content": "<e>"}]),
            "added_tokens: '<e>' has the id 7, expected",
        ),
        (set_in("added_tokens", to=[{"id": "x", "content": "<e>"}]), "added_tokens is not"),
        (set_in("added_tokens", to=[{"id": 1}]), "added_tokens is not"),
        (set_in("added_tokens", to={"a": 1}), "added_tokens is not"),
        (set_in("model", "max_input_chars_per_word", to="x"), "max_input_chars_per_word is 'x'"),
    ],
)
def test_tokenizer_json_that_is_not_berts(
    change: Callable[[dict[str, Any]], None], error: str, saved: Saved
) -> None:
    folder = saved(change)
    with pytest.raises(InputError) as caught:
        Tokenizer.from_pretrained(folder)
    assert str(caught.value).startswith(str(folder))
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"tokenizer": "{"}, "tokenizer.json: not JSON: "),
        ({"tokenizer": b"\xff\xfe{"}, "tokenizer.json: not JSON: "),
        ({"tokenizer": "[]"}, "tokenizer.json: found [], expected a JSON object"),
        ({"tokenizer_config": "nope"}, "tokenizer_config.json: not JSON: "),
        (
            {"tokenizer_config": '{"do_lower_case": "yes"}'},
            "tokenizer_config.json: do_lower_case is 'yes', expected true or false",
        ),
        (
            {"tokenizer": None, "added_tokens": '{"<e>": 104}'},
            "added_tokens.json: tokens added beside vocab.txt are not read",
        ),
        (
            {"vocab": "\n".join([*VOCABULARY[:-2], VOCABULARY[-1], VOCABULARY[-2]])},
            f"vocab.txt: found '/' for id {len(VOCABULARY) - 2}, tokenizer.json has '@'",
        ),
    ],
)
def test_files_that_cannot_be(files: dict[str, Any], error: str, saved: Saved) -> None:
    folder = saved(**files)
    with pytest.raises(InputError) as caught:
        Tokenizer.from_pretrained(folder)
    assert str(caught.value).startswith(f"{folder}/{error}")
