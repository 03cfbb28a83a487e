"""A study's file: variants × seeds, resolved to one checked recipe for each run before anything is trained.

Knows recipes and where their values came from. Must not know how a run is trained or what its scores mean.

The settings of a run are put together in this order, the later winning: the recipe's file, MANYHEADS_DATA, the
preset, `--set` of the command, the variant's own, the seed. A text `variant:NAME` in a variant stands for the run
folder of that variant with the same seed, `variant:NAME@3` for the one with seed 3.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import to_json

from manyheads.errors import InputError, nearest
from manyheads.evidence.outcome import Outcome, is_finished
from manyheads.recipe import Recipe
from manyheads.recipe.complaints import Misfit, complaint
from manyheads.recipe.document import Document, Place, found, read_document
from manyheads.recipe.overrides import overridden, replaced
from manyheads.recipe.places import DATA_VARIABLE, nearby, settled
from manyheads.recipe.schema import STRICT, FilePath, RunName, SplitName
from manyheads.run import Run

__all__ = ["Plan", "PlannedRun", "StudySettings", "plan_study", "refuse_other_recipes"]

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]
# `plain:` with nothing behind it is the recipe as it stands.
Settings = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]

_REFERENCE = re.compile(r"variant:(?P<name>[A-Za-z0-9._-]+)(?:@(?P<seed>[0-9]{1,19}))?")


class StudySettings(BaseModel):
    """What a study's file may say."""

    model_config = STRICT

    name: RunName
    """The study's name; its folder is called so by default."""
    recipe: FilePath
    """The recipe that all variants start from: looked for in the current folder, then beside the study's file."""
    seeds: Seeds
    """A run of every variant with each of these."""
    seeds_of: dict[str, Seeds] = {}
    """Variant → its own seeds, instead of `seeds`."""
    split: SplitName = "dev"
    """The split whose scores stand in the table and are compared."""
    variants: Annotated[dict[RunName, Settings], Field(min_length=1)]
    """Variant → {dotted key of the recipe: value}; the first one is the reference that the others are compared to."""
    against: dict[str, str] = {}
    """Variant → another that it is compared to instead of the first."""
    presets: dict[RunName, Settings] = {}
    """Preset → {dotted key of the recipe: value}, put under the variants' own where `--preset` names it."""
    keep: Literal["scores", "model", "all"] = "model"
    """What stays of a finished run: `model` is without the checkpoints, `scores` without the model too unless another
    variant names the run."""

    @model_validator(mode="after")
    def _seeds_are_good(self) -> Self:
        lists: list[tuple[tuple[int, ...], Place]] = [(self.seeds, ("seeds",))]
        for name, seeds in self.seeds_of.items():
            if name not in self.variants:
                raise Misfit(f"no such variant{nearest(name, self.variants)}", "seeds_of", name)
            lists.append((seeds, ("seeds_of", name)))
        for name, other in self.against.items():
            for one in (name, other):
                if one not in self.variants:
                    raise Misfit(f"no variant {one!r}{nearest(one, self.variants)}", "against", name)
            if name == other:
                raise Misfit("a variant cannot be compared to itself", "against", name)
        for seeds, place in lists:
            for at, seed in enumerate(seeds):
                if seed in seeds[:at]:
                    raise Misfit(f"{seed} stands twice", *place, at)
        return self


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study: its variant, seed and folder, its whole recipe, and the runs it names."""

    variant: str
    seed: int
    folder: Path
    recipe: Recipe
    needs: tuple[tuple[str, int], ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        """(variant, seed), which names it within the study."""
        return self.variant, self.seed

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """All the runs of a study in the order in which they are trained: all variants with one seed, then the next."""

    settings: StudySettings
    folder: Path
    preset: str | None
    runs: tuple[PlannedRun, ...]

    @property
    def reference(self) -> str:
        """The variant that the others are compared to."""
        return next(iter(self.settings.variants))

    @property
    def named(self) -> frozenset[tuple[str, int]]:
        """The runs that other runs name."""
        return frozenset(key for run in self.runs for key in run.needs)

    def of(self, variant: str) -> list[PlannedRun]:
        """A variant's runs."""
        return [run for run in self.runs if run.variant == variant]


