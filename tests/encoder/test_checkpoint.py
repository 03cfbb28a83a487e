"""Every layout of weights that is found in the wild loads; every damaged folder gets one line that names the file."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertForPreTraining, BertForSequenceClassification, BertModel

from manyheads.encoder import checkpoint
from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.checkpoint import NAMES, their_names
from manyheads.errors import InputError

State = dict[str, Tensor]


@pytest.fixture
def theirs(make_bert: Callable[..., Any]) -> Any:
    return make_bert()


@pytest.fixture
def folder(theirs: Any, tmp_path: Path) -> Path:
    """A good folder as transformers saves it: config.json and model.safetensors."""
    theirs.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def weights(model: Any) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def edit_weights(folder: Path, edit: Callable[[State], State]) -> None:
    save_file(edit(load_file(folder / "model.safetensors")), folder / "model.safetensors")


def same_as(theirs: Any, ours: Encoder, *, pooler: bool = True) -> None:
    """Every tensor has the place that the table gives it."""
    own, state = ours.state_dict(), theirs.state_dict()
    for name, mine, third in their_names(ours.shape.layers):
        if pooler or not name.startswith("pooler."):
            tensor = own[mine] if third is None else own[mine].chunk(3)[third]
            assert torch.equal(tensor, state[name].float()), name


# ---- the table ----


@pytest.mark.parametrize("layers", [1, 3])
def test_the_table_covers_every_tensor_on_both_sides(make_bert: Callable[..., Any], layers: int) -> None:
    shape = Shape(layers=layers, hidden=32, heads=4, intermediate=48, vocabulary=90, positions=40)
    names = list(their_names(layers))
    state = make_bert(num_hidden_layers=layers).state_dict()
    assert sorted(name for name, _, _ in names) == sorted(set(state) - {"embeddings.position_ids"})
    own = Encoder(shape).state_dict()
    assert {name for _, name, _ in names} == set(own)
    # Reversible: no place of ours is taken twice, and a tensor in thirds has all three of them.
    assert len({(mine, third) for _, mine, third in names}) == len(names)
    for name in own:
        thirds = [third for _, mine, third in names if mine == name]
        assert thirds in ([None], [0, 1, 2])
    elements = sum(state[name].numel() for name, _, _ in names)
    assert elements == sum(tensor.numel() for tensor in own.values())


def test_the_table_names_each_side_once() -> None:
    assert len(set(NAMES.values())) == len(NAMES)


# ---- layouts ----


def test_plain_safetensors(folder: Path, theirs: Any) -> None:
    same_as(theirs, Encoder.from_pretrained(folder))


@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertForPreTraining])
def test_a_task_model_with_prefix(kind: Any, theirs: Any, tmp_path: Path) -> None:
    model = kind(theirs.config)
    model.bert.load_state_dict(theirs.state_dict(), strict=False)
    model.save_pretrained(tmp_path)
    assert any(name.startswith("bert.") for name in load_file(tmp_path / "model.safetensors"))
    has_pooler = model.bert.pooler is not None
    assert has_pooler
    same_as(theirs, Encoder.from_pretrained(tmp_path))


def old_names(state: State) -> State:
    """As Google's first conversions called LayerNorm's parameters."""
    return {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): (tensor)
        for name, tensor in state.items()
    }


def test_gamma_and_beta(folder: Path, theirs: Any) -> None:
    edit_weights(folder, old_names)
    assert any(name.endswith("gamma") for name in load_file(folder / "model.safetensors"))
    same_as(theirs, Encoder.from_pretrained(folder))


@pytest.mark.parametrize("zip_file", [True, False], ids=["zip", "before torch 1.6"])
def test_a_pickle_of_tensors(folder: Path, theirs: Any, zip_file: bool) -> None:
    (folder / "model.safetensors").unlink()
    state = {**old_names(weights(theirs)), "cls.predictions.bias": torch.zeros(90)}
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zip_file)
    same_as(theirs, Encoder.from_pretrained(folder))


def test_sharded_safetensors(folder: Path, theirs: Any) -> None:
    (folder / "model.safetensors").unlink()
    theirs.save_pretrained(folder, max_shard_size="8KB")
    assert not (folder / "model.safetensors").exists()
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    same_as(theirs, Encoder.from_pretrained(folder))


def sharded_bin(folder: Path, state: State) -> Path:
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    weight_map: dict[str, str] = {}
    for number in range(3):
        shard = f"pytorch_model-{number + 1:05}-of-00003.bin"
        torch.save({name: state[name] for name in names[number::3]}, folder / shard)
        weight_map |= dict.fromkeys(names[number::3], shard)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_sharded_pickles(folder: Path, theirs: Any) -> None:
    sharded_bin(folder, weights(theirs))
    same_as(theirs, Encoder.from_pretrained(folder))


def test_safetensors_come_before_a_pickle(folder: Path, theirs: Any) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    same_as(theirs, Encoder.from_pretrained(folder))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_read_as_float32(folder: Path, theirs: Any, dtype: torch.dtype) -> None:
    edit_weights(folder, lambda state: {name: tensor.to(dtype) for name, tensor in state.items()})
    ours = Encoder.from_pretrained(folder)
    assert {tensor.dtype for tensor in ours.state_dict().values()} == {torch.float32}
    same_as(theirs.to(dtype), ours)


def test_without_a_pooler_it_is_made_anew(folder: Path, theirs: Any) -> None:
    def bare(state: State) -> State:
        return {name: tensor for name, tensor in state.items() if not name.startswith("pooler.")}

    edit_weights(folder, bare)
    torch.manual_seed(0)
    ours = Encoder.from_pretrained(folder)
    same_as(theirs, ours, pooler=False)
    assert not ours.pooler.dense.bias.any()
    assert float(ours.pooler.dense.weight.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_only_the_sizes_need_be_said(folder: Path, theirs: Any) -> None:
    needed = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    config = json.loads((folder / "config.json").read_text())
    few = {name: config[name] for name in needed} | {"max_position_embeddings": 40}
    (folder / "config.json").write_text(json.dumps(few))
    ours = Encoder.from_pretrained(folder)
    assert (ours.shape.eps, ours.shape.segments) == (1e-12, 2)
    same_as(theirs, ours)


# ---- saving ----


def test_saved_files_are_theirs(folder: Path, theirs: Any, tmp_path: Path) -> None:
    Encoder.from_pretrained(folder).save_pretrained(tmp_path / "new" / "place")
    saved = load_file(tmp_path / "new" / "place" / "model.safetensors")
    assert saved.keys() == weights(theirs).keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in weights(theirs).items())
    assert sorted(os.listdir(tmp_path / "new" / "place")) == ["config.json", "model.safetensors"]
    for key, value in json.loads((tmp_path / "new" / "place" / "config.json").read_text()).items():
        if key != "architectures":
            assert getattr(theirs.config, key) == value, key
    assert type(BertModel.from_pretrained(tmp_path / "new" / "place")) is BertModel


def test_saving_over_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match="taken: cannot be made a folder"):
        Encoder.from_pretrained(folder).save_pretrained(tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


# ---- what must not load ----


def refuses(folder: Path, file: str, said: str) -> None:
    """Loading ends with one line that names `file` and says what the pattern `said` says."""
    with pytest.raises(InputError) as error:
        Encoder.from_pretrained(folder)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{folder / file}: "), line
    assert re.search(said, line), line


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "other model": ({"model_type": "roberta"}, "model_type: expected 'bert', found 'roberta'"),
    "other activation": ({"hidden_act": "relu"}, "hidden_act: expected 'gelu', found 'relu'"),
    "cross attention": (
        {"is_decoder": True, "add_cross_attention": True},
        "add_cross_attention: expected False, found True",
    ),
    "decoder is text": ({"is_decoder": "no"}, "is_decoder: expected true or false, found 'no'"),
    "relative positions": ({"position_embedding_type": "relative_key"}, "expected 'absolute'"),
    "size missing": ({"hidden_size": ...}, "hidden_size is missing"),
    "size is text": ({"hidden_size": "32"}, "hidden_size: expected a number above 0, found '32'"),
    "size is true": ({"num_hidden_layers": True}, "num_hidden_layers: expected a number above 0, found True"),
    "size is zero": ({"vocab_size": 0}, "vocab_size: expected a number above 0, found 0"),
    "size is half": ({"intermediate_size": 48.5}, "intermediate_size: expected .* found 48.5"),
    "eps is negative": ({"layer_norm_eps": -1e-12}, "layer_norm_eps: expected a number above 0"),
    "heads do not divide": ({"num_attention_heads": 5}, r"hidden.* \(32\).*heads.* \(5\)"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_something_else(folder: Path, name: str) -> None:
    changes, said = CONFIGS[name]
    edit_config(folder, **changes)
    refuses(folder, "config.json", said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be read as JSON"),
        (b'{"hidden_size": 32,}', "cannot be read as JSON"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
        (b"[1, 2]", r"expected an object, found \[1, 2\]"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "cannot be read as JSON"),
    ],
    ids=["cut", "trailing comma", "not UTF-8", "empty", "a list", "nested without end", "a huge number"],
)
def test_a_config_that_is_no_json(folder: Path, content: bytes, said: str) -> None:
    (folder / "config.json").write_bytes(content)
    refuses(folder, "config.json", said)


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    refuses(folder, "config.json", "no such file; a BERT folder has config.json")


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"no weights here: expected model\.safetensors or pytorch_model\.bin"
    ):
        Encoder.from_pretrained(folder)


MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "vocabulary": (
        {"vocab_size": 91},
        r"word_embeddings.weight: the weights have shape \[90, 32\], config.json asks for \[91, 32\]",
    ),
    "vocabulary beyond memory": ({"vocab_size": 10**13}, r"config.json asks for \[10000000000000, 32\]"),
    "intermediate": (
        {"intermediate_size": 47},
        r"intermediate.dense.weight: the weights have shape \[48, 32\], config.json asks for \[47, 32\]",
    ),
    "positions": ({"max_position_embeddings": 512}, r"\[40, 32\], config.json asks for \[512, 32\]"),
    "too few layers": ({"num_hidden_layers": 1}, "holds layer 1, but config.json says 1 layers"),
    "too many layers": ({"num_hidden_layers": 3}, r"the tensor 'encoder\.layer\.2\..*' is missing"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_config_that_does_not_fit_the_weights(folder: Path, name: str) -> None:
    changes, said = MISFITS[name]
    edit_config(folder, **changes)
    refuses(folder, "model.safetensors", said)


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.word_embeddings.weight",
        "encoder.layer.0.attention.self.key.bias",
        "encoder.layer.1.output.LayerNorm.weight",
        "pooler.dense.bias",
    ],
)
def test_a_missing_tensor_is_named(folder: Path, name: str) -> None:
    edit_weights(folder, lambda state: {key: tensor for key, tensor in state.items() if key != name})
    refuses(folder, "model.safetensors", rf"the tensor '{re.escape(name)}' is missing")


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    edit_weights(folder, lambda state: state | {"pooler.dense.bias": torch.zeros(32, dtype=torch.int8)})
    refuses(
        folder, "model.safetensors", r"pooler\.dense\.bias: expected floating point numbers, found torch.int8"
    )


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.01, 0.5, 0.999])
def test_truncated_safetensors(folder: Path, share: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refuses(folder, "model.safetensors", "not a whole safetensors file")


def test_safetensors_that_are_something_else(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<html>not found</html>" * 10)
    refuses(folder, "model.safetensors", "not a whole safetensors file")


class Harmful:
    """What unpickles by running a command."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("zip_file", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("sharded", [True, False], ids=["sharded", "one file"])
