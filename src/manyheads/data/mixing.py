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

An epoch is a measure of the mix, not of a task: where it ends within a task's pass, that task goes on in the
next epoch with the row that would have come. No row is ever passed over.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from hashlib import blake2b
from heapq import heapify, heapreplace
from itertools import accumulate
from math import ceil, isfinite
from operator import index
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from manyheads.errors import InputError, nearest, shown

__all__ = [
    "SCHEDULES",
    "Annealed",
    "Interleaved",
    "Power",
    "Proportional",
    "RoundRobin",
    "Schedule",
    "Sequential",
    "Share",
    "Shuffled",
    "Sqrt",
    "Step",
    "Stream",
    "Stretch",
    "schedule",
]

Made = TypeVar("Made")


class Step(NamedTuple):
    """One step of training or, where a step mixes tasks, one task's part of it."""

    task: str
    rows: NDArray[np.int64]
    """[rows of the batch] int64: which rows of the task's training split, counted from 0."""


class Share(NamedTuple):
    """What one task gets of an epoch."""

    task: str
    rows: int
    """How many rows the task has."""
    batch_size: int
    """Rows of a full batch. Where a step mixes tasks: this task's rows in one of the steps that hold any, on
    average over the epoch and rounded up."""
    steps_per_epoch: int
    """Batches of this task in one epoch. Where a step mixes tasks: in how many steps its rows of the epoch
    lie when they are spread evenly, all of the steps unless it has fewer rows than that."""


class Stretch(NamedTuple):
    """Epochs of equal length that follow each other, from a first step until the next stretch begins."""

    first_step: int
    first_epoch: int
    steps_per_epoch: int


