"""Every answer of every file in SQuAD's JSON: characters → tokens → windows → characters, and what does not come back.

An answer's offsets become the target that a model learns, and the scores of a model that points there and nowhere else
become a prediction, by the code that training and `predict` use. Counted is where the predicted text is not the
answer's, by reason; and what exact match and F1 the official scripts give such a model, which no model can exceed but
by luck.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from side_by_side import record
from side_by_side.machine import describe, machine
from side_by_side.rows import data_folder

from manyheads.data.read import Dialect, read_rows
from manyheads.encoder.grouped import Grouped
from manyheads.encoder.tokenizer import Tokenizer
from manyheads.errors import InputError
from manyheads.formulas.metrics import squad
from manyheads.tasks.kind import Example, examples_of
from manyheads.tasks.span import Answering, SpanSettings

FILES = ("squad/*.json", "squad/*.json.gz", "chinese_mrc/*.json")
AT_ONCE = 500
SHOWN = 8  # examples of each reason that are kept in the record
LONGEST = SpanSettings().answer_length

# Why an answer does not come back, most serious first.
ELSEWHERE = "not at its offset"
WINDOWS = "cut by the windows"
UNCOVERED = "no token"
INSIDE = "begins or ends inside a token"
OUTER = "begins or ends with what is no token"
OTHER = "other"
REASONS = (ELSEWHERE, WINDOWS, UNCOVERED, INSIDE, OUTER, OTHER)


class Case(NamedTuple):
    """One answer of one question: the texts, where the tokens of its context lie, and the question's example."""

    name: str
    context: str
    text: str
    start: int
    offsets: list[tuple[int, int]]
    example: Example


def main() -> None:
    """Count, and write benchmarks/results/span_round_trip.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--tokenizer", default="minilm", help="whose vocabulary: a folder or a hub name")
    parser.add_argument("--rows", type=int, help="try it on so many questions of each file")
    options = parser.parse_args()
    told, data = machine(), data_folder(options.data)
    tokenizer = Tokenizer.from_pretrained(options.tokenizer)
    files = sorted({path for pattern in FILES for path in data.glob(pattern)})
    found = [one for path in files if (one := counted(path, data, tokenizer, options.rows)) is not None]
    settings = SpanSettings()
    record_of = {
        "machine": told,
        "tokenizer": options.tokenizer,
        "vocabulary": tokenizer.vocab_size,
        "windows": [settings.max_length, settings.stride, settings.question_length],
        "files": found,
    }
    name = "span_round_trip-partial" if options.rows else "span_round_trip"
    record.write_json(record.RESULTS / f"{name}.json", record_of)
    record.write_text(record.RESULTS / f"{name}.md", shown(record_of))


def counted(path: Path, data: Path, tokenizer: Tokenizer, most: int | None) -> dict[str, Any] | None:
    """The counts of one file; None for a file without answers."""
    file = str(path.relative_to(data))
    rows = [row.values for row in islice(read_rows(path, Dialect(format="squad")), most)]
    if not any(row.get("answers") for row in rows):
        print(f"{file}: no answers")
        return None
    # Long answers come back too: that predictions are not so long is another matter, counted by itself.
    kind = Answering(SpanSettings(answer_length=384, n_best=1), {"no_answer": False})
    chinese = path.parent.name == "chinese_mrc"
    reasons: Counter[str] = Counter()
    examples: dict[str, list[str]] = {reason: [] for reason in REASONS}
    matches: list[squad.Match] = []
    answers = long = 0
    for begin in range(0, len(rows), AT_ONCE):
        part = [row for row in rows[begin : begin + AT_ONCE] if row["answers"]]
        for case, back in returned(kind, list(cases(kind, tokenizer, part)), reasons):
            answers += 1
            long += tokens_of(case) > LONGEST
            if back == case.text:
                reasons["exact"] += 1
            else:
                reason = why(case, back)
                reasons[reason] += 1
                if len(examples[reason]) < SHOWN:
                    examples[reason].append(f"{case.name}: {case.text!r} → {back!r}")
            if case.start == first_start(part, case.name):
                golds = [one["text"] for row in part if row["id"] == case.name for one in row["answers"]]
                match = squad.cmrc_match if chinese else squad.squad_v1_match
                matches.append(match(back or "", golds))
    percents = 100 * np.array(matches).mean(0)
    print(f"{file}: {answers} answers, {dict(reasons)}", flush=True)
    return {
        "file": file,
        "questions": len(rows),
        "answers": answers + reasons[ELSEWHERE],
        "exact": reasons["exact"],
        "reasons": {reason: reasons[reason] for reason in REASONS},
        "longer": long,
        "script": "cmrc2018_evaluate" if chinese else "evaluate-v1.1",
        "exact_match": round(float(percents[0]), 3),
        "f1": round(float(percents[1]), 3),
        "examples": {reason: some for reason, some in examples.items() if some},
    }


def first_start(rows: Sequence[dict[str, Any]], name: str) -> int:
    """Where the first answer of a question says that it stands."""
    return int(next(row["answers"][0]["answer_start"] for row in rows if row["id"] == name))


def cases(kind: Answering, tokenizer: Tokenizer, rows: Sequence[dict[str, Any]]) -> Iterator[Case]:
    """Each different answer of each question."""
    inputs = [kind.input(row) for row in rows]
    layout = kind.lay(inputs, tokenizer, kind.settings.max_length)
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    offsets = dict(zip(contexts, tokenizer(contexts).offsets, strict=True))
    for row, example in zip(rows, examples_of(layout, inputs, None), strict=True):
        for text, start in dict.fromkeys((one["text"], one["answer_start"]) for one in row["answers"]):
            context = row["context"]
            yield Case(row["id"], context, text, start, offsets[context][1:-1], example)


def returned(
    kind: Answering, some: Sequence[Case], reasons: Counter[str]
) -> Iterator[tuple[Case, str | None]]:
    """Each answer with what comes back of it: None where nothing points at it."""
    standing: list[Case] = []
    targets: list[list[float]] = []
    for case in some:
        try:
            targets.append(kind.target([{"text": case.text, "answer_start": case.start}], case.example))
        except (InputError, ValueError):
            reasons[ELSEWHERE] += 1
        else:
            standing.append(case)
    if not standing:
        return
    sizes = np.concatenate([case.example.sizes for case in standing])
    windows = np.array([len(case.example.sizes) for case in standing])
    outputs = Grouped(torch.zeros(int(sizes.sum()), 2, dtype=torch.float64), sizes, windows)
    hard = torch.tensor(list(chain.from_iterable(targets)))
    outputs = outputs.with_rows(10 * kind.soft(hard, outputs))
    predictions = kind.predictions(outputs, [case.example for case in standing])
    for case, target, prediction in zip(standing, targets, predictions, strict=True):
        yield case, prediction.label if max(target) > 0 else None


def tokens_of(case: Case) -> int:
    """How many tokens hold something of the answer."""
    end = case.start + len(case.text)
    return sum(first < end and last > case.start for first, last in case.offsets)


def why(case: Case, back: str | None) -> str:
    """The reason, found from the text and the tokenizer's offsets alone."""
    end = case.start + len(case.text)
    over = [(first, last) for first, last in case.offsets if first < end and last > case.start]
    if not over:
        return UNCOVERED
    if back is None or len(back) < over[-1][1] - over[0][0]:
        return WINDOWS  # no window has it whole, or not the one that shows most around its first token
    if over[0][0] < case.start or over[-1][1] > end:
        return INSIDE
    if back in case.text:
        return OUTER
    return OTHER


