"""Which precision is chosen where, and what a processor that lacks bfloat16 is told."""

import builtins
import io
from typing import Any

import pytest
import torch

from manyheads.encoder import precision
from manyheads.encoder.precision import PRECISIONS, bfloat16_is_fast, choose
from manyheads.errors import InputError


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes /proc/cpuinfo say something else; None for a system without the file."""
    real = builtins.open

    def says(text: str | None) -> None:
        def opened(file: Any, *args: Any, **settings: Any) -> Any:
            if file != "/proc/cpuinfo":
                return real(file, *args, **settings)
            if text is None:
                raise FileNotFoundError(file)
            return io.StringIO(text)

        monkeypatch.setattr(precision, "open", opened, raising=False)

    return says


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 sse\n", True),
        ("processor : 0\nflags\t\t: fpu amx_bf16\nflags : none\n", True),
        ("processor : 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("processor : 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        ("processor : 0\nflags\t\t: fpu not_avx512_bf16_at_all\n", False),
        ("", False),
        (None, False),
    ],
)
def test_what_the_processor_says(processor: Any, text: str | None, fast: bool) -> None:
    processor(text)
    assert bfloat16_is_fast() is fast
    assert choose("auto") is PRECISIONS["bf16" if fast else "float32"]
    assert choose("float32") is PRECISIONS["float32"]
    assert choose("float64") is PRECISIONS["float64"]


def test_bf16_is_refused_where_it_would_be_emulated(processor: Any) -> None:
    processor("flags : fpu")
    with pytest.raises(InputError, match=r"^precision bf16: this processor has no bfloat16 arithmetic"):
        choose("bf16")
    processor("flags : avx512_bf16")
    assert choose("bf16").compute is torch.bfloat16


def test_parameters_stay_exact_under_bf16() -> None:
    assert PRECISIONS["bf16"].parameters is torch.float32
    assert PRECISIONS["float32"].compute is None
    assert PRECISIONS["float64"].parameters is torch.float64


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match=r"^precision 'half': expected one of auto, float32, bf16, float64$"):
        choose("half")
