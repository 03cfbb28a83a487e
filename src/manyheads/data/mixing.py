"""Which task comes next, and which of its rows: the mixing schedules.

Knows how many rows each task has, the order of the tasks and a seed. Must not know what a row holds, what a
loss is, or how long training lasts: a schedule says step k for every k, and whoever counts steps resumes by
going on with k.

Every task is an endless stream of its own rows: pass after pass, each pass a fresh permutation of all of
them, drawn from (seed, task, number of the pass) alone. A stream is cut into batches in one of two ways.
Aligned: each pass by itself, so that its last batch may be smaller and no row comes twice in a pass.
Spanning: all batches equally large, so that one may run over the end of a pass into the next (the same
row can then stand in that batch twice, once from either pass). Either way, wherever one stops, any two rows
of a task have been seen equally often or once apart.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate
from operator import index
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from manyheads.errors import InputError, nearest, shown

__all__ = [
    "SCHEDULES",
    "Interleaved",
    "Proportional",
    "RoundRobin",
    "Schedule",
    "Sequential",
    "Share",
    "Step",
    "Stream",
    "Stretch",
    "schedule",
]


class Step(NamedTuple):
    """One step of training."""

    task: str
    rows: NDArray[np.int64]
    """[rows of the batch] int64: which rows of the task's training split, counted from 0."""


class Share(NamedTuple):
    """What one task gets of an epoch."""

    task: str
    rows: int
    """How many rows the task has."""
    batch_size: int
    """Rows of a full batch."""
    steps_per_epoch: int
    """Batches of this task in one epoch."""


class Stretch(NamedTuple):
    """Epochs of equal length that follow each other, from a first step until the next stretch begins."""

    first_step: int
    first_epoch: int
    steps_per_epoch: int


@final
class Recent:
    """The last two arrays made by `make`, by their number: a batch can span two passes, never three."""

    def __init__(self, make: Callable[[int], NDArray[np.int64]]) -> None:
        self._make = make
        self._kept: dict[int, NDArray[np.int64]] = {}

    def __getitem__(self, number: int) -> NDArray[np.int64]:
        found = self._kept.get(number)
        if found is None:
            found = self._make(number)
            # A new dict instead of a changed one: a thread that reads ahead may be in here at the same time.
            self._kept = dict([*list(self._kept.items())[-1:], (number, found)])
        return found


