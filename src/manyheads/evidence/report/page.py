"""One HTML page about a finished run, which needs nothing beside it and asks nothing of any host.

Knows findings, pictures and HTML. Must not know runs' files or how anything was measured. Everything that comes from
data is escaped where it is put in.
"""

import math
import shlex
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from manyheads.data.encode import TokenCache
from manyheads.errors import InputError
from manyheads.evidence.answered import Confusion
from manyheads.evidence.pictures import draw_classes, draw_confusion, draw_lengths
from manyheads.evidence.report.drawings import draw_curves, draw_reliability, drawn, inlined
from manyheads.evidence.report.findings import (
    Calibration,
    Findings,
    Mistake,
    SplitFindings,
    TaskFindings,
    find,
)
from manyheads.files import write_text
from manyheads.model import Model
from manyheads.training.conflict import draw_affinity

__all__ = ["page", "write_report"]

_MOST_LABELS = 60  # of a confusion matrix that is drawn
_LABEL = 28  # characters of a label in a picture
_TEMPLATE = Path(__file__).with_name("page.html")


def write_report(
    folder: Path,
    out: Path | None = None,
    splits: Sequence[str] | None = None,
    *,
    overrides: Sequence[str] = (),
    model: Model | None = None,
    cache: TokenCache | None = None,
    version: str | None = None,
) -> Path:
    """Write the report on the run in `folder` to `out` (default: `report.html` in it), and say where it is.

    `version` is that of the package, which the page names. Otherwise as `find`.
    """
    out = folder / "report.html" if out is None else out
    if out.is_dir():
        raise InputError("is a folder, expected a file for the report", file=out)
    found = find(folder, splits, overrides=overrides, model=model, cache=cache)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page(found, version))
    return out


def page(found: Findings, version: str | None = None) -> str:
    """The whole page. The same findings give the same bytes."""
    numbered = {task.name: f"task-{number}" for number, task in enumerate(found.tasks, start=1)}
    parts = [_scores(found, numbered)]
    parts += [_task(task, numbered[task.name], found.records) for task in found.tasks]
    heat = _affinity(found)
    parts += [heat] if heat else []
    parts.append(_again(found, version))
    contents = [("scores", "Scores"), *((at, name) for name, at in numbered.items())]
    contents += [("affinity", "Task affinity")] if heat else []
    contents.append(("again", "How to reproduce"))
    end = next((one for one in reversed(found.records) if one.get("event") == "end"), dict[str, Any]())
    told = [f"{len(found.tasks)} task{'s' * (len(found.tasks) != 1)}"]
    if isinstance(end.get("step"), int):
        told.append(f"{end['step']:,} steps, the best after {end.get('best_step', end['step']):,}")
    if isinstance(end.get("seconds"), int | float):
        told.append(f"trained in {_duration(float(end['seconds']))}")
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"{found.name}: report"),
        subtitle=escape(" · ".join(told)),
        contents="".join(f'<li><a href="#{at}">{escape(name)}</a></li>' for at, name in contents),
        body="\n".join(parts),
    )


# ---- scores ----


def _scores(found: Findings, numbered: dict[str, str]) -> str:
    rows = [
        [
            f'<a href="#{numbered[task.name]}">{escape(task.name)}</a>',
            escape(split.name),
            "" if split.examples is None else f"{split.examples:,}",
            escape(split.scores[0].name),
            _number(split.scores[0].value),
            "" if (ends := split.scores[0].interval) is None else f"{_number(ends[0])} to {_number(ends[1])}",
            ", ".join(f"{escape(one.name)} {_number(one.value)}" for one in split.scores[1:]),
        ]
        for task in found.tasks
        for split in task.splits
    ]
    header = ["task", "split", "examples", "measure", "score", "95% interval", "other measures"]
    table = _table("Scores of the best checkpoint", header, rows, {2, 4, 5})
    note = (
        "The interval is what other examples of the same kind would give: the middle 95% of 5,000 bootstrap samples of "
        "the split. It knows nothing of other seeds. The checkpoint and, where there is one, the threshold were chosen "
        "on dev, so that dev flatters a little."
    )
    return _section("scores", "Scores", f'{table}<p class="faint">{note}</p>')


# ---- one task ----


