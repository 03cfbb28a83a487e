"""Claim: pre-training reads at least 3 × the tokens a second of transformers' own masked LM training, on a processor.

On a GPU the claim is another: at least 45% of the operations a second that it is capable of (MFU). There no
attention weights are dropped, on either side: flash attention over sequences end to end cannot drop any.

The same BERT from random weights, with the same vocabulary, on the same text. The peer does what transformers' example
`run_mlm.py` does: every line tokenised, all of them end to end, cut into full blocks, masks drawn for each batch by
`DataCollatorForLanguageModeling`, `BertForMaskedLM` trained by `Trainer`. Ours reads spans of whole sentences, so its
sequences are of many lengths. Both read batches of the same number of tokens; tokens are counted with [CLS] and
[SEP], and padding, where there were any, would not count. With next sentence there is no peer: transformers has the
model for it, but no longer anything that prepares its pairs; so it stands beside masked LM alone.

The peer's best setting is bf16 with torch's fused AdamW (its default too). What takes work off it is set in both: no
reports, no progress bar, no checkpoints. torch.compile, which the example does not use, is in neither side.

Counted: everything between the end of the first tenth of the steps and the end of the last step (drawing, masking,
forward, backward, clipping, moving, our journal). Not counted: the text's preparation, and the first tenth, for
nobody, in which memory is asked for and kernels are chosen.

    python benchmarks/pretrain_speed.py
    python benchmarks/pretrain_speed.py --steps 4 --rounds 1 --tokens 1024      # does it run at all?
    python benchmarks/pretrain_speed.py --device cuda --size base --length 512 --synthetic
"""

import argparse
import gzip
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from side_by_side import command, record
from side_by_side.machine import describe, machine
from side_by_side.rounds import ENVIRONMENT, interleaved, median, ratio
from side_by_side.rows import data_folder

CONTENDERS = {
    "trainer": "transformers Trainer, masked LM, defaults (float32)",
    "trainer_best": "transformers Trainer, masked LM, bf16",
    "manyheads": "manyheads, masked LM, defaults (bf16 where the device has it)",
    "manyheads_nsp": "manyheads, masked LM and next sentence",
    "manyheads_float32": "manyheads, masked LM, precision: float32",
}
DEFAULT = ["trainer", "trainer_best", "manyheads", "manyheads_nsp"]
BOOKS = Path("pretrain_en/classic_books.jsonl.gz")
SETTINGS: dict[str, Any] = {
    "rate": 0.15,
    "mix": [0.8, 0.1, 0.1],
    "lr": 1e-4,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.01,
    "warmup": 0.1,
    "decay": "linear",
    "clip": 1.0,
    "dropout": 0.1,
    "optimizer": "AdamW, fused",
    "seed": 11711,
}
UNTIMED = 0.1  # of the steps, at the beginning
TIMES, MFU = 3.0, 0.45  # what is claimed on a processor, and on a GPU
MAX_POSITIONS = 512


class Size(NamedTuple):
    """The size of a BERT."""

    layers: int
    hidden: int

    @property
    def heads(self) -> int:
        return max(1, self.hidden // 64)

    @property
    def intermediate(self) -> int:
        return 4 * self.hidden

    def operations(self, vocabulary: int, squares: float, asked: float) -> float:
        """The operations of a token's products, forward and backward, that no way of doing it can do without.

        6 a weight, 12 · layers · H for each token it attends to (`squares`: mean over the tokens), and 6 a weight
        of the masked LM's head for the share of tokens that is `asked`. What the last layer does to each token by
        itself is needed for that share alone.
        """
        weights: float = self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.intermediate)
        weights -= (1 - asked) * (self.hidden**2 + 2 * self.hidden * self.intermediate)
        head = self.hidden**2 + vocabulary * self.hidden
        return 6.0 * weights + 12.0 * self.layers * self.hidden * squares + 6.0 * head * asked


NAMED = {"base": Size(12, 768), "large": Size(24, 1024)}


