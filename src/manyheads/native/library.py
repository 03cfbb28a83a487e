"""The C++ kernels beside this file, compiled on the machine that runs them into one library of plain C functions.

Knows compilers, shared libraries, processors, addresses of tensors. Must not know layers, ragged batches or tasks.

There is nothing to install: the first caller of `library()` compiles every `*.cpp` of this folder for the processor
at hand (seconds; the sources include no header of torch) and keeps the result in the user's cache. Without a compiler,
or where compiling fails, `library()` is None and callers take their way through torch. `MANYHEADS_NATIVE` is `auto`
(as just said), `off` (never) or `on` (an error instead of the way through torch).

To add a kernel, write `NAME.cpp` with functions that begin in `EXPORT void mh_...` (kernel.h has EXPORT, vectors and
the conversions of bfloat16), and `NAME.py` with one Python function for each that checks dtypes and shapes:

    found = library()
    if found is None:
        ...  # the caller's own way through torch
    add = found.function("mh_add", POINTER, POINTER, INTEGER, REAL, INTEGER)
    add(x.data_ptr(), y.data_ptr(), x.numel(), 0.5, threads())

POINTER stands for any `T*`, INTEGER for `int64_t`, WORD for `uint64_t`, REAL for `double`; every function is void.
A call gives the interpreter's lock back while it runs. Tensors must be contiguous, on the CPU, and stay alive during
the call. Loops over threads are `#pragma omp parallel ... num_threads(threads)`: what is written must not depend on
how many there are. Do not include <omp.h>, and throw nothing.

Threads are torch's own: OpenMP is left unlinked, so that the loader binds it to the runtime that torch has brought.
A second runtime would bring a second set of threads, which spin on the same cores.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from manyheads.errors import InputError, ManyheadsError
from manyheads.files import replacing

__all__ = ["INTEGER", "POINTER", "REAL", "WORD", "Library", "describe", "library", "threads"]

POINTER, INTEGER, WORD, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_double

SOURCES = Path(__file__).parent
_FLAGS = (
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",  # nothing but plain C types crosses from one object to another
)
_SECONDS = 900  # a compiler that takes longer hangs
# What the compiler says of the processor, best first, and how people call it.
_FEATURES = {
    "__AVX512BF16__": "avx512_bf16",
    "__AVX512F__": "avx512",
    "__AVX2__": "avx2",
    "__ARM_FEATURE_BF16": "neon_bf16",
    "__ARM_NEON": "neon",
}


class Library:
    """The loaded library. `words` says in a few what it was made with."""

    def __init__(self, path: Path, words: str) -> None:
        self.words = words
        self._loaded = ctypes.CDLL(str(path))
        self._functions: dict[str, Callable[..., None]] = {}

    def function(self, name: str, *arguments: Any) -> Callable[..., None]:
        """The C function called `name`, whose arguments are of the kinds POINTER, INTEGER, WORD, REAL."""
        found = self._functions.get(name)
        if found is None:
            found = getattr(self._loaded, name)
            found.argtypes, found.restype = arguments, None
            self._functions[name] = found
        return found


class Compiler(NamedTuple):
    """A C++ compiler that answers."""

    command: tuple[str, ...]
    native: tuple[str, ...]
    """The flags that make code for this very processor; none where the compiler has no such flag."""
    macros: str
    """What it predefines with these flags: its version and every instruction set of the processor."""

    @property
    def clang(self) -> bool:
        """Whether it is clang, whose OpenMP has another runtime than gcc's."""
        return "#define __clang__ " in self.macros

    @property
    def name(self) -> str:
        """`g++ 12.2`"""
        told = dict(line.split(" ", 2)[1:] for line in self.macros.splitlines() if line.count(" ") >= 2)
        family, version = ("clang++", "__clang_{}__") if self.clang else ("g++", "__GNUC_{}__")
        major = told.get(version.format("major") if self.clang else "__GNUC__", "?")
        return f"{family} {major}.{told.get(version.format('minor' if self.clang else 'MINOR'), '?')}"

    @property
    def feature(self) -> str:
        """The best of the processor's instruction sets that the kernels use."""
        return next(
            (name for macro, name in _FEATURES.items() if f"#define {macro} " in self.macros), "plain"
        )


class _Found(NamedTuple):
    library: Library | None
    words: str


_lock = threading.Lock()
_found: _Found | None = None


def library() -> Library | None:
    """The library, compiled or taken from the cache at the first call; None where there is none to be had.

    Raises InputError where MANYHEADS_NATIVE is `on` and there is none, or is no word that it can be.
    """
    return _look().library


def describe() -> str:
    """One phrase for people: `native (g++ 12.2, avx512_bf16)` or `torch (no compiler found)`."""
    return _look().words


def threads() -> int:
    """How many threads a kernel is to use: as many as torch would in this thread of Python."""
    import torch

    return torch.get_num_threads()


def _look() -> _Found:
    global _found
    if _found is None:
        with _lock:
            if _found is None:
                _found = _open()
    return _found


