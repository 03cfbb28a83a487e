"""The weights that are timed: minilm's own, or random ones of another size with minilm's vocabulary.

Knows folders of weights and transformers, which writes the random ones. Must not know what is measured.
"""

import shutil
from pathlib import Path

__all__ = ["SIZES", "model_folder"]

SIZES: dict[str, tuple[int, int]] = {
    "minilm": (6, 384),
    "base": (12, 768),
    "tiny": (2, 128),
}
"""Layers and width. `minilm` is the trained model, the others are random: how fast a product is does not depend on
what is multiplied."""


def model_folder(size: str, folder: Path) -> Path:
    """A Hugging Face folder of that size: minilm's own, or one written to `folder`, the same for the same size."""
    from manyheads.encoder.sources import resolve

    own = resolve("minilm")
    if size == "minilm":
        return own
    import torch
    from transformers import BertConfig, BertModel

    layers, hidden = SIZES[size]
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
    )
    folder.mkdir(parents=True, exist_ok=True)
    BertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (own / name).is_file():
            shutil.copyfile(own / name, folder / name)
    return folder