def plan_study(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    preset: str | None = None,
    overrides: Iterable[str] = (),
    seeds: Iterable[int] | None = None,
) -> Plan:
    """The study's file at `path` with every recipe resolved and checked; nothing is trained or written.

    `out` is the study's folder (default `runs/NAME`, with a preset `runs/NAME-PRESET`); `overrides` are as for `--set`;
    `seeds` stand in for the file's: of `seeds_of` those stay that are among them. Raises InputError with file and line,
    or the override, for anything that does not fit.
    """
    document = read_document(path)
    settings = _checked(document)
    if preset is not None and preset not in settings.presets:
        known = f"there are {', '.join(settings.presets)}" if settings.presets else "there are none"
        raise InputError(
            f"no preset {preset!r}, {known}{nearest(preset, settings.presets)}", file=document.file
        )
    default = f"{settings.name}-{preset}" if preset is not None else settings.name
    folder = Path(os.path.abspath(out if out is not None else Path("runs") / default))
    planned = _seeds(settings, document, None if seeds is None else list(seeds))
    recipes = _Recipes(document, settings, preset, list(overrides), folder, planned)
    runs: dict[tuple[str, int], PlannedRun] = {}

    def add(variant: str, seed: int) -> None:
        if (variant, seed) not in runs:
            run = recipes.run(variant, seed)
            for need in run.needs:  # `@3` may name a run that is planned for later: it comes first
                add(*need)
            runs[run.key] = run

    for seed in dict.fromkeys(seed for each in planned.values() for seed in each):
        for variant, each in planned.items():
            if seed in each:
                add(variant, seed)
    splits = {
        name for run in runs.values() for task in run.recipe.tasks.values() for name in task.split_names
    }
    if settings.split not in splits:
        known = f"there are {', '.join(sorted(splits))}{nearest(settings.split, splits)}"
        raise document.error(f"no task has a split {settings.split!r}; {known}", ("split",))
    for run in runs.values():
        _refuse_missing_files(run)
    return Plan(settings, folder, preset, tuple(runs.values()))


def _checked(document: Document) -> StudySettings:
    try:
        return StudySettings.model_validate_json(to_json(document.values), strict=True)
    except ValidationError as error:
        raise complaint(error, StudySettings, document) from None


def _seeds(
    settings: StudySettings, document: Document, given: list[int] | None
) -> dict[str, tuple[int, ...]]:
    """Variant → the seeds it is trained with; a variant that has none of the given ones is left out."""
    if given is not None:
        for at, seed in enumerate(given):
            if seed < 0 or seed >= 2**63 or seed in given[:at]:
                raise InputError(f"--seeds: expected different whole numbers of at least 0, found {seed}")
        if not given:
            raise InputError("--seeds: expected whole numbers such as 1,2,3, found nothing")
    planned = {}
    for variant in settings.variants:
        own = settings.seeds_of.get(variant)
        if given is None:
            planned[variant] = own or settings.seeds
        else:
            planned[variant] = tuple(seed for seed in given if own is None or seed in own)
    first = next(iter(planned))
    if not planned[first]:
        raise document.error(
            f"none of --seeds is among the seeds of {first!r}, the reference", ("seeds_of", first)
        )
    return {variant: seeds for variant, seeds in planned.items() if seeds}


