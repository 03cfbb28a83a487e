"""What is said over HTTP: the requests and answers, as models that check and describe them.

Knows JSON and predictions. Must not know queues or how a request comes in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import models_json_schema

from manyheads.errors import nearest, shown
from manyheads.serve.problems import Problem
from manyheads.tasks import Prediction

__all__ = [
    "AnalyzeAnswer",
    "AnalyzeRequest",
    "EmbedAnswer",
    "EmbedRequest",
    "ExplainAnswer",
    "ExplainRequest",
    "PredictAnswer",
    "PredictRequest",
    "TasksAnswer",
    "checked",
    "schemas",
    "told",
]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


AnyInput = Annotated[
    Any,
    Field(
        json_schema_extra={
            "anyOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "items": {"anyOf": [{"type": "string"}, {"$ref": "#/components/schemas/Texts"}]},
                },
            ]
        }
    ),
]


class PredictRequest(_Message):
    """Inputs for one task."""

    task: str
    """A task's name, as `GET /v1/tasks` lists it."""
    inputs: list[AnyInput]
    """A text each; a pair `[text, text]`; `[text, [candidate, …]]`; or a list of words, as the task reads them."""


class AnalyzeRequest(_Message):
    """Texts for every head that can take them."""

    texts: list[AnyInput]
    """Texts, or pairs of texts; all alike."""
    tasks: list[str] | None = None
    """Only these tasks; default: all that read a single text (or a pair)."""


class EmbedRequest(_Message):
    """Texts whose vectors are wanted."""

    texts: list[str]
    """The texts."""
    pooling: Literal["mean", "cls"] = "mean"
    """The mean over a text's tokens, or the state of its first one."""
    model: str | None = None
    """Whose encoder, where several runs are served; default: the first."""


class ExplainRequest(_Message):
    """One input whose answer is to be explained."""

    task: str
    """A task's name, as `GET /v1/tasks` lists it."""
    input: AnyInput
    """What the task reads: a text, or a pair `[text, text]`."""
    target: str | None = None
    """The label that is explained; default: the one that is answered."""


class SpanAnswer(_Message):
    """A piece of the text."""

    start: int
    """Its first character, in code points."""
    end: int
    """One beyond its last."""
    text: str
    label: str
    score: float


class PredictionAnswer(_Message):
    """What a head says of one input; what has no meaning for its kind is left out."""

    label: str | None = None
    """The most probable label, the best candidate or the answer."""
    score: float | None = None
    """The probability of `label`, 0 to 1."""
    probabilities: dict[str, float] | None = None
    """Label → probability; they add up to 1."""
    value: float | None = None
    """The predicted number."""
    spans: list[SpanAnswer] | None = None
    """Pieces of the text: entities, answers."""
    tokens: list[SpanAnswer] | None = None
    """One answer a word."""
    ranking: list[int] | None = None
    """The candidates by number, from 0, best first."""
    shares: list[float] | None = None
    """The probability of each candidate, in the order they were given."""
    truncated: bool
    """Whether the input was cut to the task's `max_length`."""
    tokens_dropped: int
    """How many tokens were cut."""
    cleaned: list[str] | None = None
    """The text, or both, as the head has read it, where its task cleans texts before."""


class PredictAnswer(_Message):
    """One prediction for each input, in their order."""

    task: str
    predictions: list[PredictionAnswer]
    model: str
    """The run whose head has answered."""


class AnalyzeAnswer(_Message):
    """For each text what every head says of it: task → prediction."""

    results: list[dict[str, PredictionAnswer]]


class EmbedAnswer(_Message):
    """A vector for each text, in their order."""

    embeddings: list[list[float]]
    dimension: int
    """Numbers of each vector."""
    tokens_dropped: list[int]
    """How many tokens of each text were cut."""
    model: str


