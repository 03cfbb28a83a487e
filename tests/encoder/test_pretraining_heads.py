"""The heads of pre-training under transformers' names: equal logits and loss in both directions, bad files refused."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertModel,
)

from manyheads.encoder import checkpoint
from manyheads.encoder.bert import Encoder
from manyheads.encoder.checkpoint import HEAD_NAMES, load_pretraining, pretraining_weights
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.ragged import Ragged
from manyheads.errors import InputError
from manyheads.formulas.mlm import cross_entropy
from manyheads.tasks.heads.masked_lm import MaskedLMHead
from manyheads.tasks.heads.next_sentence import NextSentenceHead

BATCH = {
    "input_ids": torch.tensor(
        [[2, 7, 4, 9, 3, 30, 31, 3], [2, 4, 50, 3, 4, 3, 0, 0], [2, 11, 3, 4, 89, 4, 3, 0]]
    ),
    "attention_mask": torch.tensor([[1] * 8, [1] * 6 + [0] * 2, [1] * 7 + [0]]),
    "token_type_ids": torch.tensor([[0] * 5 + [1] * 3, [0] * 4 + [1] * 4, [0] * 3 + [1] * 5]),
}
MASKED = BATCH["input_ids"] == 4


class Ours(NamedTuple):
    """An encoder with both heads."""

    encoder: Encoder
    words: MaskedLMHead
    order: NextSentenceHead

    @property
    def heads(self) -> dict[str, Any]:
        return {"masked_lm": self.words, "next_sentence": self.order}

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Logits of the masked tokens [M, V], and of the pairs [B, 2]."""
        keep = BATCH["attention_mask"].bool()
        ragged = Ragged.of_padded(**BATCH)
        states = self.encoder.encode(ragged)
        marks = MASKED[keep]
        states = states.select(np.arange(3), marks, None)
        said: Grouped = self.words(self.words.read(states))
        assert said.sizes.tolist() == MASKED.sum(1).tolist()
        return said.rows, self.order(self.order.read(states))


def ours_of(encoder: Encoder) -> Ours:
    torch.manual_seed(1)
    words = MaskedLMHead(encoder.embeddings.word, eps=encoder.shape.eps)
    return Ours(encoder, words, NextSentenceHead(encoder.shape.hidden))


@pytest.fixture
def theirs(make_bert: Callable[..., Any]) -> Any:
    """transformers' model with every parameter at random."""
    bert = make_bert(layer_norm_eps=1e-6)
    kind: Any = BertForPreTraining
    model = kind(bert.config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.15)
        model.bert.load_state_dict(bert.state_dict())
        model.cls.predictions.transform.LayerNorm.weight.add_(1)
    model.tie_weights()
    return model


@pytest.fixture
def folder(theirs: Any, tmp_path: Path) -> Path:
    theirs.save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def said_by(theirs: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        out = theirs(**BATCH)
    return out.prediction_logits[MASKED], out.seq_relationship_logits


def edit(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})


# ---- theirs → ours ----


def test_their_checkpoint_gives_equal_logits_and_loss(theirs: Any, folder: Path) -> None:
    ours = ours_of(Encoder.from_pretrained(folder))
    assert load_pretraining(ours.heads, folder) == ("masked_lm", "next_sentence")
    labels = torch.randint(90, MASKED.shape, generator=torch.Generator().manual_seed(0))
    pairs = torch.tensor([0, 1, 1])
    whole = theirs(**BATCH, labels=labels.masked_fill(~MASKED, -100), next_sentence_label=pairs)
    with torch.no_grad():
        words, order = ours()
    for mine, other in zip((words, order), said_by(theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    loss = cross_entropy(words, labels[MASKED]) + F.cross_entropy(order, pairs)
    torch.testing.assert_close(loss, whole.loss.detach(), atol=1e-5, rtol=0)


def test_gradients_are_equal_in_double(theirs: Any, folder: Path) -> None:
    """The table of words learns through the product as well as through the embeddings."""
    ours = ours_of(Encoder.from_pretrained(folder))
    load_pretraining(ours.heads, folder)
    theirs.double()
    for one in ours:
        one.double()
    labels = torch.randint(90, MASKED.shape, generator=torch.Generator().manual_seed(0))
    pairs = torch.tensor([0, 1, 1])
    theirs(**BATCH, labels=labels.masked_fill(~MASKED, -100), next_sentence_label=pairs).loss.backward()
    words, order = ours()
    torch.autograd.backward(cross_entropy(words, labels[MASKED]) + F.cross_entropy(order, pairs))
    pairs_of_parameters = [
        (ours.encoder.embeddings.word.weight, theirs.bert.embeddings.word_embeddings.weight),
        (ours.words.dense.weight, theirs.cls.predictions.transform.dense.weight),
        (ours.words.norm.bias, theirs.cls.predictions.transform.LayerNorm.bias),
        (ours.words.bias, theirs.cls.predictions.bias),
        (ours.order.output.weight, theirs.cls.seq_relationship.weight),
    ]
    for mine, other in pairs_of_parameters:
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-12, rtol=1e-9)


def test_old_names_and_the_tied_product_are_read(theirs: Any, folder: Path) -> None:
    """As Google's conversions have them: gamma and beta, and the product's matrix written out."""

    def old(state: dict[str, Tensor]) -> dict[str, Tensor]:
        named = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): one
            for name, one in state.items()
        }
        words = state["bert.embeddings.word_embeddings.weight"]
        return named | {"cls.predictions.decoder.weight": words.clone()}

    edit(folder, old)
    ours = ours_of(Encoder.from_pretrained(folder))
    load_pretraining(ours.heads, folder)
    with torch.no_grad():
        torch.testing.assert_close(ours()[0], said_by(theirs)[0], atol=1e-5, rtol=0)


