"""Claim: training with SMART (T = 1) takes at most 2 × the seconds a step that it takes without.

minilm on the three tasks in turn, batches of 32 of each; every contender draws the same batches. In its default SMART
computes both terms in half of the steps (`share: 0.5`), drawn at random; beside it the paper's every step, without and
with the Bregman term. The minBERT project paid 3.2 to 6.9 times.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from side_by_side import record
from side_by_side.machine import describe, machine
from side_by_side.rounds import interleaved, median, ratio
from side_by_side.rows import data_folder

ROOT = Path(__file__).resolve().parents[1]
CONTENDERS: dict[str, tuple[str, str | None]] = {
    "plain": ("without SMART", None),
    "default": ("SMART as it is by default: both terms in half of the steps", "{}"),
    "adversarial": ("adversarial term in every step", "{share: 1, mu: 0}"),
    "both": ("both terms in every step, as in the paper", "{share: 1}"),
}
WANTED = 0.5  # steps a second with SMART over without: at most twice the time


def contend(options: argparse.Namespace) -> None:
    """What the process of one contender does: train, and tell seconds a step after the first tenth."""
    from manyheads import Recipe, train

    _, smart = CONTENDERS[options.contender]
    overrides = [
        f"schedule.steps={options.steps}",
        "schedule.evaluate_every=100000",
        "tasks.para.batch_size=32",
    ]
    overrides += [f"tasks.{task}.sample.dev=8" for task in ("sst", "para", "sts")]
    overrides += [] if smart is None else [f"regularize.smart={smart}"]
    with tempfile.TemporaryDirectory(prefix="smart-speed-") as folder:
        recipe = Recipe.load(ROOT / "recipes" / "three_tasks.yaml", overrides, data=data_folder(options.data))
        run = train(recipe, Path(folder) / "run", quiet=True)
        lines = (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
        end: dict[str, Any] = json.loads(lines[-1])
    answer = {"steps/s": options.steps / end["step_seconds"], "seconds": end["step_seconds"]}
    options.answer.write_text(json.dumps(answer), encoding="utf-8")


def main() -> None:
    """Run the rounds, and write benchmarks/results/smart_speed.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=240, help="training steps of each contender in each round"
    )
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--answer", type=Path)
    options = parser.parse_args()
    if options.contender:
        contend(options)
        return
    told = machine()
    arguments = ["--data", str(data_folder(options.data)), "--steps", str(options.steps)]
    rounds = interleaved(Path(__file__), list(CONTENDERS), options.rounds, arguments, "steps/s")
    ratios = {name: ratio(rounds, "plain", name, "steps/s") for name in CONTENDERS if name != "plain"}
    slower = ratio(rounds, "default", "plain", "steps/s")
    claims = [record.claim("steps a second with SMART's defaults over those without", slower.median, WANTED)]
    rows = [
        [says, f"{median(rounds, name, 'steps/s'):.2f}", str(ratios[name]) if name in ratios else "1"]
        for name, (says, _) in CONTENDERS.items()
    ]
    record.write_json(
        record.RESULTS / "smart_speed.json",
        {"machine": told, "steps": options.steps, "rounds": rounds, "claims": claims},
    )
    text = (
        f"# What SMART costs\n\n{describe(told)}. {options.steps} steps of the three tasks in turn, "
        f"{options.rounds} rounds.\n\n"
    )
    text += record.table(["contender", "steps/s", "seconds a step, × without"], rows)
    record.write_text(record.RESULTS / "smart_speed.md", text + "\n" + record.told(claims))


if __name__ == "__main__":
    main()
