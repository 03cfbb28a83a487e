"""The queue: passes by tokens, shortest wait first, bounded, and nothing that was taken is lost."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch

from manyheads.encoder.layout import Layout
from manyheads.passes import Part, Reader
from manyheads.serve.batcher import Batcher, Closed, Full, TooMuch
from manyheads.tasks.head import Rows

READER = Reader(lambda states: states.mean())


def part(*lengths: int, first: int = 0) -> Part:
    """Inputs of so many tokens, one sequence each; the first token of input i is `first` + i."""
    ids = [np.full(length, first + number, dtype=np.int32) for number, length in enumerate(lengths)]
    sizes = np.array(lengths, dtype=np.int32)
    flat = np.concatenate(ids)
    return Part(
        READER,
        Layout(flat, np.zeros(len(flat), np.uint8), sizes, np.zeros_like(sizes), np.ones_like(sizes)),
    )


class Passes:
    """Stands for an encoder: answers each input with its token, remembers the passes, waits where it is told to."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.poison: int | None = None

    def __call__(self, parts: Sequence[Part]) -> list[Rows]:
        self.entered.set()
        assert self.go.wait(20)
        starts = [np.cumsum(one.layout.lengths) - one.layout.lengths for one in parts]
        tokens = [one.layout.ids[begin] for one, begin in zip(parts, starts, strict=True)]
        self.seen.append([int(token) for some in tokens for token in some])
        if self.poison is not None and self.poison in self.seen[-1]:
            raise RuntimeError("a pass that breaks")
        return [torch.from_numpy(some.astype(np.float32))[:, None] for some in tokens]


Made = Callable[..., tuple[Batcher, Passes]]


@pytest.fixture
def made() -> Iterator[Made]:
    """Makes a queue and what stands for its encoder."""
    queues: list[tuple[Batcher, Passes]] = []

    def make(**settings: Any) -> tuple[Batcher, Passes]:
        passes = Passes()
        plain = {"batch_tokens": 100, "tokens": 1000, "requests": 50}
        queues.append((Batcher(passes, **{**plain, **settings}), passes))
        return queues[-1]

    yield make
    for queue, passes in queues:
        passes.go.set()
        assert queue.close(20)


def submit(queue: Batcher, one: Part) -> "Future[list[Rows]]":
    return queue.submit([one], one.layout.lengths_of_examples)


def held(queue: Batcher, passes: Passes) -> "Future[list[Rows]]":
    """Keeps the thread in a pass, so that what comes next waits."""
    passes.go.clear()
    passes.entered.clear()
    first = submit(queue, part(1, first=900))
    assert passes.entered.wait(20)
    return first


def said(future: "Future[list[Rows]]") -> list[int]:
    (rows,) = future.result(20)
    assert isinstance(rows, torch.Tensor)
    return [int(value) for value in rows[:, 0].tolist()]


def test_what_waits_is_merged_by_tokens_not_by_requests(made: Made) -> None:
    queue, passes = made()
    held(queue, passes)
    futures = [submit(queue, part(30, first=number)) for number in range(5)]
    passes.go.set()
    assert [said(future) for future in futures] == [[number] for number in range(5)]
    assert passes.seen == [[900], [0, 1, 2], [3, 4]]  # 3 · 30 of 100 tokens


def test_many_short_requests_share_one_pass(made: Made) -> None:
    queue, passes = made()
    held(queue, passes)
    futures = [submit(queue, part(2, first=number)) for number in range(40)]
    passes.go.set()
    assert [said(future) for future in futures] == [[number] for number in range(40)]
    assert [len(one) for one in passes.seen] == [1, 40]


def test_a_short_request_goes_before_a_long_one_that_came_first(made: Made) -> None:
    queue, passes = made()
    held(queue, passes)
    long = submit(queue, part(*[50] * 10))
    short = submit(queue, part(5, first=70))
    passes.go.set()
    assert said(short) == [70]
    assert said(long) == list(range(10))
    assert passes.seen[1][0] == 70
    assert len(passes.seen) == 1 + 6  # 95 free tokens hold one more of 50, and then two in each


def test_a_long_request_is_not_put_off_for_ever(made: Made) -> None:
    queue, passes = made()
    held(queue, passes)
    long = submit(queue, part(*[50] * 4))  # due in 0.2 s, at the speed that is taken for granted
    time.sleep(0.25)
    short = submit(queue, part(90, first=70))
    passes.go.set()
    assert said(short) == [70]
    assert said(long) == [0, 1, 2, 3]
    assert passes.seen == [[900], [0, 1], [2, 3], [70]]


def test_one_input_that_is_longer_than_a_pass_goes_alone(made: Made) -> None:
    queue, passes = made()
    held(queue, passes)
    futures = [submit(queue, part(400, first=1)), submit(queue, part(3, first=2))]
    passes.go.set()
    assert [said(future) for future in futures] == [[1], [2]]
    assert passes.seen == [[900], [2], [1]]


