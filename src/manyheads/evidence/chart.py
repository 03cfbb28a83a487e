"""A study's scores as a picture: for each task the seeds of every variant, and the box of their quartiles.

Knows numbers and names. Must not know runs or how anything was measured.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyheads.files import replacing

__all__ = ["draw_scores"]

_WIDTH = 7.0  # inches, of the whole picture
_INK, _FAINT = "#1a1a1a", "#8a8a8a"
_BOX, _POINT, _REFERENCE = "#dbe7f3", "#1f5f99", "#b3541e"


def draw_scores(
    path: Path, scores: Mapping[tuple[str, str], Mapping[str, Sequence[float]]], reference: str
) -> None:
    """Write an SVG picture: {(task, measure): {variant: scores, one a seed}}, a panel a task, a line a variant.

    The dotted line is the median of `reference`. The same scores give the same bytes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text, so that it can be searched and copied; identifiers within the file are not drawn by chance.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "manyheads", "font.size": 9}):
        lines = [len(variants) for variants in scores.values()] or [3]
        figure = Figure(figsize=(_WIDTH, sum(0.3 * count + 0.7 for count in lines)), layout="constrained")
        axes = figure.subplots(len(lines), 1, squeeze=False, height_ratios=[count + 1.5 for count in lines])[
            :, 0
        ]
        for axis, ((task, measure), variants) in zip(axes, scores.items(), strict=False):
            _panel(axis, variants, reference)
            axis.set_title(f"{task} · {measure}", loc="left", color=_INK, fontsize=10)
        if not scores:
            axes[0].set_axis_off()
            axes[0].text(0.5, 0.5, "no run has finished yet", ha="center", va="center", color=_FAINT)
        with replacing(path) as beside:
            figure.savefig(beside, format="svg", metadata={"Date": None, "Creator": None})


def _panel(axis: Any, variants: Mapping[str, Sequence[float]], reference: str) -> None:
    """One task: boxes from the first quartile to the third, whiskers to the ends, a point a seed."""
    import numpy as np

    names = list(variants)
    places = np.arange(len(names), 0, -1)
    axis.boxplot(
        list(variants.values()),
        positions=places,
        orientation="horizontal",
        whis=(0, 100),
        widths=0.5,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": _BOX, "edgecolor": _FAINT},
        whiskerprops={"color": _FAINT},
        capprops={"color": _FAINT},
        medianprops={"color": _INK, "linewidth": 1.5},
    )
    for place, name in zip(places, names, strict=True):
        found = list(variants[name])
        # Points of equal scores lie beside each other, at places that depend on nothing but their number.
        rise = (np.arange(len(found)) % 5 - (min(len(found), 5) - 1) / 2) * 0.07
        colour = _REFERENCE if name == reference else _POINT
        axis.plot(found, place + rise, "o", markersize=3.5, color=colour, alpha=0.8, zorder=3)
    if reference in variants and len(variants[reference]):
        axis.axvline(
            float(np.median(variants[reference])), color=_REFERENCE, linestyle=":", linewidth=1, zorder=0
        )
    axis.set_yticks(places, names)
    axis.set_ylim(0.4, len(names) + 0.6)
    axis.tick_params(colors=_INK, length=2)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
