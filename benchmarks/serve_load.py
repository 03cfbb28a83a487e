"""Claim: at 64 clients the server answers at least 5 × the requests of a plain FastAPI server in half the memory.

Three tasks (a label of a text, a label of a pair, a number for a pair), one text or pair a request, texts of SST-5,
Quora, STS and CFIMDB of 3 to 128 tokens, all over loopback. The peer is what one writes in an afternoon: FastAPI and
transformers, one fine-tuned model for each task, each request a forward of its own, in float32; and the same in its
best setting (number format, threads, framework's threads or none), which is tried out first. Both sides have the same
weights: ours one run with three heads, theirs `manyheads export --to hf` of it, an encoder with a head for each task.
So their answers are compared with those of the model out of the server, label for label, and the work is the same.

Measured at 1, 8 and 64 clients that ask again as soon as they are answered: requests a second, p50, p95 and p99 of
the time to an answer, processor seconds of the server a request, memory (PSS). And `all three`: who has a pair wants
all of the three answers, which takes the peer three calls and ours two (`/v1/analyze` reads a pair with both heads).
Counted is what the client sees. It is one process without threads that parses nothing meanwhile; its share of a
processor is in the record.

`--overload` offers ten times the requests that the server can answer: none may get lost, what is not answered must be
429 with Retry-After, and memory must not grow.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import command, record
from side_by_side.machine import describe, machine
from side_by_side.rounds import interleaved, median, ratio
from side_by_side.rows import data_folder, drawn, read_table
from side_by_side.served import Served, asked

CONTENDERS = {
    "plain": "FastAPI + transformers, a model a task, float32",
    "plain_best": "the same in its best setting",
    "manyheads": "manyheads serve, defaults (bf16 where the processor has it)",
}
CLIENTS = (1, 8, 64)
LENGTH = 128
TASKS = ("sentiment", "questions", "similarity")
SETTINGS = [
    {"precision": precision, "threads": threads, "way": way}
    for precision in ("float32", "bf16")
    for threads in (1, 2)
    for way in ("async", "pool")
]
PLAIN = {"precision": "float32", "threads": 0, "way": "pool"}  # as the framework's documentation has it
# How near two labels' probabilities, or a number and its like, may lie to be taken for each other: products in
# bfloat16 are rounded another way in another batch.
NEAR = {"float32": (0.002, 0.005), "bf16": (0.08, 0.25)}
HOLDS_BACK = 0.10  # of its memory: what a server under too much load may grow
OVERLOAD = {"inputs": 32, "times": 10, "connections": 200}


# ---- the same model for both, texts, and what they should be answered ----


def prepare(options: argparse.Namespace) -> None:
    """Train the run (a minute), write it for transformers, draw the texts, and keep what the model says of them."""
    from importlib.resources import as_file, files

    import manyheads as mh
    from manyheads.export import hf

    folder = options.prepared
    texts = {"pooling": "pooled", "max_length": LENGTH}
    named = {
        "sentiment": {
            "kind": "classification",
            "text": "sentence",
            "label": "label",
            "labels": list("01234"),
        },
        "questions": {
            "kind": "classification",
            "pair": ["question1", "question2"],
            "label": "duplicate",
            "labels": ["0", "1"],
        },
        "similarity": {"kind": "regression", "pair": ["sentence1", "sentence2"], "label": "similarity"},
    }
    with as_file(files("manyheads.data") / "samples") as samples:
        sections = {
            name: section | texts | {"files": {split: [f"{name}-{split}.tsv"] for split in ("train", "dev")}}
            for name, section in named.items()
        }
        recipe = mh.Recipe.parse(
            {
                "name": "serve-load",
                "encoder": {"from": options.model},
                "data": str(samples),
                "tasks": sections,
                "optimizer": {"name": "adamw", "lr": 1e-4, "head_lr": 1e-3},
                "schedule": {"epochs": 1 if options.quick else 4, "batch_size": 16},
            }
        )
        run = mh.train(recipe, out=folder / "run", quiet=True)
    hf.write(run.model("float32"), folder / "hf")
    inputs = _inputs(options.data)
    requests = [(task, i) for task in TASKS for i in range(len(inputs[task]))]
    random.Random(0).shuffle(requests)
    expected: dict[str, Any] = {}
    for precision in ("float32", "auto"):
        model = run.model(precision)
        said = {task: model.predict(task, inputs[task], raw=True) for task in TASKS}
        expected[precision] = {
            task: [[one.label, one.value, sorted((one.probabilities or {}).items())] for one in said[task]]
            for task in TASKS
        }
    tokens = {}
    for task in TASKS:
        kind = model.task(task).kind
        given = [kind.input(kind.given(one)) for one in inputs[task]]
        tokens[task] = kind.lay(given, model.tokenizer, LENGTH).lengths.tolist()
    about = {
        task: f"{min(each)} to {max(each)} tokens, median {statistics.median(each):.0f}"
        for task, each in tokens.items()
    }
    told = {"inputs": inputs, "requests": requests, "expected": expected, "tokens": about}
    (folder / "asked.json").write_text(json.dumps(told), encoding="utf-8")


def _inputs(data: Path) -> dict[str, list[Any]]:
    """160 texts or pairs for each task, one text in eight a review of a film."""
    sst = read_table(data / "sst5/sst5-dev.tsv", ["sentence"])
    reviews = read_table(data / "cfimdb/ids-cfimdb-dev.csv", ["sentence"])
    texts = [row["sentence"].strip() for row in drawn(sst, 140) + drawn(reviews, 20)]
    pairs = {
        "questions": read_table(data / "quora/quora-dev.csv", ["sentence1", "sentence2"]),
        "similarity": read_table(data / "stsb/sts-dev.csv", ["sentence1", "sentence2"]),
    }
    both = {
        task: [[row["sentence1"], row["sentence2"]] for row in drawn(rows, 160)]
        for task, rows in pairs.items()
    }
    return {"sentiment": texts, **both}


class Asked:
    """What was prepared: inputs, the order of requests, and the model's own answers."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.inputs: dict[str, list[Any]] = told["inputs"]
        self.requests: list[tuple[str, int]] = told["requests"]
        self.expected: dict[str, dict[str, list[Any]]] = told["expected"]
        self.tokens: dict[str, str] = told["tokens"]

    def command(self, contender: str, setting: dict[str, Any]) -> list[str]:
        """How the contender's server is started."""
        if contender == "manyheads":
            return [sys.executable, "-m", "manyheads", "serve", str(self.folder / "run"), "--port", "0", "-q"]
        script = Path(__file__).with_name("side_by_side") / "plain_server.py"
        told = [f"--{name}={value}" for name, value in setting.items()]
        return [
            sys.executable,
            str(script),
            *(f"{task}={self.folder / 'hf' / task}" for task in TASKS),
            *told,
        ]

    def mixed(self, contender: str) -> list[list[tuple[str, str]]]:
        """One task, one text or pair a request."""
        return [[_call(contender, task, [self.inputs[task][i]])] for task, i in self.requests]

    def all_three(self, contender: str) -> list[list[tuple[str, str]]]:
        """Pairs of which all three answers are wanted, the label of a text for the first of the two."""
        turns = []
        for a, b in self.inputs["questions"]:
            first = _call(contender, "sentiment", [a])
            if contender == "manyheads":
                turns.append([first, ("/v1/analyze", json.dumps({"texts": [[a, b]]}))])
            else:
                turns.append([first, *(_call(contender, task, [[a, b]]) for task in TASKS[1:])])
        return turns

    def compared(self, answers: dict[str, list[str]], precision: str) -> dict[str, Any]:
        """How the answers to `mixed` agree with the model's own; SystemExit for one that is another answer."""
        own = self.expected["float32" if precision == "float32" else "auto"]
        margin, apart = NEAR[precision]
        other, furthest = 0, 0.0
        for number, (body,) in answers.items():
            task, i = self.requests[int(number)]
            (said,) = json.loads(body)["predictions"]
            label, value, probabilities = own[task][i]
            if label is None:
                furthest = max(furthest, abs(said["value"] - value))
            elif said["label"] != label:
                other += 1
                chances = dict(probabilities)
                if chances[label] - chances[said["label"]] > margin:
                    raise SystemExit(
                        f"error: {task} {i}: {said['label']!r} is said, expected {label!r}: {chances}"
                    )
        if furthest > apart:
            raise SystemExit(f"error: a value is {furthest:.3f} from what the model says, more than {apart}")
        return {"answers": len(answers), "other_labels_of_a_near_tie": other, "furthest_value": furthest}


