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
from manyheads.errors import InputError, nearest, shown
from manyheads.formulas.optim import OptimizerSettings
from manyheads.recipe.complaints import Misfit, complaint
from manyheads.recipe.document import Document, read_document, written
from manyheads.recipe.overrides import overridden, replaced
from manyheads.recipe.places import DATA_VARIABLE, settled
from manyheads.tasks import KINDS, Kind
from manyheads.tasks.kind import KindSettings

__all__ = [
    "SECTIONS",
    "EncoderSettings",
    "HubFiles",
    "Interleaved",
    "Mixing",
    "MixingSettings",
    "Proportional",
    "Recipe",
    "RoundRobin",
    "ScheduleSettings",
    "Sequential",
    "SizeSettings",
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
    size: SizeSettings | None = None
    """Instead of `from`: start from random weights at this size."""
    vocab: FilePath | None = None
    """With `size`: the vocabulary file, a WordPiece a line."""
    freeze: bool = False
    """Leave the encoder as it is; only the heads learn."""
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


class TaskSettings(KindSettings):
    """What a task's section has whatever its kind; the kind's own settings stand beside these."""

    model_config = STRICT

    files: Annotated[dict[SplitName, FilePaths], Field(min_length=1)] | None = None
    """Split → file or list of files, relative to `data`; training needs `train`."""
    hub: HubFiles | None = None
    """Instead of `files`: a data set of the Hugging Face hub."""
    read: Dialect = Dialect()
    """How the files are read; the defaults go by the file's name."""
    max_length: Annotated[int, Field(ge=2)] = 128
    """Longest sequence in tokens, [CLS] and [SEP] included; what is cut is counted and shown."""
    batch_size: Count | None = None
    """Examples of a step; default: the schedule's `batch_size`."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of the task's loss."""
    blank_labels: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Rows whose label is empty are left out and counted; more than this share of a file is an error."""

    @model_validator(mode="after")
    def _files_or_hub(self) -> Self:
        if (self.files is None) == (self.hub is None):
            raise ValueError("expected either 'files' or 'hub'")
        if self.files is None and self.read != Dialect():
            raise ValueError("'read' belongs to 'files'")
        return self


def section(kind: type[Kind]) -> type[TaskSettings]:
    """The class of a task's section: the kind's settings and the common ones, side by side."""
    twice = set(kind.Settings.model_fields) & set(TaskSettings.model_fields) - set(KindSettings.model_fields)
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


class MixingSettings(BaseModel):
    """Which schedule says what task comes next; the schedules themselves are in `data.mixing`."""

    model_config = STRICT

    schedule: str
    """Which task comes next."""

    @property
    def settings(self) -> dict[str, Any]:
        """What `data.mixing.schedule` takes beside the schedule's name."""
        return self.model_dump(mode="json", exclude={"schedule", "combine"}, exclude_none=True)


class Proportional(MixingSettings):
    """Every row of every task once in an epoch, each task's batches spread evenly through it."""

    schedule: Literal["proportional"] = "proportional"
    """Which task comes next."""


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

    schedule: Literal["sequential", "proportional", "round_robin", "interleaved"] = "sequential"
    """Which of the stage's tasks comes next; `sequential`: in each epoch one whole task after the other."""
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The tasks that take part; default: all."""
    epochs: Count | None = None
    """How many epochs of its schedule the stage lasts; the last stage may leave it out and then goes on until
    the training's own `epochs` or `steps` are over."""


class Sequential(MixingSettings):
    """One after another: the tasks in each epoch or, with `stages`, whole schedules."""

    schedule: Literal["sequential"]
    """Which task comes next."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)] | None = None
    """What runs one after another, such as one task first and then all in turn; default: the tasks."""

    @model_validator(mode="after")
    def _all_but_the_last_end(self) -> Self:
        for number, stage in enumerate((self.stages or ())[:-1]):
            if stage.epochs is None:
                raise Misfit("missing key 'epochs'; only the last stage may be without", "stages", number)
        return self


Mixing = Proportional | RoundRobin | Interleaved | Sequential
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
    mixing: Mixing = Field(default=Proportional(schedule="proportional"), discriminator="schedule")
    """Which task comes next."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """How the weights move."""
    schedule: ScheduleSettings = ScheduleSettings()
    """How long training lasts, in what steps, and when it is measured and saved."""
    precision: Literal["auto", "float32", "bf16", "float64"] = "auto"
    """Numbers to compute with; `auto`: bf16 where the processor has it, else float32."""

    @model_validator(mode="after")
    def _stages_name_tasks(self) -> Self:
        stages = self.mixing.stages if isinstance(self.mixing, Sequential) else None
        for number, stage in enumerate(stages or ()):
            for at, name in enumerate(stage.tasks or ()):
                if name not in self.tasks:
                    raise Misfit(
                        f"expected one of the tasks {', '.join(self.tasks)}, "
                        f"found {name!r}{nearest(name, self.tasks)}",
                        *("mixing", "stages", number, "tasks", at),
                    )
                if name in (stage.tasks or ())[:at]:
                    raise Misfit(f"{name!r} stands twice", "mixing", "stages", number, "tasks", at)
        return self

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
        return cls._checked(settled(document, Path(path).parent))

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
        return cls._checked(overridden(Document(plain), overrides))

    def with_overrides(self, overrides: Iterable[str]) -> Self:
        """This recipe with `key.path=value` put in; what it does not say itself still follows its default."""
        values = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        # Sections built in Python need not have said what their class says.
        for name, task in self.tasks.items():
            values["tasks"][name]["kind"] = task.kind
        if "mixing" in values:
            values["mixing"]["schedule"] = self.mixing.schedule
        return type(self)._checked(overridden(Document(values), overrides))

    def dump_yaml(self) -> str:
        """Every setting with its value, as a recipe file that loads as an equal recipe."""
        return written(self.model_dump(mode="json", by_alias=True))

    @property
    def sums_rounds(self) -> bool:
        """Whether a step adds the losses of a batch of every task (`mixing.combine`)."""
        return isinstance(self.mixing, RoundRobin | Interleaved) and self.mixing.combine

    @classmethod
    def _checked(cls, document: Document) -> Self:
        mixing = document.values.get("mixing")
        if isinstance(mixing, dict) and "schedule" not in mixing:
            document = replaced(
                document, ["mixing", "schedule"], "proportional", document.origin(("mixing",))
            )
        try:
            # As JSON a list may stand for a tuple although types are held strictly.
            return cls.model_validate_json(to_json(document.values), strict=True)
        except ValidationError as error:
            raise complaint(error, cls, document) from None