def test_a_pickle_that_runs_code_is_not_run(
    folder: Path, theirs: Any, tmp_path: Path, zip_file: bool, sharded: bool
) -> None:
    proof = tmp_path / "it-ran"
    file = "pytorch_model.bin"
    if sharded:
        sharded_bin(folder, weights(theirs))
        file = "pytorch_model-00001-of-00003.bin"
    else:
        (folder / "model.safetensors").unlink()
    harm = {**weights(theirs), "x": Harmful(proof)}
    torch.save(harm, folder / file, _use_new_zipfile_serialization=zip_file)
    refuses(folder, file, "the pickle holds more than tensors and was not run")
    assert not proof.exists()
    # The proof would be there if the file were unpickled: the test can fail.
    torch.load(folder / file, weights_only=False)
    assert proof.exists()


@pytest.mark.parametrize(
    "content", [{"model": {"a": torch.zeros(1)}}, [torch.zeros(1)], {0: torch.zeros(1)}, {"a": 1}]
)
def test_a_pickle_without_named_tensors(folder: Path, content: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    refuses(folder, "pytorch_model.bin", "expected a mapping of names to tensors")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.6])
def test_a_truncated_pickle(folder: Path, theirs: Any, share: float) -> None:
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    torch.save(weights(theirs), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refuses(folder, "pytorch_model.bin", "cannot be read as PyTorch weights|holds more than tensors")


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/passwd", "deeper/shard.bin", "..", 7, None, ["a"]])
def test_an_index_that_names_a_path(folder: Path, theirs: Any, tmp_path: Path, name: object) -> None:
    torch.save(weights(theirs), tmp_path / "outside.bin")
    index = sharded_bin(folder, weights(theirs))
    index.write_text(json.dumps({"weight_map": {"pooler.dense.bias": name}}))
    refuses(
        folder, index.name, "expected names of files beside it|the shard .* is missing|not an index of shards"
    )


def test_a_missing_shard(folder: Path, theirs: Any) -> None:
    index = sharded_bin(folder, weights(theirs))
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    refuses(folder, index.name, r"the shard pytorch_model-00002-of-00003\.bin is missing")


def test_a_truncated_shard_is_named(folder: Path, theirs: Any) -> None:
    (folder / "model.safetensors").unlink()
    theirs.save_pretrained(folder, max_shard_size="8KB")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    refuses(folder, shard.name, "not a whole safetensors file")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1, "b": "c"}}']
)
def test_an_index_that_is_none(folder: Path, theirs: Any, content: str) -> None:
    index = sharded_bin(folder, weights(theirs))
    index.write_text(content)
    refuses(folder, index.name, "not an index of shards")


def test_a_weights_file_on_its_own(folder: Path, theirs: Any) -> None:
    found = checkpoint.load_file(folder / "model.safetensors")
    assert found.keys() == weights(theirs).keys()
    with pytest.raises(InputError, match=r"nothing\.safetensors: not a whole safetensors file"):
        checkpoint.load_file(folder / "nothing.safetensors")
    with pytest.raises(InputError, match=r"nothing\.bin: cannot be read as PyTorch weights"):
        checkpoint.load_file(folder / "nothing.bin")