def size(text: str) -> Size:
    """`base`, or layers × hidden as in `4x256`."""
    if text in NAMED:
        return NAMED[text]
    layers, _, hidden = text.partition("x")
    if not (layers.isdecimal() and hidden.isdecimal() and int(layers) and int(hidden)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected LAYERSxHIDDEN or one of {list(NAMED)}")
    return Size(int(layers), int(hidden))


class Clock:
    """Seconds and tokens from the end of the first tenth of the steps to the end of the last one."""

    def __init__(self, steps: int, device: str) -> None:
        self.steps, self.device = steps, device
        self.first = max(1, round(UNTIMED * steps))
        self.done = self.tokens = 0
        self.seconds = self._since = 0.0

    def step(self, tokens: int) -> None:
        """A step of so many tokens has ended."""
        self.done += 1
        if self.done > self.first:
            self.tokens += tokens
        if self.done in (self.first, self.steps):
            self._settle()
            now = time.perf_counter()
            self.seconds, self._since = now - self._since, now

    def _settle(self) -> None:
        """Wait for what the device was asked to do and has not done yet."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def told(self) -> dict[str, Any]:
        """Both, and tokens a second; SystemExit where another number of steps was made."""
        if self.done != self.steps:
            raise SystemExit(f"error: {self.done} steps were timed, expected {self.steps}")
        return {
            "seconds": self.seconds,
            "tokens": self.tokens,
            "tokens_a_step": self.tokens / (self.steps - self.first),
            "steps": self.steps,
            "steps_timed": self.steps - self.first,
            "tokens/s": self.tokens / self.seconds,
        }


def with_trainer(options: argparse.Namespace, contender: str) -> dict[str, Any]:
    """All steps with transformers' Trainer, the data prepared as in its example `run_mlm.py`."""
    import torch
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForMaskedLM,
        DataCollatorForLanguageModeling,
        PrinterCallback,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    tokenizer = AutoTokenizer.from_pretrained(options.vocabulary)
    texts = [line for text in documents(options.text) for line in text.splitlines() if line.strip()]
    blocks: Any = group_texts(tokenizer(texts, return_special_tokens_mask=True), options.length)
    if not blocks:
        raise SystemExit("error: the text does not fill one block")
    rows = max(1, round(options.tokens / options.length))
    if len(blocks) < rows:
        raise SystemExit(f"error: the text fills {len(blocks)} blocks, fewer than the {rows} of a batch")

    clock = Clock(options.steps, options.device)

    class Told(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step(rows * options.length)  # every block is full, and a last batch with fewer is left out

    best = contender != "trainer"
    fast: dict[str, Any] = {}
    if best:
        fast = {
            "bf16": True,
            "optim": "adamw_torch_fused",
            "logging_nan_inf_filter": False,  # looks at every loss, and on a GPU waits for it
            # A processor's cores are busy with the step, a second process for the data would take one away; beside a
            # GPU they have nothing else to do.
            "dataloader_num_workers": 4 if options.device == "cuda" else 0,
            "dataloader_persistent_workers": options.device == "cuda",
            "dataloader_pin_memory": options.device == "cuda",
        }
    set_seed(SETTINGS["seed"])
    asked: Size = options.size
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=asked.hidden,
            num_hidden_layers=asked.layers,
            num_attention_heads=asked.heads,
            intermediate_size=asked.intermediate,
            max_position_embeddings=MAX_POSITIONS,
            hidden_dropout_prob=SETTINGS["dropout"],
            attention_probs_dropout_prob=attention_dropout(options.device),
        )
    )
    with tempfile.TemporaryDirectory(prefix="pretrain-speed-") as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=options.steps,
                per_device_train_batch_size=rows,
                dataloader_drop_last=True,
                learning_rate=SETTINGS["lr"],
                weight_decay=SETTINGS["weight_decay"],
                adam_beta1=SETTINGS["betas"][0],
                adam_beta2=SETTINGS["betas"][1],
                adam_epsilon=SETTINGS["eps"],
                lr_scheduler_type=SETTINGS["decay"],
                warmup_steps=SETTINGS["warmup"],  # below 1: a share of all steps
                max_grad_norm=SETTINGS["clip"],
                seed=SETTINGS["seed"],
                use_cpu=options.device == "cpu",
                eval_strategy="no",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                **fast,
            ),
            train_dataset=blocks,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=SETTINGS["rate"]),
            callbacks=[Told()],
        )
        trainer.remove_callback(PrinterCallback)
        trained = trainer.train()
    return {
        **clock.told(),
        "mean_loss": trained.training_loss,
        "parameters": sum(one.numel() for one in model.parameters()),
        "vocabulary": len(tokenizer),
        "attention": model.config._attn_implementation,
        "precision": "bf16" if best else "float32",
        "operations_a_token": asked.operations(
            len(tokenizer), options.length, SETTINGS["rate"] * _ordinary(blocks)
        ),
        "threads": torch.get_num_threads(),
        "device": device_name(options.device),
    }


