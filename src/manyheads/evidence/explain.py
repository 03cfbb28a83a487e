"""Which tokens moved the answer: integrated gradients on the word vectors (row F9).

Knows models, tokens and their places in the caller's text. Must not know runs, files or how anything is shown. captum
(the extra `explain`) is imported at the first call.

For an example with word vectors x and a baseline z the attribution of token i is
Σ_h (x_ih − z_ih) · ∫₀¹ ∂f(z + t·(x − z)) / ∂x_ih dt (Sundararajan et al. 2017, equation 1). The attributions add up
to f(x) − f(z) (completeness), which is checked: the integral is a sum of gradients at some points, of which more are
taken until it holds. Positions and segments are left as they are, and so are [CLS] and [SEP], which therefore have the
attribution 0.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from manyheads.encoder import clean
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.layers import Linear
from manyheads.encoder.layout import Layout
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError, nearest
from manyheads.model import Input, Model, Network, Task
from manyheads.tasks import Kind, Prediction

__all__ = ["Attribution", "Explanation", "explain", "explainable"]

_STEPS = 32  # points of the integral at first; they are doubled until the sum is right
_DOUBLINGS = 4
_TOKENS_AT_ONCE = 4096  # of one pass with gradients


@dataclass(frozen=True, slots=True)
class Attribution:
    """A token and what it did to the score."""

    token: str
    """The token as the vocabulary has it."""
    which: int
    """In which of the caller's texts it stands: 0, or 1 for the second of a pair."""
    start: int
    """Its first character in that text, in code points."""
    end: int
    """One beyond its last; the same as `start` for [CLS] and [SEP], which stand in no text."""
    text: str
    """The caller's text from `start` to `end`."""
    value: float
    """By how much it raised the score, in the score's units; below 0: it lowered it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a head gives one input the score that it gives."""

    task: str
    target: str
    """What the score is for: a label, or `value`."""
    score: float
    """f(x): the label's logit (of two labels with one logit its log-odds), or the value before it is clipped."""
    baseline: float
    """f(z): the score of the same sequence without its words."""
    tokens: tuple[Attribution, ...]
    gap: float
    """The attributions' sum less (score − baseline): 0 if the integral were exact."""
    complete: bool
    """Whether the gap is within the tolerance."""
    steps: int
    """Points that the integral was taken at."""
    prediction: Prediction
    """What the model answers."""


def explain(
    model: Model,
    task: str,
    inputs: Sequence[Input],
    *,
    target: str | None = None,
    baseline: Literal["pad", "zero"] = "pad",
    tolerance: float = 0.02,
) -> list[Explanation]:
    """Explanations of a task's answers to inputs as `Model.predict` takes them; products are not rounded to bf16.

    `target` is the label that is explained (default: the one that is answered). `baseline`: every ordinary token has
    the vector of [PAD], or zeros. The gap is within `tolerance` · |score − baseline| (or · 1e-3 where that is more), or
    `complete` is False. Raises InputError for an unknown task or label, an input that is none, and a task whose answer
    is not a single score; and without captum.
    """
    integrate = _integrated_gradients()
    chosen = model.task(task)
    if baseline not in ("pad", "zero"):
        raise InputError(f"baseline {baseline!r}: expected 'pad' or 'zero'")
    predictions = model.predict(task, inputs)
    with _exact(model.network):
        return [
            _explained(model, chosen, one, prediction, target, baseline, tolerance, integrate)
            for one, prediction in zip(inputs, predictions, strict=True)
        ]


def _integrated_gradients() -> Any:
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        raise InputError("explanations need the library captum: pip install 'manyheads[explain]'") from None
    return IntegratedGradients


