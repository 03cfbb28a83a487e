"""A run's README: what it is, what it learnt from, how good it is, what it cannot do, how it is used and made again.

Knows the files of a finished run and Markdown. Must not know how a run is trained; the model is never loaded. What is
not written in the run is not said: no language, licence or purpose is guessed, and no place on a machine is named.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from manyheads.data.encode import file_fingerprint
from manyheads.encoder.sources import PACKAGED, PACKAGED_TWIN, looks_like_a_path
from manyheads.errors import InputError
from manyheads.evidence.interval import interval
from manyheads.evidence.outcome import Outcome, records
from manyheads.files import write_text
from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.tasks.documents import DocumentKind

__all__ = ["card", "write_card"]

# What the packaged encoder was trained on by those who made it (its own card says so), by words that the names of data
# files have for it. Scores on the same questions and sentences flatter.
SEEN: Mapping[str, str] = {
    "quora": "Quora's question pairs",
    "qqp": "Quora's question pairs",
    "snli": "SNLI and MultiNLI",
    "mnli": "SNLI and MultiNLI",
    "squad": "SQuAD 2.0",
}
_DIGITS = 16  # of a fingerprint that are shown


def write_card(run: Run, version: str | None = None) -> Path:
    """Write `README.md` into the run's folder, and say where it is; otherwise as `card`."""
    path = run.folder / "README.md"
    write_text(path, card(run, version))
    return path


def card(run: Run, version: str | None = None) -> str:
    """The card of a finished run as Markdown, with what hubs of models read in front as YAML.

    `version` is that of the package, which the card names. InputError where the run has no scores or model yet.
    """
    outcome = Outcome.open(run.folder)
    recipe = run.recipe
    told = _described(run.model_folder / "heads.json")
    shape = _described(run.model_folder / "config.json")
    log = list(records(run.folder))
    start = next(
        (one for one in reversed(log) if one.get("event") == "start" and "rows" in one), dict[str, Any]()
    )
    end = next((one for one in reversed(log) if one.get("event") == "end"), dict[str, Any]())
    parts = [
        _front(recipe, outcome),
        f"# {_plain(recipe.name)}\n",
        _what(recipe, shape, start),
        "## Tasks\n",
        _tasks(recipe, told),
        "## Data\n",
        _data(recipe, start),
        "## Scores\n",
        _scores(recipe, outcome),
        "## Probabilities\n",
        _calibration(recipe, told),
        "## Limits\n",
        _limits(recipe, told, start),
        "## How to use it\n",
        _use(recipe, outcome),
        "## How it was made\n",
        _again(recipe, start, end, version),
    ]
    return "\n".join(parts)


def _described(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file; the run has no model", file=path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as JSON ({str(error).splitlines()[0]})", file=path) from None
    if not isinstance(found, dict):
        raise InputError("expected an object", file=path)
    return found


# ---- the parts ----


def _front(recipe: Recipe, outcome: Outcome) -> str:
    """What hubs read: only what follows from the run."""
    firsts = [
        first[0] for split in outcome.splits for task in recipe.tasks if (first := outcome.first(task, split))
    ]
    kinds = [section.kind for section in recipe.tasks.values()]
    base = recipe.encoder.from_
    front: dict[str, Any] = {"library_name": "manyheads"}
    if base == PACKAGED:
        front |= {"language": ["en"], "base_model": PACKAGED_TWIN}
    elif base is not None and not looks_like_a_path(str(base)) and "/" in str(base):
        front["base_model"] = str(base)
    front["tags"] = list(dict.fromkeys(["manyheads", "bert", *kinds]))
    front["metrics"] = list(dict.fromkeys(firsts))
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n"


def _what(recipe: Recipe, shape: Mapping[str, Any], start: Mapping[str, Any]) -> str:
    count = len(recipe.tasks)
    heads = f"{count} heads, which all read the same pass of it" if count > 1 else "one head"
    size = start.get("parameters")
    told = f" {size:,} parameters in all." if isinstance(size, int) else ""
    return (
        f"A BERT encoder with {heads}, trained with manyheads. {_begin(recipe)} It has "
        f"{shape['num_hidden_layers']} layers of width {shape['hidden_size']} and a vocabulary of "
        f"{shape['vocab_size']:,} pieces, and reads at most {shape['max_position_embeddings']:,} tokens at "
        f"once.{told}\n"
    )


def _begin(recipe: Recipe) -> str:
    """Where the encoder's weights came from."""
    base = recipe.encoder.from_
    frozen = " It was not changed: the heads alone were trained." if recipe.encoder.freeze else ""
    if base is None:
        return f"The encoder began with random weights.{frozen}"
    if base == PACKAGED:
        return f"The encoder began as `{PACKAGED_TWIN}`.{frozen}"
    return f"The encoder began as the checkpoint `{_name(base)}`.{frozen}"