def test_the_bias_under_the_product_s_name(theirs: Any, folder: Path) -> None:
    def moved(state: dict[str, Tensor]) -> dict[str, Tensor]:
        bias = state.pop("cls.predictions.bias")
        return state | {"cls.predictions.decoder.bias": bias}

    edit(folder, moved)
    assert torch.equal(pretraining_weights(folder)["masked_lm"]["bias"], theirs.cls.predictions.bias)


def test_a_model_without_heads_has_none(make_bert: Callable[..., Any], tmp_path: Path) -> None:
    make_bert().save_pretrained(tmp_path)
    assert pretraining_weights(tmp_path) == {}
    ours = ours_of(Encoder.from_pretrained(tmp_path))
    before = ours.words.bias.clone()
    assert load_pretraining(ours.heads, tmp_path) == ()
    assert torch.equal(ours.words.bias, before)


# ---- ours → theirs ----


@pytest.fixture
def ours(make_bert: Callable[..., Any], tmp_path: Path) -> Ours:
    make_bert().save_pretrained(tmp_path / "bare")
    found = ours_of(Encoder.from_pretrained(tmp_path / "bare"))
    with torch.no_grad():
        for head in found.heads.values():
            for parameter in head.parameters():
                parameter.normal_(std=0.15)
    return found


def saved(ours: Ours, folder: Path, *names: str) -> Path:
    heads = {name: ours.heads[name] for name in names}
    checkpoint.save(ours.encoder, asdict(ours.encoder.shape), folder, heads)
    return folder


def test_transformers_reads_encoder_and_heads(ours: Ours, tmp_path: Path) -> None:
    folder = saved(ours, tmp_path / "ours", "masked_lm", "next_sentence")
    found: Any = BertForPreTraining
    theirs, told = found.from_pretrained(folder, output_loading_info=True)
    assert not any(told[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), told
    with torch.no_grad():
        mine = ours()
    for one, other in zip(mine, said_by(theirs.eval()), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForPreTraining"]


def test_what_was_saved_is_read_again(ours: Ours, tmp_path: Path) -> None:
    folder = saved(ours, tmp_path / "ours", "masked_lm", "next_sentence")
    again = ours_of(Encoder.from_pretrained(folder))
    load_pretraining(again.heads, folder)
    with torch.no_grad():
        for one, other in zip(ours(), again(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "kind"), [("masked_lm", BertForMaskedLM), ("next_sentence", BertForNextSentencePrediction)]
)
def test_one_head_alone(ours: Ours, tmp_path: Path, name: str, kind: Any) -> None:
    folder = saved(ours, tmp_path / "ours", name)
    assert json.loads((folder / "config.json").read_text())["architectures"] == [kind.__name__]
    theirs = kind.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = theirs(**BATCH).logits
        words, order = ours()
    if name == "masked_lm":
        torch.testing.assert_close(logits[MASKED], words, atol=1e-5, rtol=0)
    else:
        torch.testing.assert_close(logits, order, atol=1e-5, rtol=0)
    assert list(pretraining_weights(folder)) == [name]


def test_the_encoder_alone_is_read_from_it(ours: Ours, tmp_path: Path) -> None:
    folder = saved(ours, tmp_path / "ours", "masked_lm", "next_sentence")
    theirs: Any = BertModel.from_pretrained(folder)
    with torch.no_grad():
        expected = theirs.eval()(**BATCH).last_hidden_state
        found = Encoder.from_pretrained(folder)(**BATCH).last_hidden_state
    keep = BATCH["attention_mask"].bool()
    torch.testing.assert_close(found[keep], expected[keep], atol=1e-5, rtol=0)


def test_the_words_are_written_once(ours: Ours, tmp_path: Path) -> None:
    folder = saved(ours, tmp_path / "ours", "masked_lm", "next_sentence")
    shapes = [tuple(one.shape) for one in load_file(folder / "model.safetensors").values()]
    assert shapes.count((90, 32)) == 1


def test_a_head_of_another_name_is_refused(ours: Ours, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no head of pre-training is called 'span'"):
        checkpoint.save(ours.encoder, asdict(ours.encoder.shape), tmp_path, {"span": ours.order})


# ---- what must not load ----


@pytest.mark.parametrize(
    "name",
    [
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.LayerNorm.bias",
        "cls.predictions.bias",
        "cls.seq_relationship.bias",
    ],
)
def test_a_missing_tensor_is_named(folder: Path, name: str) -> None:
    edit(folder, lambda state: {key: one for key, one in state.items() if key != name})
    with pytest.raises(InputError, match=f"the tensor '{name}' is missing"):
        pretraining_weights(folder)


def test_a_product_of_its_own_is_refused(folder: Path) -> None:
    edit(folder, lambda state: state | {"cls.predictions.decoder.weight": torch.zeros(90, 32)})
    with pytest.raises(
        InputError, match=r"model\.safetensors: cls\.predictions\.decoder\.weight: expected the word"
    ):
        pretraining_weights(folder)


def test_another_vocabulary_is_refused(ours: Ours, folder: Path) -> None:
    edit(folder, lambda state: state | {"cls.predictions.bias": torch.zeros(91)})
    with pytest.raises(
        InputError, match=r"predictions\.bias: the weights have shape \[91\], the model asks for \[90\]"
    ):
        load_pretraining(ours.heads, folder)


def test_the_table_names_each_side_once(ours: Ours) -> None:
    assert len(set(HEAD_NAMES.values())) == len(HEAD_NAMES)
    named = {(head, parameter) for _, head, parameter in checkpoint.their_head_names()}
    assert named == {(name, one) for name, head in ours.heads.items() for one in head.state_dict()}