def _call(contender: str, task: str, inputs: list[Any]) -> tuple[str, str]:
    if contender == "manyheads":
        return "/v1/predict", json.dumps({"task": task, "inputs": inputs})
    return f"/{task}", json.dumps({"inputs": inputs})


# ---- one contender ----


def contend(options: argparse.Namespace) -> None:
    """What the process of one contender does: start its server, ask, end it."""
    given = Asked(options.prepared)
    name = options.contender
    setting = json.loads(options.best) if name == "plain_best" else PLAIN
    found: dict[str, Any] = {"setting": setting if name != "manyheads" else {}}
    with Served(given.command(name, setting)) as served:
        for what, requests in (("mixed", given.mixed(name)), ("all_three", given.all_three(name))):
            for clients in CLIENTS:
                job = {
                    "requests": requests,
                    "clients": clients,
                    "seconds": options.seconds,
                    "warm": options.warm,
                }
                said = asked(served, job)
                _all_answered(said, name)
                if not said["latencies"]:
                    raise SystemExit(
                        f"error: {name} took longer than {options.seconds:g} s; give more --seconds"
                    )
                at = f"{what}_{clients}"
                found[f"{at}_per_s"] = said["turns"] / said["seconds"]
                found |= {f"{at}_p{p}_ms": 1e3 * _percentile(said["latencies"], p) for p in (50, 95, 99)}
                everything = sum(said["statuses"].values()) / len(requests[0])
                found[f"{at}_server_cpu_ms"] = 1e3 * said["server_cpu"] / everything
                found[f"{at}_client_cpu_share"] = said["cpu"] / said["seconds"]
                if what == "mixed":
                    precision = "float32" if found["setting"].get("precision") == "float32" else "bf16"
                    found[f"{at}_agreement"] = given.compared(said["answers"], precision)
        found["memory_mib"] = served.memory / 2**20
        found["greatest_memory_mib"] = max([served.memory, *served.samples]) / 2**20
    options.answer.write_text(json.dumps(found), encoding="utf-8")


