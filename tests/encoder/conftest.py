"""Pairs of encoders that must agree, ours and transformers', and the one way in which they are compared."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from manyheads.encoder.attention import BACKENDS
from manyheads.encoder.bert import Encoder
from manyheads.encoder.checkpoint import their_names
from manyheads.encoder.ragged import kept
from manyheads.encoder.sources import PACKAGE_MODULE, resolve
from manyheads.native.library import describe, library

Batch = Mapping[str, Tensor]


@pytest.fixture(params=BACKENDS, scope="session")
def backend(request: pytest.FixtureRequest) -> str:
    """The name of each attention backend that can run here."""
    name = str(request.param)
    if name == "native" and library() is None:
        pytest.skip(f"no native kernels: {describe()}")
    return name


class Twins(NamedTuple):
    """The same weights twice: in our encoder and in transformers' BertModel with plain ("eager") attention."""

    ours: Encoder
    theirs: Any
    folder: Path

    def double(self) -> "Twins":
        return Twins(self.ours.double(), self.theirs.double(), self.folder)

    def agree(self, batch: Batch, atol: float) -> None:
        """All four outputs are equal within `atol` wherever the mask has a token, and ours are 0 elsewhere."""
        want = {"output_hidden_states": True, "output_attentions": True}
        with torch.no_grad():
            ours, theirs = self.ours(**batch, **want), self.theirs(**batch, **want)
        size, length = ours.last_hidden_state.shape[:2]
        keep = kept(batch.get("attention_mask"), size, length, torch.device("cpu"))
        assert len(ours.hidden_states) == len(theirs.hidden_states) == self.ours.shape.layers + 1
        assert len(ours.attentions) == len(theirs.attentions) == self.ours.shape.layers
        # transformers pools the first place even where it is padding; we pool the row's first token.
        begins = keep.int().argmax(1)
        with torch.no_grad():
            chosen = theirs.last_hidden_state[torch.arange(size), begins][:, None]
            pooled = self.theirs.pooler(chosen)
        torch.testing.assert_close(ours.pooler_output, pooled, atol=atol, rtol=0)
        usual = begins == 0
        torch.testing.assert_close(ours.pooler_output[usual], theirs.pooler_output[usual], atol=atol, rtol=0)
        for left, right in zip(
            (ours.last_hidden_state, *ours.hidden_states),
            (theirs.last_hidden_state, *theirs.hidden_states),
            strict=True,
        ):
            torch.testing.assert_close(left[keep], right[keep], atol=atol, rtol=0)
            assert not left[~keep].any()
        both = (keep[:, :, None] & keep[:, None, :])[:, None]
        for left, right in zip(ours.attentions, theirs.attentions, strict=True):
            torch.testing.assert_close(left, right * both, atol=atol, rtol=0)

    def gradients_agree(self, batch: Batch, atol: float) -> None:
        """One scalar of both outputs, and its gradient for every parameter, whatever its name and place."""
        found = []
        for model in (self.ours, self.theirs):
            model.zero_grad()
            out = model(**batch)
            states = out.last_hidden_state
            keep = kept(batch.get("attention_mask"), states.shape[0], states.shape[1], states.device)
            weights = torch.linspace(-1, 1, states[keep].numel(), dtype=states.dtype).view_as(states[keep])
            pooled = out.pooler_output[keep[:, 0]]
            loss = (states[keep].square() * weights).sum() + pooled.sin().sum()
            loss.backward()
            found.append(loss.detach())
        torch.testing.assert_close(found[0], found[1], atol=atol, rtol=0)
        left = {name: parameter.grad for name, parameter in self.ours.named_parameters()}
        right = {name: parameter.grad for name, parameter in self.theirs.named_parameters()}
        for theirs, ours, third in their_names(self.ours.shape.layers):
            mine = left[ours]
            assert mine is not None
            mine = mine if third is None else mine.chunk(3)[third]
            torch.testing.assert_close(mine, right.pop(theirs), atol=atol, rtol=0)
        assert not right


class MakeTwins(Protocol):
    def __call__(self, **sizes: Any) -> Twins: ...


def small(**sizes: Any) -> Any:
    """A transformers config of an encoder that a test can afford."""
    default = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 90,
        "max_position_embeddings": 40,
    }
    return BertConfig(**{**default, **sizes})


def random_bert(seed: int = 0, **sizes: Any) -> Any:
    """transformers' BertModel with every parameter at random: LayerNorms are no identity, biases are not zero."""
    torch.manual_seed(seed)
    theirs: Any = BertModel
    model = theirs._from_config(small(**sizes), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.15)
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1)
    return model


@pytest.fixture(scope="session")
def make_bert() -> Callable[..., Any]:
    """transformers' BertModel with random weights, by the sizes of its config."""
    return random_bert


@pytest.fixture
def make_twins(tmp_path: Path) -> MakeTwins:
    """Twins by the sizes of transformers' config; the folder is saved by transformers."""

    def make(**sizes: Any) -> Twins:
        theirs = random_bert(**sizes)
        theirs.save_pretrained(tmp_path / "theirs")
        return Twins(Encoder.from_pretrained(tmp_path / "theirs"), theirs, tmp_path / "theirs")

    return make


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The packaged default; tests of it are skipped where the package is not installed."""
    if importlib.util.find_spec(PACKAGE_MODULE) is None:
        pytest.skip(f"the package {PACKAGE_MODULE} is not installed")
    return resolve("minilm")


@pytest.fixture(scope="module")
def minilm(minilm_folder: Path) -> Twins:
    theirs: Any = BertModel.from_pretrained(minilm_folder, attn_implementation="eager")
    return Twins(Encoder.from_pretrained(minilm_folder), theirs.eval(), minilm_folder)