def _open() -> _Found:
    wish = os.environ.get("MANYHEADS_NATIVE") or "auto"
    if wish not in ("auto", "on", "off"):
        raise InputError(f"MANYHEADS_NATIVE={wish!r}: expected auto, on or off")
    if wish == "off":
        return _Found(None, "torch (MANYHEADS_NATIVE=off)")
    compiler = find_compiler()
    if compiler is None:
        asked = os.environ.get("CXX")
        reason = f"CXX={asked!r} is no compiler that works" if asked else "no compiler found"
        if wish == "on":
            raise InputError(
                f"MANYHEADS_NATIVE=on: {reason}; expected a C++ compiler: $CXX, c++, g++ or clang++"
            )
        return _Found(None, f"torch ({reason})")
    try:
        with _cache() as (found_in, made_in):
            built = _load(compiler, found_in, made_in)
    except (
        ManyheadsError,
        OSError,
    ) as error:  # also a full disk, or a cache from which nothing may be loaded
        if wish == "on":
            raise InputError(f"MANYHEADS_NATIVE=on: {error}") from None
        logging.getLogger("manyheads").warning("native kernels: %s; going on with torch alone", error)
        return _Found(None, f"torch ({compiler.name} made no kernels)")
    return _Found(built, f"native ({built.words})")


def find_compiler() -> Compiler | None:
    """The compiler that $CXX names, or else the first of c++, g++, clang++ that answers."""
    if os.name != "posix":
        return None
    try:
        named = shlex.split(os.environ.get("CXX", ""))
    except ValueError:  # a quote that is not closed
        return None
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]) is None:
            continue
        for native in (("-march=native",), ("-mcpu=native",), ()):
            macros = _run([*command, *native, "-dM", "-E", "-x", "c++", os.devnull], SOURCES)
            if macros.returncode == 0:
                return Compiler(tuple(command), native, macros.stdout)
    return None


@contextmanager
def _cache() -> Iterator[tuple[Path, Path]]:
    """Where compiled libraries are kept, and where a new one is made: the same folder, or where that cannot be written
    one that is gone after the block."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path("~/.cache").expanduser()) / "manyheads" / "native"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        writable = False
    if writable:
        yield folder, folder
    else:
        with tempfile.TemporaryDirectory(prefix="manyheads-") as passing:
            yield folder, Path(passing)


def _load(compiler: Compiler, found_in: Path, made_in: Path) -> Library:
    """The library from the cache `found_in`, compiled into `made_in` where it is not there or damaged.

    An entry's name holds a digest of all that the library is made from and one of its own bytes: an entry
    that was cut short is told before the loader maps it, and of two processes that compile at the same
    time one renames over the other's equal file.
    """
    sources = sorted(SOURCES.glob("*.cpp"))
    threaded = _shares_threads(compiler)
    flags = [*_FLAGS, *compiler.native, "-fopenmp" if threaded else "-fopenmp-simd"]
    key = hashlib.sha256(repr((compiler.command, flags, compiler.macros, platform.machine())).encode())
    for path in (*sources, *sorted(SOURCES.glob("*.h"))):
        key.update(path.name.encode() + path.read_bytes())
    stem = f"kernels-{key.hexdigest()[:20]}"
    words = ", ".join([compiler.name, compiler.feature, *([] if threaded else ["one thread"])])
    for kept in sorted(found_in.glob(f"{stem}-*.so")):
        try:
            if kept.stem == f"{stem}-{_digest(kept.read_bytes())}":
                return Library(kept, words)
        except OSError:
            pass  # unreadable, or of no use to the loader: made again below
        if found_in == made_in:
            kept.unlink(missing_ok=True)
    return Library(_compile(compiler, flags, sources, made_in, stem), words)


def _compile(compiler: Compiler, flags: list[str], sources: list[Path], folder: Path, stem: str) -> Path:
    """Compile and link `sources` into `folder`; the path of the library."""
    with tempfile.TemporaryDirectory(prefix="manyheads-") as scratch:
        objects = [f"{path.stem}.o" for path in sources]
        commands = [
            [*compiler.command, *flags, "-c", str(path), "-o", name]
            for path, name in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            told = list(pool.map(_run, commands, repeat(Path(scratch))))
        # Without -fopenmp here: the runtime is torch's, found when the library is loaded.
        link = [*compiler.command, *flags, "-fno-openmp", "-shared", *objects, "-o", "kernels.so"]
        if sys.platform == "darwin":
            link += ["-undefined", "dynamic_lookup"]
        if all(each.returncode == 0 for each in told):
            commands.append(link)
            told.append(_run(link, Path(scratch)))
        built = Path(scratch) / "kernels.so"
        if any(each.returncode for each in told) or not built.is_file():
            log = folder / f"{stem}.log"
            text = "".join(
                f"$ {shlex.join(command)}\n{each.stdout}{each.stderr}"
                for command, each in zip(commands, told, strict=True)
            )
            with replacing(log) as beside:
                beside.write_text(text, encoding="utf-8", errors="replace")
            raise ManyheadsError(f"{compiler.name} could not compile the kernels; what it says is in {log}")
        content = built.read_bytes()
    final = folder / f"{stem}-{_digest(content)}.so"
    with replacing(final) as beside:
        beside.write_bytes(content)
    return final


def _run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a compiler in `folder`; one that cannot be started or hangs counts as one that failed."""
    try:
        return subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", f"{error}\n")


def _shares_threads(compiler: Compiler) -> bool:
    """Whether the OpenMP runtime that the compiler's code calls is in this process already, brought by torch."""
    import torch  # noqa: F401

    entry = "__kmpc_fork_call" if compiler.clang else "GOMP_parallel"
    return hasattr(ctypes.CDLL(None), entry)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]
