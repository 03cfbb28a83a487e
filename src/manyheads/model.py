"""A trained model in the hand: one encoder, named heads; it predicts, embeds, saves and loads.

Knows texts, tasks and the folder that holds a model. Must not know training, run folders or recipes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from manyheads.encoder.layout import Layout
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.reading import Reading, rows_read
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError, nearest, shown
from manyheads.files import write_json
from manyheads.passes import Part, Reader, read_all
from manyheads.tasks import KINDS, Kind, Prediction
from manyheads.tasks.documents import DocumentKind
from manyheads.tasks.head import Head, Rows
from manyheads.tasks.heads.relation import Relation, RelationHead
from manyheads.tasks.kind import examples_of

__all__ = ["Model", "Network", "Task", "predictions_of"]

_TEXTS_AT_ONCE = 4096  # that are tokenised, sorted by length and held in memory together
_FORMAT = 1

Input = str | Sequence[Any]


@dataclass(frozen=True)
class Task:
    """A task of a model: its name, its kind with labels, and how much of a text it reads."""

    name: str
    kind: Kind
    max_length: int


class Network(nn.Module):
    """The parameters: one encoder, a head for each task, called by the task's name, and the layer that some share.

    `head_of` names tasks without a head of their own, and whose they use.
    """

    def __init__(
        self,
        encoder: Encoder,
        heads: Mapping[str, Head],
        relation: Relation | None = None,
        head_of: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.relation = relation
        self.head_of = dict(head_of or {})
        # A task may be called "keys" or "training"; as attributes of a ModuleDict such names would clash.
        self.heads = nn.ModuleDict({f"task {name}": head for name, head in heads.items()})

    def head(self, task: str) -> Head:
        """The head of a task."""
        head = self.heads[f"task {self.head_of.get(task, task)}"]
        assert isinstance(head, Head)
        return head

    def use(self, *, compute: torch.dtype | None = None, attention: str | None = None) -> "Network":
        """Choose the dtype of large matrix products (None: the parameters' own) and the attention backend."""
        self.encoder.use(compute=compute, attention=attention)
        for head in self.heads.values():
            assert isinstance(head, Head)
            head.use(compute)
        return self

    @property
    def in_checkpoint(self) -> dict[str, Head]:
        """The heads that a checkpoint of BERT has, under its names for them; of two of a name the first."""
        found: dict[str, Head] = {}
        for head in self.heads.values():
            assert isinstance(head, Head)
            if head.in_checkpoint is not None:
                found.setdefault(head.in_checkpoint, head)
        return found

    def named_head_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(`TASK.parameter`, parameter) of all heads; `relation/parameter` of the layer that some share."""
        for name, parameter in self.heads.named_parameters():
            yield name.removeprefix("task "), parameter
        if self.relation is not None:
            for name, parameter in self.relation.named_parameters():
                yield f"relation/{name}", parameter

    def forward(
        self, ragged: Ragged, parts: Sequence[tuple[str, int, int]], words: Tensor | None = None
    ) -> list[Rows]:
        """One encoder pass over a batch that may hold several tasks.

        `parts` are (task, first sequence, end) in the batch's order; `words` [T, H] may stand in for the word
        vectors. Returns each part's outputs.
        """
        deep = any(self.head(task).all_layers for task, _, _ in parts)
        states = self.encoder.encode(
            ragged, all_layers=deep, words=words, rows=None if deep else self.rows_read(ragged, parts)
        )
        return [self.answer(task, states.of_sequences(begin, end)) for task, begin, end in parts]

    def rows_read(self, ragged: Ragged, parts: Sequence[tuple[str, int, int]]) -> Tensor | None:
        """[R] the tokens whose last states the parts' heads read; None: all of them."""
        ends = np.concatenate([[0], np.cumsum(ragged.lengths)])
        readings = []
        for task, begin, end in parts:
            marks = None if ragged.marks is None else ragged.marks[ends[begin] : ends[end]].cpu().numpy()
            readings.append(Reading(self.head(task).reads, np.arange(begin, end), marks))
        rows = rows_read(ragged.lengths, readings)
        return None if rows is None else torch.from_numpy(rows).to(ragged.device)

    def answer(self, task: str, states: States) -> Rows:
        """The outputs of one task's head."""
        head = self.head(task)
        outputs: Rows = head(head.read(states))
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
        self.network.use(compute=chosen.compute, attention=attention)
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

    def predict(self, task: str, inputs: Iterable[Input], *, raw: bool = False) -> list[Prediction]:
        """Predictions for texts, or for pairs (a, b) where the task reads pairs, in the order of the inputs.

        Probabilities are calibrated, or with `raw` those of the head as it was trained.

        Tasks with candidates or choices take (text, [candidates]); a tagging task takes a list of words too. Raises
        InputError for an unknown task or an input that is none.
        """
        return list(self.stream(task, inputs, raw=raw))

    def stream(self, task: str, inputs: Iterable[Input], *, raw: bool = False) -> Iterator[Prediction]:
        """`predict` for inputs of any number: memory stays constant."""
        chosen = self.task(task)
        rest = _given(inputs, [chosen], chosen.name)
        while chunk := list(islice(rest, _TEXTS_AT_ONCE)):
            yield from self._predict_chunk([chosen], chunk, raw)[chosen.name]

    def outputs(self, task: str, inputs: Sequence[Any]) -> tuple[Rows, Layout]:
        """A head's outputs for inputs as the task's kind makes them of rows (`Kind.input`), on the processor, and how
        they were laid out."""
        chosen = self.task(task)
        return self._outputs([chosen], [{chosen.name: one} for one in inputs])[chosen.name]

    def analyze(
        self, texts: Iterable[str], tasks: Sequence[str] | None = None, *, raw: bool = False
    ) -> list[dict[str, Prediction]]:
        """Every head that reads a single text, on each text, in one encoder pass: {task: prediction} a text.

        A text that a task lays out in another way than the others (it cuts it shorter) stands in that pass twice.
        Raises InputError where no task of the model reads single texts.
        """
        return self._all_heads(texts, 1, tasks, raw)

    def analyze_pairs(
        self, pairs: Iterable[Sequence[str]], tasks: Sequence[str] | None = None, *, raw: bool = False
    ) -> list[dict[str, Prediction]]:
        """Every head that reads a pair, on each pair: {task: prediction} a pair.

        Tasks that read a pair alike (packed, or apart) share one encoder pass.
        """
        return self._all_heads(pairs, 2, tasks, raw)

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
        rest = _all_texts(texts, "embed")
        reader = Reader(States.mean) if pooling == "mean" else Reader(States.first, reads="first")
        found: list[NDArray[np.float32]] = []

        while chunk := list(islice(rest, _TEXTS_AT_ONCE)):
            flat = self.tokenizer.encode_batch(chunk, max_length=length)
            one_each = np.ones(len(chunk), dtype=np.int32)
            layout = Layout(flat.ids, flat.segments.astype(np.uint8), flat.lengths, flat.dropped, one_each)
            (vectors,) = read_all(self.network.encoder, [Part(reader, layout)])
            assert isinstance(vectors, Tensor)
            found.append(vectors.float().numpy())
            if dropped is not None:
                dropped.extend(flat.dropped.tolist())
        return (
            np.concatenate(found) if found else np.empty((0, self.network.encoder.shape.hidden), np.float32)
        )

    def save(self, folder: Path) -> None:
        """Write the model's folder: encoder and tokenizer as transformers reads them, and the heads.

        Heads that BERT was pre-trained with stand beside the encoder, where transformers' BertForPreTraining (or
        BertForMaskedLM) looks for them.
        """
        encoder = self.network.encoder
        checkpoint.save(encoder, asdict(encoder.shape), folder, self.network.in_checkpoint)
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
                    "head_of": self.network.head_of.get(task.name),
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
        head_of: dict[str, str] = {}
        for name, told in described["tasks"].items():
            task = _task(name, told, path)
            tasks.append(task)
            if isinstance(task.kind, DocumentKind):
                task.kind.bind(tokenizer)
            if (other := told.get("head_of")) is not None:
                if (
                    other == name
                    or other not in described["tasks"]
                    or _task(other, described["tasks"][other], path).kind.settings.kind
                    != task.kind.settings.kind
                ):
                    raise InputError(
                        f"task {name!r}: no other task of its kind is called {shown(other)}", file=path
                    )
                head_of[name] = other
                continue
            shared = relation if told.get("related") else None
            heads[name] = task.kind.build_head(encoder.shape.hidden, 0.0, shared, encoder)
        network = Network(encoder, heads, relation, head_of)
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
        self, inputs: Iterable[Input], count: int, names: Sequence[str] | None, raw: bool
    ) -> list[dict[str, Prediction]]:
        tasks = [self.task(name) for name in names] if names is not None else list(self.tasks.values())
        fitting = [task for task in tasks if task.kind.reads == count]
        wrong = [task.name for task in tasks if task.kind.reads != count]
        what = "a single text" if count == 1 else "a pair of texts"
        if names is not None and wrong:
            raise InputError(f"the task {wrong[0]!r} does not read {what}")
        if not fitting:
            raise InputError(f"no task of this model reads {what}; it has {', '.join(self.tasks)}")
        answers: list[dict[str, Prediction]] = []
        rest = _given(inputs, fitting, "analyze")
        while chunk := list(islice(rest, _TEXTS_AT_ONCE)):
            found = self._predict_chunk(fitting, chunk, raw)
            answers += [{task.name: found[task.name][i] for task in fitting} for i in range(len(chunk))]
        return answers

    def _predict_chunk(
        self, tasks: Sequence[Task], inputs: Sequence[Mapping[str, Any]], raw: bool
    ) -> dict[str, list[Prediction]]:
        """Each task's predictions for inputs {task: input}, from one encoder pass over what they lay out."""
        found = self._outputs(tasks, inputs)
        return {
            task.name: predictions_of(
                task.kind, *found[task.name], [one[task.name] for one in inputs], raw=raw
            )
            for task in tasks
        }

    def _outputs(
        self, tasks: Sequence[Task], inputs: Sequence[Mapping[str, Any]]
    ) -> dict[str, tuple[Rows, Layout]]:
        """Each task's outputs for inputs {task: input}, and how they were laid out."""
        longest = self.network.encoder.shape.positions
        laid = {
            task.name: task.kind.lay(
                [one[task.name] for one in inputs], self.tokenizer, min(task.max_length, longest)
            )
            for task in tasks
        }
        parts = [Part(Reader.of_head(self.network.head(name)), layout) for name, layout in laid.items()]
        found = read_all(self.network.encoder, parts)
        return {name: (outputs, layout) for (name, layout), outputs in zip(laid.items(), found, strict=True)}


