"""Weights on disk: one reversible table between Hugging Face's names and ours, read to load, turned round to save.

Knows files of weights, config.json and parameter names. Must not know what a layer computes, text, or tasks.
Nothing is unpickled but a legacy `pytorch_model.bin`, and that with torch's `weights_only=True`.
"""

import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from manyheads.errors import InputError, shown
from manyheads.files import replacing, write_json

__all__ = [
    "load",
    "load_file",
    "load_pretraining",
    "pretraining_weights",
    "read_shape",
    "save",
    "save_weights",
    "write_tensors",
]

# theirs → ours; {i} is the number of a layer. Three of theirs make one of ours where they end in a list.
NAMES: dict[str, str] = {
    "embeddings.word_embeddings.weight": "embeddings.word.weight",
    "embeddings.position_embeddings.weight": "embeddings.position.weight",
    "embeddings.token_type_embeddings.weight": "embeddings.segment.weight",
    "embeddings.LayerNorm.*": "embeddings.norm.*",
    "encoder.layer.{i}.attention.self.query.*": "layers.{i}.attention.qkv.*[0]",
    "encoder.layer.{i}.attention.self.key.*": "layers.{i}.attention.qkv.*[1]",
    "encoder.layer.{i}.attention.self.value.*": "layers.{i}.attention.qkv.*[2]",
    "encoder.layer.{i}.attention.output.dense.*": "layers.{i}.attention.output.*",
    "encoder.layer.{i}.attention.output.LayerNorm.*": "layers.{i}.attention.norm.*",
    "encoder.layer.{i}.intermediate.dense.*": "layers.{i}.feedforward.up.*",
    "encoder.layer.{i}.output.dense.*": "layers.{i}.feedforward.down.*",
    "encoder.layer.{i}.output.LayerNorm.*": "layers.{i}.feedforward.norm.*",
    "pooler.dense.*": "pooler.dense.*",
}

# The heads of pre-training: theirs → ours, with the head's name in front of its parameter's. The product with the
# vocabulary is that of the word embeddings, and is not written a second time.
HEAD_NAMES: dict[str, str] = {
    "cls.predictions.transform.dense.*": "masked_lm.dense.*",
    "cls.predictions.transform.LayerNorm.*": "masked_lm.norm.*",
    "cls.predictions.bias": "masked_lm.bias",
    "cls.seq_relationship.*": "next_sentence.output.*",
}
# What transformers calls a model with these heads.
ARCHITECTURES: dict[frozenset[str], str] = {
    frozenset(): "BertModel",
    frozenset({"masked_lm"}): "BertForMaskedLM",
    frozenset({"next_sentence"}): "BertForNextSentencePrediction",
    frozenset({"masked_lm", "next_sentence"}): "BertForPreTraining",
}

# config.json → Shape
SIZES: dict[str, str] = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
    "vocab_size": "vocabulary",
    "max_position_embeddings": "positions",
    "type_vocab_size": "segments",
    "layer_norm_eps": "eps",
}


def their_names(layers: int) -> Iterator[tuple[str, str, int | None]]:
    """(their name, our name, which third of ours or None) for every tensor of an encoder with `layers` layers."""
    for theirs, ours in NAMES.items():
        for number in range(layers) if "{i}" in theirs else (0,):
            for part in ("weight", "bias") if "*" in theirs else ("",):
                left, right = (one.replace("{i}", str(number)).replace("*", part) for one in (theirs, ours))
                third = re.search(r"\[(\d)\]$", right)
                yield left, right.split("[")[0], int(third[1]) if third else None


def their_head_names() -> Iterator[tuple[str, str, str]]:
    """(their name, our head, its parameter) for every tensor of the heads of pre-training."""
    for theirs, ours in HEAD_NAMES.items():
        for part in ("weight", "bias") if "*" in theirs else ("",):
            head, _, parameter = ours.replace("*", part).partition(".")
            yield theirs.replace("*", part), head, parameter


