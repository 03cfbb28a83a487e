"""A trained model in the hand: one encoder, named heads; it predicts, embeds, saves and loads.

Knows texts, tasks and the folder that holds a model. Must not know training, run folders or recipes.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from manyheads.encoder import checkpoint, precision
from manyheads.encoder.bert import Encoder, States
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError, nearest, shown
from manyheads.files import write_json
from manyheads.tasks import KINDS, Kind, Prediction
from manyheads.tasks.head import Head
from manyheads.tasks.heads.relation import Relation, RelationHead

__all__ = ["Model", "Network", "Task", "ragged_batches"]

_TOKENS_AT_ONCE = 4096  # of one forward pass: enough for full products, little enough for the caches
_TEXTS_AT_ONCE = 4096  # that are tokenised, sorted by length and held in memory together
_FORMAT = 1

Input = str | Sequence[str]


@dataclass(frozen=True)
class Task:
    """A task of a model: its name, its kind with labels, and how much of a text it reads."""

    name: str
    kind: Kind
    max_length: int


class Network(nn.Module):
    """The parameters: one encoder, a head for each task, called by the task's name, and the layer that some share."""

    def __init__(self, encoder: Encoder, heads: Mapping[str, Head], relation: Relation | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.relation = relation
        # A task may be called "keys" or "training"; as attributes of a ModuleDict such names would clash.
        self.heads = nn.ModuleDict({f"task {name}": head for name, head in heads.items()})

    def head(self, task: str) -> Head:
        """The head of a task."""
        head = self.heads[f"task {task}"]
        assert isinstance(head, Head)
        return head

    def named_head_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(`TASK.parameter`, parameter) of all heads; `relation/parameter` of the layer that some share."""
        for name, parameter in self.heads.named_parameters():
            yield name.removeprefix("task "), parameter
        if self.relation is not None:
            for name, parameter in self.relation.named_parameters():
                yield f"relation/{name}", parameter

    def forward(
        self, ragged: Ragged, parts: Sequence[tuple[str, int, int]], words: Tensor | None = None
    ) -> list[Tensor]:
        """One encoder pass over a batch that may hold several tasks.

        `parts` are (task, first sequence, end) in the batch's order; `words` [T, H] may stand in for the word
        vectors. Returns each part's outputs.
        """
        states = self.encoder.encode(ragged, words=words)
        return [self.answer(task, states.of_sequences(begin, end)) for task, begin, end in parts]

    def answer(self, task: str, states: States) -> Tensor:
        """The outputs of one task's head."""
        head = self.head(task)
        outputs: Tensor = head(head.read(states))
        return outputs


class Model:
    """One encoder with named heads, and the tokenizer that belongs to it.

    In eval mode; `precision` ("auto", "float32", "bf16", "float64") chooses how products are computed.
    """

    def __init__(
        self, network: Network, tokenizer: Tokenizer, tasks: Sequence[Task], precision: str = "auto"
    ) -> None:
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.tasks = {task.name: task for task in tasks}
        self.precision = precision
        self.use()

    def use(self, precision_name: str | None = None, attention: str | None = None) -> "Model":
        """Choose the precision (None: leave it) and the attention backend; returns the model itself."""
        self.precision = precision_name or self.precision
        chosen = precision.choose(self.precision, self.device)
        self.network.to(chosen.parameters)
        self.network.encoder.use(compute=chosen.compute, attention=attention)
        return self

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.network.parameters()).device

    def to(self, device: str | torch.device) -> "Model":
        """Move the parameters; returns the model itself. InputError where there is no such device."""
        self.network.to(precision.usable(device))
        return self.use()

    def task(self, name: str) -> Task:
        """The task called `name`; InputError names the known ones."""
        if name not in self.tasks:
            known = ", ".join(self.tasks)
            raise InputError(f"no task {name!r} in this model; it has {known}{nearest(name, self.tasks)}")
        return self.tasks[name]

    def predict(self, task: str, inputs: Iterable[Input]) -> list[Prediction]:
        """Predictions for texts, or for pairs (a, b) where the task reads pairs, in the order of the inputs.

        Raises InputError for an unknown task or an input that is no text or pair.
        """
        return list(self.stream(task, inputs))

    def stream(self, task: str, inputs: Iterable[Input]) -> Iterator[Prediction]:
        """`predict` for inputs of any number: memory stays constant."""
        chosen = self.task(task)
        rest = iter(_texts(inputs, len(chosen.kind.columns), chosen.name))
        while chunk := list(islice(rest, _TEXTS_AT_ONCE)):
            yield from self._predict_chunk([chosen], chunk)[chosen.name]

    def analyze(
        self, texts: Iterable[str], tasks: Sequence[str] | None = None
    ) -> list[dict[str, Prediction]]:
        """Every head that reads a single text, on each text, in one encoder pass: {task: prediction} a text.

        Only texts that a task must cut shorter than the others are read again for it. Raises InputError where
        no task of the model reads single texts.
        """
        return self._all_heads(list(_texts(texts, 1, "analyze")), 1, tasks)

    def analyze_pairs(
        self, pairs: Iterable[Sequence[str]], tasks: Sequence[str] | None = None
    ) -> list[dict[str, Prediction]]:
        """Every head that reads a pair, on each pair: {task: prediction} a pair.

        Tasks that read a pair alike (packed, or apart) share one encoder pass.
        """
        return self._all_heads(list(_texts(pairs, 2, "analyze")), 2, tasks)

    def embed(
        self,
        texts: Iterable[str],
        pooling: Literal["mean", "cls"] = "mean",
        *,
        max_length: int | None = None,
        dropped: list[int] | None = None,
    ) -> NDArray[np.float32]:
        """Vectors of texts: [N, H] float32, the mean over a text's tokens or the first token's state.

        Texts are cut at `max_length` tokens (default: the largest of the model's tasks); how many tokens each
        lost is appended to `dropped` where a list is given.
        """
        if pooling not in ("mean", "cls"):
            raise InputError(f"pooling {pooling!r}: expected 'mean' or 'cls'")
        length = max_length or max((task.max_length for task in self.tasks.values()), default=512)
        length = min(length, self.network.encoder.shape.positions)
        rest = iter(_texts(texts, 1, "embed"))
        found: list[NDArray[np.float32]] = []

        def vectors(states: States) -> list[Tensor]:
            return [states.mean() if pooling == "mean" else states.first()]

        while chunk := list(islice(rest, _TEXTS_AT_ONCE)):
            outputs, cut, _ = self._encode([(text,) for (text,) in chunk], length, 1, vectors)
            found.append(outputs[0].numpy().astype(np.float32))
            if dropped is not None:
                dropped.extend(cut.tolist())
        return (
            np.concatenate(found) if found else np.empty((0, self.network.encoder.shape.hidden), np.float32)
        )

    def save(self, folder: Path) -> None:
        """Write the model's folder: encoder and tokenizer as transformers reads them, and the heads."""
        self.network.encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        checkpoint.save_weights(dict(self.network.named_head_parameters()), folder / "heads.safetensors")
        relation = self.network.relation
        described = {
            "format": _FORMAT,
            "tokenizer": self.tokenizer.fingerprint,
            "relation": None if relation is None else {"negative_slope": relation.negative_slope},
            "tasks": {
                task.name: {
                    "kind": task.kind.settings.model_dump(
                        mode="json", include=set(task.kind.Settings.model_fields)
                    ),
                    "facts": task.kind.facts(),
                    "max_length": task.max_length,
                    "related": isinstance(self.network.head(task.name), RelationHead),
                }
                for task in self.tasks.values()
            },
        }
        write_json(folder / "heads.json", described)

    @classmethod
    def load(cls, folder: Path, precision: str = "auto") -> "Model":
        """The model in a folder that `save` wrote.

        Raises InputError for anything missing, damaged, or not belonging together (another tokenizer, labels
        that do not fit the head).
        """
        path = folder / "heads.json"
        described = _read_heads(path)
        encoder = Encoder.from_pretrained(folder)
        tokenizer = Tokenizer.from_pretrained(folder)
        if tokenizer.fingerprint != described.get("tokenizer"):
            raise InputError("the tokenizer beside it is not the one the heads were trained with", file=path)
        tasks, heads, relation = [], {}, _relation(described, encoder.shape.hidden, path)
        for name, told in described["tasks"].items():
            task = _task(name, told, path)
            tasks.append(task)
            shared = relation if told.get("related") else None
            heads[name] = task.kind.build_head(encoder.shape.hidden, 0.0, shared)
        network = Network(encoder, heads, relation)
        weights_path = folder / "heads.safetensors"
        weights = checkpoint.load_file(weights_path)
        with torch.no_grad():
            for name, parameter in network.named_head_parameters():
                if name not in weights or weights[name].shape != parameter.shape:
                    found = f"shape {list(weights[name].shape)}" if name in weights else "nothing"
                    raise InputError(
                        f"{name}: expected shape {list(parameter.shape)}, found {found}", file=weights_path
                    )
                parameter.copy_(weights[name])
        return cls(network, tokenizer, tasks, precision)

    def _all_heads(
        self, texts: list[tuple[str, ...]], count: int, names: Sequence[str] | None
    ) -> list[dict[str, Prediction]]:
        tasks = [self.task(name) for name in names] if names is not None else list(self.tasks.values())
        fitting = [task for task in tasks if len(task.kind.columns) == count]
        wrong = [task.name for task in tasks if len(task.kind.columns) != count]
        what = "a single text" if count == 1 else "a pair of texts"
        if names is not None and wrong:
            raise InputError(f"the task {wrong[0]!r} does not read {what}")
        if not fitting:
            raise InputError(f"no task of this model reads {what}; it has {', '.join(self.tasks)}")
        answers: list[dict[str, Prediction]] = []
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            found = self._predict_chunk(fitting, texts[begin : begin + _TEXTS_AT_ONCE])
            answers += [
                {task.name: found[task.name][i] for task in fitting}
                for i in range(len(texts[begin : begin + _TEXTS_AT_ONCE]))
            ]
        return answers

    @torch.inference_mode()
    def _predict_chunk(
        self, tasks: Sequence[Task], texts: Sequence[tuple[str, ...]]
    ) -> dict[str, list[Prediction]]:
        """Each task's predictions; tasks that lay out an example alike share one encoder pass."""
        found: dict[str, list[Prediction]] = {}
        groups: dict[int, list[Task]] = {}
        for task in tasks:
            groups.setdefault(task.kind.sequences_per_example, []).append(task)
        for k, group in groups.items():
            laid = [task_sequence for one in texts for task_sequence in group[0].kind.sequences(one)]
            longest = max(task.max_length for task in group)
            results, dropped, lengths = self._encode(laid, longest, k, self._heads(group))
            for task, result in zip(group, results, strict=True):
                cut = dropped.copy()
                # Texts that fit the largest limit but not this task's are read again, cut, for this task alone.
                again = np.flatnonzero((lengths > task.max_length).reshape(-1, k).any(1))
                if len(again):
                    which = (again[:, None] * k + np.arange(k)).ravel()
                    some, lost, _ = self._encode(
                        [laid[i] for i in which], task.max_length, k, self._heads([task])
                    )
                    result[torch.from_numpy(again)] = some[0]
                    cut[which] = lost
                found[task.name] = [
                    replace(prediction, truncated=bool(tokens), tokens_dropped=int(tokens))
                    for prediction, tokens in zip(
                        task.kind.predictions(result), cut.reshape(-1, k).sum(1), strict=True
                    )
                ]
        return found

    def _heads(self, tasks: Sequence[Task]) -> Callable[[States], list[Tensor]]:
        return lambda states: [self.network.answer(task.name, states) for task in tasks]

    @torch.inference_mode()
    def _encode(
        self,
        sequences: Sequence[tuple[str, ...]],
        max_length: int,
        k: int,
        read: Callable[[States], list[Tensor]],
    ) -> tuple[list[Tensor], NDArray[np.int32], NDArray[np.int32]]:
        """Run `read(states)` over all sequences, k of them an example.

        Returns the outputs in order, and for each sequence the tokens dropped and the tokens left.
        """
        packed = len(sequences[0]) == 2
        flat = self.tokenizer.encode_batch(
            [one[0] for one in sequences],
            [one[1] for one in sequences] if packed else None,
            max_length=min(max_length, self.network.encoder.shape.positions),
        )
        starts = np.concatenate([[0], np.cumsum(flat.lengths, dtype=np.int64)])
        order, batches = ragged_batches(flat.lengths.astype(np.int64).reshape(-1, k).sum(1))
        parts: list[list[Tensor]] = []
        for begin, end in batches:
            which = (order[begin:end, None] * k + np.arange(k)).ravel()
            lengths = flat.lengths[which].astype(np.int64)
            places = np.repeat(starts[which] - (np.cumsum(lengths) - lengths), lengths) + np.arange(
                int(lengths.sum())
            )
            ragged = Ragged.of_flat(
                flat.ids[places].astype(np.int64), flat.segments[places].astype(np.int64), lengths
            ).to(self.device)
            parts.append([output.cpu() for output in read(self.network.encoder.encode(ragged))])
        back = torch.from_numpy(np.argsort(order, kind="stable"))
        joined = [torch.cat(one)[back] for one in zip(*parts, strict=True)]
        return (
            [one.float() if one.dtype is torch.bfloat16 else one for one in joined],
            flat.dropped,
            flat.lengths,
        )


