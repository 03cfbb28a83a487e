"""Pictures of a data set and of what a run makes of it: label for label, how many of each, how long the texts are.

Knows numbers and names. Must not know runs, models or files of data.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manyheads.files import replacing

__all__ = ["draw_classes", "draw_confusion", "draw_lengths"]

_INK, _FAINT = "#1a1a1a", "#8a8a8a"
_SCALE = "Blues"  # the colours of all pictures, from nothing to everything
_CUT = "#b3541e"
_BINS = 60
_MOST_NUMBERS = 30  # labels of a matrix whose cells still have room for a number
# Names may be in any script: the viewer's fonts draw them, and these know most.
_FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "sans-serif"]


def draw_confusion(path: Path, labels: tuple[str, ...], counts: NDArray[np.int64], title: str) -> None:
    """Write an SVG picture of a matrix [gold, said]: colour is the share of the gold label's rows, the number how many.

    Beside each row stands its recall. The same numbers give the same bytes, here and below.
    """
    size = len(labels)
    of_gold = counts.sum(1, keepdims=True)
    shares = np.divide(counts, of_gold, out=np.zeros(counts.shape), where=of_gold > 0)
    side = max(3.2, 0.32 * size + 1.2)
    with _figure(path, side + 1.6, side + 0.6) as axis:
        drawn = axis.imshow(shares, cmap=_SCALE, vmin=0, vmax=1)
        axis.set_xticks(
            range(size), labels, rotation=45 if size > 4 else 0, ha="right" if size > 4 else "center"
        )
        axis.set_yticks(range(size), labels)
        axis.set_xlabel("said", color=_FAINT)
        axis.set_ylabel("gold", color=_FAINT)
        axis.set_title(title, loc="left", color=_INK)
        if size <= _MOST_NUMBERS:
            for (gold, said), count in np.ndenumerate(counts):
                if count:
                    colour = "white" if shares[gold, said] > 0.55 else _INK
                    axis.text(said, gold, f"{count:,}", ha="center", va="center", color=colour, fontsize=7)
        told = [
            f"{share:.0%}" if rows else "none"
            for share, rows in zip(shares.diagonal(), of_gold[:, 0], strict=True)
        ]
        beside = axis.secondary_yaxis("right")
        beside.set_yticks(range(size), told)
        beside.set_ylabel("recall", color=_FAINT)
        _bare(beside, "right")
        bar = axis.figure.colorbar(drawn, ax=axis, shrink=0.8, format=lambda share, _: f"{share:.0%}")
        bar.outline.set_visible(False)
        _bare(axis, "top", "right", "bottom", "left")


def draw_classes(path: Path, splits: Mapping[str, Mapping[str, int]], title: str) -> None:
    """Write an SVG picture of {split: {label: rows}}: for each label its share of every split, with the number of rows.

    Shares and not rows are drawn, as splits differ in size and ought not to differ in these.
    """
    labels = list(dict.fromkeys(label for counts in splits.values() for label in counts))
    colours = _colours(len(splits))
    high = 0.8 / max(1, len(splits))
    with _figure(path, 6.5, max(2.0, (0.16 * len(splits) + 0.14) * len(labels) + 1.2)) as axis:
        for number, (split, counts) in enumerate(splits.items()):
            total = max(1, sum(counts.values()))
            places = np.arange(len(labels)) + (number - (len(splits) - 1) / 2) * high
            widths = [counts.get(label, 0) / total for label in labels]
            named = f"{split} ({sum(counts.values()):,})"
            axis.barh(places, widths, height=high * 0.92, color=colours[number], label=named)
            for place, width, label in zip(places, widths, labels, strict=True):
                told = f" {counts.get(label, 0):,}"
                axis.text(width, place, told, ha="left", va="center", color=_FAINT, fontsize=6)
        axis.set_yticks(range(len(labels)), labels)
        axis.invert_yaxis()
        axis.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axis.margins(x=0.1)
        axis.set_title(title, loc="left", color=_INK)
        axis.legend(frameon=False, loc="best")
        _bare(axis, "top", "right", "left")


def draw_lengths(path: Path, splits: Mapping[str, NDArray[Any]], max_length: int, title: str) -> None:
    """Write an SVG picture of {split: tokens of each sequence before anything is cut}, and the share that is cut.

    What is longer than twice `max_length` stands in the last bar, so that one book does not flatten all tweets.
    """
    longest = max((int(lengths.max()) for lengths in splits.values() if len(lengths)), default=max_length)
    end = max(2, min(longest, 2 * max_length))
    edges = np.arange(0, end + 1 + (wide := -(-end // _BINS)), wide)  # all bars as wide as each other
    colours = _colours(len(splits))
    with _figure(path, 6.5, 3.2) as axis:
        for number, (split, lengths) in enumerate(splits.items()):
            shares = np.histogram(np.minimum(lengths, end), edges)[0] / max(1, len(lengths))
            cut = float((lengths > max_length).mean()) if len(lengths) else 0.0
            named = f"{split} ({len(lengths):,}): {cut:.1%} cut"
            axis.stairs(shares, edges, color=colours[number], linewidth=1.3, label=named)
        axis.axvline(max_length, color=_CUT, linestyle=":", linewidth=1, label=f"max_length {max_length}")
        axis.set_xlabel(f"tokens{f', {end} or more in the last bar' if longest > end else ''}", color=_FAINT)
        axis.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axis.set_ylim(bottom=0)
        axis.set_title(title, loc="left", color=_INK)
        axis.legend(frameon=False, loc="best")
        _bare(axis, "top", "right")


@contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """The axes of a picture of so many inches, which is written to `path` at the end."""
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text, so that it can be searched and copied; identifiers within the file are not drawn by chance.
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "manyheads",
        "font.size": 8,
        "text.parse_math": False,  # two dollar signs in a label are no formula
        "font.sans-serif": _FONTS,
    }
    with matplotlib.rc_context(style), _quiet():
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            figure.savefig(beside, format="svg", metadata={"Date": None, "Creator": None})


@contextmanager
def _quiet() -> Iterator[None]:
    """Without matplotlib's complaints on fonts that are not here: the picture names them, the viewer has them."""
    import logging
    import warnings

    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            yield
    finally:
        log.setLevel(level)


def _colours(count: int) -> list[Any]:
    """So many steps of the scale, the darkest first, none too light to be seen."""
    import matplotlib

    return [matplotlib.colormaps[_SCALE](place) for place in np.linspace(0.9, 0.4, max(1, count))]


def _bare(axis: Any, *sides: str) -> None:
    axis.tick_params(colors=_INK, length=2)
    for side in sides:
        axis.spines[side].set_visible(False)
