"""What a recipe may say: every setting with its meaning, type, bounds and default.

Nests the settings that the rooms below declare (kinds of task, dialects, optimisers) and declares those that
belong to no room below; must not know how anything runs. Tables that grow: `KINDS` (in `tasks`) makes the
task sections, and `Mixing` lists the schedules with their settings.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import from_json, to_json

from manyheads.data.read import Dialect
from manyheads.encoder import sizes
from manyheads.errors import InputError, nearest, shown
from manyheads.formulas.distill import check_anneal
from manyheads.formulas.optim import OptimizerSettings
from manyheads.formulas.smart import SmartSettings
from manyheads.recipe.complaints import Misfit, complaint
from manyheads.recipe.document import Document, found, read_document, written
from manyheads.recipe.overrides import overridden, replaced
from manyheads.recipe.places import DATA_VARIABLE, settled
from manyheads.tasks import KINDS, Kind
from manyheads.tasks.documents import DocumentSettings
from manyheads.tasks.kind import KindSettings
from manyheads.tasks.texts import TextSettings

__all__ = [
    "SECTIONS",
    "Annealed",
    "DistillSettings",
    "EncoderSettings",
    "GradientSettings",
    "HoldOut",
    "HubFiles",
    "Interleaved",
    "Mixing",
    "MixingSettings",
    "Power",
    "Proportional",
    "Recipe",
    "RegularizeSettings",
    "RelationSettings",
    "RoundRobin",
    "ScheduleSettings",
    "Sequential",
    "Shuffled",
    "SizeSettings",
    "Sqrt",
    "Stage",
    "TaskSettings",
]

STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def named(pattern: str, what: str) -> Callable[[str], str]:
    """A check that a name can stand in file names and in `--set` paths."""

    def check(name: str) -> str:
        if not re.fullmatch(pattern, name) or ".." in name or len(name) > 100:
            raise ValueError(f"expected {what}, found {shown(name)}")
        return name

    return check


def written_path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError(f"expected a path, found {shown(text)}")
    return text


def size_by_name(value: object) -> object:
    if isinstance(value, str):
        return sizes.size_of(value)._asdict()
    if value is not None and not isinstance(value, Mapping | SizeSettings):
        raise ValueError(f"expected a name such as base or 4x256, or a mapping, found {found(value)}")
    return value


def one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


RunName = Annotated[
    str, AfterValidator(named(r"[A-Za-z0-9_][A-Za-z0-9._-]*", "a plain name of letters, digits, . _ -"))
]
TaskName = Annotated[str, AfterValidator(named(r"[A-Za-z0-9_-]+", "a plain name of letters, digits, _ -"))]
SplitName = Annotated[str, AfterValidator(named(r"[A-Za-z0-9_-]+", "a split's name of letters, digits, _ -"))]
FilePath = Annotated[str, AfterValidator(written_path)]
FilePaths = Annotated[
    tuple[FilePath, ...],
    Field(min_length=1),
    BeforeValidator(one_or_more, json_schema_input_type=str | list[str]),
]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
SizeName = Annotated[str, Field(pattern=f"^({'|'.join(sizes.NAMED)}|{sizes.PATTERN})$")]


class SizeSettings(BaseModel):
    """The size of an encoder that starts from random weights."""

    model_config = STRICT

    layers: Count
    """Transformer layers."""
    hidden: Count
    """Width of the hidden states, a multiple of `heads`."""
    heads: Count
    """Attention heads of a layer."""
    intermediate: Count
    """Width inside the feed-forward part of a layer."""
    max_positions: Annotated[int, Field(ge=2)] = 512
    """The longest sequence that the encoder can read, in tokens."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"'hidden' expects a multiple of heads ({self.heads}), found {self.hidden}")
        return self


