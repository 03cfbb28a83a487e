"""Folders for sentence-transformers: it loads them, and its embeddings are ours."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from manyheads.encoder.bert import Encoder
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.export import sentence_transformers
from manyheads.model import Model


def theirs(folder: Path, texts: list[str]) -> tuple[Any, NDArray[np.float32]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = pytest.importorskip("sentence_transformers")
        model = library.SentenceTransformer(str(folder), device="cpu")
        return model, model.encode(texts, show_progress_bar=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("pooling", "length"), [("mean", None), ("cls", None), ("mean", 9)])
def test_its_embeddings_are_ours(
    every: Model, tmp_path: Path, pooling: Literal["mean", "cls"], length: int | None
) -> None:
    chance = random.Random(2)
    words = ["The", "film", "was", "GOOD", ",", "café", "bad", "a", "story", "42", "ada", "!"]
    texts = [" ".join(chance.choices(words, k=chance.randint(1, 50))) for _ in range(30)] + [""]
    (line,) = sentence_transformers.write(every, tmp_path / "out", pooling, length)
    assert line.became == "SentenceTransformer"
    model, found = theirs(tmp_path / "out", texts)
    ours = every.embed(texts, pooling, max_length=length)
    assert ours.std() > 1e-2
    assert np.abs(found - ours).max() < 1e-4
    assert model.max_seq_length == (length or 32)
    assert model.similarity_fn_name == "cosine"


def test_it_keeps_capital_letters_where_the_tokenizer_does(every: Model, tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abAB", *(f"##{one}" for one in "abAB")]
    cased = Model(every.network, Tokenizer(words, lowercase=False), [every.task("topic")], "float32")
    texts = ["ab BA", "AB ba", "aB"]
    sentence_transformers.write(cased, tmp_path / "out")
    _, found = theirs(tmp_path / "out", texts)
    ours = cased.embed(texts)
    assert np.abs(ours[0] - ours[1]).max() > 1e-2
    assert np.abs(found - ours).max() < 1e-4


def test_what_cannot_be_is_refused(
    every: Model, build: Callable[..., Model], tiny: Any, tmp_path: Path
) -> None:
    place = tmp_path / "out"
    with pytest.raises(InputError, match="expected 'mean' or 'cls'"):
        sentence_transformers.write(every, place, "max")  # type: ignore[arg-type]
    for length in (2, 65):
        with pytest.raises(InputError, match=f"found {length}, expected 3 to 64"):
            sentence_transformers.write(every, place, max_length=length)
    bert = tiny.folder / "bert"
    causal = build(Encoder.from_pretrained(bert, causal=True), Tokenizer.from_pretrained(bert), {})
    with pytest.raises(InputError, match="causal"):
        sentence_transformers.write(causal, place, "cls")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(600)
def test_two_hundred_sentences_in_minilm(minilm_model: Model, sentences: list[str], tmp_path: Path) -> None:
    sentence_transformers.write(minilm_model, tmp_path / "out")
    _, found = theirs(tmp_path / "out", sentences)
    assert np.abs(found - minilm_model.embed(sentences)).max() < 1e-4
