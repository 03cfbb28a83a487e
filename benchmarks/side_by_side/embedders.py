"""What turns texts into vectors: the libraries that a person would take for it, each as its users run it, and ours.

Knows transformers, sentence-transformers, onnxruntime, openvino and manyheads, each imported by whoever asks for it.
Must not know clocks, or what is compared.

All of them do the same: WordPiece, one BERT, the mean over a text's tokens. An embedder takes a list of texts and
gives [N, H] float32 in their order; nothing of the work is left outside.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["EMBEDDERS", "Embed", "Vectors", "embedder", "prepared"]

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]


def embedder(name: str, model: Path, graphs: Path, batch: int, max_length: int) -> Embed:
    """The embedder called `name` with the weights of the folder `model`, in batches of `batch` texts; `graphs` is the
    folder that `prepared` made."""
    return EMBEDDERS[name](model, graphs, batch, max_length)


# ---- the peers that run torch ----


def _sentence_transformers(dtype: str) -> Callable[[Path, Path, int, int], Embed]:
    """sentence-transformers' `encode`: it sorts by length itself."""

    def make(model: Path, graphs: Path, batch: int, max_length: int) -> Embed:
        import torch
        from sentence_transformers import SentenceTransformer

        net = SentenceTransformer(str(model), device="cpu").to(getattr(torch, dtype))
        net.max_seq_length = max_length

        def embed(texts: Sequence[str]) -> Vectors:
            found = net.encode(list(texts), batch_size=batch, show_progress_bar=False)
            return np.asarray(found, np.float32)

        return embed

    return make


def _transformers(dtype: str, *, by_length: bool) -> Callable[[Path, Path, int, int], Embed]:
    """transformers' AutoModel; in the order of the texts, as its users' loops have it, or sorted by length."""

    def make(model: Path, graphs: Path, batch: int, max_length: int) -> Embed:
        import torch
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        net = AutoModel.from_pretrained(model, dtype=getattr(torch, dtype)).eval()

        def run(inputs: dict[str, NDArray[np.int64]]) -> NDArray[Any]:
            with torch.inference_mode():
                given = {name: torch.from_numpy(value) for name, value in inputs.items()}
                states: NDArray[Any] = net(**given).last_hidden_state.float().numpy()
                return states

        return _looped(tokenizer, run, batch, max_length, by_length=by_length)

    return make


# ---- the peers that run a graph ----


