"""`clean: weibo` of the kinds on texts: in training, in use and in the name of what is cached, and all alike."""

# ruff: noqa: RUF001 (full-width signs are what this is about)

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydantic import ValidationError

import manyheads as mh
from manyheads.data.encode import TokenCache
from manyheads.encoder import clean
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.recipe import Recipe
from manyheads.tasks import KINDS
from manyheads.training.splits import load_task

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tiny

RAW = ["//@you: A ＦＩＮＥ film http://t.cn/A6 !", "dull　story@me", "@you"]
CLEAN = ["a fine film !", "dull story", ""]


@pytest.mark.parametrize(
    ("name", "more"), [("classification", {"labels": ["bad", "good"]}), ("regression", {"label": "score"})]
)
def test_every_kind_on_texts_cleans_what_it_reads(name: str, more: dict[str, Any]) -> None:
    kinds = [
        KINDS[name](KINDS[name].Settings.model_validate({"kind": name, "pair": ["a", "b"], **more, **asked}))
        for asked in ({}, {"clean": "weibo"})
    ]
    plain, cleaning = kinds
    row = {"a": RAW[0], "b": RAW[1]}
    assert plain.input(row) == tuple(RAW[:2])
    assert cleaning.input(row) == tuple(CLEAN[:2])
    assert cleaning.input(cleaning.given((RAW[1], RAW[2]))) == (CLEAN[1], "")
    assert cleaning.input(row) == cleaning.input({"a": CLEAN[0], "b": CLEAN[1]})
    assert plain.laid_by != cleaning.laid_by


def kind_of(name: str, **settings: Any) -> Any:
    return KINDS[name](KINDS[name].Settings.model_validate({"kind": name, **settings}))


def both(name: str, **settings: Any) -> tuple[Any, Any]:
    return kind_of(name, **settings), kind_of(name, **settings, clean="weibo")


def test_candidates_and_pairs_of_spans_are_cleaned() -> None:
    plain, cleaning = both("choice", text="t", choices=["a", "b"], second="s")
    row = {"t": RAW[0], "s": RAW[1], "a": "Ａ @you", "b": RAW[0]}
    assert cleaning.input(row) == (CLEAN[0], [f"{CLEAN[1]} a", f"{CLEAN[1]} {CLEAN[0]}"])
    assert plain.laid_by != cleaning.laid_by
    plain, cleaning = both("ranking", query="q", candidates="c")
    assert cleaning.input({"q": RAW[0], "c": RAW}) == (CLEAN[0], CLEAN)
    assert plain.input({"q": RAW[0], "c": RAW}) == (RAW[0], RAW)
    assert plain.laid_by != cleaning.laid_by
    plain, cleaning = both("nsp", pairs_of="x")
    assert cleaning.input({"first": RAW[0], "second": RAW[1]}) == tuple(CLEAN[:2])
    assert plain.laid_by != cleaning.laid_by


def test_words_are_read_clean_and_stay_where_they_are(tiny: "Tiny") -> None:
    """Each word keeps its tag and its place; one that is cleaned away is read as [UNK]."""
    tokenizer = Tokenizer.from_pretrained(tiny.folder / "bert")
    plain, cleaning = both("tagging")
    raw = "Ａ　ＦＩＮＥ film @you　!"
    sentence = raw.split()
    assert sentence == ["Ａ", "ＦＩＮＥ", "film", "@you", "!"]
    found = cleaning.lay([sentence], tokenizer, 32)
    wanted = plain.lay([["a", "fine", "film", "\u200b", "!"]], tokenizer, 32)
    assert found.ids.tolist() == wanted.ids.tolist()
    assert found.marks is not None
    assert wanted.marks is not None
    assert found.marks.tolist() == wanted.marks.tolist()
    assert found.ids[found.marks][3] == tokenizer.unk_id
    text = " ".join(sentence)
    assert found.offsets is not None
    assert [text[start:end] for start, end in found.offsets] == sentence
    spoken = kind_of("tagging", clean="weibo", split="spaces").lay([raw], tokenizer, 32)
    assert spoken.ids.tolist() == found.ids.tolist()
    assert [raw[start:end] for start, end in spoken.offsets] == sentence
    assert plain.laid_by != cleaning.laid_by