def read_shape(folder: Path) -> dict[str, Any]:
    """The sizes in `folder`/config.json under our names, and whether its attention is causal.

    transformers calls the latter a decoder (`is_decoder`). Raises InputError where the file is missing, is no JSON,
    or describes something this BERT does not compute.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            "no such file; a BERT folder has config.json beside its weights", file=path
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read as JSON ({_line(error)})", file=path) from None
    if not isinstance(config, dict):
        raise InputError(f"expected an object, found {shown(config)}", file=path)
    fixed = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "add_cross_attention": False,
    }
    for key, expected in fixed.items():
        if config.get(key, expected) != expected:
            raise InputError(f"{key}: expected {expected!r}, found {shown(config[key])}", file=path)
    causal = config.get("is_decoder", False)
    if not isinstance(causal, bool):
        raise InputError(f"is_decoder: expected true or false, found {shown(causal)}", file=path)
    shape: dict[str, Any] = {"causal": causal}
    for theirs, ours in SIZES.items():
        if theirs not in config:
            if ours in ("eps", "segments", "positions"):
                continue
            raise InputError(f"{theirs} is missing", file=path)
        value = config[theirs]
        wanted = (int, float) if ours == "eps" else int
        if isinstance(value, bool) or not isinstance(value, wanted) or value <= 0:
            raise InputError(f"{theirs}: expected a number above 0, found {shown(value)}", file=path)
        shape[ours] = value
    if shape["hidden"] % shape["heads"]:
        raise InputError(
            f"hidden_size ({shape['hidden']}) must be a multiple of num_attention_heads ({shape['heads']})",
            file=path,
        )
    return shape


def load(encoder: nn.Module, folder: Path) -> None:
    """Fill the encoder's parameters from the weights in `folder`, float32.

    Takes `.safetensors` before `.bin`, one file or shards with an index; names with or without the `bert.`
    prefix; `gamma`/`beta` for LayerNorm. Other tensors (task heads, position ids) are left alone. A folder
    without a pooler leaves the pooler at fresh random values. An encoder on the meta device gets its memory
    only once all is seen to fit: a config may ask for more than there is. Raises InputError for a missing
    tensor or shape.
    """
    found, source = _all_tensors(folder)
    own = encoder.state_dict()
    layers = len(encoder.layers)  # type: ignore[arg-type]
    beyond = [name for name in found if re.match(r"encoder\.layer\.(\d+)\.", name) and _layer(name) >= layers]
    if beyond:
        raise InputError(
            f"holds layer {max(map(_layer, beyond))}, but config.json says {layers} layers", file=source
        )
    has_pooler = any(name.startswith("pooler.") for name in found)
    for theirs, ours, third in their_names(layers):
        if theirs not in found:
            if theirs.startswith("pooler.") and not has_pooler:
                continue
            raise InputError(f"the tensor {theirs!r} is missing", file=source)
        tensor, target = found[theirs], _part(own[ours], third)
        if tensor.shape != target.shape:
            raise InputError(
                f"{theirs}: the weights have shape {list(tensor.shape)}, config.json asks for {list(target.shape)}",
                file=source,
            )
        if not tensor.is_floating_point():
            raise InputError(f"{theirs}: expected floating point numbers, found {tensor.dtype}", file=source)
    if any(tensor.is_meta for tensor in own.values()):
        # `to_empty` would load much of torch's compiler, a second.
        empty = {name: torch.empty(one.shape, dtype=one.dtype) for name, one in own.items()}
        encoder.load_state_dict(empty, assign=True)
        own = encoder.state_dict()
    with torch.no_grad():
        for theirs, ours, third in their_names(layers):
            target = _part(own[ours], third)
            if theirs in found:
                target.copy_(found[theirs])
            elif theirs.endswith("weight"):
                target.normal_(std=0.02)
            else:
                target.zero_()


def pretraining_weights(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The heads of pre-training in `folder`: `masked_lm`, `next_sentence` → {our parameter's name: tensor}.

    A head that is not there has no entry. Raises InputError for a head with a tensor missing, and for one whose
    product with the vocabulary is not that of the word embeddings.
    """
    return _head_tensors(*_all_tensors(folder))


def load_pretraining(heads: Mapping[str, nn.Module], folder: Path) -> tuple[str, ...]:
    """Fill heads, by the names that `pretraining_weights` gives them, from `folder`; returns which were there.

    A head that the folder lacks is left as it is. Raises InputError for a shape that does not fit.
    """
    tensors, source = _all_tensors(folder)
    found = _head_tensors(tensors, source)
    chosen = tuple(name for name in heads if name in found)
    for theirs, name, parameter in their_head_names():
        if name in chosen:
            tensor, target = found[name][parameter], heads[name].get_parameter(parameter)
            if tensor.shape != target.shape:
                raise InputError(
                    f"{theirs}: the weights have shape {list(tensor.shape)}, the model asks for "
                    f"{list(target.shape)}",
                    file=source,
                )
            with torch.no_grad():
                target.copy_(tensor)
    return chosen


