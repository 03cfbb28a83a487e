"""Scores and predictions as tables on a screen.

Knows rich. Must not know where scores come from.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manyheads.tasks.kind import Prediction

if TYPE_CHECKING:
    from manyheads.evidence.explain import Explanation

__all__ = ["bar", "explanation_table", "predictions_table", "scores_table"]


def scores_table(scores: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> None:
    """One line for each split and task, with the task's measures; the first measure chose the checkpoint."""
    table = Table("split", "task", "measures", box=None, pad_edge=False)
    for split, tasks in scores.items():
        for task, measures in tasks.items():
            told = "  ".join(
                f"{name} {'undefined' if value is None or value != value else format(value, '.4f')}"
                for name, value in measures.items()
            )
            table.add_row(split, task, told)
    _screen().print(table)


def predictions_table(found: Mapping[str, Prediction]) -> None:
    """One line for each head's answer to the same text."""
    table = Table("task", "answer", "probability", "", box=None, pad_edge=False)
    for task, prediction in found.items():
        cut = f"cut by {prediction.tokens_dropped} tokens" if prediction.truncated else ""
        if prediction.label is not None and prediction.score is not None:
            table.add_row(
                task,
                escape(prediction.label) or "no answer",
                f"{prediction.score:.3f} {bar(prediction.score)}",
                cut,
            )
        elif prediction.value is not None:
            table.add_row(task, f"{prediction.value:.2f}", "", cut)
        else:
            named = ", ".join(f"{span.text} [{span.label}]" for span in prediction.spans)
            table.add_row(task, escape(named) or "–", "", cut)
    _screen().print(table)


def explanation_table(found: "Explanation") -> None:
    """The tokens of the text in their order, each with what it did to the score."""
    title = f"{found.task}: {found.target}, score {found.score:.4g}, without the words {found.baseline:.4g}"
    table = Table("token", "moved it by", "", box=None, pad_edge=False)
    words = [one for one in found.tokens if one.start < one.end]
    widest = max((abs(one.value) for one in words), default=0.0) or 1.0
    for one in words:
        sign = "+" if one.value >= 0 else "−"
        table.add_row(escape(one.text), f"{one.value:+.3g}", f"{sign} {bar(abs(one.value) / widest)}")
    screen = _screen()
    screen.print(f"\n{escape(title)}")
    screen.print(table)
    if not found.complete:
        screen.print(f"the parts add up to {found.gap:+.3g} more than they should: take them with care")


def _screen() -> Console:
    """Standard output; a file or a pipe has no width, so nothing is broken there."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=160)


def bar(share: float, width: int = 10) -> str:
    """A share from 0 to 1 drawn with block characters."""
    return "█" * round(share * width) + "░" * (width - round(share * width))