def predictions_of(
    kind: Kind, outputs: Rows, layout: Layout, inputs: Sequence[Any], *, raw: bool = False
) -> list[Prediction]:
    """What outputs for inputs say, and of each whether it was cut; with `raw` the probabilities are not calibrated."""
    back = kind.keeps_inputs or layout.marks is not None
    examples = examples_of(layout, inputs, None) if back else None
    found = kind.predictions(outputs if raw else kind.calibrated(outputs), examples)
    parts = np.split(layout.dropped, np.cumsum(layout.counts)[:-1])
    told = []
    for prediction, lost in zip(found, parts, strict=True):
        total = int(lost.sum())
        each = tuple(lost.tolist()) if prediction.shares else ()
        told.append(replace(prediction, truncated=total > 0, tokens_dropped=total, dropped=each))
    return told


def _given(inputs: Iterable[Input], tasks: Sequence[Task], name: str) -> Iterator[dict[str, Any]]:
    """{task: its input} of each input; InputError says which one is none."""
    if isinstance(inputs, str):
        raise InputError(f"{name}: expected a list of inputs, found one text {shown(inputs)}")
    for number, one in enumerate(inputs, start=1):
        try:
            yield {task.name: task.kind.input(task.kind.given(one)) for task in tasks}
        except ValueError as error:
            raise InputError(f"{name}: input {number}: {error}") from None


def _all_texts(inputs: Iterable[str], name: str) -> Iterator[str]:
    """Each input, a text; InputError says which one is not."""
    if isinstance(inputs, str):
        raise InputError(f"{name}: expected a list of inputs, found one text {shown(inputs)}")
    for number, one in enumerate(inputs, start=1):
        if not isinstance(one, str):
            raise InputError(f"{name}: input {number}: expected a text, found {shown(one)}")
        yield one


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