class _Recipes:
    """Puts a run's recipe together; each value keeps the line of the study's file that it was given on."""

    def __init__(
        self,
        document: Document,
        settings: StudySettings,
        preset: str | None,
        overrides: list[str],
        folder: Path,
        planned: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.document, self.settings, self.folder, self.planned = document, settings, folder, planned
        beside = Path(document.file or ".").parent
        path = nearby(settings.recipe, beside)
        if path is None:
            places = (
                "the current folder"
                if beside.absolute() == Path.cwd()
                else f"the current folder and {beside}"
            )
            raise document.error(f"no such file {settings.recipe!r} in {places}", ("recipe",))
        self.beside = path.parent
        base = read_document(path)
        root = os.environ.get(DATA_VARIABLE)
        if root:
            base = replaced(base, ["data"], root, f"{DATA_VARIABLE}={root}")
        if preset is not None:
            base = self.put(base, settings.presets[preset], ("presets", preset), f"preset {preset!r}")
        self.base = overridden(base, overrides)

    def put(self, base: Document, values: Mapping[str, Any], place: Place, whose: str) -> Document:
        """`base` with the dotted keys of a preset or variant in their places."""
        for key, value in values.items():
            parts = [part.strip() for part in key.split(".")]
            if not all(parts):
                raise self.document.error(
                    f"expected a key of the recipe such as optimizer.lr, found {key!r}", place
                )
            base = replaced(base, parts, value, f"{self.at((*place, key))}, {whose}")
        return base

    def at(self, place: Place) -> str:
        """A place of the study's file as an error opens with it."""
        line = self.document.origin(place)
        return f"{self.document.file}, line {line}" if isinstance(line, int) else str(self.document.file)

    def run(self, variant: str, seed: int) -> PlannedRun:
        """The run of a variant with a seed."""
        needs: list[tuple[str, int]] = []

        def folder_of(text: str, place: Place) -> str:
            need = self.reference(text, place, variant, seed)
            needs.append(need)
            return str(run_folder(self.folder, *need))

        place: Place = ("variants", variant)
        values = {
            key: _with_references(value, (*place, key), folder_of)
            for key, value in self.settings.variants[variant].items()
        }
        document = self.put(self.base, values, place, f"variant {variant!r}")
        document = replaced(document, ["seed"], seed, f"{self.at(('seeds',))}, seed {seed}")
        recipe = Recipe.checked(settled(document, self.beside))
        folder = run_folder(self.folder, variant, seed)
        return PlannedRun(variant, seed, folder, recipe, tuple(dict.fromkeys(needs)))

    def reference(self, text: str, place: Place, variant: str, seed: int) -> tuple[str, int]:
        """The (variant, seed) that a text `variant:…` names."""
        parts = _REFERENCE.fullmatch(text)
        if parts is None:
            raise self.document.error(f"expected variant:NAME or variant:NAME@SEED, found {text!r}", place)
        name = parts["name"]
        names = list(self.settings.variants)
        if name not in names:
            raise self.document.error(f"there is no variant {name!r}{nearest(name, names)}", place)
        if names.index(name) >= names.index(variant):
            where = "itself" if name == variant else f"{name!r}, which stands after it"
            raise self.document.error(
                f"the variant {variant!r} names {where}; expected one that stands before it", place
            )
        wanted = int(parts["seed"]) if parts["seed"] is not None else seed
        if wanted not in self.planned.get(name, ()):
            raise self.document.error(
                f"the variant {variant!r} names {name!r} with seed {wanted}, which is not among its seeds",
                place,
            )
        return name, wanted


def run_folder(folder: Path, variant: str, seed: int) -> Path:
    """Where a run of a study lies."""
    return folder / variant / f"seed-{seed}"


def _with_references(value: Any, place: Place, folder_of: Callable[[str, Place], str]) -> Any:
    """`value` with every text `variant:…` in it, however deep, replaced by a run folder."""
    if isinstance(value, str):
        return folder_of(value, place) if value.startswith("variant:") else value
    if isinstance(value, list):
        return [_with_references(item, (*place, at), folder_of) for at, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _with_references(item, (*place, key), folder_of) for key, item in value.items()}
    return value


def _refuse_missing_files(run: PlannedRun) -> None:
    """Say now what the run would stop at, perhaps after hours of other runs."""
    for name, section in run.recipe.tasks.items():
        for named in (section.files or {}).values():
            for path in (Path(run.recipe.data or ".") / text for text in named):
                if not path.exists():
                    raise InputError(f"no such file (variant {run.variant!r}, tasks.{name}.files)", file=path)
    for teacher in run.recipe.distill.teachers.values() if run.recipe.distill is not None else ():
        if not any(Path(teacher).parts[-2:] == (need[0], f"seed-{need[1]}") for need in run.needs):
            Run.open(teacher)


def refuse_other_recipes(plan: Plan) -> None:
    """Refuse a study whose folder has runs that were trained with other settings, or lacks a model that is named.

    Where the data and the study's folder lie, and what the recipe is called, makes no difference.
    """
    for run in plan.runs:
        finished = is_finished(run.folder)
        if finished or any(run.folder.glob("checkpoints/step-*.safetensors")):
            if not (run.folder / "recipe.yaml").is_file():
                raise InputError(
                    "is no run folder (it has no recipe.yaml); name another --out", file=run.folder
                )
            other = _difference(
                _plain(run.recipe),
                _plain(Run(run.folder).recipe),
                [run_folder(Path(), *key) for key in run.needs],
            )
            if other is not None:
                place, ours, theirs = other
                raise InputError(
                    f"was trained with another recipe ({place}: {theirs}, now {ours}); name another --out",
                    file=run.folder,
                )
        for need in () if finished else run.needs:
            teacher = run_folder(plan.folder, *need)
            if is_finished(teacher) and not Outcome(teacher).has_model:
                raise InputError(
                    f"its model was not kept, and {run} needs it; delete the folder to have it trained again",
                    file=teacher,
                )


def _plain(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", by_alias=True, exclude={"name", "data"})


def _difference(ours: Any, theirs: Any, named: list[Path], place: str = "") -> tuple[str, str, str] | None:
    """The first setting in which two recipes differ: its dotted key, our value, theirs.

    `named` are the run folders within the study that the recipe names, whose place on the disk may change.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in dict.fromkeys([*ours, *theirs]):
            inner = f"{place}.{key}" if place else str(key)
            difference = _difference(ours.get(key), theirs.get(key), named, inner)
            if difference is not None:
                return difference
        return None
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        several = (_difference(a, b, named, f"{place}.{at}") for at, (a, b) in pairs)
        return next((difference for difference in several if difference is not None), None)
    if ours == theirs or _same_run(ours, theirs, named):
        return None
    return place, found(ours), found(theirs)


def _same_run(ours: object, theirs: object, named: list[Path]) -> bool:
    if not (isinstance(ours, str) and isinstance(theirs, str)):
        return False
    return any(Path(ours).parts[-2:] == path.parts[-2:] == Path(theirs).parts[-2:] for path in named)
