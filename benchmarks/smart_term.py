"""How large SMART's adversarial term is, for several ε: what the default of `regularize.smart.epsilon` rests on.

A model is trained on the three tasks (recipes/three_tasks.yaml, `--steps` of it); then, on 64 training rows of each
task, in training mode with the same dropout masks for all passes: the term for noise found by one ascent step, the
same distance for random noise of the same size, and the length of the term's gradient beside that of the task's own
loss (at one matrix in the middle of the encoder). In bf16 and in float32, as rounding has a size of its own.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import record
from side_by_side.machine import describe, machine
from side_by_side.rows import data_folder

from manyheads import Recipe, Run, train
from manyheads.data.encode import TokenCache
from manyheads.data.select import sampled
from manyheads.encoder.layers import Masks
from manyheads.encoder.ragged import Ragged
from manyheads.formulas.smart import SmartSettings
from manyheads.model import Model
from manyheads.training.objective import Batch, Part, Smoothness
from manyheads.training.splits import load_task

ROOT = Path(__file__).resolve().parents[1]
EPSILONS = (1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
LITERAL = 1e-5  # epsilon and sigma of the minBERT project, whose eta is 1e-3
ROWS = 64


def measured(run: Run, precision: str) -> list[dict[str, Any]]:
    """One record for each task and ε."""
    model = run.model(precision)
    found = []
    for name in run.recipe.tasks:
        part, ragged = drawn(run, model, name)
        for epsilon in EPSILONS:
            found.append(
                {
                    "task": name,
                    "epsilon": epsilon,
                    "precision": precision,
                    **term(model, ragged, part, epsilon),
                }
            )
            print(found[-1], flush=True)
    return found


def drawn(run: Run, model: Model, name: str) -> tuple[Part, Ragged]:
    """Some training rows of a task as a batch of its own."""
    kind = model.task(name).kind
    data = load_task(
        name, run.recipe, model.tokenizer, positions=512, kind=kind, splits=["train"], cache=TokenCache()
    ).splits["train"]
    assert data.targets is not None
    rows = sampled(len(data), ROWS, 1, f"rows of {name}")
    drawn = data.draw(rows, np.random.default_rng(1))
    targets = torch.from_numpy(drawn.answers[0].targets)
    return Part(name, kind, 0, len(drawn.layout.lengths), targets), Ragged.of_layout(drawn.layout)


def term(model: Model, ragged: Ragged, part: Part, epsilon: float) -> dict[str, float]:
    """The term, the distance under random noise, and the gradients' lengths."""
    network = model.network.train()
    middle = len(network.encoder.layers) // 2 - 1
    weight = network.encoder.layers.get_parameter(f"{middle}.feedforward.up.weight")
    torch.manual_seed(0)
    masks = Masks()
    words = network.encoder.embeddings.word(ragged.token_ids)
    with masks.recorded():
        outputs = network(ragged, [(part.task, part.begin, part.end)], words)
    batch = Batch(network, ragged, [part], outputs, words, masks)
    literal = epsilon == LITERAL
    settings = SmartSettings(
        weight=1,
        epsilon=epsilon,
        sigma=LITERAL if literal else epsilon / 10,
        eta=1e-3 if literal else epsilon,
        share=1,
    )
    value = Smoothness(settings)(batch)
    loss = part.kind.loss(outputs[0], part.targets)
    (of_term,) = torch.autograd.grad(value, [weight], retain_graph=True)
    (of_loss,) = torch.autograd.grad(loss, [weight])
    with torch.no_grad():
        noise = (torch.randn_like(words) * epsilon).clamp(-epsilon, epsilon)
        random = batch.distance(batch.again(network, words + noise), [one.detach() for one in outputs])
    return {
        "term": float(value.detach()),
        "random": float(random),
        "gradient": float(of_term.norm() / of_loss.norm()),
        "loss": float(loss.detach()),
    }


def trained(options: argparse.Namespace, folder: Path) -> Run:
    """A model after some steps of the three tasks."""
    recipe = Recipe.load(
        ROOT / "recipes" / "three_tasks.yaml",
        [f"schedule.steps={options.steps}", "schedule.evaluate_every=100000", "tasks.para.batch_size=32"],
        data=data_folder(options.data),
    )
    return train(recipe, folder)


def main() -> None:
    """Train, measure, and write benchmarks/results/smart_term.{json,md}."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--steps", type=int, default=900, help="training steps before measuring")
    parser.add_argument(
        "--run", type=Path, help="measure this run of the three tasks instead of training one"
    )
    options = parser.parse_args()
    told = machine()
    with tempfile.TemporaryDirectory(prefix="smart-term-") as folder:
        run = Run.open(options.run) if options.run else trained(options, Path(folder) / "run")
        records = [one for precision in ("bf16", "float32") for one in measured(run, precision)]
    steps = run.recipe.schedule.steps
    record.write_json(record.RESULTS / "smart_term.json", {"machine": told, "steps": steps, "terms": records})
    rows = [
        [
            one["task"],
            f"{one['epsilon']:.0e}",
            one["precision"],
            *(f"{one[key]:.2e}" for key in ("term", "random", "gradient")),
            f"{one['loss']:.3f}",
        ]
        for one in records
    ]
    head = ["task", "ε", "precision", "term", "random noise", "term's gradient / loss's", "loss"]
    text = f"# The size of SMART's term (λ = 1)\n\n{describe(told)}. "
    text += f"After {steps} steps of the three tasks.\n\n"
    record.write_text(record.RESULTS / "smart_term.md", text + record.table(head, rows))


if __name__ == "__main__":
    main()