def _tasks(recipe: Recipe, told: Mapping[str, Any]) -> str:
    rows = []
    for name, section in recipe.tasks.items():
        labels = told["tasks"][name]["facts"].get("labels") or ()
        rows.append([_code(name), section.kind, _reads(section), _labels(labels)])
    return _table(["task", "kind", "reads", "labels, in their order"], rows)


def _reads(section: Any) -> str:
    settings = section.model_dump()
    pair, text = settings.get("pair"), settings.get("text")
    cleaned = f", cleaned first (`{settings['clean']}`)" if settings.get("clean") else ""
    if pair:
        return f"a pair: {_code(pair[0])}, {_code(pair[1])}{cleaned}"
    return (f"a text: {_code(text)}" if isinstance(text, str) else "what its kind reads") + cleaned


def _labels(labels: Sequence[str]) -> str:
    shown = ", ".join(_code(label) for label in labels[:20])
    return f"{shown} … ({len(labels):,} in all)" if len(labels) > 20 else shown


def _data(recipe: Recipe, start: Mapping[str, Any]) -> str:
    counts = start.get("rows", {})
    rows = []
    for name, section in recipe.tasks.items():
        for split in [
            *section.split_names,
            *(one for one in counts.get(name, {}) if one not in section.split_names),
        ]:
            number = counts.get(name, {}).get(split)
            rows.append(
                [
                    _code(name),
                    split,
                    "" if number is None else f"{number:,}",
                    "; ".join(_sources(recipe, section, split)),
                ]
            )
    return (
        _table(["task", "split", "rows", "files, with the first digits of their SHA-256"], rows)
        + "\nThe model was trained on `train`. The checkpoint, the temperature and, where there is one, a threshold "
        "were chosen on `dev`.\n"
    )


def _sources(recipe: Recipe, section: Any, split: str) -> Iterator[str]:
    if section.read_with is not None:
        yield f"those of {_code(section.read_with)}"
    elif section.hub is not None:
        yield f"{_code(section.hub.path)} of the hub of data sets"
    elif split not in (section.files or {}):
        yield "held out of the training rows"
    for path in (section.files or {}).get(split, ()):
        whole = Path(recipe.data or ".") / path
        try:
            yield f"{_code(_name(path))} {file_fingerprint(whole)[:_DIGITS] if whole.is_file() else ''}".strip()
        except InputError:
            yield _code(_name(path))


def _scores(recipe: Recipe, outcome: Outcome) -> str:
    rows = []
    for name in recipe.tasks:
        for split in outcome.splits:
            found = outcome.scores(split).get(name)
            if not found:
                continue
            (first, value), *others = found.items()
            ends = interval(outcome, name, split)
            count = len(outcome.tallies(name, split)) if outcome.has_tallies(name, split) else None
            rows.append(
                [
                    _code(name),
                    split,
                    "" if count is None else f"{count:,}",
                    first,
                    _number(value),
                    "" if ends is None else f"{_number(ends[0])} to {_number(ends[1])}",
                    ", ".join(f"{other} {_number(one)}" for other, one in others),
                ]
            )
    if not rows:
        return "No split has labels to be scored by.\n"
    return (
        _table(["task", "split", "examples", "measure", "score", "95% interval", "other measures"], rows)
        + "\nThe interval is the middle 95% over bootstrap samples of the split: what other examples of the same kind "
        "would give. It knows nothing of other seeds. What was chosen on dev flatters dev a little.\n"
    )


def _calibration(recipe: Recipe, told: Mapping[str, Any]) -> str:
    found = {
        name: float(told["tasks"][name]["facts"]["temperature"])
        for name in recipe.tasks
        if "temperature" in told["tasks"][name]["facts"]
    }
    if not found:
        return "Probabilities are those of the heads as they were trained; no temperature was fitted.\n"
    each = ", ".join(f"{_code(name)} {value:.3f}" for name, value in found.items())
    rest = " Those of other tasks are as the heads give them." if len(found) < len(recipe.tasks) else ""
    return (
        f"Probabilities are calibrated: scores are divided by a temperature that was fitted on dev ({each}; above 1 "
        f"the head was too sure). `--raw` leaves it out.{rest} `manyheads report .` draws how often what is said with "
        "a probability comes true.\n"
    )


