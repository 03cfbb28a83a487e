"""Workers: what becomes of work that ends well, fails, dies or is stopped."""

import gc
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import active_children
from typing import Any

import pytest

import manyheads as mh
from manyheads.evidence.workers import Workers
from manyheads.recipe import Recipe


def ended(target: Callable[..., Any], *arguments: object) -> Exception | None:
    with Workers[str](1, target, 1) as pool:
        pool.start("work", arguments)
        assert not pool.free
        assert pool.busy == {"work"}
        ((key, error),) = pool.wait()
    assert key == "work"
    return error


def test_work_that_ends_well_is_nothing_to_say() -> None:
    assert ended(os.getpid) is None


def test_a_worker_ends_with_its_piece_of_work() -> None:
    # Else the memory that torch never gives back would add up over the runs of a study.
    others = {child.pid for child in active_children()}
    seen = set()
    with Workers[int](1, gc.freeze, 1) as pool:
        for number in range(2):
            pool.start(number, ())
            seen |= {child.pid for child in active_children()} - others
            assert pool.wait() == [(number, None)]
            assert {child.pid for child in active_children()} <= others
    assert len(seen) == 2


def test_bad_input_comes_back_as_such_and_all_else_as_failed_work(capfd: pytest.CaptureFixture[str]) -> None:
    error = ended(Recipe.load, "/nowhere/recipe.yaml")
    assert isinstance(error, mh.InputError)
    assert str(error) == "/nowhere/recipe.yaml: no such file"
    assert capfd.readouterr().err == ""
    error = ended(os.rmdir, "/nowhere")
    assert isinstance(error, mh.WorkError)
    assert str(error).startswith("FileNotFoundError: ")
    assert "Traceback" in capfd.readouterr().err


def test_a_worker_that_dies_is_told_and_another_takes_its_place() -> None:
    with Workers[int](1, signal.raise_signal, 1) as pool:
        for number, given in enumerate([signal.SIGKILL, signal.SIGKILL, signal.SIGWINCH]):
            pool.start(number, (given,))
            ((key, error),) = pool.wait()
            assert key == number
            assert (error is None) == (given == signal.SIGWINCH)
            if error is not None:
                assert isinstance(error, mh.WorkError)
                assert str(error) == "its process was ended by signal 9; fewer workers need less memory"


def test_stopping_does_not_wait_for_the_end_of_the_work(capfd: pytest.CaptureFixture[str]) -> None:
    pool = Workers[str](2, time.sleep, 1)
    pool.start("long", (600,))
    pool.start("short", (0,))
    assert pool.wait() == [("short", None)]
    began = time.monotonic()
    pool.stop()
    assert time.monotonic() - began < 20
    assert pool.busy == set()
    assert capfd.readouterr().err == ""


def test_stopping_a_worker_that_has_only_begun(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers[str](1, time.sleep, 1) as pool:
        pool.start("long", (600,))
    assert capfd.readouterr().err == ""