def _task(task: TaskFindings, at: str, records: list[dict[str, Any]]) -> str:
    parts = [f'<p class="faint">{escape(task.kind)}, texts of at most {task.max_length:,} tokens</p>']
    if task.missing is not None:
        parts.append(
            '<p class="note">What needs the data is not here (label for label, calibration, lengths, errors): '
            f"{escape(task.missing)}</p>"
        )
    parts += _curves(task, at, records)
    for number, split in enumerate(task.splits, start=1):
        parts += _split(task, split, f"{at}-{number}")
    if task.classes:
        title = f"{task.name} · labels"
        labels = list(dict.fromkeys(label for counts in task.classes.values() for label in counts))
        short = dict(zip(labels, _short(labels), strict=True))
        told = {
            split: {short[label]: count for label, count in counts.items()}
            for split, counts in task.classes.items()
        }
        parts.append("<h3>Labels of every split</h3>")
        parts.append(
            _figure(
                drawn(lambda path: draw_classes(path, told, title)),
                f"{at}-classes",
                "The share of each label in every split, with the number of rows; the same numbers stand in the table.",
            )
        )
        rows = [
            [escape(label), *(f"{counts.get(label, 0):,}" for counts in task.classes.values())]
            for label in labels
        ]
        numbers = set(range(1, len(task.classes) + 1))
        parts.append(_table("Rows of each label", ["label", *map(escape, task.classes)], rows, numbers))
    if task.lengths:
        parts += _lengths(task, at)
    return _section(at, task.name, "\n".join(parts))


def _curves(task: TaskFindings, at: str, records: list[dict[str, Any]]) -> list[str]:
    """The loss of each step, and the first measure after each evaluation."""
    losses = [
        (float(one["step"]), value)
        for one in records
        if one.get("event") == "step" and math.isfinite(value := _inner(one, "loss", task.name))
    ]
    evaluations = [one for one in records if one.get("event") == "evaluation"]
    name = next(
        iter(next((one["scores"][task.name] for one in evaluations if task.name in one["scores"]), {})), ""
    )
    measures = {
        side: [
            (float(one["step"]), value)
            for one in evaluations
            if math.isfinite(value := _inner(one, key, task.name, name))
        ]
        for side, key in (("dev", "scores"), ("training batches", "train"))
    }
    measures = {side: curve for side, curve in measures.items() if curve}
    if not losses and not measures:
        return []
    best = [one["step"] for one in evaluations if one.get("best")]
    told = [f"The loss of {len(losses):,} batches"] if losses else []
    if measures.get("dev"):
        curve = measures["dev"]
        top = max(value for _, value in curve)
        told.append(f"{name} on dev after each of {len(curve):,} evaluations, the highest {_number(top)}")
    return [
        "<h3>Learning curves</h3>",
        _figure(
            draw_curves(losses, measures, name, best[-1] if best else None),
            f"{at}-curves",
            "; ".join(told) + ". The dotted line is the step of the best checkpoint.",
        ),
    ]


def _split(task: TaskFindings, split: SplitFindings, at: str) -> Iterator[str]:
    if split.confusion is not None:
        yield f"<h3>Label for label on {escape(split.name)}</h3>"
        yield from _confusion(task, split, split.confusion, at)
    if split.calibration is not None:
        yield f"<h3>Calibration on {escape(split.name)}</h3>"
        yield from _calibration(split.calibration, at)
    if split.wrong == 0:
        yield f"<h3>Errors on {escape(split.name)}</h3><p>None.</p>"
    elif split.worst:
        yield f"<h3>The worst errors on {escape(split.name)}</h3>"
        if split.wrong is None:
            yield '<p class="faint">Those furthest from the value.</p>'
        else:
            yield (
                f'<p class="faint">{split.wrong:,} of {split.examples:,} are not answered as they should be; first '
                "those that were answered so with the most confidence.</p>"
            )
        yield f'<ol class="errors">{"".join(map(_mistake, split.worst))}</ol>'