def shown(told: dict[str, Any]) -> str:
    """The record as a page."""
    head = [
        "file",
        "questions",
        "answers",
        "come back exactly",
        *REASONS,
        f"over {LONGEST} tokens",
        "EM / F1",
    ]
    rows = [
        [
            one["file"],
            *(f"{one[name]:,}" for name in ("questions", "answers")),
            f"{one['exact']:,} ({100 * one['exact'] / one['answers']:.2f}%)",
            *(one["reasons"][reason] for reason in REASONS),
            one["longer"],
            f"{one['exact_match']:.2f} / {one['f1']:.2f}",
        ]
        for one in told["files"]
    ]
    longest, stride, question = told["windows"]
    total = {key: sum(one[key] for one in told["files"]) for key in ("answers", "exact")}
    of = {reason: sum(one["reasons"][reason] for one in told["files"]) for reason in REASONS}
    text = f"# Span answers: characters → tokens → characters\n\n{describe(told['machine'])}. "
    text += f"Tokenizer: {told['tokenizer']} ({told['vocabulary']:,} tokens). "
    text += f"Windows of {longest} tokens, stride {stride}, questions of at most {question}. "
    text += "Different answers of a question count once each.\n\n"
    text += record.table(head, rows)
    lost = of[UNCOVERED] + of[OTHER]
    text += (
        f"\n{total['exact']:,} of {total['answers']:,} answers come back character by character. "
        f"{of[ELSEWHERE]:,} do not stand at their offset in the file (CMRC's); {of[INSIDE]:,} begin or end inside a "
        f"token of the vocabulary, {of[OUTER]:,} with characters of which the tokenizer makes none; windows cut "
        f"{of[WINDOWS]:,} (answers of {stride} tokens and more), and {lost:,} are lost otherwise.\n\n"
        "**EM / F1** is what the official script (CMRC's for `chinese_mrc`) gives a model that always points at the "
        "question's first answer, where that stands at its offset. "
        f"Answers over {LONGEST} tokens come back here, but are never predicted with `answer_length` at its default.\n"
    )
    return text


if __name__ == "__main__":
    main()