class EncoderSettings(BaseModel):
    """The encoder that all tasks share: where it comes from, and what is dropped while training."""

    model_config = STRICT

    from_: Annotated[str, Field(min_length=1)] | None = Field(default="minilm", alias="from")
    """Weights and vocabulary to start from: `minilm` (packaged, no network), a hub name, a local folder or a
    run folder."""
    size: Annotated[
        SizeSettings | None,
        BeforeValidator(size_by_name, json_schema_input_type=SizeName | SizeSettings | None),
    ] = None
    """Instead of `from`: start from random weights at this size. A mapping, or a name: `base`, `large`, `tiny`, `mini`,
    `small`, `medium`, or layers x width: `4x256` (with heads of width 64, and 4 · width inside the feed-forward
    parts), `6x768/3` (with 3 heads)."""
    vocab: FilePath | None = None
    """With `size`: the vocabulary. A folder with a tokenizer, as `manyheads vocab` writes it, or a file of WordPieces,
    one a line, which is read as uncased."""
    causal: bool | None = None
    """Attention from left to right: a token sees itself and what stands before it, in place of the whole sequence.
    [CLS] then sees nothing but itself, and a text needs `pooling: mean`. Default: as the weights of `from` were
    trained; with `size`: false."""
    # The validator before the section's own hands it a list, which is no tuple in strict mode.
    layers: (
        Annotated[
            tuple[Count, ...],
            Field(min_length=1),
            BeforeValidator(one_or_more, json_schema_input_type=list[int]),
        ]
        | None
    ) = None
    """With `from`: a smaller encoder of these of its layers, counted from 1, lowest first; default: all."""
    hidden: Count | None = None
    """With `from`: a narrower encoder of its first so many hidden units, whole attention heads; default: all."""
    intermediate: Count | None = None
    """With `from`: the first so many units inside the feed-forward parts; default: all."""
    freeze: bool = False
    """Leave the encoder as it is; only the heads learn, on vectors that are computed once and without dropout."""
    dropout: Share = 0.1
    """Share of the hidden values dropped while training."""
    attention_dropout: Share = Field(default_factory=lambda given: given["dropout"])
    """Share of the attention weights dropped while training; default: the same as `dropout`."""

    @model_validator(mode="before")
    @classmethod
    def _size_alone(cls, value: Any) -> Any:
        # The default of `from` is for recipes that say nothing of where the encoder comes from.
        if isinstance(value, Mapping) and value.get("size") is not None and "from" not in value:
            return {**value, "from": None}
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.from_ is not None and self.size is not None:
            raise ValueError("'from' and 'size' exclude each other")
        if self.from_ is None and self.size is None:
            raise ValueError("expected either 'from' or 'size'")
        if self.size is not None and self.vocab is None:
            raise ValueError("'size' needs 'vocab', the vocabulary file")
        if self.size is None and self.vocab is not None:
            raise ValueError("'vocab' belongs to 'size'; with 'from' the vocabulary comes along")
        for key in ("layers", "hidden", "intermediate"):
            if self.size is not None and getattr(self, key) is not None:
                raise ValueError(f"{key!r} belongs to 'from'; 'size' has its own")
        if self.layers is not None and list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"'layers' expects each layer once, lowest first, found {list(self.layers)}")
        return self