@final
class Stream:
    """The rows of one task without end: element i is row `permutation(i // size)[i % size]`."""

    def __init__(self, task: str, size: int, batch_size: int, seed: int, stage: int = 0) -> None:
        self.task, self.size, self.batch_size, self.seed, self.stage = task, size, batch_size, seed, stage
        self._order = Recent(self._permutation)

    def again(self, stage: int) -> "Stream":
        """The same rows in other orders: a later stage does not repeat the passes of an earlier one."""
        return Stream(self.task, self.size, self.batch_size, self.seed, stage)

    def batches(self) -> int:
        """How many aligned batches one pass gives: ceil(size / batch size)."""
        return -(-self.size // self.batch_size)

    def aligned(self, number: int) -> Step:
        """Batch `number`, where each pass is cut by itself: up to `batch_size` rows, at least one."""
        turn, slot = divmod(number, self.batches())
        first = slot * self.batch_size
        return Step(self.task, self._order[turn][first : first + self.batch_size].copy())

    def spanning(self, number: int, batch_size: int) -> Step:
        """Batch `number`, where the stream is cut without regard to passes: min(batch_size, size) rows."""
        rows = min(batch_size, self.size)
        turn, first = divmod(number * rows, self.size)
        order = self._order[turn][first : first + rows]
        missing = rows - len(order)
        if missing == 0:
            return Step(self.task, order.copy())
        return Step(self.task, np.concatenate([order, self._order[turn + 1][:missing]]))

    def _permutation(self, turn: int) -> NDArray[np.int64]:
        words = draw(self.size, self.seed, self.stage, f"rows of {self.task}", turn)
        return np.argsort(words, kind="stable").astype(np.int64, copy=False)


class Schedule(ABC):
    """Step k for every k ≥ 0: a pure function of the sizes, the seed, the settings and k.

    No step is found by walking over the earlier ones, so step 10**9 costs what step 5 costs: at most the
    permutation of one task's rows, which is kept for the steps that follow.
    """

    settings: ClassVar[Mapping[str, str]] = {}
    """What a recipe may say beside the schedule's name: setting → its meaning."""

    def __init__(self, stretches: Sequence[Stretch], total_steps: int | None = None) -> None:
        self._stretches = tuple(stretches)
        self._total_steps = total_steps

    @abstractmethod
    def step(self, k: int) -> Step:
        """Step k, where k is known to lie within the schedule."""

    @abstractmethod
    def describe(self, epoch: int | None = None) -> list[Share]:
        """What each task gets of that epoch (counted from 0), in the schedule's order; None: of the last."""

    def __getitem__(self, k: int) -> Step:
        """Step k; IndexError if k is negative or the schedule is over before it."""
        return self.step(self._within(k))

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one epoch; where stages differ, in an epoch of the last one."""
        return self._stretches[-1].steps_per_epoch

    @property
    def total_steps(self) -> int | None:
        """How many steps there are at all, or None for a schedule without end."""
        return self._total_steps

    def steps_for(self, epochs: float) -> int:
        """The steps of so many epochs (at least 1); where stages come before the last one, all of theirs and then
        `epochs` of the last. A schedule with an end of its own has `total_steps`, whatever is asked."""
        if self._total_steps is not None:
            return self._total_steps
        last = self._stretches[-1]
        return last.first_step + max(1, round(epochs * last.steps_per_epoch))

    def epoch_of(self, k: int) -> tuple[int, int]:
        """In which epoch step k lies, and which step of that epoch it is; both counted from 0."""
        k = self._within(k)
        found = bisect_right(self._stretches, k, key=lambda one: one.first_step) - 1
        first_step, first_epoch, steps = self._stretches[found]
        epochs, step = divmod(k - first_step, steps)
        return first_epoch + epochs, step

    def _within(self, k: int) -> int:
        k = index(k)
        if k < 0:
            raise IndexError(f"step {k}: the first step is 0")
        if self._total_steps is not None and k >= self._total_steps:
            raise IndexError(
                f"step {k}: the schedule has {self._total_steps} steps, 0 to {self._total_steps - 1}"
            )
        return k


@final
class RoundRobin(Schedule):
    """The tasks in turn, one step each, in the recipe's order; all batches of a task are equally large.

    An epoch is as long as the smallest task's: as many rounds as the task that is through its rows first
    has full batches (at least one). What an epoch leaves of a larger task comes in the next ones.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = tuple(streams)
        self._rounds = max(1, min(stream.size // stream.batch_size for stream in streams))
        super().__init__([Stretch(0, 0, len(streams) * self._rounds)])

    def step(self, k: int) -> Step:
        turn, which = divmod(k, len(self._streams))
        stream = self._streams[which]
        return stream.spanning(turn, stream.batch_size)

    def describe(self, epoch: int | None = None) -> list[Share]:
        return [
            Share(one.task, one.size, min(one.batch_size, one.size), self._rounds) for one in self._streams
        ]


@final
class Interleaved(Schedule):
    """One step of each task in turn, until the largest task has been gone through: that is an epoch.

    The batch of every other task shrinks in proportion to its rows, max(1, floor(b · n / n_largest)), so that
    it is gone through in about the same number of steps (the seed's 64 / 3 / 2 for 141,506 / 8,544 / 6,041).
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = tuple(streams)
        self._largest = max(streams, key=lambda stream: stream.size)
        self._rounds = self._largest.batches()
        self._batch_sizes = [
            min(one.size, max(1, one.batch_size * one.size // self._largest.size)) for one in streams
        ]
        super().__init__([Stretch(0, 0, len(streams) * self._rounds)])

    def step(self, k: int) -> Step:
        turn, which = divmod(k, len(self._streams))
        stream = self._streams[which]
        if stream is self._largest:
            return stream.aligned(turn)
        return stream.spanning(turn, self._batch_sizes[which])

    def describe(self, epoch: int | None = None) -> list[Share]:
        return [
            Share(one.task, one.size, batch_size, self._rounds)
            for one, batch_size in zip(self._streams, self._batch_sizes, strict=True)
        ]


@final
class Proportional(Schedule):
    """Every row of every task once in an epoch, each task's batches spread evenly through it.

    Of the q batches of a task, batch j falls at a random place of the j-th of q equal parts of the epoch,
    places drawn anew each epoch. After any number of steps a task has had its share to within
    1 + share · (tasks - 2) batches: within 2 for up to three tasks.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = tuple(streams)
        self._batches = [stream.batches() for stream in streams]
        self._starts = [0, *accumulate(self._batches)]
        self._turns = Recent(self._order)
        super().__init__([Stretch(0, 0, self._starts[-1])])

    def step(self, k: int) -> Step:
        epoch, place = divmod(k, self.steps_per_epoch)
        batch = int(self._turns[epoch][place])
        which = bisect_right(self._starts, batch) - 1
        return self._streams[which].aligned(epoch * self._batches[which] + batch - self._starts[which])

    def describe(self, epoch: int | None = None) -> list[Share]:
        return aligned_shares(self._streams)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """[steps of an epoch] which batch comes when; batches are numbered through, task after task."""
        first = self._streams[0]
        words = draw(self._starts[-1], first.seed, first.stage, "turns", epoch)
        jitter = (words >> np.uint64(11)) * 2.0**-53
        slots = np.concatenate([np.arange(count) for count in self._batches])
        places = (slots + jitter) / np.repeat(self._batches, self._batches)
        return np.argsort(places, kind="stable").astype(np.int64, copy=False)


@final
class OneByOne(Schedule):
    """In each epoch all batches of the first task, then all of the second, and so on: every row once."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = tuple(streams)
        self._starts = [0, *accumulate(stream.batches() for stream in streams)]
        super().__init__([Stretch(0, 0, self._starts[-1])])

    def step(self, k: int) -> Step:
        epoch, place = divmod(k, self.steps_per_epoch)
        which = bisect_right(self._starts, place) - 1
        stream = self._streams[which]
        return stream.aligned(epoch * stream.batches() + place - self._starts[which])

    def describe(self, epoch: int | None = None) -> list[Share]:
        return aligned_shares(self._streams)


@final
class Sequential(Schedule):
    """One after another: the tasks in each epoch or, with `stages`, whole schedules.

    The seed's additional pre-training (robin-pre) is two stages: one task alone, then all in turn. Each
    stage draws its own orders. Epochs are counted on through the stages and may differ in length.
    """

    settings: ClassVar[Mapping[str, str]] = {
        "stages": (
            "what runs one after another, each {tasks: names (all), schedule: name (sequential), epochs:"
            " number} and the settings of that schedule; the last needs no epochs and then has no end"
        )
    }

    def __init__(self, streams: Sequence[Stream], *, stages: object = None) -> None:
        if stages is None:
            parts: list[tuple[Schedule, int | None]] = [(OneByOne(streams), None)]
        else:
            parts = read_stages(stages, streams)
        self._parts = [part for part, _ in parts]
        self._starts: list[int] = []
        stretches: list[Stretch] = []
        step = epoch = 0
        for part, epochs in parts:
            self._starts.append(step)
            stretches.append(Stretch(step, epoch, part.steps_per_epoch))
            step += part.steps_per_epoch * (epochs or 0)
            epoch += epochs or 0
        super().__init__(stretches, step if parts[-1][1] is not None else None)

    def step(self, k: int) -> Step:
        which = bisect_right(self._starts, k) - 1
        return self._parts[which][k - self._starts[which]]

    def describe(self, epoch: int | None = None) -> list[Share]:
        if epoch is None:
            return self._parts[-1].describe()
        which = bisect_right(self._stretches, epoch, key=lambda one: one.first_epoch) - 1
        return self._parts[which].describe(epoch - self._stretches[which].first_epoch)


SCHEDULES: dict[str, type[Schedule]] = {
    "round_robin": RoundRobin,
    "interleaved": Interleaved,
    "proportional": Proportional,
    "sequential": Sequential,
}
"""The schedules by the name that a recipe gives them: to add one, write its class above and name it here."""


def schedule(
    name: str,
    sizes: Mapping[str, int] | Sequence[int],
    batch_size: int | Mapping[str, int] = 32,
    seed: int = 0,
    **settings: Any,
) -> Schedule:
    """The schedule of that name over tasks of those sizes, with the settings named in its class.

    `sizes` maps task → rows in the recipe's order, or lists the rows of tasks then named "0", "1", …;
    `batch_size` is in rows, one for all or one for each task. What is wrong raises InputError.
    """
    named = dict(sizes) if isinstance(sizes, Mapping) else {str(i): size for i, size in enumerate(sizes)}
    if not named:
        raise InputError("there is nothing to mix: expected at least one task")
    for task, size in named.items():
        whole(size, f"task {task!r}: rows", least=1)
    batches = dict(batch_size) if isinstance(batch_size, Mapping) else dict.fromkeys(named, batch_size)
    for task in batches:
        if task not in named:
            raise InputError(f"batch size: there is no task {shown(task)}{nearest(task, named)}")
    for task in named:
        if task not in batches:
            raise InputError(f"task {task!r}: batch size missing")
        whole(batches[task], f"task {task!r}: batch size", least=1)
    whole(seed, "seed", least=0)
    streams = [Stream(task, int(size), int(batches[task]), int(seed)) for task, size in named.items()]
    return build(name, streams, settings)


def build(name: object, streams: Sequence[Stream], settings: Mapping[str, object]) -> Schedule:
    """The schedule of that name over these streams; InputError for a name or a setting that is not known."""
    if not isinstance(name, str) or name not in SCHEDULES:
        expected = ", ".join(SCHEDULES)
        raise InputError(f"schedule {shown(name)}: expected one of {expected}{nearest(str(name), SCHEDULES)}")
    cls = SCHEDULES[name]
    for setting in settings:
        if setting not in cls.settings:
            known = f"known: {', '.join(cls.settings) or 'none'}"
            hint = nearest(setting, cls.settings)
            raise InputError(f"schedule {name!r} has no setting {shown(setting)} ({known}){hint}")
    return cls(streams, **settings)  # type: ignore[arg-type]  # each final class takes streams and its settings


def read_stages(stages: object, streams: Sequence[Stream]) -> list[tuple[Schedule, int | None]]:
    """The schedule of each stage and its epochs (None: no end); InputError says which stage is wrong."""
    if not isinstance(stages, Sequence) or isinstance(stages, str) or not stages:
        raise InputError(f"stages: found {shown(stages)}, expected a list with at least one stage")
    by_name = {stream.task: stream for stream in streams}
    parts: list[tuple[Schedule, int | None]] = []
    for number, stage in enumerate(stages, start=1):
        try:
            parts.append(read_stage(stage, number, by_name, is_last=number == len(stages)))
        except InputError as error:
            raise InputError(f"stage {number}: {error}") from None
    return parts


def read_stage(
    stage: object, number: int, streams: Mapping[str, Stream], *, is_last: bool
) -> tuple[Schedule, int | None]:
    """One stage as a recipe writes it; stages are counted from 1."""
    if not isinstance(stage, Mapping):
        raise InputError(f"found {shown(stage)}, expected {{tasks, schedule, epochs}}")
    own = ("tasks", "schedule", "epochs")
    name = stage.get("schedule", "sequential")
    rest = {setting: value for setting, value in stage.items() if setting not in own}
    if "stages" in rest:
        raise InputError("a stage cannot have stages of its own")
    cls = SCHEDULES.get(name) if isinstance(name, str) else None
    if cls is not None:  # an unknown name is refused below, and is what must be mended first
        for setting in rest:
            if setting not in cls.settings:
                hint = nearest(str(setting), [*own, *cls.settings])
                raise InputError(f"unknown setting {shown(setting)}{hint}")
    tasks = stage.get("tasks")
    chosen = list(streams) if tasks is None else tasks
    if not isinstance(chosen, Sequence) or isinstance(chosen, str) or not chosen:
        raise InputError(f"tasks: found {shown(chosen)}, expected a list of task names")
    for task in chosen:
        if not isinstance(task, str) or task not in streams:
            raise InputError(f"tasks: there is no task {shown(task)}{nearest(str(task), streams)}")
    if len(set(chosen)) < len(chosen):
        raise InputError(f"tasks: found {shown(chosen)}, expected each task once")
    epochs = stage.get("epochs")
    if epochs is not None:
        whole(epochs, "epochs", least=1)
    elif not is_last:
        raise InputError("epochs missing: only the last stage may be without end")
    return build(name, [streams[task].again(number) for task in chosen], rest), epochs


def whole(value: object, what: str, *, least: int) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{what}: found {shown(value)}, expected a whole number of at least {least}")


def aligned_shares(streams: Sequence[Stream]) -> list[Share]:
    """The shares of an epoch in which every row of every task comes once."""
    return [Share(one.task, one.size, min(one.batch_size, one.size), one.batches()) for one in streams]


def draw(count: int, seed: int, stage: int, purpose: str, number: int) -> NDArray[np.uint64]:
    """[count] random 64-bit words that depend on the other arguments alone.

    numpy keeps the words of a bit generator the same for ever, its shuffles it does not: orders are made
    from the words by sorting, so a run resumes in the same order under another numpy.
    """
    purpose_word = int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little")
    source = np.random.SFC64(np.random.SeedSequence([seed, stage, purpose_word, number]))
    return np.asarray(source.random_raw(count), dtype=np.uint64)
