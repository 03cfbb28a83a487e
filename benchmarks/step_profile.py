"""Where the time of a training step and of an inference batch goes, with the native kernels and without them.

No claim, a picture: torch's profiler over some steps of `manyheads.train` (minilm on SST-5) and over some batches of
sentences that become vectors. A kernel of ours counts as one operation, an operation belongs to the innermost of the
ranges below that it runs in, and what no operation accounts for is Python (and the profiler itself, which makes many
small operations look dearer than they are).

    python benchmarks/step_profile.py
    python benchmarks/step_profile.py --steps 4        # does it run at all?
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from side_by_side import command, record
from side_by_side.machine import describe, machine
from side_by_side.models import SIZES, model_folder
from side_by_side.rounds import ENVIRONMENT, interleaved
from side_by_side.rows import data_folder, read_table

CONTENDERS = {
    "native": "with the kernels",
    "layers": "with them, but layer by layer where no gradients are asked for",
    "torch": "without them",
}
GROUPS = (
    "all layers in one call",
    "products",
    "attention",
    "elementwise",
    "optimiser",
    "Python, tokenising and the rest",
)
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul", "addbmm", "dot", "mv")
BATCH, MAX_LENGTH, WARM_UP = 32, 128, 20
READ = 512
"""Sentences of a call that turns them into vectors."""


def group_of(name: str, within: list[str]) -> str:
    """The group of an operation called `name` inside the ranges `within`, innermost first."""
    for outer in [name, *within]:
        if outer.startswith("optimiser"):
            return "optimiser"
        if outer == "native::forward":
            return GROUPS[0]
        if "attention" in outer or "Attention" in outer:
            return "attention"
    plain = name.rpartition("::")[2].strip("_")
    if plain in PRODUCTS or "linear" in plain:
        return "products"
    return "elementwise"


def shares(events: Any, wall: float) -> tuple[dict[str, float], list[tuple[str, str, float]]]:
    """Each group's share of `wall` microseconds, and the dearest operations: (name, group, share)."""
    spent: Counter[str] = Counter()
    each: Counter[tuple[str, str]] = Counter()
    for event in events:
        within, parent = [], event.cpu_parent
        while parent is not None:
            within.append(parent.name)
            parent = parent.cpu_parent
        if event.name in ("optimiser", "attention"):
            continue  # a range: what is not an operation in it is Python
        group = group_of(event.name, within)
        spent[group] += event.self_cpu_time_total
        each[event.name, group] += event.self_cpu_time_total
    found = {group: spent[group] / wall for group in GROUPS[:-1]}
    found[GROUPS[-1]] = 1 - sum(found.values())
    return found, [(name, group, taken / wall) for (name, group), taken in each.most_common(12)]


@contextmanager
def named() -> Iterator[None]:
    """The kernels, the optimiser and torch's way through attention as ranges that the profiler sees."""
    import torch

    from manyheads.encoder import attention
    from manyheads.formulas import optim
    from manyheads.native.library import Library

    function = Library.function

    def wrapped(self: Library, name: str, *arguments: Any) -> Callable[..., None]:
        run = function(self, name, *arguments)

        def call(*values: Any) -> None:
            with torch.profiler.record_function(name.replace("mh_", "native::")):
                run(*values)

        return call

    def ranged(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **named: Any) -> Any:
            with torch.profiler.record_function(name):
                return run(*values, **named)

        return call

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Library, "function", wrapped))
        stack.enter_context(mock.patch.object(optim, "clip_", ranged("optimiser", optim.clip_)))
        for kind in (torch.optim.AdamW, optim.NativeAdamW):
            stack.enter_context(mock.patch.object(kind, "step", ranged("optimiser", kind.step)))
        stack.enter_context(mock.patch.object(attention, "attend", ranged("attention", attention.attend)))
        yield


