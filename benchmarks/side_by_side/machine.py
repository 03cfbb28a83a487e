"""What the figures were measured on: processor, its bfloat16 units, memory, load, versions.

Knows the operating system and installed packages. Must not import any of them: the parent of the
contenders stays small.
"""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["describe", "machine"]

PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate", "tokenizers", "numpy")
# The instructions that decide how fast bfloat16 products are.
UNITS = ("amx_bf16", "amx_tile", "avx512_bf16", "avx512f", "avx2", "bf16", "sve", "asimd")
BUSY = 0.5  # of the load average: more than this is somebody else's work


def machine() -> dict[str, Any]:
    """Processor, cores, bfloat16 units, memory in GiB, the load before the first round, versions."""
    from manyheads import __version__

    processor, flags = _processor()
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"warning: the load is {load:.2f} before the first round; figures to keep need a quiet machine")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "units": [unit for unit in UNITS if unit in flags],
        "amx_bf16": "amx_bf16" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(load, 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"manyheads": __version__, **{name: _version(name) for name in PACKAGES}},
    }


def describe(told: dict[str, Any]) -> str:
    """`machine()` in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items() if version)
    units = " ".join(told["units"]) or "no bfloat16 units known"
    return (
        f"{told['processor']}, {told['cores']} cores ({units}), {told['memory_gib']} GiB, "
        f"load before {told['load_before']}; Python {told['python']}, {versions}"
    )


def _processor() -> tuple[str, set[str]]:
    """The processor's name with family and model, and its flags."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), set()
    first: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        first.setdefault(name.strip().lower(), value.strip())
    name = first.get("model name") or platform.machine()
    if "cpu family" in first and "model" in first:  # virtual machines often hide the name, rarely these
        name += f" (family {first['cpu family']}, model {first['model']})"
    return name, set((first.get("flags") or first.get("features") or "").split())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