def _all_answered(said: dict[str, Any], name: str) -> None:
    if set(said["statuses"]) != {"200"} or said["broken"]:
        raise SystemExit(f"error: {name} answered {said['statuses']}, {said['broken']} connections broke")


def _percentile(seconds: list[float], p: int) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]


def best_setting(given: Asked, options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The peer's setting with the most requests a second at 64 clients, and what each gave."""
    tried = []
    for setting in SETTINGS[-2:] if options.quick else SETTINGS:
        with Served(given.command("plain_best", setting)) as served:
            job = {"requests": given.mixed("plain_best"), "clients": CLIENTS[-1], "warm": 1.0}
            said = asked(served, {**job, "seconds": max(2.0, options.seconds / 2)})
            _all_answered(said, "plain_best")
            tried.append({**setting, "per_s": said["turns"] / said["seconds"]})
            print(
                f"tried {' '.join(f'{k}={v}' for k, v in setting.items())}: {tried[-1]['per_s']:.0f}/s",
                flush=True,
            )
    best = max(tried, key=lambda one: float(one["per_s"]))
    return {key: value for key, value in best.items() if key != "per_s"}, tried


# ---- too much ----


def overload(options: argparse.Namespace, given: Asked) -> dict[str, Any]:
    """Ten times of what the server can answer; SystemExit where a request is lost, or memory grows."""
    count, times, connections = (OVERLOAD[name] for name in ("inputs", "times", "connections"))
    chance = random.Random(1)
    requests = [
        [_call("manyheads", task, chance.choices(given.inputs[task], k=count))]
        for task in TASKS
        for _ in range(20)
    ]
    command = [*given.command("manyheads", {}), "--timeout", "10"]
    with Served(command) as served:
        job = {"requests": requests, "clients": 16, "seconds": options.seconds, "warm": options.warm}
        capacity = asked(served, job)
        _all_answered(capacity, "manyheads")
        able = capacity["turns"] / capacity["seconds"]
        served.samples.clear()
        too_much = {**job, "clients": connections, "rate": times * able, "seconds": 4 * options.seconds}
        said = asked(served, too_much)
        memory = [size / 2**20 for size in served.samples]
        after = asked(served, {**job, "seconds": 1.0})
        _all_answered(after, "manyheads")
    statuses = {int(status): number for status, number in said["statuses"].items()}
    answered, refused = statuses.get(200, 0), statuses.get(429, 0)
    quarter = max(1, len(memory) // 4)
    early, late = statistics.median(memory[quarter : 2 * quarter]), statistics.median(memory[-quarter:])
    found = {
        "inputs_a_request": count,
        "capacity_per_s": able,
        "offered_per_s": said["offered"] / (said["seconds"] + options.warm),
        "offered": said["offered"],
        "no_connection_was_free": said["unsent"],
        "statuses": said["statuses"],
        "answered_per_s": said["turns"] / said["seconds"],
        "p99_s": _percentile(said["latencies"], 99),
        "least_retry_after_s": said["retry_after"],
        "connections_without_an_answer": said["broken"],
        "memory_mib": {"second_quarter": early, "last_quarter": late, "greatest": max(memory)},
        "memory_mib_each_half_second": [round(one, 1) for one in memory],
    }
    sent = said["offered"] - said["unsent"]
    if set(statuses) != {200, 429} or said["broken"] or answered + refused != sent:
        raise SystemExit(f"error: {sent} requests were sent, answered were {said['statuses']}")
    if not (said["retry_after"] or 0) >= 1:
        raise SystemExit("error: a 429 came without Retry-After")
    if late > early * (1 + HOLDS_BACK):
        raise SystemExit(f"error: memory went from {early:.0f} to {late:.0f} MiB")
    return found


# ---- the record ----


def compare(options: argparse.Namespace) -> None:
    """All rounds, the record and the table."""
    options.data, about = data_folder(options.data), machine()
    with tempfile.TemporaryDirectory(prefix="serve-load-") as passing:
        folder = str(options.prepared or passing)
        options.prepared = Path(folder)
        if not (options.prepared / "asked.json").is_file():
            options.prepared.mkdir(exist_ok=True)
            prepare(options)
        given = Asked(options.prepared)
        name = "serve_overload" if options.overload else "serve_load"
        name += "-partial" if options.quick or (options.rounds < 3 and not options.overload) else ""
        record_of = {"benchmark": name, "texts": given.tokens, "machine": about}
        if options.overload:
            found = overload(options, given)
            record.write_json(options.results / f"{name}.json", {**record_of, "overload": found})
            record.write_text(options.results / f"{name}.md", _overload_told(found, describe(about)))
            return
        best, tried = best_setting(given, options)
        arguments = ["--prepared", folder, "--best", json.dumps(best)]
        arguments += ["--seconds", str(options.seconds), "--warm", str(options.warm)]
        rounds = interleaved(
            Path(__file__), options.contenders, options.rounds, arguments, f"mixed_{CLIENTS[-1]}_per_s"
        )
    most = CLIENTS[-1]
    claims, ratios = [], []
    for theirs in [one for one in options.contenders if one != "manyheads"]:
        if "manyheads" not in options.contenders:
            break
        for what in ("mixed", "all_three"):
            ratios += [ratio(rounds, "manyheads", theirs, f"{what}_{clients}_per_s") for clients in CLIENTS]
        ratios.append(ratio(rounds, theirs, "manyheads", "memory_mib"))
        if theirs == "plain":
            speed = ratio(rounds, "manyheads", theirs, f"mixed_{most}_per_s")
            claims.append(
                record.claim(f"manyheads / plain, requests a second, {most} clients", speed.median, 5)
            )
            claims.append(record.claim("plain / manyheads, memory", ratios[-1].median, 2))
    record.write_json(
        options.results / f"{name}.json",
        {
            **record_of,
            "seconds": options.seconds,
            "contenders": {one: CONTENDERS[one] for one in options.contenders},
            "tried_settings_of_the_peer": tried,
            "claims": claims,
            "ratios": [one._asdict() for one in ratios],
            "rounds": rounds,
        },
    )
    record.write_text(
        options.results / f"{name}.md", _told(options, rounds, best, claims, given, describe(about))
    )


def _told(
    options: argparse.Namespace,
    rounds: list[dict[str, Any]],
    best: dict[str, Any],
    claims: list[dict[str, Any]],
    given: Asked,
    about: str,
) -> str:
    head = [
        "contender",
        "clients",
        "requests/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "server CPU ms a request",
        "× plain",
    ]
    parts = []
    for what, title in (("mixed", "One task a request"), ("all_three", "All three answers of a pair")):
        lines = []
        for clients in CLIENTS:
            for one in options.contenders:
                at = f"{what}_{clients}"
                against = ""
                if one != "plain" and "plain" in options.contenders:
                    against = str(ratio(rounds, one, "plain", f"{at}_per_s"))
                numbers = [
                    median(rounds, one, f"{at}_{key}") for key in ("per_s", "p50_ms", "p95_ms", "p99_ms")
                ]
                spent = median(rounds, one, f"{at}_server_cpu_ms")
                lines.append(
                    [
                        CONTENDERS[one],
                        clients,
                        *(f"{number:.1f}" for number in numbers),
                        f"{spent:.2f}",
                        against,
                    ]
                )
        unit = "" if what == "mixed" else "A request is here all the calls for one pair.\n\n"
        parts.append(f"## {title}\n\n{record.table(head, lines)}\n{unit}")
    memory = [
        [
            CONTENDERS[one],
            *(f"{median(rounds, one, key):.0f}" for key in ("memory_mib", "greatest_memory_mib")),
        ]
        for one in options.contenders
    ]
    shares = [
        answers[one][f"mixed_{clients}_client_cpu_share"]
        for answers in rounds
        for one in options.contenders
        for clients in CLIENTS
    ]
    texts = "; ".join(f"{task}: {told}" for task, told in given.tokens.items())
    setting = ", ".join(f"{key} {value}" for key, value in best.items())
    partial = "A partial run: not a result. " if options.quick or options.rounds < 3 else ""
    return (
        "# Serving three tasks on loopback, beside a plain FastAPI + transformers server\n\n"
        f"{partial}Medians of {options.rounds} rounds in turn, {options.seconds:g} s for each number of clients; "
        f"ratios: median (least–greatest) within a round. The peer's best setting: {setting}. Texts: {texts}. All "
        "answers are those of the model out of the server.\n\n"
        f"{''.join(parts)}## Memory\n\n"
        f"{record.table(['contender', 'PSS after 64 clients, MiB', 'greatest'], memory)}\n"
        f"{record.told(claims)}\nThe client took {min(shares):.0%} to {max(shares):.0%} of one processor. {about}.\n"
    )


def _overload_told(found: dict[str, Any], about: str) -> str:
    memory, statuses = found["memory_mib"], found["statuses"]
    rows = [
        ["offered", f"{found['offered']:,} requests, {found['offered_per_s']:.1f}/s"],
        ["found no connection free, and were not sent", f"{found['no_connection_was_free']:,}"],
        ["answered", f"{statuses['200']:,}, {found['answered_per_s']:.1f}/s, p99 {found['p99_s']:.1f} s"],
        ["429 with Retry-After", f"{statuses['429']:,}, at least {found['least_retry_after_s']} s"],
        ["without an answer", f"{found['connections_without_an_answer']}"],
        [
            "memory, second and last quarter",
            f"{memory['second_quarter']:.0f} and {memory['last_quarter']:.0f} MiB",
        ],
    ]
    return (
        f"# Ten times more than the server can answer ({found['inputs_a_request']} texts or pairs a request, "
        f"{found['capacity_per_s']:.1f} requests/s)\n\n{record.table(['what', 'how much'], rows)}\n{about}.\n"
    )


def options() -> argparse.Namespace:
    """The command line; `--contender` is how the script calls itself."""
    parser = command.arguments(__doc__, rounds=3, hidden=())
    parser.add_argument("--model", default="minilm", help="the encoder's folder or name (default minilm)")
    parser.add_argument("--seconds", type=float, help="for each number of clients (default 5, quick 3)")
    parser.add_argument("--warm", type=float, default=1.0, help="seconds before them that do not count")
    parser.add_argument("--quick", action="store_true", help="does it run at all? One round of 3 s each")
    parser.add_argument("--overload", action="store_true", help="offer ten times of what can be answered")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument(
        "--prepared", type=Path, help="folder to keep the run and texts in, and to take them from"
    )
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--best", default="{}", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.rounds, chosen.warm = 1, 0.5
    chosen.seconds = chosen.seconds or (3.0 if chosen.quick else 5.0)
    return chosen


if __name__ == "__main__":
    command.run(options(), contend, compare)