def group_texts(encoded: Any, length: int) -> list[dict[str, list[int]]]:
    """All texts end to end, cut into blocks of `length`; the rest is dropped. As in `run_mlm.py`."""
    joined = {name: list(chain.from_iterable(encoded[name])) for name in encoded}
    total = len(joined["input_ids"]) // length * length
    return [
        {name: tokens[begin : begin + length] for name, tokens in joined.items()}
        for begin in range(0, total, length)
    ]


def _ordinary(blocks: Sequence[dict[str, list[int]]]) -> float:
    """The share of tokens that are no special ones: those that may be asked."""
    some = blocks[:1000]
    return 1 - sum(sum(one["special_tokens_mask"]) for one in some) / sum(
        len(one["input_ids"]) for one in some
    )


def with_manyheads(options: argparse.Namespace, contender: str) -> dict[str, Any]:
    """All steps with `manyheads.train`; the clock hangs on the journal, at the end of each step."""
    import torch

    import manyheads as mh
    from manyheads.data.encode import TokenCache
    from manyheads.training.journal import Journal

    clock = Clock(options.steps, options.device)
    step = Journal.step

    def step_and_look(journal: Journal, *positional: Any, **named: Any) -> None:
        step(journal, *positional, **named)
        clock.step(named["tokens"])

    with tempfile.TemporaryDirectory(prefix="pretrain-speed-") as folder:
        cache = TokenCache(Path(folder) / "cache" / "tokens")
        found = measured(options, contender, cache)
        size_of_batch = max(1, round(options.tokens / found.mean))
        with mock.patch.object(Journal, "step", step_and_look):
            run = mh.train(
                recipe(options, contender, size_of_batch),
                out=Path(folder) / "run",
                quiet=True,
                device=options.device,
                cache=cache,
            )
        lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    log = [json.loads(line) for line in lines]
    steps = [event for event in log if event["event"] == "step"]
    start = next(event for event in log if event["event"] == "start")
    (last,) = (event for event in log if event["event"] == "evaluation")
    told = clock.told()
    possible = start["possible"]["operations_per_second"]
    # What the log says of all steps, first tenth included: from it, the operations of a token as they were counted.
    counted = last["mfu"] * possible / last["tokens_per_second"]
    expected = options.size.operations(found.vocabulary, found.squares, SETTINGS["rate"] * found.ordinary)
    if abs(counted / expected - 1) > 0.05:
        raise SystemExit(
            f"error: the log counts {counted:.4g} operations a token, by its formula it is {expected:.4g}"
        )
    return {
        **told,
        "mean_loss": statistics.fmean(event["loss"]["mlm"] for event in steps),
        "parameters": start["parameters"],
        "vocabulary": found.vocabulary,
        "batch_size": size_of_batch,
        "precision": start["precision"],
        "operations_a_token": counted,
        "possible": start["possible"],
        "mfu": told["tokens/s"] * counted / possible,
        "mfu_with_first_steps": last["mfu"],
        "threads": torch.get_num_threads(),
        "device": device_name(options.device),
    }


def recipe(options: argparse.Namespace, contender: str, size_of_batch: int) -> Any:
    """The recipe of one of ours."""
    import manyheads as mh

    asked: Size = options.size
    tasks: dict[str, Any] = {
        "mlm": {
            "kind": "mlm",
            "files": {"train": [str(options.text)]},
            "language": "en",
            "max_length": options.length,
            "rate": SETTINGS["rate"],
            "mix": SETTINGS["mix"],
        }
    }
    if contender == "manyheads_nsp":
        tasks["nsp"] = {"kind": "nsp", "pairs_of": "mlm"}
    return mh.Recipe.parse(
        {
            "name": "pretrain-speed",
            "seed": SETTINGS["seed"],
            "precision": "float32" if contender == "manyheads_float32" else "auto",
            "encoder": {
                "size": {
                    "layers": asked.layers,
                    "hidden": asked.hidden,
                    "heads": asked.heads,
                    "intermediate": asked.intermediate,
                    "max_positions": MAX_POSITIONS,
                },
                "vocab": str(options.vocabulary / "vocab.txt"),
                "dropout": SETTINGS["dropout"],
                "attention_dropout": attention_dropout(options.device),
            },
            "tasks": tasks,
            "optimizer": {
                "name": "adamw",
                "lr": SETTINGS["lr"],
                "betas": SETTINGS["betas"],
                "eps": SETTINGS["eps"],
                "weight_decay": SETTINGS["weight_decay"],
                "clip": SETTINGS["clip"],
            },
            "schedule": {
                "steps": options.steps,
                "batch_size": size_of_batch,
                "warmup": SETTINGS["warmup"],
                "decay": SETTINGS["decay"],
                "evaluate_every": 1_000_000,
                "keep": "last",
            },
        }
    )