def test_an_answer_is_found_in_the_raw_context(tiny: "Tiny") -> None:
    tokenizer = Tokenizer.from_pretrained(tiny.folder / "bert")
    plain, cleaning = both("span")
    context = "//@you: A ＦＩＮＥ film　http://t.cn/A6 !"
    asked = {"question": "Ａ　film?", "context": context, "id": None}
    found = cleaning.lay([asked], tokenizer, 64)
    wanted = plain.lay([{"question": "a film?", "context": "a fine film !", "id": None}], tokenizer, 64)
    assert found.ids.tolist() == wanted.ids.tolist()
    read = tokenizer(["a fine film !"])
    words = [
        "".join(context[start:end].split())
        for start, end in found.offsets[1:]  # the first is [CLS]
    ]
    assert len(words) == len(read.input_ids[0]) - 2
    assert "".join(words) == "AＦＩＮＥfilm!"
    assert plain.laid_by != cleaning.laid_by


def test_masks_stay_between_clean_texts(tiny: "Tiny") -> None:
    tokenizer = Tokenizer.from_pretrained(tiny.folder / "bert")
    plain, cleaning = both("mlm")
    raw = "Ａ [MASK] film @you [MASK] http://t.cn/x[MASK]"
    found = cleaning.lay([raw, "none"], tokenizer, 64)
    wanted = plain.lay(["a [MASK] film [MASK] [MASK]", "none"], tokenizer, 64)
    assert found.ids.tolist() == wanted.ids.tolist()
    assert [raw[start:end] for start, end in found.offsets] == ["[MASK]"] * 3
    assert len({tuple(place) for place in found.offsets.tolist()}) == 3
    cut = plain.lay(["a [MASK] film [MASK] [MASK]"], tokenizer, 5)
    assert cut.offsets.tolist() == [[2, 8]]
    assert plain.laid_by != cleaning.laid_by


def test_other_rules_are_other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"kind": "classification", "text": "t", "clean": "weibo"}
    kind = KINDS["classification"](KINDS["classification"].Settings.model_validate(settings))
    before = kind.laid_by
    monkeypatch.setattr(clean, "RULES", clean.RULES + 1)
    assert kind.laid_by != before


def test_an_unknown_cleaner_is_refused() -> None:
    with pytest.raises(ValidationError, match="weibo"):
        KINDS["classification"].Settings.model_validate(
            {"kind": "classification", "text": "t", "clean": "weibbo"}
        )


def test_training_reads_the_clean_texts_and_the_cache_tells_them_apart(
    tiny: "Tiny", tmp_path: "Path"
) -> None:
    for name, texts in {"raw": RAW, "clean": CLEAN}.items():
        tiny.csv(tmp_path / f"{name}.csv", ["sentence", "label"], list(zip(texts, "aba", strict=True)))
    tokenizer = Tokenizer.from_pretrained(tiny.folder / "bert")
    cache = TokenCache(tmp_path / "cache")

    def ids(name: str, **settings: Any) -> Any:
        section = tiny.mood(files={"train": str(tmp_path / f"{name}.csv")}, **settings)
        recipe = Recipe.parse(tiny.recipe(tasks={"mood": section}))
        task = load_task("mood", recipe, tokenizer, positions=64, cache=cache)
        return task.splits["train"].rows.layout

    uncleaned, cleaned = ids("raw"), ids("raw", clean="weibo")
    already = ids("clean")
    assert not np.array_equal(uncleaned.ids, cleaned.ids)
    assert np.array_equal(cleaned.ids, already.ids)
    assert np.array_equal(cleaned.lengths, already.lengths)
    assert cleaned.lengths[2] == 2  # [CLS] [SEP]


def test_a_run_cleans_what_it_is_asked(tiny: "Tiny", tmp_path: "Path") -> None:
    tasks = {"mood": tiny.mood(clean="weibo"), "plain": tiny.mood()}
    mh.train(Recipe.parse(tiny.recipe(tasks=tasks)), tmp_path / "run", quiet=True)
    model = mh.load(tmp_path / "run")
    assert model.predict("mood", RAW) == model.predict("mood", CLEAN)
    assert model.predict("plain", RAW) != model.predict("plain", CLEAN)
    found, expected = model.analyze(RAW), model.analyze(CLEAN)
    for one, other in zip(found, expected, strict=True):
        assert one["mood"].score == pytest.approx(other["mood"].score, abs=1e-6)
