"""A smaller encoder of a larger one's weights, against transformers' BertModel cut by hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.reduced import reduced
from manyheads.errors import InputError
from manyheads.recipe import Recipe

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny

SHAPE = Shape(layers=4, hidden=24, heads=3, intermediate=40, vocabulary=50, positions=16)
BATCH = {
    "input_ids": torch.tensor([[2, 7, 9, 11, 3], [2, 40, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    "token_type_ids": torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]),
}


@pytest.fixture(scope="module")
def large() -> Encoder:
    """Every weight at random: no bias is zero, no LayerNorm is one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder(SHAPE).eval()
        with torch.no_grad():
            for one in encoder.parameters():
                one.normal_(std=0.3)
    return encoder


def cut_by_hand(folder: Path, kept: list[int], hidden: int, inner: int) -> Any:
    """transformers' model of these layers, each tensor cut to the size that the small model wants."""
    config = BertConfig(
        vocab_size=50,
        hidden_size=hidden,
        num_hidden_layers=len(kept),
        num_attention_heads=hidden // 8,
        intermediate_size=inner,
        max_position_embeddings=16,
    )
    small: Any = BertModel(config)
    small.eval()
    whole = load_file(folder / "model.safetensors")
    cut = {}
    for name, one in small.state_dict().items():
        source = name
        if name.startswith("encoder.layer."):
            _, _, number, rest = name.split(".", 3)
            source = f"encoder.layer.{kept[int(number)] - 1}.{rest}"
        cut[name] = whole[source][tuple(slice(size) for size in one.shape)].clone()
    small.load_state_dict(cut)
    return small


@pytest.mark.parametrize(
    ("settings", "kept", "hidden", "inner"),
    [
        ({"layers": [1, 3]}, [1, 3], 24, 40),
        ({"layers": [4]}, [4], 24, 40),
        ({"hidden": 8}, [1, 2, 3, 4], 8, 40),
        ({"hidden": 16, "intermediate": 10}, [1, 2, 3, 4], 16, 10),
        ({"layers": (2, 3, 4), "hidden": 16, "intermediate": 1}, [2, 3, 4], 16, 1),
        ({}, [1, 2, 3, 4], 24, 40),
    ],
    ids=str,
)
def test_it_is_what_a_knife_leaves(
    large: Encoder, tmp_path: Path, settings: dict[str, Any], kept: list[int], hidden: int, inner: int
) -> None:
    large.save_pretrained(tmp_path / "large")
    small = reduced(large, **settings)
    assert not small.training
    theirs = cut_by_hand(tmp_path / "large", kept, hidden, inner)
    with torch.no_grad():
        found, wanted = small(**BATCH), theirs(**BATCH)
    mask = BATCH["attention_mask"][..., None]
    torch.testing.assert_close(
        found.last_hidden_state * mask, wanted.last_hidden_state * mask, atol=2e-5, rtol=0
    )
    torch.testing.assert_close(found.pooler_output, wanted.pooler_output, atol=2e-5, rtol=0)
    small.save_pretrained(tmp_path / "small")
    again = Encoder.from_pretrained(tmp_path / "small")
    assert again.shape == small.shape
    assert (small.shape.layers, small.shape.hidden, small.shape.heads) == (len(kept), hidden, hidden // 8)


def test_the_whole_is_left_as_it_was(large: Encoder) -> None:
    before = {name: one.clone() for name, one in large.state_dict().items()}
    small = reduced(large, layers=[2], dropout=0.3, attention_dropout=0.0)
    with torch.no_grad():
        for one in small.parameters():
            one.zero_()
    assert all(torch.equal(one, before[name]) for name, one in large.state_dict().items())
    layer: Any = small.layers[0]
    assert (small.embeddings.dropout, layer.attention.dropout) == (0.3, 0.0)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": [1, 5]}, "encoder.layers: there is no layer 5, expected 1 to 4"),
        ({"layers": [0]}, "encoder.layers: there is no layer 0, expected 1 to 4"),
        (
            {"hidden": 12},
            "encoder.hidden: found 12, expected a multiple of an attention head's width 8, up to 24",
        ),
        ({"hidden": 32}, "encoder.hidden: found 32, expected a multiple"),
        ({"hidden": 4}, "encoder.hidden: found 4, expected a multiple"),
        ({"intermediate": 41}, "encoder.intermediate: found 41, expected up to 40"),
    ],
)
def test_what_the_encoder_does_not_have(large: Encoder, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        reduced(large, **settings)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_a_recipe_asks_for_it(tiny: "Tiny", tmp_path: Path, command: "Command") -> None:
    source = str(tiny.folder / "bert")
    asked = Recipe.parse(tiny.recipe(encoder={"from": source, "layers": [1, 2], "hidden": 16}))
    assert (asked.encoder.layers, asked.encoder.hidden, asked.encoder.intermediate) == ((1, 2), 16, None)
    path = tiny.write(tmp_path / "r.yaml", encoder={"from": source, "layers": [3]})
    told = command.refused("train", path, "--out", tmp_path / "out", "--quiet")
    assert told == "error: encoder.layers: there is no layer 3, expected 1 to 2\n"
    told = command.refused(
        "train", path, "--out", tmp_path / "out", "--set", "encoder.layers=null", "--set", "encoder.hidden=20"
    )
    assert "encoder.hidden: found 20, expected a multiple of an attention head's width 16" in told
    assert not (tmp_path / "out").exists()