class Lengths(NamedTuple):
    """What ours reads of the text, told by some thousand sequences."""

    mean: float
    """Tokens of a sequence."""
    squares: float
    """Mean over the tokens of the length of their sequence."""
    ordinary: float
    """The share of tokens that are no special ones."""
    vocabulary: int


def measured(options: argparse.Namespace, contender: str, cache: Any) -> Lengths:
    """How long the sequences are that the recipe makes of the text; the corpus is left in the cache."""
    import numpy as np

    from manyheads.encoder.tokenizer import Tokenizer
    from manyheads.training.splits import load_tasks

    tokenizer = Tokenizer.from_vocabulary(options.vocabulary / "vocab.txt")
    task = load_tasks(recipe(options, contender, 1), tokenizer, positions=MAX_POSITIONS, cache=cache)[0]
    generator = np.random.default_rng(0)
    rows = generator.permutation(len(task.train))[:4096]
    layout = task.train.draw(rows, generator).layout
    lengths = layout.lengths.astype(np.float64)
    # [MASK] stands where a token was asked: told by the marks, not by the ids.
    special = np.isin(layout.ids, sorted(tokenizer.special_ids - {tokenizer.mask_id}))
    return Lengths(
        float(lengths.mean()),
        float((lengths**2).sum() / lengths.sum()),
        1 - float(special.mean()),
        tokenizer.vocab_size,
    )


def device_name(device: str) -> str:
    """A GPU by its name."""
    if device != "cuda":
        return device
    import torch

    return torch.cuda.get_device_name()


def contend(options: argparse.Namespace) -> None:
    """What the process of one contender does."""
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    by: Callable[..., dict[str, Any]] = (
        with_trainer if options.contender.startswith("trainer") else with_manyheads
    )
    options.answer.write_text(json.dumps(by(options, options.contender)), encoding="utf-8")


# ---- the text ----


