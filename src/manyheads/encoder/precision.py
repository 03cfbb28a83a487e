"""Which number format the matrix products use, and whether this processor can do it.

Knows processors and dtypes. Must not know layers, tasks or recipes.
"""

from typing import Literal, NamedTuple

import torch

from manyheads.errors import InputError

__all__ = ["Precision", "PrecisionName", "bfloat16_is_fast", "choose", "usable"]

PrecisionName = Literal["auto", "float32", "bf16", "float64"]


class Precision(NamedTuple):
    """`parameters`: dtype the weights are held in; `compute`: dtype of the products, None for the same."""

    name: str
    parameters: torch.dtype
    compute: torch.dtype | None


PRECISIONS: dict[str, Precision] = {
    "float32": Precision("float32", torch.float32, None),
    "bf16": Precision("bf16", torch.float32, torch.bfloat16),
    "float64": Precision("float64", torch.float64, None),
}


def bfloat16_is_fast(device: torch.device | str = "cpu") -> bool:
    """Whether the device multiplies bfloat16 in hardware (on a CPU: AVX-512 BF16, AMX, or Arm's BF16)."""
    device = torch.device(device)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith(("flags", "Features"))), "").split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def usable(device: torch.device | str) -> torch.device:
    """The device called so; InputError where torch does not know it or this machine has none."""
    try:
        wanted = torch.device(device)
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"device {str(device)!r} cannot be used here ({reason})") from None
    return wanted


def choose(name: str = "auto", device: torch.device | str = "cpu") -> Precision:
    """The precision called `name`; `auto` is bf16 where the device has it, else float32.

    Raises InputError for bf16 on a processor without it (torch would emulate it at a fraction of the speed).
    """
    fast = bfloat16_is_fast(device)
    if name == "auto":
        name = "bf16" if fast else "float32"
    if name not in PRECISIONS:
        raise InputError(f"precision {name!r}: expected one of auto, {', '.join(PRECISIONS)}")
    if name == "bf16" and not fast:
        raise InputError("precision bf16: this processor has no bfloat16 arithmetic; use auto or float32")
    return PRECISIONS[name]