def _explained(
    model: Model,
    task: Task,
    one: Input,
    prediction: Prediction,
    target: str | None,
    baseline: str,
    tolerance: float,
    integrate: Any,
) -> Explanation:
    network, kind = model.network, task.kind
    length = min(task.max_length, network.encoder.shape.positions)
    raw = tuple(kind.given(one).values())
    read = kind.input(kind.given(one))
    layout = kind.lay([read], model.tokenizer, length)
    places = _places(layout, read, raw, kind, model.tokenizer, length, task.name)
    told, score_of = _score(kind, prediction, target, task.name)

    device = model.device
    table = network.encoder.embeddings.word
    ids = torch.from_numpy(layout.ids.astype(np.int64)).to(device)
    words = table(ids).detach()
    special = torch.from_numpy(np.isin(layout.ids, (model.tokenizer.cls_id, model.tokenizer.sep_id))).to(
        device
    )
    empty = table.weight[model.tokenizer.pad_id].detach() if baseline == "pad" else torch.zeros_like(words[0])
    nothing = torch.where(special[:, None], words, empty)
    copies: dict[int, Ragged] = {}

    def scores(several: Tensor) -> Tensor:
        """[S] the scores of S sets of word vectors [S, T, H]."""
        count = len(several)
        if count not in copies:
            copies[count] = Ragged.of_layout(Layout.joined([layout] * count)).to(device)
        ragged = copies[count]
        (outputs,) = network(ragged, [(task.name, 0, len(ragged))], several.reshape(-1, several.shape[-1]))
        if isinstance(outputs, Grouped):
            raise InputError(f"the task {task.name!r} answers with more than a single score")
        return score_of(outputs)

    with torch.no_grad():
        full, bare = (float(scores(some[None])[0]) for some in (words, nothing))
    method = integrate(scores)
    steps, at_once = _STEPS, max(1, _TOKENS_AT_ONCE // len(ids))
    allowed = max(tolerance * abs(full - bare), 1e-3 * tolerance)
    for doubling in range(_DOUBLINGS + 1):
        steps = _STEPS * 2**doubling
        found = method.attribute(words[None], nothing[None], n_steps=steps, internal_batch_size=at_once)
        values = found[0].sum(1).double().cpu()
        gap = float(values.sum()) - (full - bare)
        if abs(gap) <= allowed:
            break
    return Explanation(
        task.name,
        told,
        full,
        bare,
        tuple(
            Attribution(
                str(model.tokenizer.id_to_token(int(number))),
                which,
                start,
                end,
                raw[which][start:end],
                value,
            )
            for number, (which, start, end), value in zip(layout.ids, places, values.tolist(), strict=True)
        ),
        gap,
        abs(gap) <= allowed,
        steps,
        prediction,
    )


def explainable(prediction: Prediction) -> bool:
    """Whether an answer is a single score, which can be explained: one label of a fixed set for a text, or a value."""
    one_label = prediction.probabilities is not None and not prediction.shares
    return one_label or (prediction.value is not None and prediction.label is None)


def _score(
    kind: Kind, prediction: Prediction, target: str | None, task: str
) -> tuple[str, Callable[[Tensor], Tensor]]:
    """What is explained, and the function from outputs [S, …] to its scores [S]."""
    if not explainable(prediction):
        raise InputError(
            f"task {task!r} is of kind {kind.settings.kind}, whose answer is not a single score; expected a task that "
            "gives a text one label or one value"
        )
    if prediction.probabilities is None:
        if target is not None:
            raise InputError(f"task {task!r} has no labels, found {target!r} to explain")
        return "value", kind.answers
    labels = list(prediction.probabilities)
    named = prediction.label if target is None else target
    if named not in labels:
        raise InputError(
            f"task {task!r} has no label {named!r}; it has {', '.join(labels)}{nearest(str(named), labels)}"
        )
    number = labels.index(named)

    def logit(outputs: Tensor) -> Tensor:
        if outputs.shape[1] == 1:  # the log-odds of the second label
            return outputs[:, 0] if number == 1 else -outputs[:, 0]
        return outputs[:, number]

    return named, logit


def _places(
    layout: Layout,
    read: Any,
    raw: tuple[str, ...],
    kind: Kind,
    tokenizer: Tokenizer,
    length: int,
    task: str,
) -> list[tuple[int, int, int]]:
    """(which text, start, end) of every token in the texts that the caller gave; `read` are those texts as cleaned."""
    texts = tuple(read) if isinstance(read, tuple | list) else (read,)
    if not all(isinstance(text, str) for text in texts) or len(texts) != len(raw):
        raise InputError(f"task {task!r} reads something else than a text or a pair of texts")
    apart = len(layout.lengths) == len(texts)
    sides = [(texts, None)] if apart else [((texts[0],), (texts[1],))]
    found: list[tuple[int, int, int]] = []
    ids: list[int] = []
    for first, second in sides:
        told = tokenizer(first, second, max_length=length)
        for number, (own, segments, offsets) in enumerate(
            zip(told.input_ids, told.token_type_ids, told.offsets, strict=True)
        ):
            ids += own
            found += [
                (number if second is None else segment, start, end)
                for segment, (start, end) in zip(segments, offsets, strict=True)
            ]
    assert ids == layout.ids.tolist(), "tokens with places are not those that the head reads"
    before = [_origins(text, given, kind) for text, given in zip(texts, raw, strict=True)]
    return [
        (which, *clean.original(start, end, before[which])) if start < end else (which, 0, 0)
        for which, start, end in found
    ]


def _origins(text: str, given: str, kind: Kind) -> list[tuple[int, int]] | None:
    """For each character of a cleaned text the (start, end) in the given one; None where nothing was cleaned."""
    cleaned, offsets = clean.cleaned_with_offsets(given, kind.settings.clean)
    assert cleaned == text, f"no rule says where {kind.settings.clean!r} took a character from"
    return offsets


@contextmanager
def _exact(network: Network) -> Iterator[None]:
    """Products in the parameters' own dtype meanwhile: the sum of rounded gradients would not be complete."""
    before = {module: module.compute for module in network.modules() if isinstance(module, Linear)}
    for module in before:
        module.compute = None
    try:
        yield
    finally:
        for module, dtype in before.items():
            module.compute = dtype