def _limits(recipe: Recipe, told: Mapping[str, Any], start: Mapping[str, Any]) -> str:
    found = []
    for name in recipe.tasks:
        length = told["tasks"][name]["max_length"]
        trained = start.get("rows", {}).get(name, {}).get("train")
        cut = start.get("truncated", {}).get(name)
        share = ""
        if isinstance(trained, int) and isinstance(cut, int) and trained:
            share = (
                f"; {cut / trained:.1%} of the training rows were"
                if cut
                else "; none of the training rows was"
            )
        found.append(
            f"{_code(name)} reads {length:,} tokens; what is longer is cut, and the answer says so{share}."
        )
    if recipe.encoder.from_ == PACKAGED:
        found.append("The encoder was made for English.")
        for name, section in recipe.tasks.items():
            if seen := sorted(set(_seen(section))):
                found.append(
                    f"By their names the files of {_code(name)} come from {' and '.join(seen)}. "
                    f"`{PACKAGED_TWIN}` was trained on these by its makers, so its scores here flatter."
                )
    else:
        found.append(
            "The languages it reads are those of its data and of the checkpoint; the run does not say which."
        )
    found.append(
        "It was measured on the splits above and on nothing else: other texts may be answered worse."
    )
    return "".join(f"- {one}\n" for one in found)


def _seen(section: Any) -> Iterator[str]:
    """What of the data the packaged encoder has seen before, as far as the names tell."""
    names = [str(path) for paths in (section.files or {}).values() for path in paths]
    names += [section.hub.path, section.hub.name or ""] if section.hub is not None else []
    for name in names:
        words = re.split(r"[^a-z0-9.]+|(?<=[a-z])(?=[0-9])", name.lower())
        yield from (what for word, what in SEEN.items() if any(one.split(".")[0] == word for one in words))


def _use(recipe: Recipe, outcome: Outcome) -> str:
    """Commands and Python, for this folder and a task that people can ask."""
    askable = [name for name in recipe.tasks if not isinstance(outcome.kind(name), DocumentKind)]
    texts = {name: outcome.kind(name).reads for name in askable}
    parts = ["In the folder of this file, with `pip install manyheads`:\n"]
    commands = []
    if 1 in texts.values():
        commands.append('manyheads ask . "a text"')
    if 2 in texts.values():
        commands.append('manyheads ask . "a text" "a second one"')
    commands += ["manyheads serve .", "manyheads report ."]
    parts.append("```sh\n" + "\n".join(commands) + "\n```\n")
    lines = ["import manyheads as mh", "", 'model = mh.load(".")']
    given = {1: '["a text", "another"]', 2: '[("a text", "a second one")]'}
    shown = {reads: name for name, reads in reversed(texts.items())}
    lines += [
        f"model.predict({json.dumps(shown[reads])}, {given[reads]})" for reads in (1, 2) if reads in shown
    ]
    if list(texts.values()).count(1) > 1:
        lines.append('model.analyze(["a text"])  # every head that reads a text, in one pass')
    lines.append('model.embed(["a text"])')
    parts.append("```python\n" + "\n".join(lines) + "\n```\n")
    return "\n".join(parts)


def _again(recipe: Recipe, start: Mapping[str, Any], end: Mapping[str, Any], version: str | None) -> str:
    facts: list[tuple[str, object]] = [
        ("seed", recipe.seed),
        ("steps", _steps(end)),
        ("precision", start.get("precision")),
        ("threads", start.get("threads")),
        ("torch", start.get("torch")),
        ("python", start.get("python")),
        ("manyheads", version),
    ]
    rows = [[name, str(value)] for name, value in facts if value is not None]
    return (
        "```sh\nmanyheads train recipe.yaml --out again\n```\n\n"
        "`recipe.yaml` is the whole recipe, defaults included; `--set data=FOLDER` says where the files above are. "
        "The same recipe, seed, data, precision, number of threads and version of torch on the same processor give the "
        f"same weights. `log.jsonl` has every step.\n\n{_table(['what', 'value'], rows)}"
    )


def _steps(end: Mapping[str, Any]) -> str | None:
    step, best = end.get("step"), end.get("best_step")
    if not isinstance(step, int):
        return None
    return f"{step:,}, the best after {best:,}" if isinstance(best, int) and best != step else f"{step:,}"


# ---- Markdown ----


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _name(path: object) -> str:
    """A path as it may be told: of one that begins at a root or leaves its folder, the last part alone."""
    pure = PurePath(str(path))
    told = pure.as_posix()
    outside = pure.is_absolute() or told.startswith(("~", "..")) or "\\" in told or ":" in told
    return told.replace("\\", "/").rstrip("/").rpartition("/")[2] if outside else told


def _plain(text: str) -> str:
    """A text in which nothing means anything to Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    """A name as code, within a table too; what would end it is told in another way."""
    flat = " ".join(str(text).split()) or " "
    if "`" in flat or "|" in flat:
        return _plain(flat)
    return f"`{flat}`"


def _number(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