def documents(path: Path) -> list[str]:
    """The texts of a file of documents, one a line as JSON."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def write_text_file(options: argparse.Namespace, path: Path) -> str:
    """The text that all read, as a file of documents; says what it is."""
    books = None
    if not options.synthetic:
        try:
            books = data_folder(options.data) / BOOKS
        except SystemExit:
            if options.data is not None:
                raise
    if books is None or not books.is_file():
        if not options.synthetic:
            print(f"note: no {BOOKS.name} here; synthetic text instead")
        rows = synthetic(options.documents)
        text = f"{options.documents} documents of words drawn by Zipf's law"
    else:
        with gzip.open(books, "rt", encoding="utf-8") as file:
            rows = [json.loads(line)["text"] for line in islice(file, options.documents)]
        text = f"the first {len(rows)} documents of {BOOKS.name}"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    return text


def synthetic(count: int) -> list[str]:
    """Documents of 100,000 words: rank r of 60,000 made-up words is drawn in proportion to 1 / r (Zipf's law)."""
    chance = random.Random(SETTINGS["seed"])
    words: dict[str, None] = {}
    while len(words) < 60_000:
        syllables = range(chance.randint(2, 5))
        words["".join(chance.choice("bcdfghlmnprstvw") + chance.choice("aeiou") for _ in syllables)] = None
    shares = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    found = []
    for _ in range(count):
        drawn = iter(chance.choices(list(words), cum_weights=shares, k=100_000))
        sentences = []
        while some := list(islice(drawn, chance.randint(5, 40))):
            sentences.append(" ".join(some).capitalize() + ".")
        found.append("\n".join(" ".join(sentences[i : i + 4]) for i in range(0, len(sentences), 4)))
    return found


# ---- all rounds ----


def compare(options: argparse.Namespace) -> None:
    """All rounds, the record and the table."""
    about = machine()
    with tempfile.TemporaryDirectory(prefix="text-") as folder:
        text, vocabulary = Path(folder) / "documents.jsonl", Path(folder) / "vocabulary"
        told = write_text_file(options, text)
        command = [sys.executable, "-m", "manyheads", "vocab", str(text), "--size", str(options.tokens_known)]
        subprocess.run([*command, "--out", str(vocabulary), "--quiet"], check=True)
        arguments = ["--text", str(text), "--vocabulary", str(vocabulary), "--threads", str(options.threads)]
        arguments += ["--size", f"{options.size.layers}x{options.size.hidden}", "--device", options.device]
        for name in ("length", "steps", "tokens"):
            arguments += [f"--{name}", str(getattr(options, name))]
        rounds = interleaved(Path(__file__), options.contenders, options.rounds, arguments, "tokens/s")
    check_alike(rounds, options.tokens)
    claims = claims_of(options, rounds)
    ratios = {
        (ours, theirs): ratio(rounds, ours, theirs, "tokens/s")
        for ours in options.contenders
        for theirs in options.contenders
        if ours.startswith("manyheads") and theirs.startswith("trainer")
    }
    some = next(iter(rounds[0].values()))
    name = name_of(options)
    record.write_json(
        options.results / f"{name}.json",
        {
            "benchmark": "pretrain_speed",
            "text": told,
            "size": {**options.size._asdict(), "vocabulary": some["vocabulary"]},
            "length": options.length,
            "tokens_a_batch": options.tokens,
            "settings": SETTINGS,
            "threads": some["threads"],
            "device": some["device"],
            "environment": ENVIRONMENT,
            "machine": about,
            "contenders": {one: CONTENDERS[one] for one in options.contenders},
            "median": {one: median(rounds, one, "tokens/s") for one in options.contenders},
            "ratios": [one._asdict() for one in ratios.values()],
            "claims": claims,
            "rounds": rounds,
        },
    )
    record.write_text(options.results / f"{name}.md", page(options, rounds, ratios, claims, told, about))


def check_alike(rounds: Sequence[dict[str, dict[str, Any]]], tokens: int) -> None:
    """SystemExit where contenders trained models of other vocabularies, or batches of other sizes."""
    answers = {name: answer for round_ in rounds for name, answer in round_.items()}
    if len({answer["vocabulary"] for answer in answers.values()}) > 1:
        raise SystemExit("error: the contenders have vocabularies of different sizes")
    for name, answer in answers.items():
        if abs(answer["tokens_a_step"] / tokens - 1) > 0.1:
            print(f"warning: {name} read {answer['tokens_a_step']:.0f} tokens a step, asked were {tokens}")


def utilisation(rounds: Sequence[dict[str, dict[str, Any]]], name: str) -> float | None:
    """Operations a second of a contender's products over those that the device is capable of, in bf16; the median.

    The peer's are counted as ours are: its work on tokens that nobody asks for is none. None without one of ours.
    """
    possible = [answer["possible"] for answer in rounds[0].values() if answer.get("possible")]
    if not possible:
        return None
    most = max(one["operations_per_second"] for one in possible)
    return statistics.median(
        float(answers[name]["tokens/s"] * answers[name]["operations_a_token"] / most) for answers in rounds
    )


def claims_of(
    options: argparse.Namespace, rounds: Sequence[dict[str, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """What is claimed on this device, with what was measured."""
    if options.device == "cuda":
        return [
            record.claim(f"{one}, share of what the device is capable of", median(rounds, one, "mfu"), MFU)
            for one in ("manyheads", "manyheads_nsp")
            if one in options.contenders
        ]
    wanted = {"trainer": TIMES, "trainer_best": 1.0}
    return [
        record.claim(
            f"manyheads / {theirs}, tokens/s", ratio(rounds, "manyheads", theirs, "tokens/s").median, least
        )
        for theirs, least in wanted.items()
        if {"manyheads", theirs} <= set(options.contenders)
    ]


def page(
    options: argparse.Namespace,
    rounds: Sequence[dict[str, dict[str, Any]]],
    ratios: dict[tuple[str, str], Any],
    claims: Sequence[dict[str, Any]],
    text: str,
    about: dict[str, Any],
) -> str:
    """The table for people."""
    peers = [one for one in options.contenders if one.startswith("trainer")]
    some = next(iter(rounds[0].values()))
    on_gpu = options.device == "cuda"
    lines = []
    for one in options.contenders:
        cells = [CONTENDERS[one], f"{median(rounds, one, 'tokens/s'):,.0f}"]
        if on_gpu:
            share = utilisation(rounds, one)
            cells.append("" if share is None else f"{share:.1%}")
        cells.append(f"{median(rounds, one, 'mean_loss'):.3f}")
        lines.append([*cells, *(str(ratios.get((one, peer), "")) for peer in peers)])
    head = ["contender", "tokens/s", *(["MFU"] if on_gpu else []), "mean loss of masked tokens"]
    head += [f"× `{peer}`" for peer in peers]
    asked: Size = options.size
    return (
        f"# Pre-training a BERT of {asked.layers} layers of width {asked.hidden}, at most {options.length} tokens\n\n"
        f"{'A partial run: not a result. ' if partial(options) else ''}"
        f"{options.steps} steps of about {options.tokens:,} tokens, the first {UNTIMED:.0%} not timed, on {text}; a "
        f"vocabulary of {some['vocabulary']:,}. Medians of {options.rounds} rounds in turn; ratios: median "
        f"(least–greatest) of the ratio within a round. There is no peer for next sentence: transformers prepares no "
        f"such pairs any more.\n\n{record.table(head, lines)}\n{record.told(claims)}\n"
        f"{some['device']}, {some['threads']} threads, "
        f"{' '.join(f'{key}={value}' for key, value in ENVIRONMENT.items())} for all. {describe(about)}.\n"
    )


def attention_dropout(device: str) -> float:
    """The share of the attention weights that is dropped."""
    return 0.0 if device == "cuda" else float(SETTINGS["dropout"])


def partial(options: argparse.Namespace) -> bool:
    """Whether it is a try: fewer steps, smaller batches or less text than a result takes, or a single round."""
    usual = usual_settings(options.device, options.size)
    return options.rounds < 2 or any(getattr(options, name) < least for name, least in usual.items())


def name_of(options: argparse.Namespace) -> str:
    """The record's: the plain name is that of the claim's own setting."""
    name = "pretrain_speed"
    if (options.device, options.size, options.length) != ("cpu", Size(4, 256), 128) or options.synthetic:
        name += f"-{options.device}-{options.size.layers}x{options.size.hidden}-{options.length}"
        name += "-synthetic" if options.synthetic else ""
    return name + ("-partial" if partial(options) else "")


def usual_settings(device: str, asked: Size) -> dict[str, int]:
    """What a result is measured with: a few minutes for each contender and round."""
    return {
        "steps": 200 if device == "cuda" else 60,
        "tokens": 32_768 if device == "cuda" else 8192,
        "tokens_known": 30_522 if asked.hidden >= 768 else 16_000,
        "documents": 40 if device == "cuda" else 12,
    }


def options() -> argparse.Namespace:
    """The command line; `--contender` is how the script calls itself."""
    parser = command.arguments(__doc__, rounds=3, hidden=("--text", "--vocabulary"))
    parser.add_argument("--synthetic", action="store_true", help="made-up text, as where there is no other")
    parser.add_argument("--documents", type=int, default=0, help="how many are read (default: 12; GPU: 40)")
    parser.add_argument(
        "--size", type=size, default=Size(4, 256), help="`base`, or LAYERSxHIDDEN (default 4x256)"
    )
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence, at most (default 128)")
    parser.add_argument(
        "--tokens", type=int, default=0, help="of a batch, about (default: 8,192; GPU: 32,768)"
    )
    parser.add_argument(
        "--vocabulary-size",
        dest="tokens_known",
        type=int,
        default=0,
        help="(default 16,000, from width 768 on 30,522)",
    )
    parser.add_argument(
        "--steps", type=int, default=0, help="of each contender in each round (default: 60; GPU: 200)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=DEFAULT)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    for name, usual in usual_settings(chosen.device, chosen.size).items():
        if getattr(chosen, name) <= 0:
            setattr(chosen, name, usual)
    if chosen.steps < 2:
        parser.error("--steps: expected 2 or more, for the first is not timed")
    if not 8 <= chosen.length <= MAX_POSITIONS:
        parser.error(f"--length: expected 8 to {MAX_POSITIONS}, found {chosen.length}")
    return chosen


if __name__ == "__main__":
    command.run(options(), contend, compare)
