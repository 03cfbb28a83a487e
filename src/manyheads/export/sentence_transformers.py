"""The encoder as a folder that sentence-transformers loads, with the embeddings that the model gives.

Knows the files of such a folder. Must not know tasks' heads, graphs or commands; sentence-transformers itself is never
imported.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Literal

from manyheads.encoder import checkpoint
from manyheads.errors import InputError
from manyheads.export.folder import Line, new_folder
from manyheads.files import write_json
from manyheads.model import Model

__all__ = ["write"]


def write(
    model: Model,
    place: str | Path,
    pooling: Literal["mean", "cls"] = "mean",
    max_length: int | None = None,
) -> list[Line]:
    """Write `place`, which must be new: its embeddings are those of `Model.embed` with the same arguments.

    Texts are cut at `max_length` tokens (default: the longest of the model's tasks). InputError for another pooling,
    for `cls` with causal attention, and for a length that leaves no room or is beyond the encoder's.
    """
    encoder = model.network.encoder
    shape = encoder.shape
    if pooling not in ("mean", "cls"):
        raise InputError(f"pooling {pooling!r}: expected 'mean' or 'cls'")
    if pooling == "cls" and shape.causal:
        raise InputError("attention is causal, so [CLS] has seen nothing but itself; expected 'mean'")
    if max_length is not None and not 3 <= max_length <= shape.positions:
        raise InputError(f"max_length: found {max_length}, expected 3 to {shape.positions}")
    length = max_length or max((task.max_length for task in model.tasks.values()), default=512)
    length = min(length, shape.positions)
    with new_folder(place) as folder:
        checkpoint.save(encoder, asdict(shape), folder)
        model.tokenizer.save_pretrained(folder)
        names = {"": "Transformer", "1_Pooling": "Pooling"}
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
            for number, (path, name) in enumerate(names.items())
        ]
        write_json(folder / "modules.json", modules)
        # The tokenizer lower-cases where it does; to do it before would be once more, and not alike (İ).
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False})
        (folder / "1_Pooling").mkdir()
        chosen = {"cls_token": pooling == "cls", "mean_tokens": pooling == "mean"}
        others = dict.fromkeys(("max_tokens", "mean_sqrt_len_tokens"), False)
        modes = {f"pooling_mode_{name}": said for name, said in {**chosen, **others}.items()}
        write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": shape.hidden, **modes})
        write_json(
            folder / "config_sentence_transformers.json",
            {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
        )
    return [Line("encoder", "SentenceTransformer", f"pooling {pooling}, {length} tokens")]