def save(
    encoder: nn.Module,
    shape: Mapping[str, Any],
    folder: Path,
    heads: Mapping[str, nn.Module] | None = None,
) -> None:
    """Write `folder`/config.json and `folder`/model.safetensors under Hugging Face's names.

    With `heads` (`masked_lm`, `next_sentence` or both) it is the folder of a model with these heads, such as
    transformers' BertForPreTraining, whose encoder `load` reads as well.
    """
    heads = heads or {}
    unknown = sorted(set(heads) - {head for _, head, _ in their_head_names()})
    if unknown:
        raise ValueError(f"no head of pre-training is called {unknown[0]!r}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made a folder ({error.strerror})", file=folder) from None
    own = encoder.state_dict()
    theirs: dict[str, Tensor] = {}
    prefix = "bert." if heads else ""  # of the encoder's names in a model with heads
    for name, ours, third in their_names(int(shape["layers"])):
        tensor = own[ours]
        theirs[prefix + name] = _part(tensor, third)
    for name, head, parameter in their_head_names():
        if head in heads:
            theirs[name] = heads[head].get_parameter(parameter)
    config = {
        "architectures": [ARCHITECTURES[frozenset(heads)]],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
        "pad_token_id": 0,
        **{name: shape[ours] for name, ours in SIZES.items()},
        **({"is_decoder": True} if shape["causal"] else {}),
    }
    save_weights(theirs, folder / "model.safetensors")
    write_json(folder / "config.json", config)


def save_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, beside and renamed."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_tensors(plain, path, {"format": "pt"})


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """One safetensors file, beside and renamed; WorkError where the disk is full."""
    with replacing(path) as beside:
        try:
            save_file(dict(tensors), beside, metadata)
        except SafetensorError as error:
            # The library tells what the system said only in its text; as an OSError `replacing` understands it.
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(beside)) from None


def load_file(path: Path) -> dict[str, Tensor]:
    """All tensors of one weights file; InputError for a truncated file or a pickle that holds more than tensors."""
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"not a whole safetensors file ({_line(error)})", file=path) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            "the pickle holds more than tensors and was not run; convert it to safetensors where you trust it",
            file=path,
        ) from None
    except Exception as error:
        raise InputError(f"cannot be read as PyTorch weights ({_line(error)})", file=path) from None
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(each, Tensor) for name, each in loaded.items()
    ):
        raise InputError("expected a mapping of names to tensors", file=path)
    return loaded


def _all_tensors(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """Every tensor of the folder's weights under its plain name, and the file that errors should name."""
    for stem in ("model.safetensors", "pytorch_model.bin"):
        path, index = folder / stem, folder / f"{stem}.index.json"
        if path.is_file():
            return {_plain(name): tensor for name, tensor in load_file(path).items()}, path
        if index.is_file():
            tensors: dict[str, Tensor] = {}
            for shard in _shards(index):
                tensors |= {_plain(name): tensor for name, tensor in load_file(shard).items()}
            return tensors, index
    raise InputError("no weights here: expected model.safetensors or pytorch_model.bin", file=folder)


def _head_tensors(found: Mapping[str, Tensor], source: Path) -> dict[str, dict[str, Tensor]]:
    """The heads of pre-training among tensors under their plain names; errors name `source`."""
    found = dict(found)
    # Some write the bias of the product alone; in transformers the two are one tensor.
    if "cls.predictions.bias" not in found and "cls.predictions.decoder.bias" in found:
        found["cls.predictions.bias"] = found["cls.predictions.decoder.bias"]
    own, words = found.get("cls.predictions.decoder.weight"), found.get("embeddings.word_embeddings.weight")
    if own is not None and words is not None and not torch.equal(own, words):
        raise InputError(
            "cls.predictions.decoder.weight: expected the word embeddings, found a matrix of its own",
            file=source,
        )
    heads: dict[str, dict[str, Tensor]] = {}
    missing: dict[str, str] = {}
    for theirs, head, parameter in their_head_names():
        if theirs in found:
            heads.setdefault(head, {})[parameter] = found[theirs]
        else:
            missing.setdefault(head, theirs)
    for head in heads:
        if head in missing:
            raise InputError(f"the tensor {missing[head]!r} is missing", file=source)
    return heads


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"not an index of shards ({_line(error)})", file=index) from None
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(
                f"weight_map: expected names of files beside it, found {shown(name)}", file=index
            )
        if not (index.parent / name).is_file():
            raise InputError(f"the shard {name} is missing", file=index)
    return [index.parent / name for name in names]


def _plain(name: str) -> str:
    """Their name without the prefix of a task model and with today's words for LayerNorm's parameters."""
    name = name.removeprefix("bert.")
    if name.endswith("LayerNorm.gamma"):
        return name[: -len("gamma")] + "weight"
    if name.endswith("LayerNorm.beta"):
        return name[: -len("beta")] + "bias"
    return name


def _part(tensor: Tensor, third: int | None) -> Tensor:
    """The tensor, or a third of its rows (a view)."""
    return tensor if third is None else tensor.view(3, -1, *tensor.shape[1:])[third]


def _layer(name: str) -> int:
    return int(name.split(".")[2])


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