class TokenAnswer(_Message):
    """A token and what it did to the score."""

    token: str
    which: int
    """In which text it stands: 0, or 1 for the second of a pair."""
    start: int
    """Its first character in that text, in code points."""
    end: int
    """One beyond its last; the same as `start` for tokens that stand in no text."""
    text: str
    value: float
    """By how much it raised the score; below 0: it lowered it."""


class ExplainAnswer(_Message):
    """Which tokens moved an answer, by integrated gradients."""

    task: str
    target: str
    """What the score is for: a label, or `value`."""
    score: float
    """The label's logit, or the value."""
    baseline: float
    """The score of the same sequence without its words."""
    tokens: list[TokenAnswer]
    gap: float
    """The sum over the tokens less (score − baseline)."""
    complete: bool
    """Whether that is as good as 0."""
    prediction: PredictionAnswer
    model: str


class TaskAnswer(_Message):
    """A task that is served."""

    name: str
    kind: str
    labels: list[str] | None = None
    inputs: Literal["text", "pair", "text and candidates"]
    """What one input is."""
    columns: list[str]
    """The columns of a table that make an input, by the names they had in training."""
    range: list[float] | None = None
    """The least and the greatest value, where they are known."""
    cleans: bool
    """Whether texts are cleaned before they are read."""
    calibrated: bool
    """Whether a temperature was found on dev, with which probabilities are told."""
    max_length: int
    """Tokens that are read of an input, special ones among them."""
    model: str


class TasksAnswer(_Message):
    """What is served, and how much of it is taken at once."""

    tasks: list[TaskAnswer]
    models: list[str]
    explains: bool
    """Whether `POST /v1/explain` answers here."""
    limits: dict[str, float]


class ProblemAnswer(BaseModel):
    """What is wrong with a request (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str


M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], value: Mapping[str, Any]) -> M:
    """The request in a JSON object; a Problem names the first key that is wrong, what was found and expected."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(one + 1) if isinstance(one, int) else one for one in first["loc"])
        match first["type"]:
            case "missing":
                detail = f"{place}: expected this key, found none"
            case "extra_forbidden":
                known = model.model_fields
                detail = f"{shown(place)}: no such key, expected {', '.join(known)}{nearest(place, known)}"
            case _:
                detail = f"{place}: {first['msg']}, found {shown(first['input'])}"
        raise Problem("invalid", detail) from None


def told(prediction: Prediction, cleaned: Sequence[str] | None = None) -> dict[str, Any]:
    """A prediction as JSON: what has no meaning for its kind, and numbers that are not finite, left out."""
    found: dict[str, Any] = {}
    for name in ("label", "score", "value"):
        value = getattr(prediction, name)
        if value is not None and (not isinstance(value, float) or math.isfinite(value)):
            found[name] = value
    if prediction.probabilities is not None:
        found["probabilities"] = dict(prediction.probabilities)
    # That a text has no entities, or no answer, is an answer too.
    points = not prediction.label and prediction.value is None and not prediction.shares
    if prediction.spans or points:
        found["spans"] = [asdict(span) for span in prediction.spans]
    if prediction.tokens:
        found["tokens"] = [asdict(word) for word in prediction.tokens]
    if prediction.ranking:
        found["ranking"] = list(prediction.ranking)
    if prediction.shares:
        found["shares"] = list(prediction.shares)
    found |= {"truncated": prediction.truncated, "tokens_dropped": prediction.tokens_dropped}
    return found if cleaned is None else found | {"cleaned": list(cleaned)}


def schemas() -> dict[str, Any]:
    """{name: JSON schema} of all messages, as OpenAPI's components."""
    models = (
        *(PredictRequest, AnalyzeRequest, EmbedRequest, ExplainRequest),
        *(PredictAnswer, AnalyzeAnswer, EmbedAnswer, ExplainAnswer, TasksAnswer, ProblemAnswer),
    )
    _, whole = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Any] = whole["$defs"]
    return found | {"Texts": {"type": "array", "items": {"type": "string"}, "title": "Texts"}}