def profiled(run: Callable[[], None]) -> dict[str, Any]:
    """What `run` spends, by group."""
    import torch

    with named(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        began = time.perf_counter()
        run()
        wall = 1e6 * (time.perf_counter() - began)
    found, dearest = shares(seen.events(), wall)
    return {"milliseconds": wall / 1e3, "shares": found, "dearest": dearest}


def training(options: argparse.Namespace) -> dict[str, Any]:
    """`--steps` steps of a training after `WARM_UP` others, profiled, and as many before them, only timed."""
    import torch

    import manyheads as mh
    from manyheads.data.encode import TokenCache
    from manyheads.training.journal import Journal

    recipe = mh.Recipe.parse(
        {
            "name": "step-profile",
            "seed": 11711,
            "encoder": {"from": str(options.model)},
            "tasks": {
                "sst": {
                    "kind": "classification",
                    "files": {"train": [str(options.train)], "dev": [str(options.dev)]},
                    "text": "sentence",
                    "label": "label",
                    "max_length": MAX_LENGTH,
                }
            },
            "schedule": {"steps": WARM_UP + 2 * options.steps, "batch_size": BATCH},
            "optimizer": {"lr": 5e-5},
        }
    )
    step, profile, clock = Journal.step, torch.profiler.profile(), {0: 0.0}
    ranges, taken = ExitStack(), [0]

    def step_and_look(journal: Journal, *positional: Any, **keyed: Any) -> None:
        step(journal, *positional, **keyed)
        taken[0] += 1
        if taken[0] == WARM_UP + options.steps:
            clock[1] = time.perf_counter()
            ranges.enter_context(named())
            profile.start()
            clock[2] = time.perf_counter()
        elif taken[0] == WARM_UP + 2 * options.steps:
            clock[3] = time.perf_counter()
            profile.stop()
            ranges.close()
        elif taken[0] == WARM_UP:
            clock[0] = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Journal, "step", step_and_look):
        mh.train(recipe, out=Path(folder) / "run", quiet=True, cache=TokenCache(Path(folder) / "cache"))
    events: Any = profile.events()  # type: ignore[no-untyped-call]
    found, dearest = shares(events, 1e6 * (clock[3] - clock[2]))
    return {
        "plain_milliseconds": 1e3 * (clock[1] - clock[0]) / options.steps,
        "milliseconds": 1e3 * (clock[3] - clock[2]) / options.steps,
        "shares": found,
        "dearest": dearest,
    }


def reading(options: argparse.Namespace) -> dict[str, Any]:
    """`--steps` calls that turn sentences into vectors, from strings on."""
    from side_by_side.embedders import embedder

    texts = [row["sentence"] for row in read_table(options.train, ["sentence"])][:READ]
    embed = embedder("manyheads", options.model, options.model, 0, MAX_LENGTH)

    def run() -> None:
        for _ in range(options.steps):
            embed(texts)

    run()
    began = time.perf_counter()
    run()
    plain = 1e3 * (time.perf_counter() - began)
    found = profiled(run)
    return {
        **found,
        "plain_milliseconds": plain / options.steps,
        "milliseconds": found["milliseconds"] / options.steps,
    }


def contend(options: argparse.Namespace) -> None:
    """What one process does."""
    if options.contender == "torch":
        os.environ["MANYHEADS_NATIVE"] = "off"
    if options.contender == "layers":
        from manyheads.native import forward

        forward.able = lambda library: False
    answer: dict[str, Any] = {"training": training(options), "inference": reading(options)}
    answer["ms a step"] = answer["training"]["plain_milliseconds"]
    options.answer.write_text(json.dumps(answer), encoding="utf-8")


def compare(options: argparse.Namespace) -> None:
    """Both contenders, the record and the table."""
    data, about = data_folder(options.data), machine()
    files = {"train": data / "sst5/sst5-train.tsv", "dev": data / "sst5/sst5-dev.tsv"}
    with tempfile.TemporaryDirectory(prefix="model-") as folder:
        arguments = [
            "--train",
            str(files["train"]),
            "--dev",
            str(files["dev"]),
            "--steps",
            str(options.steps),
        ]
        model = model_folder(options.size, Path(folder) / options.size)
        arguments += ["--model", str(model)]
        (found,) = interleaved(Path(__file__), list(CONTENDERS), 1, arguments, "ms a step")
    partial = options.steps < STEPS
    name = "step_profile" + ("" if options.size == "minilm" else f"_{options.size}")
    name += "-partial" if partial else ""
    record.write_json(
        options.results / f"{name}.json",
        {
            "benchmark": "step_profile",
            "size": options.size,
            "steps": options.steps,
            "environment": ENVIRONMENT,
            "machine": about,
            "found": found,
        },
    )
    text = ""
    for what, title in {
        "training": f"A training step, {BATCH} sentences",
        "inference": f"Vectors of {READ} sentences, from strings on",
    }.items():
        rows = [
            [CONTENDERS[one], f"{answer[what]['plain_milliseconds']:.1f}"]
            + [f"{answer[what]['shares'][group]:.1%}" for group in GROUPS]
            for one, answer in found.items()
        ]
        text += f"## {title}\n\n" + record.table(["", "ms, not profiled", *GROUPS], rows) + "\n"
        for one, answer in found.items():
            dearest = ", ".join(f"{name} {share:.1%}" for name, _, share in answer[what]["dearest"])
            text += f"Dearest {CONTENDERS[one]}: {dearest}.\n\n"
    layers, hidden = SIZES[options.size]
    record.write_text(
        options.results / f"{name}.md",
        f"# Where the time goes: {options.size} ({layers} × {hidden}) on SST-5\n\n"
        f"{'A partial run: not a result. ' if partial else ''}Shares of the wall time of {options.steps} profiled "
        f"steps or calls.\n\n{text}{describe(about)}.\n",
    )


STEPS = 40


def options() -> argparse.Namespace:
    """The command line; `--contender` is how the script calls itself."""
    parser = command.arguments(__doc__, rounds=None, hidden=("--model", "--train", "--dev"))
    parser.add_argument("--size", choices=SIZES, default="minilm")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    command.run(options(), contend, compare)
