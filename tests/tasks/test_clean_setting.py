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