def ragged_batches(
    lengths: NDArray[np.int64], tokens: int = _TOKENS_AT_ONCE
) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Examples sorted from long to short and cut into batches of at most `tokens` tokens (at least one example).

    `lengths` [n] are tokens of each example. Returns the order [n] and (begin, end) places in it.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches, begin = [], 0
    while begin < len(order):
        used = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, used + tokens, side="right")))
        batches.append((begin, end))
        begin = end
    return order, batches


def _texts(inputs: Iterable[Input], count: int, task: str) -> Iterator[tuple[str, ...]]:
    """Each input as a tuple of `count` texts; InputError says which one is not."""
    if isinstance(inputs, str):
        raise InputError(f"{task}: expected a list of inputs, found one text {shown(inputs)}")
    for number, one in enumerate(inputs, start=1):
        texts = (one,) if isinstance(one, str) else tuple(one) if isinstance(one, Sequence) else ()
        if len(texts) != count or not all(isinstance(text, str) for text in texts):
            wanted = "a text" if count == 1 else "a pair of texts"
            raise InputError(f"{task}: input {number}: expected {wanted}, found {shown(one)}")
        yield texts


def _read_heads(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file; expected the model folder of a run", file=path) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot be read as JSON ({error})", file=path) from None
    if not isinstance(described, dict) or not isinstance(described.get("tasks"), dict):
        raise InputError("expected an object with 'tasks'", file=path)
    if described.get("format") != _FORMAT:
        raise InputError(f"format {shown(described.get('format'))}: this version reads {_FORMAT}", file=path)
    return described


def _relation(described: Mapping[str, Any], hidden: int, path: Path) -> Relation | None:
    told = described.get("relation")
    if told is None:
        return None
    try:
        return Relation(hidden, float(told["negative_slope"]))
    except (KeyError, TypeError, ValueError):
        raise InputError("'relation' is not described as expected", file=path) from None


def _task(name: str, told: Any, path: Path) -> Task:
    try:
        kind = KINDS[told["kind"]["kind"]]
        return Task(
            name, kind(kind.Settings.model_validate(told["kind"]), told["facts"]), int(told["max_length"])
        )
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise InputError(
            f"task {name!r} is not described as expected ({type(error).__name__})", file=path
        ) from None