class HubFiles(BaseModel):
    """A data set of the Hugging Face hub."""

    model_config = STRICT

    path: Annotated[str, Field(min_length=1)]
    """The data set's name on the hub, or a local folder."""
    name: str | None = None
    """The configuration, where the data set has several."""
    splits: Annotated[dict[SplitName, Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    """This recipe's split → the data set's: `{train: train, dev: validation}`."""


class HoldOut(BaseModel):
    """Splits that are cut from the training rows, by what stands in the rows and not by chance."""

    model_config = STRICT

    dev: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training rows that becomes the dev split."""
    test: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training rows that becomes the test split."""
    by: Annotated[str, Field(min_length=1)] | None = None
    """Rows with the same value in this column stay together, such as all pairs of one premise; default: the
    task's texts, so that a repeated example never stands on both sides."""

    @model_validator(mode="after")
    def _leaves_rows(self) -> Self:
        if self.dev is None and self.test is None:
            raise ValueError("expected 'dev', 'test' or both")
        if sum(self.shares.values()) >= 1:
            raise ValueError("'dev' and 'test' leave no rows to train on")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Split → its share."""
        return {name: share for name in ("dev", "test") if (share := getattr(self, name)) is not None}


class TaskSettings(KindSettings):
    """What a task's section has whatever its kind; the kind's own settings stand beside these."""

    model_config = STRICT

    files: Annotated[dict[SplitName, FilePaths], Field(min_length=1)] | None = None
    """Split → file or list of files, relative to `data`; training needs `train`."""
    hub: HubFiles | None = None
    """Instead of `files`: a data set of the Hugging Face hub."""
    read: Dialect = Dialect()
    """How the files are read; the defaults go by the file's name."""
    read_split: dict[SplitName, Dialect] = Field(default={})
    """Split → how its files are read where that is otherwise than `read` says, of which nothing is taken over:
    `{test: {}}` for a test file that has a header where the others have none."""
    max_length: Annotated[int, Field(ge=2)] = 128
    """Longest sequence in tokens, [CLS] and [SEP] included; what is cut is counted and shown."""
    batch_size: Count | None = None
    """Examples of a step; default: the schedule's `batch_size`."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the task's loss."""
    blank_labels: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Rows whose label is empty are left out and counted; more than this share of a file is an error."""
    hold_out: HoldOut | None = None
    """Cut a dev or test split, where there is no file of it, from the training rows."""
    sample: dict[SplitName, Count | Annotated[float, Field(gt=0, le=1)]] = Field(default={})
    """Split → how many of its rows are used, a number or (below 1, or 1.0) a share; a smaller sample is part of
    a larger one."""
    sample_seed: Annotated[int, Field(ge=0)] = 0
    """Another number draws other samples; it is apart from `seed`, so that all seeds of a study share their rows."""
    head_of: str | None = None
    """Another task of the same kind, whose head and labels this one uses: the same task on other data, or in other
    lengths. What this section says of the head has no meaning then."""

    @model_validator(mode="after")
    def _files_or_hub(self) -> Self:
        if self.read_with is not None:
            if self.files is not None or self.hub is not None:
                raise ValueError("'pairs_of' and 'files' exclude each other")
            return self
        if isinstance(self, DocumentSettings) and self.files is None and self.hub is None:
            raise ValueError("expected 'files'" + (" or 'pairs_of'" if hasattr(self, "pairs_of") else ""))
        if (self.files is None) == (self.hub is None):
            raise ValueError("expected either 'files' or 'hub'")
        if self.files is None and self.read != Dialect():
            raise ValueError("'read' belongs to 'files'")
        if self.files is None and self.read_split:
            raise ValueError("'read_split' belongs to 'files'")
        named = list(
            self.files if self.files is not None else self.hub.splits if self.hub is not None else ()
        )
        for split in self.hold_out.shares if self.hold_out is not None else ():
            if split in named:
                raise Misfit(f"the task has a file for {split!r} already", "hold_out", split)
            if "train" not in named:
                raise Misfit("there is no 'train' to cut it from", "hold_out", split)
        for split in self.read_split:
            if split not in named:
                message = f"there is no file for such a split{nearest(split, named)}"
                if self.hold_out is not None and split in self.hold_out.shares:
                    message = "the split is cut from the training rows and read as they are"
                raise Misfit(message, "read_split", split)
        known = self.split_names
        for split in self.sample:
            if split not in known:
                raise Misfit(f"there is no such split{nearest(split, known)}", "sample", split)
        return self

    @model_validator(mode="after")
    def _documents(self) -> Self:
        """What has a meaning for rows alone is refused where a task reads documents."""
        if not isinstance(self, DocumentSettings):
            return self
        said = {
            key for key, field in type(self).model_fields.items() if getattr(self, key) != field.get_default()
        }
        for key in said & {"hub", "read", "read_split", "blank_labels"}:
            raise Misfit(f"has no meaning for 'kind: {self.kind}', which reads documents", key)
        if self.hold_out is not None and self.hold_out.by is not None:
            raise Misfit("documents are held out whole, by their text", "hold_out", "by")
        owners = {"hold_out", "sample", "sample_seed", "batch_size", "max_length"}
        owners |= set(DocumentSettings.model_fields) - {"kind"}
        for key in sorted(said & owners) if self.read_with is not None else ():
            raise Misfit(f"belongs to {self.read_with!r}, whose pairs are read", key)
        return self

    @property
    def read_with(self) -> str | None:
        """The task whose sequences this one reads in the same pass; None: it reads its own."""
        return getattr(self, "pairs_of", None)

    def dialect(self, split: str) -> Dialect:
        """How the files of a split are read."""
        return self.read_split.get(split, self.read)

    @property
    def split_names(self) -> list[str]:
        """The splits of the task: those that it names, then those that are held out. None where it reads another's."""
        named = list(
            self.files if self.files is not None else self.hub.splits if self.hub is not None else ()
        )
        return [*named, *(self.hold_out.shares if self.hold_out is not None else ())]


def section(kind: type[Kind]) -> type[TaskSettings]:
    """The class of a task's section: the kind's settings and the common ones, side by side."""
    # A kind may have another default of the length than the rest, and says so in its own settings.
    common = set(TaskSettings.model_fields) - set(KindSettings.model_fields) - {"max_length"}
    twice = set(kind.Settings.model_fields) & common
    if twice:
        raise TypeError(f"{kind.__name__}.Settings declares {sorted(twice)}, which every task has already")
    made = create_model(
        f"{kind.__name__}Section",
        __base__=(kind.Settings, TaskSettings),
        __module__=__name__,
        __doc__=kind.Settings.__doc__,
    )
    return cast(type[TaskSettings], made)


SECTIONS: dict[str, type[TaskSettings]] = {name: section(kind) for name, kind in KINDS.items()}

if TYPE_CHECKING:
    Section = TaskSettings
else:
    Section = Annotated[Union[tuple(SECTIONS.values())], Field(discriminator="kind")]  # noqa: UP007


Exponent = Annotated[float, Field(ge=0, le=1)]


class MixingSettings(BaseModel):
    """Which schedule says what task comes next; the schedules themselves are in `data.mixing`."""

    model_config = STRICT

    schedule: str
    """Which task comes next."""

    @property
    def settings(self) -> dict[str, Any]:
        """What `data.mixing.schedule` takes beside the schedule's name."""
        return self.model_dump(mode="json", exclude={"schedule", "combine"}, exclude_none=True)

    @property
    def mixes_in_batch(self) -> bool:
        """Whether a step holds rows of several tasks."""
        return bool(self.settings.get("in_batch", False))


class Proportional(MixingSettings):
    """Every row of every task once in an epoch, each task's batches spread evenly through it."""

    schedule: Literal["proportional"] = "proportional"
    """Which task comes next."""
    in_batch: bool = False
    """Fill every step with rows of all tasks by their shares, instead of one task's."""


class Sqrt(MixingSettings):
    """Tasks in proportion to the square root of their rows."""

    schedule: Literal["sqrt"]
    """Which task comes next."""
    in_batch: bool = False
    """Fill every step with rows of all tasks by their shares, instead of one task's."""


class Power(MixingSettings):
    """Tasks in proportion to a power of their rows: small tasks come more often than their rows would say."""

    schedule: Literal["power"]
    """Which task comes next."""
    exponent: Exponent = 0.75
    """Shares are in proportion to rows ** exponent: 1 by rows, 0 every task equally often."""
    in_batch: bool = False
    """Fill every step with rows of all tasks by their shares, instead of one task's."""


class Annealed(MixingSettings):
    """Tasks in proportion to a power of their rows whose exponent moves from epoch to epoch."""

    schedule: Literal["annealed"]
    """Which task comes next."""
    start: Exponent = 1.0
    """The exponent of the first epoch: 1 is by rows."""
    end: Exponent = 0.0
    """The exponent of the last epoch and of those after it: 0 is every task equally often."""
    epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """Over how many epochs the exponent moves, a part of one counted as one; default: the training's own."""
    in_batch: bool = False
    """Fill every step with rows of all tasks by their shares, instead of one task's."""


class Shuffled(MixingSettings):
    """Every row of every task once in an epoch: all tasks' batches merged and shuffled."""

    schedule: Literal["shuffled"]
    """Which task comes next."""
    in_batch: bool = False
    """Fill every step with rows of all tasks by their shares, instead of one task's."""


class RoundRobin(MixingSettings):
    """The tasks in turn, with equal batches; an epoch is as long as the smallest task."""

    schedule: Literal["round_robin"]
    """Which task comes next."""
    combine: bool = False
    """Sum the losses of one round, a batch of every task, into one step."""


class Interleaved(MixingSettings):
    """The tasks in turn; an epoch covers the largest, the smaller ones' batches shrink in proportion."""

    schedule: Literal["interleaved"]
    """Which task comes next."""
    combine: bool = False
    """Sum the losses of one round, a batch of every task, into one step."""


class Stage(BaseModel):
    """A part of a sequential training."""

    model_config = STRICT

    schedule: Literal[
        "sequential",
        "proportional",
        "sqrt",
        "power",
        "annealed",
        "shuffled",
        "round_robin",
        "interleaved",
    ] = "sequential"
    """Which of the stage's tasks comes next; `sequential`: in each epoch one whole task after the other."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The tasks that take part; default: all."""
    epochs: Count | None = None
    """How many epochs of its schedule the stage lasts; the last stage may leave it out and then goes on until
    the training's own `epochs` or `steps` are over, unless its schedule is `annealed`."""
    steps: Count | None = None
    """How many steps the stage lasts, instead of `epochs`."""
    exponent: Exponent | None = None
    """With `power`: as there."""
    start: Exponent | None = None
    """With `annealed`: as there."""
    end: Exponent | None = None
    """With `annealed`: as there."""
    in_batch: bool | None = None
    """With `proportional`, `sqrt`, `power`, `annealed` and `shuffled`: as there."""

    @model_validator(mode="after")
    def _settings_of_its_schedule(self) -> Self:
        # The schedules that have settings which a stage may say; the others have none.
        schedules: dict[str, type[MixingSettings]] = {
            "proportional": Proportional,
            "sqrt": Sqrt,
            "power": Power,
            "annealed": Annealed,
            "shuffled": Shuffled,
        }
        for key in ("exponent", "start", "end", "in_batch"):
            owners = [name for name, owner in schedules.items() if key in owner.model_fields]
            if getattr(self, key) is not None and self.schedule not in owners:
                raise Misfit(f"unknown key; it belongs to {' and '.join(owners)}", key)
        if self.epochs is not None and self.steps is not None:
            raise Misfit("'epochs' and 'steps' exclude each other", "steps")
        if self.schedule == "annealed" and self.epochs is None:
            raise Misfit("missing key 'epochs'; an annealed stage must know its end")
        return self


class Sequential(MixingSettings):
    """One after another: the tasks in each epoch or, with `stages`, whole schedules."""

    schedule: Literal["sequential"]
    """Which task comes next."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] | None = None
    """What runs one after another, such as one task first and then all in turn; default: the tasks."""

    @model_validator(mode="after")
    def _all_but_the_last_end(self) -> Self:
        for number, stage in enumerate((self.stages or ())[:-1]):
            if stage.epochs is None and stage.steps is None:
                raise Misfit("missing key 'epochs'; only the last stage may be without", "stages", number)
        return self


Mixing = Proportional | Sqrt | Power | Annealed | Shuffled | RoundRobin | Interleaved | Sequential
"""The schedules with their settings: to add one, write its class above and name it here."""


class ScheduleSettings(BaseModel):
    """How long training lasts, in what steps, and when it is measured and saved."""

    model_config = STRICT

    epochs: Annotated[float, Field(gt=0)] = 3.0
    """How long to train, in epochs of the mixing schedule (`0.5`: half of one)."""
    steps: Count | None = None
    """How long to train, in steps; overrides `epochs`."""
    batch_size: Count = 32
    """Examples of a step, for the tasks that have no `batch_size` of their own."""
    accumulate: Count = 1
    """Into how many parts a step's batch is cut, their gradients added up: less memory, the same step."""
    warmup: Annotated[float, Field(ge=0)] = 0.1
    """How long the learning rate rises from zero: a share of all steps (0 to 1), or a number of steps."""
    decay: Literal["linear", "constant", "cosine"] = "linear"
    """How the learning rate falls after the warm-up: to zero in a line or half a cosine, or not at all."""
    evaluate_every: Literal["epoch"] | Count = "epoch"
    """When the dev split is scored: after each epoch, or after so many steps."""
    patience: Count | None = None
    """Stop after so many evaluations without a better score; default: never."""
    checkpoint_every: Count | None = None
    """Steps between checkpoints to resume from; default: one at each evaluation."""
    keep: Literal["best", "last"] = "best"
    """Which weights the run ends with: those with the best dev score, or those of the last step."""
    keep_every: Count | None = None
    """Keep the model after every so many epochs, too, as `epochs/N/`; default: none of them."""

    @model_validator(mode="after")
    def _whole_steps(self) -> Self:
        if self.warmup > 1 and self.warmup != int(self.warmup):
            raise ValueError(
                f"'warmup' expects a share from 0 to 1 or a whole number of steps, found {self.warmup}"
            )
        return self

    def warmup_steps(self, total: int) -> int:
        """The steps of warm-up in a training of `total` steps."""
        return min(total, round(self.warmup * total if self.warmup <= 1 else self.warmup))


class RegularizeSettings(BaseModel):
    """What is added to the tasks' losses so that the model stays smooth and near where it was."""

    model_config = STRICT

    smart: SmartSettings | None = None
    """Smoothness under small changes of the word vectors, and a proximal term (SMART); default: none."""


class RelationSettings(BaseModel):
    """A layer that similar tasks on pairs share, under a linear layer for each of them.

    It takes the place of their heads: r = LeakyReLU(W (u ∘ v) / (‖u‖ ‖v‖)).
    """

    model_config = STRICT

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    """The tasks that share it; they read pairs with `encode: siamese`."""
    negative_slope: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """The slope of LeakyReLU below zero."""


class DistillSettings(BaseModel):
    """Learn from trained models: the target is λ · gold + (1 − λ) · the teacher's answer."""

    model_config = STRICT

    teachers: Annotated[dict[str, FilePath], Field(min_length=1)]
    """Task → the run folder of its teacher, which has a task of that name or only one task; a task that is not
    named learns from its labels alone."""
    anneal: Annotated[str, AfterValidator(check_anneal)] = "linear"
    """λ over the training: `linear` from 0 to 1 (teacher annealing), `none` (0, the teacher alone), `gold` (1), or
    `constant:0.5`."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Both sides' logits are divided by it where the student follows the teacher."""


class GradientSettings(BaseModel):
    """How the tasks' gradients are watched, weighed and combined."""

    model_config = STRICT

    affinity_every: Count | None = None
    """Measure the cosine between the tasks' gradients, layer by layer, every so many steps; default: never."""
    surgery: Literal["none", "pcgrad"] = "none"
    """`pcgrad`: where the gradients of two tasks in a step conflict, each gives up its part against the other."""
    weighting: Literal["fixed", "uncertainty"] = "fixed"
    """`uncertainty`: the tasks' weights are learnt, as the variance of each task's noise."""


class Recipe(BaseModel):
    """All that a training is told."""

    model_config = STRICT

    name: RunName
    """The run's name; its folder is called so by default."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 11711
    """Where all randomness starts from: the same recipe with the same seed gives the same weights."""
    encoder: EncoderSettings = EncoderSettings()
    """The encoder that all tasks share."""
    data: FilePath | None = None
    """Root folder of the tasks' relative paths, itself looked for in the current folder, then in the recipe
    file's. `--set data=…` and MANYHEADS_DATA override it. Default: the current folder or, where only that
    has the first file, the recipe file's."""
    tasks: Annotated[dict[TaskName, Section], Field(min_length=1)]
    """Task name → its section."""
    use: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The tasks that take part; the others are as if they were not written. Default: all."""
    mixing: Mixing = Field(default=Proportional(schedule="proportional"), discriminator="schedule")
    """Which task comes next."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """How the weights move."""
    schedule: ScheduleSettings = ScheduleSettings()
    """How long training lasts, in what steps, and when it is measured and saved."""
    regularize: RegularizeSettings = RegularizeSettings()
    """What is added to the tasks' losses."""
    relation: RelationSettings | None = None
    """A layer that similar tasks share; default: none."""
    distill: DistillSettings | None = None
    """Learn from trained models too; default: from the labels alone."""
    gradients: GradientSettings = GradientSettings()
    """How the tasks' gradients are watched, weighed and combined."""
    precision: Literal["auto", "float32", "bf16", "float64"] = "auto"
    """Numbers to compute with; `auto`: bf16 where the processor has it, else float32."""

    @model_validator(mode="after")
    def _stages_name_tasks(self) -> Self:
        stages = self.mixing.stages if isinstance(self.mixing, Sequential) else None
        for number, stage in enumerate(stages or ()):
            for at, name in enumerate(stage.tasks or ()):
                self._known(name, "mixing", "stages", number, "tasks", at)
                if (owner := self.tasks[name].read_with) is not None:
                    raise Misfit(
                        f"{name!r} comes whenever {owner!r} does, whose pairs it reads",
                        *("mixing", "stages", number, "tasks", at),
                    )
                if name in (stage.tasks or ())[:at]:
                    raise Misfit(f"{name!r} stands twice", "mixing", "stages", number, "tasks", at)
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for at, name in enumerate(self.relation.tasks if self.relation is not None else ()):
            self._known(name, "relation", "tasks", at)
            if name in self.relation.tasks[:at]:  # type: ignore[union-attr]
                raise Misfit(f"{name!r} stands twice", "relation", "tasks", at)
            task = self.tasks[name]
            if not (isinstance(task, TextSettings) and task.apart):
                raise Misfit(
                    f"task {name!r} gives no two vectors of the encoder's width, as 'encode: siamese' does",
                    *("relation", "tasks", at),
                )
            if not task.reads_last:
                raise Misfit(
                    f"task {name!r} has 'layers', and a relation layer reads the last one",
                    *("relation", "tasks", at),
                )
        for name in self.distill.teachers if self.distill is not None else ():
            self._known(name, "distill", "teachers", name)
            if isinstance(self.tasks[name], DocumentSettings):
                raise Misfit(
                    f"'kind: {self.tasks[name].kind}' draws its questions anew each time, and a teacher answers once",
                    *("distill", "teachers", name),
                )
        smart = self.regularize.smart
        if smart is not None and self.encoder.freeze:
            raise Misfit(
                "a frozen encoder has nothing to smooth; leave this or 'encoder.freeze' out",
                *("regularize", "smart"),
            )
        if self.gradients.surgery != "none" and not (self.sums_rounds or self.mixing.mixes_in_batch):
            raise Misfit(
                "needs several tasks in a step: mixing.combine or mixing.in_batch", "gradients", "surgery"
            )
        if self.encoder.freeze and self.gradients != GradientSettings(weighting=self.gradients.weighting):
            raise Misfit("a frozen encoder has no gradients to compare", "gradients")
        return self

    @model_validator(mode="after")
    def _tasks_fit_each_other(self) -> Self:
        for name, task in self.tasks.items():
            for key, other in (("pairs_of", task.read_with), ("head_of", task.head_of)):
                if other is None:
                    continue
                self._known(other, "tasks", name, key)
                owner = self.tasks[other]
                wanted = "mlm" if key == "pairs_of" else task.kind
                if owner.kind != wanted or other == name:
                    found = "itself" if other == name else f"kind {owner.kind}"
                    raise Misfit(f"expected another task of kind {wanted}, found {found}", "tasks", name, key)
                if key == "head_of" and owner.head_of is not None:
                    raise Misfit(f"{other!r} has no head of its own either", "tasks", name, key)
            if isinstance(task, DocumentSettings) and self.encoder.freeze:
                raise Misfit(
                    f"'kind: {task.kind}' draws its questions anew each time, and a frozen encoder reads once",
                    *("tasks", name),
                )
        return self

    def _known(self, name: str, *place: str | int) -> None:
        if name not in self.tasks:
            raise Misfit(
                f"expected one of the tasks {', '.join(self.tasks)}, found {name!r}{nearest(name, self.tasks)}",
                *place,
            )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        overrides: Iterable[str] = (),
        *,
        seed: int | None = None,
        precision: str | None = None,
        data: str | os.PathLike[str] | None = None,
    ) -> Self:
        """The recipe file at `path`, checked, with absolute paths.

        Settings are replaced in this order, the later winning: the file's own, MANYHEADS_DATA, `overrides`
        (`key.path=value`, as for `--set`), the keywords. Whatever is wrong is an `InputError` of one line
        that names the file and the line, or the override, to be mended.
        """
        document = read_document(path)
        root = os.environ.get(DATA_VARIABLE)
        if root:
            document = replaced(document, ["data"], root, f"{DATA_VARIABLE}={root}")
        document = overridden(document, overrides)
        given = {"seed": seed, "precision": precision, "data": None if data is None else os.fspath(data)}
        for key, value in given.items():
            if value is not None:
                document = replaced(document, [key], value, f"--{key} {value}")
        return cls.checked(settled(document, Path(path).parent))

    @classmethod
    def parse(cls, values: Mapping[str, Any], overrides: Iterable[str] = ()) -> Self:
        """A recipe from nested mappings and lists as a file would give them; no path is looked up.

        Types are held as strictly as in a file: `"3"` is no number. `InputError` names the setting.
        """
        try:
            plain = from_json(to_json(values, inf_nan_mode="strings"))
        except (ValueError, TypeError) as error:
            raise InputError(f"a recipe is made of mappings, lists, texts and numbers: {error}") from None
        if not isinstance(plain, dict):
            raise InputError(f"a recipe is a mapping of settings, found {shown(values)}")
        return cls.checked(overridden(Document(plain), overrides))

    def with_overrides(self, overrides: Iterable[str]) -> Self:
        """This recipe with `key.path=value` put in; what it does not say itself still follows its default."""
        values = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        # Sections built in Python need not have said what their class says.
        for name, task in self.tasks.items():
            values["tasks"][name]["kind"] = task.kind
        if "mixing" in values:
            values["mixing"]["schedule"] = self.mixing.schedule
        return type(self).checked(overridden(Document(values), overrides))

    def dump_yaml(self) -> str:
        """Every setting with its value, as a recipe file that loads as an equal recipe."""
        return written(self.model_dump(mode="json", by_alias=True))

    @property
    def sums_rounds(self) -> bool:
        """Whether a step adds the losses of a batch of every task (`mixing.combine`)."""
        return isinstance(self.mixing, RoundRobin | Interleaved) and self.mixing.combine

    @classmethod
    def checked(cls, document: Document) -> Self:
        """The recipe that a document says, as it stands; InputError names the setting to mend."""
        mixing = document.values.get("mixing")
        if isinstance(mixing, dict) and "schedule" not in mixing:
            document = replaced(
                document, ["mixing", "schedule"], "proportional", document.origin(("mixing",))
            )
        document = used(document)
        try:
            # As JSON a list may stand for a tuple although types are held strictly.
            return cls.model_validate_json(to_json(document.values), strict=True)
        except ValidationError as error:
            raise complaint(error, cls, document) from None


def used(document: Document) -> Document:
    """`document` with the tasks that `use` names alone, so that nothing else of them is looked at.

    Raises InputError for a name that no task has. What is of the wrong type is left for the schema to refuse.
    """
    tasks, use = document.values.get("tasks"), document.values.get("use")
    if not isinstance(tasks, dict) or not isinstance(use, list) or not use:
        return document
    if not all(isinstance(one, str) for one in use):
        return document
    for at, name in enumerate(use):
        if name not in tasks:
            known = ", ".join(map(str, tasks))
            message = (
                f"use.{at}: expected one of the tasks {known}, found {name!r}{nearest(name, map(str, tasks))}"
            )
            raise document.error(message, ("use", at), title=False)
        if name in use[:at]:
            raise document.error(f"use.{at}: {name!r} stands twice", ("use", at), title=False)
    chosen = {name: section for name, section in tasks.items() if name in use}
    return Document({**document.values, "tasks": chosen}, document.origins, document.file)
