"""The arguments that several commands share, each with its meaning.

Knows typer. Must not know what a command does with them.
"""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Also",
    "Attention",
    "Device",
    "Json",
    "Overrides",
    "PrecisionOption",
    "Quiet",
    "Raw",
    "RunFolder",
]

RunFolder = Annotated[Path, typer.Argument(help="A run folder that `train` wrote.", show_default=False)]
Also = Annotated[
    list[Path] | None,
    typer.Option("--with", help="Another run with the same tasks; the answers of all are averaged."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="A field of the recipe, as key.path=value; may be given several times."),
]
Device = Annotated[str, typer.Option("--device", help="Where to compute: cpu, cuda, cuda:1.")]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", help="auto, float32, bf16 or float64; auto is bf16 where it is fast."),
]
Attention = Annotated[
    str | None, typer.Option("--attention", help="The attention backend: auto, native, torch or varlen.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines on standard output.")]
Raw = Annotated[
    bool, typer.Option("--raw", help="Probabilities as the head gives them, not calibrated on dev.")
]