def test_a_full_queue_refuses_by_tokens_and_by_requests(made: Made) -> None:
    queue, passes = made(tokens=100, requests=4)
    first = held(queue, passes)
    taken = submit(queue, part(60))
    with pytest.raises(Full) as full:
        submit(queue, part(41))
    assert full.value.seconds == pytest.approx(60 / queue.speed)
    others = [submit(queue, part(10)), submit(queue, part(10))]
    with pytest.raises(Full):  # four requests are not answered
        submit(queue, part(1))
    with pytest.raises(Full):
        queue.check()
    assert (queue.waiting_tokens, queue.waiting_requests) == (80, 4)
    passes.go.set()
    for future in (first, taken, *others):
        said(future)
    assert said(submit(queue, part(41))) == [0]
    assert (queue.waiting_tokens, queue.waiting_requests) == (0, 0)


def test_more_than_the_queue_holds_is_never_taken(made: Made) -> None:
    queue, _ = made(tokens=100)
    with pytest.raises(TooMuch, match="101 tokens in one request, at most 100"):
        submit(queue, part(101))


def test_what_could_not_be_answered_in_time_is_refused(made: Made) -> None:
    queue, passes = made(patience=0.2)  # half of it at 1000 tokens a second: 100 tokens
    held(queue, passes)
    submit(queue, part(90))
    submit(queue, part(90))
    with pytest.raises(Full):
        submit(queue, part(1))
    passes.go.set()


def test_what_nobody_waits_for_leaves_the_queue(made: Made) -> None:
    queue, passes = made()
    held(queue, passes)
    unwanted, wanted = submit(queue, part(30, 30, first=1)), submit(queue, part(40, first=5))
    assert unwanted.cancel()
    assert (queue.waiting_tokens, queue.waiting_requests) == (40, 2)
    passes.go.set()
    assert said(wanted) == [5]
    assert passes.seen == [[900], [5]]
    assert (queue.waiting_tokens, queue.waiting_requests) == (0, 0)


def test_a_cancelled_rest_is_not_worked_on(made: Made) -> None:
    queue, passes = made()
    long = submit(queue, part(*[90] * 3))
    held(queue, passes)
    assert long.cancel() or long.done()
    passes.go.set()
    assert said(submit(queue, part(1, first=8))) == [8]
    assert (queue.waiting_tokens, queue.waiting_requests) == (0, 0)


def test_all_of_a_queue_that_has_gone_away_leaves_it_working(made: Made) -> None:
    queue, passes = made()
    held(queue, passes)
    assert submit(queue, part(3)).cancel()
    passes.go.set()
    time.sleep(0.05)
    assert queue.alive
    assert said(submit(queue, part(3, first=6))) == [6]


def test_of_a_pass_that_breaks_only_the_guilty_request_fails(made: Made) -> None:
    queue, passes = made()
    passes.poison = 13
    held(queue, passes)
    futures = [submit(queue, part(5, first=number)) for number in (11, 12, 13, 14)]
    passes.go.set()
    assert [said(futures[at]) for at in (0, 1, 3)] == [[11], [12], [14]]
    with pytest.raises(RuntimeError, match="a pass that breaks"):
        futures[2].result(20)
    assert queue.alive
    assert (queue.waiting_tokens, queue.waiting_requests) == (0, 0)


def test_closing_answers_what_was_taken_and_refuses_the_rest(made: Made) -> None:
    queue, passes = made()
    held(queue, passes)
    futures = [submit(queue, part(60, first=number)) for number in range(4)]
    closing = threading.Thread(target=queue.close)
    closing.start()
    while queue.alive:
        time.sleep(0.001)
    with pytest.raises(Closed):
        submit(queue, part(1))
    passes.go.set()
    closing.join(20)
    assert [said(future) for future in futures] == [[0], [1], [2], [3]]


def test_every_request_of_many_threads_gets_its_own_answer(made: Made) -> None:
    queue, passes = made(tokens=10_000, requests=2000)
    chance = random.Random(4)
    asked = [
        (first, [chance.randint(1, 60) for _ in range(chance.randint(1, 6))]) for first in range(0, 3000, 10)
    ]
    answers: dict[int, list[int]] = {}

    def ask(some: list[tuple[int, list[int]]]) -> None:
        for first, lengths in some:
            while True:
                try:
                    answers[first] = said(submit(queue, part(*lengths, first=first)))
                    break
                except Full as full:
                    time.sleep(min(full.seconds, 0.01))

    threads = [threading.Thread(target=ask, args=(asked[at::8],)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {first: [first + i for i in range(len(lengths))] for first, lengths in asked}
    assert sum(map(len, passes.seen)) == sum(
        len(lengths) for _, lengths in asked
    )  # nothing was worked on twice
    assert (queue.waiting_tokens, queue.waiting_requests) == (0, 0)


def test_the_speed_is_measured(made: Made) -> None:
    told: list[tuple[int, int, float]] = []
    queue, passes = made(passed=lambda *one: told.append(one))
    queue.measure([part(50, 50)])
    assert queue.speed > 1000
    held(queue, passes)
    futures = [submit(queue, part(40)), submit(queue, part(20))]
    time.sleep(0.05)
    passes.go.set()
    for future in futures:
        said(future)
    assert queue.close(20)
    assert [(tokens, requests) for tokens, requests, _ in told] == [(1, 1), (60, 2)]
