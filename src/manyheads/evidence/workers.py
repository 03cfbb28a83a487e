"""Processes that do pieces of work side by side: stopped together, never left behind.

Knows processes, signals and how a piece of work ended. Must not know what the work is.

A worker has its own share of the threads, does one piece and ends. What torch leaves behind is no object that could
be let go: it and oneDNN keep up to 1024 prepared products each, about half a megabyte for every new shape of a matrix,
and the memory between them is free but too scattered to go back to the system. Only the end of the process returns
all of it; starting the next costs a few seconds.

A worker leads a process group of its own, so that Ctrl-C at the terminal reaches the parent alone, which then asks
each worker to stop. It holds one end of a pipe and ends at once when the other end closes: a parent that was killed
leaves no process behind that goes on writing.
"""

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, Self, TypeVar

from manyheads.errors import InputError, ManyheadsError, WorkError

__all__ = ["Workers"]

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class _Worker:
    process: SpawnProcess
    pipe: "connection.Connection[Any, Any]"


class Workers(Generic[Key]):
    """At most `count` processes at a time, a new one for each call of `target`; use it as a context manager."""

    def __init__(self, count: int, target: Callable[..., None], threads: int) -> None:
        """`target` is a function of a module; `threads` is how many each worker computes with."""
        self.count, self.target, self.threads = count, target, threads
        self._context = get_context("spawn")
        self._busy: dict[Key, _Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def busy(self) -> set[Key]:
        """The keys of the work in hand."""
        return set(self._busy)

    @property
    def free(self) -> bool:
        """Whether another piece of work can be started now."""
        return len(self._busy) < self.count

    def start(self, key: Key, arguments: tuple[Any, ...]) -> None:
        """Begin `target(*arguments)`, which `wait` will call `key`."""
        worker = self._new()
        self._busy[key] = worker
        with suppress(OSError):  # it has died meanwhile: `wait` finds out
            worker.pipe.send(pickle.dumps((self.target, arguments)))

    def wait(self) -> list[tuple[Key, Exception | None]]:
        """Wait until some work has ended: its keys, and what it raised or None.

        InputError and WorkError come as they are, all else as a WorkError.
        """
        ready = connection.wait([worker.pipe for worker in self._busy.values()])
        ended = [key for key, worker in self._busy.items() if worker.pipe in ready]
        return [(key, self._outcome(key)) for key in ended]

    def stop(self) -> None:
        """Interrupt all that are busy, as Ctrl-C does, and wait for them; a second Ctrl-C kills them."""
        workers = list(self._busy.values())
        for worker in workers:
            with suppress(OSError):
                worker.pipe.send(None)
        try:
            for worker in workers:
                worker.process.join()
        finally:
            for worker in workers:
                worker.process.kill()
                worker.pipe.close()
            self._busy.clear()

    def _new(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_live, args=(self.threads, theirs), daemon=True)
        with _ctrl_c_held_back(), _environment(OMP_NUM_THREADS=str(self.threads)):
            process.start()
        theirs.close()  # so that the pipe ends when the worker does
        return _Worker(process, ours)

    def _outcome(self, key: Key) -> Exception | None:
        worker = self._busy.pop(key)
        try:
            told = worker.pipe.recv()
        except (EOFError, OSError):
            told = None
        worker.process.join()  # its memory is free before another begins
        worker.pipe.close()
        if told is None:
            code = worker.process.exitcode or 0
            how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
            return WorkError(f"its process was ended {how}; fewer workers need less memory")
        kind, text = told
        return {"done": None, "input": InputError(text), "work": WorkError(text)}[kind]


# ---- in the worker ----


def _live(threads: int, pipe: "connection.Connection[Any, Any]") -> None:
    """The whole life of a worker."""
    if sys.platform != "win32":
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # forgets what was pressed meanwhile: the parent has it too
        os.setpgrp()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    given: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with suppress(KeyboardInterrupt):
        # What must be unpickled imports for seconds, in which the parent may say that it is enough.
        threading.Thread(target=_listen, args=(pipe, given), daemon=True).start()
        import torch

        torch.set_num_threads(threads)
        if (work := given.get()) is not None:
            told = _done(work)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to interrupt
            with suppress(OSError):
                pipe.send(told)


def _done(work: bytes) -> tuple[str, str]:
    """Do a piece of work: how it ended, and the message of what it raised."""
    try:
        target, arguments = pickle.loads(work)
        target(*arguments)
    except InputError as error:
        return "input", str(error)
    except ManyheadsError as error:
        return "work", str(error)
    except Exception as error:
        traceback.print_exc()
        return "work", f"{type(error).__name__}: {error}"
    return "done", ""


def _listen(pipe: "connection.Connection[Any, Any]", given: "queue.SimpleQueue[bytes | None]") -> None:
    """Hand on what the parent sends; None interrupts the work in hand; end when the parent has gone."""
    while True:
        try:
            work = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        main = threading.main_thread().ident
        if work is None and main is not None:
            # Before it is told by the queue: then it would have left the place where it expects to be interrupted.
            if sys.platform == "win32":
                signal.raise_signal(signal.SIGINT)
            else:
                signal.pthread_kill(main, signal.SIGINT)
        given.put(work)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Deliver Ctrl-C after the block; a process that is started inside begins with it held back."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
