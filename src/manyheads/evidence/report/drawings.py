"""Pictures as text that can stand within one HTML page: learning curves, reliability, and those drawn to files.

Knows numbers, names and SVG. Must not know runs, models or HTML.
"""

import io
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from manyheads.formulas.calibration import Reliability

__all__ = ["draw_curves", "draw_reliability", "drawn", "inlined"]

_INK, _FAINT, _LINE, _OTHER = "#1a1a1a", "#6a6a6a", "#1f5f99", "#b3541e"
_POINTS = 600  # of a curve: more are not seen
_FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "sans-serif"]
_STYLE: Any = {
    # Text stays text; identifiers within the file are not drawn by chance.
    "svg.fonttype": "none",
    "svg.hashsalt": "manyheads",
    "font.size": 8,
    "text.parse_math": False,  # a label with two dollars in it is no formula
    "font.sans-serif": _FONTS,
}

Curve = Sequence[tuple[float, float]]
"""(step, value)"""


def draw_curves(losses: Curve, measures: Mapping[str, Curve], measure: str, best: int | None) -> str:
    """An SVG of one task: the loss of its batches above, the measure after each evaluation below.

    `losses` are shown as they are and smoothed; `measures` are named by what they were measured on; the dotted line is
    the step of the best checkpoint. Either may be empty.
    """
    panels = [
        panel for panel in ("loss", "measure") if (losses if panel == "loss" else any(measures.values()))
    ]
    with _figure(6.5, 1.9 * max(1, len(panels)) + 0.3, max(1, len(panels))) as (figure, axes):
        for panel, axis in zip(panels, axes, strict=False):
            if panel == "loss":
                steps, values = np.array(losses, dtype=np.float64).T
                thin = slice(None, None, max(1, len(steps) // _POINTS))
                axis.plot(steps[thin], values[thin], color=_LINE, alpha=0.25, linewidth=0.7)
                axis.plot(steps[thin], _smooth(values)[thin], color=_LINE, linewidth=1.4)
                axis.set_ylabel("loss of the batch", color=_FAINT)
            else:
                for (name, curve), colour in zip(measures.items(), (_OTHER, _LINE), strict=False):
                    if curve:
                        found = np.array(curve, dtype=np.float64)
                        axis.plot(*found.T, "o-", color=colour, linewidth=1.3, markersize=3, label=name)
                axis.set_ylabel(measure, color=_FAINT)
                axis.legend(frameon=False, loc="best")
            if best is not None:
                axis.axvline(best, color=_FAINT, linestyle=":", linewidth=0.9)
            axis.margins(x=0.01)
            _bare(axis)
        axes[-1].set_xlabel("step", color=_FAINT)
        return _svg(figure)


def draw_reliability(before: Reliability, after: Reliability | None) -> str:
    """An SVG of a reliability diagram: how often answers are right by how probable they were said to be, as the head
    gives them and after temperature scaling; below it, how many answers there are in each bin."""
    with _figure(4.2, 4.6, 2, (3, 1)) as (figure, (upper, lower)):
        upper.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.8, linestyle="--")
        each = [("as the head gives it", before, _OTHER, "s")]
        if after is not None:
            each.append(("after temperature scaling", after, _LINE, "o"))
        for number, (name, found, colour, sign) in enumerate(each):
            filled = found.counts > 0
            told = f"{name}: ECE {found.error:.3f}"
            upper.plot(
                found.confidence[filled],
                found.accuracy[filled],
                sign + "-",
                color=colour,
                markersize=3.5,
                linewidth=1.2,
                label=told,
            )
            wide = 1 / len(found.counts) / len(each)
            lower.bar(found.edges[:-1] + number * wide, found.counts, wide * 0.9, align="edge", color=colour)
        upper.set_ylabel("right", color=_FAINT)
        upper.set_ylim(-0.03, 1.03)
        upper.legend(frameon=False, loc="upper left", fontsize=7)
        lower.set_ylabel("how many", color=_FAINT)
        lower.set_xlabel("probability of what was said", color=_FAINT)
        for axis in (upper, lower):
            axis.set_xlim(0, 1)
            axis.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
            _bare(axis)
        upper.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        return _svg(figure)


def drawn(draw: Callable[[Path], None]) -> str:
    """The SVG that a function writes to a path."""
    import matplotlib

    with tempfile.TemporaryDirectory() as folder, matplotlib.rc_context(_STYLE), _quiet():
        path = Path(folder) / "picture.svg"
        draw(path)
        return path.read_text(encoding="utf-8")


def inlined(svg: str, prefix: str) -> str:
    """An SVG as an element of an HTML page, without what would reach beyond it.

    Its identifiers begin with `prefix`, so that pictures on one page do not take each other's parts; its style sheet,
    which would hold for the whole page, becomes a style of its own; name spaces and metadata, which name other hosts,
    are gone; it scales with the page.
    """
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"\sxmlns(:\w+)?=\"[^\"]*\"", "", text)
    text = text.replace("xlink:href=", "href=")
    text = re.sub(r'\sid="([^"]*)"', rf' id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]*)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]*)\)", rf"url(#{prefix}-\1)", text)
    width = re.search(r'width="([\d.]+)pt"', text)
    widest = f"max-width:{float(width[1]) * 4 / 3:.0f}px;" if width else ""
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height|version)="[^"]*"', "", head)
    style = f"{widest}stroke-linejoin:round;stroke-linecap:butt"
    return f'{head} aria-hidden="true" focusable="false" style="{style}">{rest.strip()}'


@contextmanager
def _figure(
    width: float, height: float, rows: int, ratios: Sequence[float] | None = None
) -> Iterator[tuple[Any, Any]]:
    """A figure of so many inches with a column of axes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), _quiet():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(rows, 1, squeeze=False, sharex=True, height_ratios=ratios)[:, 0]


def _svg(figure: Any) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _smooth(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The running mean that the console shows: 19 parts of what was, one of what is."""
    found = np.empty_like(values)
    last = values[0]
    for at, value in enumerate(values.tolist()):
        last = 0.95 * last + 0.05 * value
        found[at] = last
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without complaints on fonts that are not here (the picture names them, the viewer has them), and on names that
    leave no room."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            warnings.filterwarnings("ignore", message="constrained_layout not applied")
            yield
    finally:
        log.setLevel(level)


def _bare(axis: Any) -> None:
    axis.tick_params(colors=_INK, length=2)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