@final
class Recent(Generic[Made]):
    """The last two things made by `make`, by their number: a batch seldom touches more than two passes."""

    def __init__(self, make: Callable[[int], Made]) -> None:
        self._make = make
        self._kept: dict[int, Made] = {}

    def __getitem__(self, number: int) -> Made:
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
        return self.between(number * rows, (number + 1) * rows)

    def between(self, first: int, last: int) -> Step:
        """Elements `first` to `last` - 1 of the stream, at least one, from however many passes."""
        turns = range(first // self.size, (last - 1) // self.size + 1)
        parts = [self._order[t][max(0, first - t * self.size) : last - t * self.size] for t in turns]
        return Step(self.task, np.concatenate(parts))

    def _permutation(self, turn: int) -> NDArray[np.int64]:
        words = draw(self.size, self.seed, self.stage, f"rows of {self.task}", turn)
        return np.argsort(words, kind="stable").astype(np.int64, copy=False)


class Schedule(ABC):
    """Step k for every k ≥ 0: a pure function of the sizes, the seed, the settings and k.

    No step is found by walking over the earlier ones, so step 10**9 costs what step 5 costs: at most the
    order of the epoch and of the passes that it draws from, which are kept for the steps that follow.
    """

    settings: ClassVar[Mapping[str, str]] = {}
    """What a recipe may say beside the schedule's name: setting → its meaning."""

    def __init__(
        self, stretches: Sequence[Stretch], total_steps: int | None = None, *, in_batch: bool = False
    ) -> None:
        self._stretches = tuple(stretches)
        self._total_steps = total_steps
        self._in_batch = in_batch

    @abstractmethod
    def holds(self, k: int) -> tuple[Step, ...]:
        """What step k holds, where k is known to lie within the schedule."""

    @abstractmethod
    def describe(self, epoch: int | None = None) -> list[Share]:
        """What each task gets of that epoch (counted from 0), in the schedule's order. None: of the last, or
        in a schedule without end of the first from which on the shares stay as they are."""

    def __getitem__(self, k: int) -> Step:
        """Step k of a schedule whose steps are of one task each; IndexError if k is negative or the schedule is
        over before it, InputError where a step may hold several tasks (`in_batch`)."""
        if self._in_batch:
            raise InputError(
                "a step of this schedule holds rows of several tasks: use draws(k) instead of [k]"
            )
        return self.draws(k)[0]

    def draws(self, k: int) -> tuple[Step, ...]:
        """What step k holds: a batch of one task or, with `in_batch`, rows of several, each task once and in
        the recipe's order. IndexError if k is negative or the schedule is over before it."""
        return self.holds(self._within(k))

    @property
    def in_batch(self) -> bool:
        """Whether a step may hold rows of several tasks."""
        return self._in_batch

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

    def epochs(self, steps: int) -> float:
        """How many epochs so many steps are, whole ones where one ends; a stage that is cut short ends one, too."""
        found = bisect_right(self._stretches, max(0, steps - 1), key=lambda one: one.first_step) - 1
        first_step, first_epoch, length = self._stretches[found]
        if found + 1 < len(self._stretches) and steps == self._stretches[found + 1].first_step:
            return float(self._stretches[found + 1].first_epoch)
        return first_epoch + (steps - first_step) / length

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

    def holds(self, k: int) -> tuple[Step, ...]:
        turn, which = divmod(k, len(self._streams))
        stream = self._streams[which]
        return (stream.spanning(turn, stream.batch_size),)

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

    def holds(self, k: int) -> tuple[Step, ...]:
        turn, which = divmod(k, len(self._streams))
        stream = self._streams[which]
        if stream is self._largest:
            return (stream.aligned(turn),)
        return (stream.spanning(turn, self._batch_sizes[which]),)

    def describe(self, epoch: int | None = None) -> list[Share]:
        return [
            Share(one.task, one.size, batch_size, self._rounds)
            for one, batch_size in zip(self._streams, self._batch_sizes, strict=True)
        ]


@final
class Apportionment:
    """How many of the first h units (batches, or rows) each task gets, for every h: whole numbers that add up to h.

    Webster's method of apportionment, on shares that may change from epoch to epoch: a task's j-th unit
    (j = 0, 1, …) is due when its shares so far add up to j + 1/2, and units come in the order in which they
    are due, a tie in the order of the tasks. So what one epoch leaves of a fraction counts in the next ones,
    and a task with a share of 0.3 units an epoch gets one in every three or four. Largest remainders of the
    shares so far would add up as well, but can take a unit back that was given (the Alabama paradox).

    At any h a task is within (1 + share · (tasks - 2)) / 2 units of its due where shares never change: within
    1/2 for two tasks, within 1 for three. Where they do, within (1 + share · tasks) / 2 with its largest share.
    """

    def __init__(self, shares: Sequence[Sequence[int]], per_epoch: int) -> None:
        """`shares` [epochs][tasks] are whole parts, at least 1, of one same sum in each epoch; the last epoch's
        stay for ever. `per_epoch` is how many units an epoch has."""
        self._whole, self._per_epoch, self._last = sum(shares[0]), per_epoch, len(shares) - 1
        self._shares = list(zip(*shares, strict=True))
        # What is due at the start of each of these epochs, in parts of a unit.
        self._due = [[0, *accumulate(part * per_epoch for part in parts[:-1])] for parts in self._shares]
        self._kept = Recent(self._before)

    def before(self, unit: int) -> tuple[int, ...]:
        """[tasks] how many of the units 0 to `unit` - 1 each task gets."""
        return self._kept[unit]

    def of_epoch(self, epoch: int) -> list[int]:
        """[tasks] how many units of that epoch each task gets."""
        first, last = (self.before(number * self._per_epoch) for number in (epoch, epoch + 1))
        return [after - before for before, after in zip(first, last, strict=True)]

    def _before(self, unit: int) -> tuple[int, ...]:
        # Rounding to the nearest what is due at a time t gives a prefix of the order, of t units but for half
        # a unit a task. So it is of `unit` units at most where t lies half a unit a task before; then come
        # the few that are still missing. Times are doubled, as t may be half a unit.
        twice = max(0, 2 * unit - len(self._shares))
        epoch = min(twice // (2 * self._per_epoch), self._last)
        since = twice - 2 * epoch * self._per_epoch
        found = [
            (2 * due[epoch] + since * parts[epoch] + self._whole) // (2 * self._whole)
            for parts, due in zip(self._shares, self._due, strict=True)
        ]
        missing = unit - sum(found)
        if missing:
            queue = [(self._when(task, count), task) for task, count in enumerate(found)]
            heapify(queue)
            for _ in range(missing):
                task = queue[0][1]
                found[task] += 1
                heapreplace(queue, (self._when(task, found[task]), task))
        return tuple(found)

    def _when(self, task: int, number: int) -> Fraction:
        """The time, in half units, at which that unit of the task is due."""
        due = self._due[task]
        half_parts = (2 * number + 1) * self._whole
        epoch = bisect_right(due, half_parts, key=lambda one: 2 * one) - 1
        return 2 * epoch * self._per_epoch + Fraction(half_parts - 2 * due[epoch], self._shares[task][epoch])


PARTS = 2**128
"""The parts that the shares of an epoch are counted in: a far step is found by exact arithmetic on them."""
EXACT = Context(prec=28)
"""Powers of decimals are the same on every machine; those of floats may differ in their last bit."""


def powers(sizes: Sequence[int], exponents: Sequence[float]) -> list[list[int]]:
    """[epochs][tasks] the shares ∝ size ** exponent, in PARTS."""
    shares = []
    for exponent in exponents:
        power = Decimal(exponent)
        weights = [int(EXACT.scaleb(EXACT.power(Decimal(size), power), 30)) for size in sizes]
        total = sum(weights)
        parts = [max(1, weight * PARTS // total) for weight in weights]
        parts[parts.index(max(parts))] += PARTS - sum(parts)
        shares.append(parts)
    return shares


Arrangement = Callable[[Sequence[int], NDArray[np.uint64]], NDArray[np.int64]]
"""Batches of each task in an epoch, and a random word for each batch → which batch comes when, [batches]; they
are numbered through, task after task."""


def spread(counts: Sequence[int], words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Each task's batches evenly through the epoch: of q batches, batch j at a random place of the j-th of q
    equal parts."""
    jitter = (words >> np.uint64(11)) * 2.0**-53
    slots = np.concatenate([np.arange(count) for count in counts])
    places = (slots + jitter) / np.repeat(counts, counts)
    return np.argsort(places, kind="stable").astype(np.int64, copy=False)


def shuffle(counts: Sequence[int], words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Every order of all the batches equally likely."""
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


class Cut(ABC):
    """The steps of equally long epochs in which all tasks are mixed."""

    in_batch: ClassVar[bool]
    steps_per_epoch: int

    @abstractmethod
    def holds(self, k: int) -> tuple[Step, ...]:
        """What step k ≥ 0 holds."""

    @abstractmethod
    def describe(self, epoch: int) -> list[Share]:
        """What each task gets of that epoch."""


@final
class ByTask(Cut):
    """A step is a batch of one task, and an epoch has as many as all tasks have batches together.

    Tasks get their batches by `shares`; `arrange` orders those of an epoch. Aligned batches or spanning ones.
    """

    in_batch = False

    def __init__(
        self,
        streams: Sequence[Stream],
        shares: Sequence[Sequence[int]],
        arrange: Arrangement,
        *,
        aligned: bool,
    ) -> None:
        self.steps_per_epoch = sum(stream.batches() for stream in streams)
        self._streams, self._arrange, self._aligned = streams, arrange, aligned
        self._batches = Apportionment(shares, self.steps_per_epoch)
        self._turns = Recent(self._order)

    def holds(self, k: int) -> tuple[Step, ...]:
        epoch, place = divmod(k, self.steps_per_epoch)
        batch = int(self._turns[epoch][place])
        starts = [0, *accumulate(self._batches.of_epoch(epoch))]
        which = bisect_right(starts, batch) - 1
        stream = self._streams[which]
        number = self._batches.before(epoch * self.steps_per_epoch)[which] + batch - starts[which]
        return (stream.aligned(number) if self._aligned else stream.spanning(number, stream.batch_size),)

    def describe(self, epoch: int) -> list[Share]:
        return [
            Share(one.task, one.size, min(one.batch_size, one.size), batches)
            for one, batches in zip(self._streams, self._batches.of_epoch(epoch), strict=True)
        ]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """[steps of an epoch] which batch comes when; batches are numbered through, task after task."""
        first = self._streams[0]
        words = draw(self.steps_per_epoch, first.seed, first.stage, "turns", epoch)
        return self._arrange(self._batches.of_epoch(epoch), words)


@final
class ByRow(Cut):
    """A step holds rows of all tasks, each step by their shares.

    An epoch has `rows` rows; where its steps do not divide them, the last step is smaller. Which tasks a step
    holds, and how many rows of each, is as even as whole rows allow and does not depend on the seed.
    """

    in_batch = True

    def __init__(self, streams: Sequence[Stream], shares: Sequence[Sequence[int]], rows: int) -> None:
        self.steps_per_epoch = -(-rows // mixed_batch(streams))
        self._streams, self._epoch, self._batch_size = streams, rows, mixed_batch(streams)
        self._rows = Apportionment(shares, rows)

    def holds(self, k: int) -> tuple[Step, ...]:
        epoch, place = divmod(k, self.steps_per_epoch)
        first = epoch * self._epoch + place * self._batch_size
        last = min(first + self._batch_size, (epoch + 1) * self._epoch)
        return mixed(self._streams, self._rows.before(first), self._rows.before(last))

    def describe(self, epoch: int) -> list[Share]:
        return mixed_shares(self._streams, self._rows.of_epoch(epoch), self.steps_per_epoch)


@final
class ShuffledRows(Cut):
    """A step holds rows of any tasks: every row of every task once in an epoch, all of them shuffled."""

    in_batch = True

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._sizes = [stream.size for stream in streams]
        self._streams, self._batch_size = streams, mixed_batch(streams)
        self.steps_per_epoch = -(-sum(self._sizes) // self._batch_size)
        self._tables = Recent(self._table)

    def holds(self, k: int) -> tuple[Step, ...]:
        epoch, place = divmod(k, self.steps_per_epoch)
        first, last = (
            [epoch * size + int(rows) for size, rows in zip(self._sizes, counts, strict=True)]
            for counts in self._tables[epoch][place : place + 2]
        )
        return mixed(self._streams, first, last)

    def describe(self, epoch: int) -> list[Share]:
        return mixed_shares(self._streams, self._sizes, self.steps_per_epoch)

    def _table(self, epoch: int) -> NDArray[np.int64]:
        """[steps of an epoch + 1, tasks] how many of its rows each task has had before each step."""
        first, tasks = self._streams[0], len(self._sizes)
        words = draw(sum(self._sizes), first.seed, first.stage, "turns", epoch)
        owners = np.repeat(np.arange(tasks), self._sizes)[np.argsort(words, kind="stable")]
        cells = np.arange(len(owners)) // self._batch_size * tasks + owners
        counts = np.bincount(cells, minlength=self.steps_per_epoch * tasks).reshape(-1, tasks)
        return np.concatenate([np.zeros((1, tasks), np.int64), counts.cumsum(axis=0, dtype=np.int64)])


def mixed_batch(streams: Sequence[Stream]) -> int:
    """The rows of a step that holds several tasks: the largest batch size, or all rows there are."""
    return min(max(stream.batch_size for stream in streams), sum(stream.size for stream in streams))


def mixed(streams: Sequence[Stream], first: Sequence[int], last: Sequence[int]) -> tuple[Step, ...]:
    """Of each task the rows `first` to `last` - 1 of its stream; a task without any is left out."""
    return tuple(
        stream.between(start, stop)
        for stream, start, stop in zip(streams, first, last, strict=True)
        if stop > start
    )


def mixed_shares(streams: Sequence[Stream], rows: Sequence[int], steps: int) -> list[Share]:
    """The shares of an epoch of so many steps that holds `rows` of each task."""
    return [
        Share(one.task, one.size, max(1, -(-count // steps)), min(count, steps))
        for one, count in zip(streams, rows, strict=True)
    ]


class Mixed(Schedule):
    """A schedule of one cut; its final classes say which."""

    def __init__(self, cut: Cut, *, settled: int = 0) -> None:
        """`settled` is the first epoch from which on the shares stay as they are."""
        self._cut, self._settled = cut, settled
        super().__init__([Stretch(0, 0, cut.steps_per_epoch)], in_batch=cut.in_batch)

    def holds(self, k: int) -> tuple[Step, ...]:
        return self._cut.holds(k)

    def describe(self, epoch: int | None = None) -> list[Share]:
        return self._cut.describe(self._settled if epoch is None else epoch)


IN_BATCH = {
    "in_batch": "fill every step with rows of all tasks by their shares, instead of one task's (false)"
}


@final
class Proportional(Mixed):
    """Every row of every task once in an epoch, each task's batches spread evenly through it.

    Of the q batches of a task, batch j falls at a random place of the j-th of q equal parts of the epoch,
    places drawn anew each epoch. After any number of steps a task has had its share to within
    1 + share · (tasks - 2) batches: within 2 for up to three tasks. With `in_batch` the last step of an epoch
    may be smaller.
    """

    settings: ClassVar[Mapping[str, str]] = IN_BATCH

    def __init__(self, streams: Sequence[Stream], *, in_batch: object = False) -> None:
        cut: Cut
        if true_or_false(in_batch, "in_batch"):
            sizes = [stream.size for stream in streams]
            cut = ByRow(streams, [sizes], sum(sizes))
        else:
            cut = ByTask(streams, [[stream.batches() for stream in streams]], spread, aligned=True)
        super().__init__(cut)


@final
class Sqrt(Mixed):
    """Tasks in proportion to the square root of their rows: `Power` with exponent 1/2."""

    settings: ClassVar[Mapping[str, str]] = IN_BATCH

    def __init__(self, streams: Sequence[Stream], *, in_batch: object = False) -> None:
        super().__init__(by_powers(streams, [0.5], in_batch))


@final
class Power(Mixed):
    """Tasks in proportion to a power of their rows: small tasks come more often than their rows would say.

    BAM (Clark et al. 2019) takes exponent 3/4, with the tasks mixed within a batch. Exponent 1 is in proportion
    to the rows, 0 is every task equally often. All steps are equally large but for tasks with fewer rows than
    a batch, and an epoch has as many as all tasks have batches together; with `in_batch`, as hold all rows.
    """

    settings: ClassVar[Mapping[str, str]] = {
        "exponent": "shares are in proportion to rows ** exponent, from 0 to 1 (0.75)",
        **IN_BATCH,
    }

    def __init__(
        self, streams: Sequence[Stream], *, exponent: object = 0.75, in_batch: object = False
    ) -> None:
        super().__init__(by_powers(streams, [fraction(exponent, "exponent")], in_batch))


@final
class Annealed(Mixed):
    """`Power` whose exponent moves in equal steps from the first epoch to the last, and stays there.

    Stickland & Murray 2019 (BERT and PALs) let it fall from 1 to 0.2: in proportion to the rows at first,
    nearly every task equally often in the end. Within an epoch the exponent stays the same; a training of a
    single epoch has `start`.
    """

    settings: ClassVar[Mapping[str, str]] = {
        "start": "the exponent of the first epoch, from 0 to 1 (1)",
        "end": "the exponent of the last epoch and of those after it, from 0 to 1 (0)",
        "epochs": "over how many epochs, up to 10,000; a part of one counts as one (3)",
        **IN_BATCH,
    }

    def __init__(
        self,
        streams: Sequence[Stream],
        *,
        start: object = 1.0,
        end: object = 0.0,
        epochs: object = 3.0,
        in_batch: object = False,
    ) -> None:
        first, last = fraction(start, "start"), fraction(end, "end")
        # The share of every epoch up to the last one is kept, hence a bound.
        asked = finite(epochs)
        if asked is None or not 0 < asked <= 10_000:
            raise InputError(f"epochs: found {shown(epochs)}, expected a number above 0 and up to 10,000")
        steps = max(1, ceil(asked) - 1)
        exponents = [first + (last - first) * (epoch / steps) for epoch in range(steps)] + [last]
        super().__init__(by_powers(streams, exponents, in_batch), settled=steps)


@final
class Shuffled(Mixed):
    """Every row of every task once in an epoch: all tasks' batches, cut anew each epoch, merged and shuffled.

    MT-DNN (Liu et al. 2019, algorithm 1). Unlike with `Proportional`, a task's batches may come in a row.
    """

    settings: ClassVar[Mapping[str, str]] = IN_BATCH

    def __init__(self, streams: Sequence[Stream], *, in_batch: object = False) -> None:
        cut: Cut
        if true_or_false(in_batch, "in_batch"):
            cut = ShuffledRows(streams)
        else:
            cut = ByTask(streams, [[stream.batches() for stream in streams]], shuffle, aligned=True)
        super().__init__(cut)


def by_powers(streams: Sequence[Stream], exponents: Sequence[float], in_batch: object) -> Cut:
    """The steps where tasks come in proportion to a power of their rows, for each epoch its own."""
    sizes = [stream.size for stream in streams]
    shares = powers(sizes, exponents)
    if not true_or_false(in_batch, "in_batch"):
        return ByTask(streams, shares, spread, aligned=False)
    batch_size = mixed_batch(streams)
    return ByRow(streams, shares, -(-sum(sizes) // batch_size) * batch_size)


@final
class OneByOne(Schedule):
    """In each epoch all batches of the first task, then all of the second, and so on: every row once."""

    def __init__(self, streams: Sequence[Stream]) -> None:
        self._streams = tuple(streams)
        self._starts = [0, *accumulate(stream.batches() for stream in streams)]
        super().__init__([Stretch(0, 0, self._starts[-1])])

    def holds(self, k: int) -> tuple[Step, ...]:
        epoch, place = divmod(k, self.steps_per_epoch)
        which = bisect_right(self._starts, place) - 1
        stream = self._streams[which]
        return (stream.aligned(epoch * stream.batches() + place - self._starts[which]),)

    def describe(self, epoch: int | None = None) -> list[Share]:
        return [
            Share(one.task, one.size, min(one.batch_size, one.size), one.batches()) for one in self._streams
        ]


@final
class Sequential(Schedule):
    """One after another: the tasks in each epoch or, with `stages`, whole schedules.

    The seed's additional pre-training (robin-pre) is two stages: one task alone, then all in turn. Each
    stage draws its own orders. Epochs are counted on through the stages and may differ in length.
    """

    settings: ClassVar[Mapping[str, str]] = {
        "stages": (
            "what runs one after another, each {tasks: names (all), schedule: name (sequential), epochs:"
            " number, or steps: number} and the settings of that schedule; the last needs neither and then has no end"
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
        for part, steps in parts:
            self._starts.append(step)
            stretches.append(Stretch(step, epoch, part.steps_per_epoch))
            step += steps or 0
            epoch += -(-(steps or 0) // part.steps_per_epoch)  # one that is cut short counts as one
        end = step if parts[-1][1] is not None else None
        super().__init__(stretches, end, in_batch=any(part.in_batch for part in self._parts))

    def holds(self, k: int) -> tuple[Step, ...]:
        which = bisect_right(self._starts, k) - 1
        return self._parts[which].draws(k - self._starts[which])

    def describe(self, epoch: int | None = None) -> list[Share]:
        if epoch is None:
            return self._parts[-1].describe()
        which = bisect_right(self._stretches, epoch, key=lambda one: one.first_epoch) - 1
        return self._parts[which].describe(epoch - self._stretches[which].first_epoch)


SCHEDULES: dict[str, type[Schedule]] = {
    "round_robin": RoundRobin,
    "interleaved": Interleaved,
    "proportional": Proportional,
    "sqrt": Sqrt,
    "power": Power,
    "annealed": Annealed,
    "shuffled": Shuffled,
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
    """The schedule of each stage and its steps (None: no end); InputError says which stage is wrong."""
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
        raise InputError(f"found {shown(stage)}, expected {{tasks, schedule, epochs or steps}}")
    own = ("tasks", "schedule", "epochs", "steps")
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
    epochs, steps = stage.get("epochs"), stage.get("steps")
    if epochs is not None:
        whole(epochs, "epochs", least=1)
        if steps is not None:
            raise InputError("epochs and steps exclude each other")
    elif steps is not None:
        whole(steps, "steps", least=1)
    elif not is_last:
        raise InputError("epochs missing: only the last stage may be without end")
    if cls is not None and "epochs" in cls.settings:
        if epochs is None:
            raise InputError(f"epochs missing: {name} needs to know when it has come to its end")
        rest["epochs"] = epochs
    made = build(name, [streams[task].again(number) for task in chosen], rest)
    return made, steps if epochs is None else epochs * made.steps_per_epoch


def whole(value: object, what: str, *, least: int) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{what}: found {shown(value)}, expected a whole number of at least {least}")


def true_or_false(value: object, what: str) -> bool:
    """`value`, refused where it is neither."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{what}: found {shown(value)}, expected true or false")
    return bool(value)


def finite(value: object) -> float | None:
    """`value` as a finite float, or None where it is no such number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def fraction(value: object, what: str) -> float:
    """`value`, refused where it is not a number from 0 to 1."""
    found = finite(value)
    if found is None or not 0 <= found <= 1:
        raise InputError(f"{what}: found {shown(value)}, expected a number from 0 to 1")
    return found


def draw(count: int, seed: int, stage: int, purpose: str, number: int) -> NDArray[np.uint64]:
    """[count] random 64-bit words that depend on the other arguments alone.

    numpy keeps the words of a bit generator the same for ever, its shuffles it does not: orders are made
    from the words by sorting, so a run resumes in the same order under another numpy.
    """
    purpose_word = int.from_bytes(blake2b(purpose.encode(), digest_size=8).digest(), "little")
    source = np.random.SFC64(np.random.SeedSequence([seed, stage, purpose_word, number]))
    return np.asarray(source.random_raw(count), dtype=np.uint64)