def prepared(model: Path, folder: Path) -> Path:
    """Write the graphs of a model's BERT that the graph runners read: float32, and int8 by onnxruntime's quantiser.

    Exported by torch from transformers' own class: no code of ours is in the peers' path.
    """
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from transformers import AutoModel

    net = AutoModel.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.ones(2, 8, dtype=torch.int64)
    given = {"input_ids": ids, "attention_mask": ids.clone(), "token_type_ids": ids * 0}
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
        ) -> torch.Tensor:
            said = self.net(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
            states: torch.Tensor = said.last_hidden_state
            return states

    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        program: Any = torch.onnx.export(
            States().eval(),
            tuple(given.values()),
            None,
            dynamo=True,
            dynamic_shapes=tuple(sizes for _ in given),
            input_names=list(given),
            output_names=["last_hidden_state"],
            verbose=False,
        )
    program.save(str(folder / "float32.onnx"))
    with tempfile.TemporaryDirectory() as beside:
        shaped = Path(beside) / "shaped.onnx"
        quant_pre_process(str(folder / "float32.onnx"), str(shaped), skip_symbolic_shape=True)
        quantize_dynamic(str(shaped), str(folder / "int8.onnx"), weight_type=QuantType.QInt8)
    return folder


def _onnxruntime(graph: str) -> Callable[[Path, Path, int, int], Embed]:
    """onnxruntime on the processor, batches sorted by length."""

    def make(model: Path, graphs: Path, batch: int, max_length: int) -> Embed:
        import onnxruntime
        from transformers import AutoTokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        session = onnxruntime.InferenceSession(
            str(graphs / f"{graph}.onnx"), options, providers=["CPUExecutionProvider"]
        )

        def run(inputs: dict[str, NDArray[np.int64]]) -> NDArray[Any]:
            states: NDArray[Any] = session.run(None, inputs)[0]
            return states

        return _looped(AutoTokenizer.from_pretrained(model), run, batch, max_length, by_length=True)

    return make


def _openvino(precision: str | None) -> Callable[[Path, Path, int, int], Embed]:
    """openvino on the processor, batches sorted by length; by default it takes bf16 where the processor has it."""

    def make(model: Path, graphs: Path, batch: int, max_length: int) -> Embed:
        import openvino
        from transformers import AutoTokenizer

        core = openvino.Core()
        said = {"PERFORMANCE_HINT": "LATENCY" if batch == 1 else "THROUGHPUT", "NUM_STREAMS": "1"}
        if precision is not None:
            said["INFERENCE_PRECISION_HINT"] = precision
        compiled = core.compile_model(str(graphs / "float32.onnx"), "CPU", said)
        request = compiled.create_infer_request()

        def run(inputs: dict[str, NDArray[np.int64]]) -> NDArray[Any]:
            found = request.infer(inputs)
            return np.asarray(found[compiled.outputs[0]], np.float32)

        return _looped(AutoTokenizer.from_pretrained(model), run, batch, max_length, by_length=True)

    return make


def _looped(
    tokenizer: Any,
    run: Callable[[dict[str, NDArray[np.int64]]], NDArray[Any]],
    batch: int,
    max_length: int,
    *,
    by_length: bool,
) -> Embed:
    """Tokenise, cut into padded batches, run, and take the mean over each text's tokens."""

    def embed(texts: Sequence[str]) -> Vectors:
        ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
        order = np.arange(len(ids))
        if by_length:
            order = np.argsort([-len(one) for one in ids], kind="stable")
        found: list[Vectors] = []
        for some in _batches(order, batch):
            lengths = np.array([len(ids[at]) for at in some])
            mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
            padded = np.zeros(mask.shape, np.int64)
            for row, at in enumerate(some):
                padded[row, : len(ids[at])] = ids[at]
            states = run({"input_ids": padded, "attention_mask": mask, "token_type_ids": padded * 0})
            found.append((states * mask[..., None]).sum(1, dtype=np.float32) / lengths[:, None])
        back = np.argsort(order, kind="stable")
        return np.concatenate(found).astype(np.float32)[back]

    return embed


def _batches(order: NDArray[np.int64], size: int) -> Iterator[list[int]]:
    for begin in range(0, len(order), size):
        yield order[begin : begin + size].tolist()


# ---- ours ----


def _manyheads(precision: str, *, native: bool = True) -> Callable[[Path, Path, int, int], Embed]:
    """`Model.embed`; it sorts by length and cuts batches by tokens itself."""

    def make(model: Path, graphs: Path, batch: int, max_length: int) -> Embed:
        if not native:
            os.environ["MANYHEADS_NATIVE"] = "off"
        from manyheads import Encoder, Model, Tokenizer
        from manyheads.model import Network

        network = Network(Encoder.from_pretrained(model), {})
        ours = Model(network, Tokenizer.from_pretrained(model), [], precision)

        def embed(texts: Sequence[str]) -> Vectors:
            found: Vectors = ours.embed(list(texts), max_length=max_length)
            return found

        return embed

    return make


EMBEDDERS: dict[str, Callable[[Path, Path, int, int], Embed]] = {
    "sentence_transformers": _sentence_transformers("float32"),
    "sentence_transformers_bf16": _sentence_transformers("bfloat16"),
    "transformers": _transformers("float32", by_length=False),
    "transformers_bf16": _transformers("bfloat16", by_length=True),
    "onnxruntime": _onnxruntime("float32"),
    "onnxruntime_int8": _onnxruntime("int8"),
    "openvino": _openvino(None),
    "openvino_float32": _openvino("f32"),
    "manyheads": _manyheads("auto"),
    "manyheads_torch": _manyheads("auto", native=False),
    "manyheads_float32": _manyheads("float32"),
}
