"""The kernels' library: found, compiled, kept, refused; much of what decides is played here."""

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from manyheads.errors import InputError
from manyheads.native import library as native
from manyheads.native.library import INTEGER, POINTER, REAL, Compiler, describe, find_compiler, library

COMPILER = find_compiler()
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")

TWICE = """
#include "kernel.h"
EXPORT void mh_twice(const float* x, float* y, int64_t n, double by) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)(x[i] * by);
}
"""


@pytest.fixture(autouse=True)
def unlooked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a process that has not asked yet, with a cache of its own and one small source."""
    monkeypatch.setattr(native, "_found", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MANYHEADS_NATIVE", raising=False)
    sources = tmp_path / "sources"
    sources.mkdir()
    shutil.copy(native.SOURCES / "kernel.h", sources)
    (sources / "twice.cpp").write_text(TWICE)
    monkeypatch.setattr(native, "SOURCES", sources)


def kept(tmp_path: Path, pattern: str = "*.so") -> list[Path]:
    return sorted((tmp_path / "cache" / "manyheads" / "native").glob(pattern))


def twice(value: float) -> float:
    found = library()
    assert found is not None
    x, y = torch.tensor([value], dtype=torch.float32), torch.empty(1)
    found.function("mh_twice", POINTER, POINTER, INTEGER, REAL)(x.data_ptr(), y.data_ptr(), 1, 2.0)
    return float(y)


def again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_found", None)


def counting_compiler(tmp_path: Path, compile_line: str = 'exec "$real" "$@"') -> Path:
    """A compiler that writes down how often it compiles and then does `compile_line`."""
    assert COMPILER is not None
    script = tmp_path / "my-c++"
    script.write_text(
        f"#!/bin/sh\nreal={shutil.which(COMPILER.command[0])}\n"
        f'for a in "$@"; do if [ "$a" = -c ]; then echo compiled >> {tmp_path / "calls"}; {compile_line}; fi; done\n'
        'exec "$real" "$@"\n'
    )
    script.chmod(0o755)
    return script


@needs_compiler
def test_compiled_at_the_first_call_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(counting_compiler(tmp_path)))
    assert not kept(tmp_path)
    assert twice(3.5) == 7
    assert describe().startswith("native (")
    assert len(kept(tmp_path)) == 1
    again(monkeypatch)
    assert twice(-1) == -2
    assert (tmp_path / "calls").read_text().count("compiled") == 1


@needs_compiler
def test_other_sources_other_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert twice(1) == 2
    source = native.SOURCES / "twice.cpp"
    source.write_text(TWICE.replace("x[i] * by", "x[i] * by + 1"))
    again(monkeypatch)
    assert twice(1) == 3
    assert len(kept(tmp_path)) == 2


@needs_compiler
@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_cache_entry_that_was_cut_short_is_made_again(
    keep: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert twice(1) == 2
    (entry,) = kept(tmp_path)
    content = entry.read_bytes()
    entry.unlink()  # the library that is loaded keeps its own
    entry.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    again(monkeypatch)
    assert twice(1) == 2
    assert kept(tmp_path)[0].stat().st_size == len(content)


@needs_compiler
def test_an_entry_that_the_loader_refuses_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert twice(1) == 2
    (entry,) = kept(tmp_path)
    stem, wrong = entry.stem.rpartition("-")[0], b"no library at all"
    entry.unlink()
    entry.with_name(f"{stem}-{native._digest(wrong)}.so").write_bytes(wrong)
    again(monkeypatch)
    assert twice(1) == 2
    assert kept(tmp_path) == [entry]


@needs_compiler
def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert twice(4) == 8


@needs_compiler
def test_a_cache_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(counting_compiler(tmp_path)))
    assert twice(4) == 8
    (entry,) = kept(tmp_path)
    ordinary = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: Path(path) != entry.parent and ordinary(path, mode),
    )
    again(monkeypatch)
    assert twice(4) == 8
    assert (tmp_path / "calls").read_text().count("compiled") == 1
    stem = entry.stem.rpartition("-")[0]
    entry.rename(entry.with_name(f"{stem}-{'0' * 20}.so"))  # of no use, and not ours to take away
    again(monkeypatch)
    assert twice(4) == 8
    assert (tmp_path / "calls").read_text().count("compiled") == 2
    assert len(kept(tmp_path)) == 1


def test_a_name_that_is_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "'unclosed")
    assert library() is None
    assert describe() == """torch (CXX="'unclosed" is no compiler that works)"""


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    assert library() is None
    assert describe() == "torch (CXX='/nonexistent/c++' is no compiler that works)"
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "/nonexistent")
    again(monkeypatch)
    assert library() is None
    assert describe() == "torch (no compiler found)"
    assert not caplog.records
    monkeypatch.setenv("MANYHEADS_NATIVE", "on")
    again(monkeypatch)
    with pytest.raises(
        InputError, match=r"^MANYHEADS_NATIVE=on: no compiler found; expected a C\+\+ compiler"
    ):
        library()


def test_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYHEADS_NATIVE", "off")
    assert library() is None
    assert describe() == "torch (MANYHEADS_NATIVE=off)"
    assert not kept(tmp_path)


def test_another_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYHEADS_NATIVE", "yes")
    with pytest.raises(InputError, match=r"^MANYHEADS_NATIVE='yes': expected auto, on or off$"):
        library()


@needs_compiler
def test_a_failing_compile_is_one_line_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", str(counting_compiler(tmp_path, "echo no memory >&2; exit 1")))
    with caplog.at_level(logging.WARNING):
        assert library() is None
    (log,) = kept(tmp_path, "*.log")
    assert "no memory" in log.read_text()
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert str(log) in record.getMessage()
    assert "torch alone" in record.getMessage()
    assert "made no kernels" in describe()
    assert not kept(tmp_path)
    monkeypatch.setenv("MANYHEADS_NATIVE", "on")
    again(monkeypatch)
    with pytest.raises(InputError, match=r"MANYHEADS_NATIVE=on: .*could not compile"):
        library()


def test_what_a_compiler_says_of_itself() -> None:
    gcc = "#define __GNUC__ 12\n#define __GNUC_MINOR__ 2\n#define __AVX2__ 1\n#define __AVX512F__ 1\n"
    assert (Compiler(("c++",), (), gcc).name, Compiler(("c++",), (), gcc).feature) == ("g++ 12.2", "avx512")
    clang = "#define __clang__ 1\n#define __GNUC__ 4\n#define __clang_major__ 19\n#define __clang_minor__ 1\n"
    made = Compiler(("c++",), (), clang)
    assert (made.clang, made.name, made.feature) == (True, "clang++ 19.1", "plain")


PROCESS = """
import sys
before = "torch" in sys.modules
from manyheads.native.library import describe, threads
assert not before and "torch" not in sys.modules
import torch, pathlib
torch.set_num_threads(2)
torch.ones(2**20).exp()
maps = pathlib.Path("/proc/self/maps")
runtimes = lambda: {line.split()[-1] for line in maps.read_text().splitlines() if "omp" in line.split("/")[-1]}
earlier = runtimes()
print(describe(), threads(), runtimes() == earlier)
"""


@needs_compiler
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")
def test_two_processes_at_once_and_one_openmp_runtime_in_each(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for _ in range(2)
    ]
    for each in running:
        out, err = each.communicate(timeout=110)
        assert not err
        assert out.startswith("native (")
        assert out.endswith(" 2 True\n")
    assert len(kept(tmp_path)) == 1


PROBE = """
#include "kernel.h"
EXPORT void mh_probe(const float* x, float* y, int64_t n, int64_t what) {
    for (int64_t i = 0; i < n; i += LANES) {
        floats v = load(x + i), r = {};
        if (what == 0) r = exponential(v);
        if (what == 1) r = power_of_two(v);
        if (what == 2) r = binary_logarithm(v);
        if (what == 3) r = all(sum(v));
        if (what == 4) r = all(largest(v));
        if (what == 5) { bf16 low[LANES]; store(low, v); r = load(low); }
        if (what == 6) r = rounded(v);
        store(y + i, r);
    }
}
EXPORT void mh_tail(const float* x, float* y, int64_t n) {
    bf16 low[LANES];
    store(low, load(x, (int)n), (int)n);
    store(y, load(low, (int)n), (int)n);
}
EXPORT void mh_lanes(int64_t* n) { *n = LANES; }
"""

# The processor's own, and with fewer of its instructions, so that a wide machine tests what a narrow one runs.
MACHINES = [None, "haswell", "x86-64"]


def built_for(machine: str | None, folder: Path) -> native.Library:
    assert COMPILER is not None
    if machine is not None:
        if "__x86_64__" not in COMPILER.macros:
            pytest.skip("no x86 processor")
        if machine == "haswell" and "__AVX2__" not in COMPILER.macros:
            pytest.skip("a processor without AVX2")
    chosen = COMPILER if machine is None else COMPILER._replace(native=(f"-march={machine}",))
    return native._load(chosen, folder, folder)


@needs_compiler
@pytest.mark.parametrize("machine", MACHINES)
def test_the_vectors_arithmetic(machine: str | None, tmp_path: Path) -> None:
    (native.SOURCES / "probe.cpp").write_text(PROBE)
    found = built_for(machine, tmp_path)

    def probe(x: torch.Tensor, what: int) -> torch.Tensor:
        y = torch.empty_like(x)
        found.function("mh_probe", POINTER, POINTER, INTEGER, INTEGER)(
            x.data_ptr(), y.data_ptr(), len(x), what
        )
        return y

    def close(x: torch.Tensor, what: int, expected: torch.Tensor, rtol: float, atol: float = 0.0) -> None:
        torch.testing.assert_close(probe(x, what).double(), expected, rtol=rtol, atol=atol)

    line = torch.linspace(-87, 88, 2**14)
    close(line, 0, line.double().exp(), 2e-7)
    line = torch.linspace(-126, 127, 2**14)
    close(line, 1, torch.exp2(line.double()), 3e-7)
    over = torch.logspace(-37, 38, 2**14)
    close(over, 2, torch.log2(over.double()), 1e-6, 1e-6)
    special = torch.tensor([float("nan"), -float("inf"), -1000.0, 0.0] * 4)
    for what in (0, 1):
        y = probe(special, what)
        assert y[0].isnan()
        assert (y[1:3] < 1e-37).all()
        assert y[3] == 1
    lanes = ctypes.c_int64()
    found.function("mh_lanes", POINTER)(ctypes.addressof(lanes))
    torch.manual_seed(0)
    x = torch.randn(64 * lanes.value)
    rows = x.view(-1, lanes.value)
    close(x, 3, rows.double().sum(1, keepdim=True).expand_as(rows).flatten(), 1e-5, 1e-5)
    assert torch.equal(probe(x, 4), rows.amax(1, keepdim=True).expand_as(rows).flatten())
    assert torch.equal(probe(x * 100, 6), (x * 100).round())
    ties = torch.tensor([1.00390625, 1.01171875, -1.00390625, 3.3e38, float("inf"), -0.0, 1e30, 2.5]).repeat(
        2
    )
    for values in (x, ties):
        assert torch.equal(probe(values, 5), values.bfloat16().float())
    assert probe(special, 5)[0].isnan()
    for n in range(1, lanes.value):
        y = torch.full((lanes.value,), 9.0)
        found.function("mh_tail", POINTER, POINTER, INTEGER)(x.data_ptr(), y.data_ptr(), n)
        assert torch.equal(y[:n], x[:n].bfloat16().float())
        assert (y[n:] == 9).all()