def _confusion(task: TaskFindings, split: SplitFindings, matrix: Confusion, at: str) -> Iterator[str]:
    if len(matrix.labels) <= _MOST_LABELS:
        title = f"{task.name} · {split.name}"
        yield _figure(
            drawn(lambda path: draw_confusion(path, _short(matrix.labels), matrix.counts, title)),
            f"{at}-confusion",
            "Confusion matrix: gold labels down, what was said across. The table below has what each label was taken "
            "for.",
        )
    right = matrix.counts.diagonal().astype(np.float64)
    of_gold, of_said = matrix.counts.sum(1), matrix.counts.sum(0)
    with np.errstate(invalid="ignore"):
        f1 = 2 * right / (of_gold + of_said)
    rows = []
    for number, label in enumerate(matrix.labels):
        others = [
            (int(count), matrix.labels[other])
            for other, count in enumerate(matrix.counts[number].tolist())
            if count and other != number
        ]
        taken = sorted(others, key=lambda one: -one[0])[:5]
        rows.append(
            [
                escape(label),
                f"{int(of_gold[number]):,}",
                f"{int(of_said[number]):,}",
                _number(float(matrix.precision[number])),
                _number(float(matrix.recall[number])),
                _number(float(f1[number])),
                ", ".join(f"{escape(name)} {count:,}" for count, name in taken),
            ]
        )
    header = ["label", "rows", "said", "precision", "recall", "F1", "taken for"]
    yield _table(f"Each label on {escape(split.name)}", header, rows, {1, 2, 3, 4, 5})


def _calibration(found: Calibration, at: str) -> Iterator[str]:
    told = f"Expected calibration error {found.before.error:.3f} as the head gives its probabilities"
    if found.after is not None and found.temperature is not None:
        told += (
            f", {found.after.error:.3f} after temperature scaling, each answer scaled by what {escape(found.fitted)} "
            f"gives. All of dev gives the temperature {found.temperature:.3f}"
        )
    total = int(found.before.counts.sum())
    yield _figure(
        draw_reliability(found.before, found.after),
        f"{at}-reliability",
        f"{told}. {total:,} {escape(found.what)} in {len(found.before.counts)} bins.",
    )
    rows = []
    for number, count in enumerate(found.before.counts.tolist()):
        if not count:
            continue
        low, high = found.before.edges[number : number + 2]
        rows.append(
            [
                f"{low:.0%} to {high:.0%}",
                f"{count:,}",
                _number(float(found.before.confidence[number])),
                _number(float(found.before.accuracy[number])),
            ]
        )
    header = ["probability", escape(found.what), "mean probability", "right"]
    yield (
        "<details><summary>The numbers of the diagram, as the head gives them</summary>"
        f"{_table('Reliability', header, rows, {1, 2, 3})}</details>"
    )


def _mistake(one: Mistake) -> str:
    texts = "".join(
        f"<dt>{escape(name)}</dt><dd>{''.join(_piece(text, mark) for text, mark in pieces)}</dd>"
        for name, pieces in one.texts
    )
    said = escape(one.said) + ("" if one.confidence is None else f" ({one.confidence:.3f})")
    return (
        f"<li><dl>{texts}<dt>gold</dt><dd>{escape(one.gold)}</dd><dt>said</dt><dd>{said}</dd></dl>"
        f'<span class="faint">{escape(one.place)}</span></li>'
    )


def _piece(text: str, mark: str | None) -> str:
    if mark is None:
        return escape(text)
    return f"<mark>{escape(text)}<small>{escape(mark)}</small></mark>"


def _lengths(task: TaskFindings, at: str) -> Iterator[str]:
    title = f"{task.name} · lengths"
    yield "<h3>Lengths of every split</h3>"
    yield _figure(
        drawn(lambda path: draw_lengths(path, task.lengths, task.max_length, title)),
        f"{at}-lengths",
        "Tokens of the texts before anything is cut; the same in numbers in the table.",
    )
    rows = []
    for name, lengths in task.lengths.items():
        if len(lengths):
            half, most = np.percentile(lengths, [50, 95])
            cut = float((lengths > task.max_length).mean())
            told = [
                f"{len(lengths):,}",
                f"{half:,.0f}",
                f"{most:,.0f}",
                f"{int(lengths.max()):,}",
                f"{cut:.1%}",
            ]
        else:
            told = ["0", "", "", "", ""]
        rows.append([escape(name), *told])
    header = ["split", "sequences", "median", "95%", "longest", "cut"]
    yield _table("Tokens", header, rows, {1, 2, 3, 4, 5})


# ---- all tasks ----


def _affinity(found: Findings) -> str:
    """The heat map, where the run measured how far the tasks' gradients agree."""
    measured = [one for one in found.records if one.get("event") == "affinity"]
    if not measured or len(measured[0]["tasks"]) < 2:
        return ""
    tasks = [str(name) for name in measured[0]["tasks"]]
    cosines = [one["cosines"] for one in measured if one["tasks"] == measured[0]["tasks"]]
    if not any(value is not None for table in cosines[0].values() for row in table for value in row):
        return ""
    header, rows = ["tasks", *map(escape, cosines[0])], []
    for i, first in enumerate(tasks):
        for j in range(i + 1, len(tasks)):
            each = [
                [one[name][i][j] for one in cosines if one[name][i][j] is not None] for name in cosines[0]
            ]
            told = [f"{float(np.mean(values)):+.2f}" if values else "" for values in each]
            rows.append([escape(f"{first} · {tasks[j]}"), *told])
    figure = _figure(
        drawn(lambda path: draw_affinity(path, tasks, cosines)),
        "affinity-map",
        f"Cosine between the tasks' gradients, layer by layer, mean of {len(cosines):,} measurements: above 0 a "
        "step for one task helps the other, below 0 it works against it.",
    )
    table = _table("The same in numbers", header, rows, set(range(1, len(header))))
    return _section("affinity", "Task affinity", figure + table)


def _again(found: Findings, version: str | None) -> str:
    start = next((one for one in found.records if one.get("event") == "start"), {})
    recipe = found.recipe
    facts: list[tuple[str, object]] = [
        ("seed", recipe.seed),
        ("precision", start.get("precision")),
        ("threads", start.get("threads")),
        ("parameters", f"{start['parameters']:,}" if isinstance(start.get("parameters"), int) else None),
        ("torch", start.get("torch")),
        ("python", start.get("python")),
        ("manyheads, of this report", version),
        ("tokenizer", found.tokenizer),
    ]
    rows = [[escape(name), escape(str(value))] for name, value in facts if value is not None]
    files = [[escape(name), f"<code>{escape(print_)}</code>"] for name, print_ in found.files]
    where = shlex.quote(str(Path(found.folder) / "recipe.yaml"))
    return _section(
        "again",
        "How to reproduce",
        f"<pre>manyheads train {escape(where)} --out {escape(shlex.quote(found.name + '-again'))}</pre>"
        '<p class="faint">The same recipe, seed, data, precision, number of threads and version of torch on the same '
        "processor give the same weights.</p>"
        + _table("The run", ["what", "value"], rows, set())
        + _table("Files of data as they are now (SHA-256)", ["file", "fingerprint"], files, set())
        + "<details><summary>The resolved recipe</summary>"
        f"<pre>{escape(recipe.dump_yaml())}</pre></details>",
    )


# ---- HTML ----


def _section(at: str, title: str, content: str) -> str:
    head = f'<h2 id="{at}-title">{escape(title)}</h2>'
    return f'<section id="{at}" aria-labelledby="{at}-title">{head}\n{content}</section>'


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], numbers: set[int]) -> str:
    """A table within a box of its own that scrolls; cells and caption are HTML, those in columns `numbers` numbers."""

    def cell(kind: str, at: int, text: str) -> str:
        tag = "th" if kind == "head" or at == 0 else "td"
        scope = {"head": ' scope="col"', "body": ' scope="row"' if at == 0 else ""}[kind]
        style = ' class="number"' if at in numbers else ""
        return f"<{tag}{scope}{style}>{text}</{tag}>"

    def line(kind: str, texts: Sequence[str]) -> str:
        return f"<tr>{''.join(cell(kind, at, text) for at, text in enumerate(texts))}</tr>"

    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table><caption>{caption}</caption>'
        f"<thead>{line('head', header)}</thead>"
        f"<tbody>{''.join(line('body', row) for row in rows)}</tbody></table></div>"
    )


def _figure(svg: str, prefix: str, caption: str) -> str:
    """A picture with what it shows in words; the caption is HTML."""
    # The picture's own text would be read out as a heap of numbers: what it says stands in the caption and the tables.
    return (
        f'<figure><div role="img" aria-labelledby="{prefix}-caption">{inlined(svg, prefix)}</div>'
        f'<figcaption id="{prefix}-caption">{caption}</figcaption></figure>'
    )


def _short(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that leave room for the picture beside them; those that are alike when cut get their numbers."""
    cut = [label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…" for label in labels]
    return tuple(one if cut.count(one) == 1 else f"{one} {number}" for number, one in enumerate(cut, start=1))


def _number(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _inner(record: dict[str, Any], *keys: str) -> float:
    """The number that lies under these keys, one within the other; NaN without one."""
    found: Any = record
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else math.nan
