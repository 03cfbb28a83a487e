"""transformers' Trainer as the benchmarks run it: one set of settings, two ways (defaults, its best here).

Knows transformers and torch. Must not know manyheads.
"""

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["EpochClock", "training_arguments"]


def training_arguments(
    folder: str,
    *,
    best: bool,
    epochs: float,
    batch_size: int,
    lr: float,
    seed: int,
    evaluate: bool = False,
    device: str = "cpu",
) -> TrainingArguments:
    """Trainer's arguments; `best` adds bf16 and batches of similar lengths to the defaults.

    What is set here beside the contract (rate, decay, warm-up, clipping) only takes work off Trainer: no
    checkpoints, no progress bar, no reports.
    """
    return TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=128,
        learning_rate=lr,
        weight_decay=0.01,
        lr_scheduler_type="linear",
        warmup_steps=0.1,  # below 1: a share of all steps
        max_grad_norm=1.0,
        seed=seed,
        bf16=best,
        train_sampling_strategy="group_by_length" if best else "random",
        use_cpu=device == "cpu",
        eval_strategy="epoch" if evaluate else "no",
        save_strategy="no",
        logging_strategy="epoch" if evaluate else "steps",
        report_to="none",
        disable_tqdm=True,
    )


class EpochClock(TrainerCallback):
    """Seconds of the training epochs: from before the first batch is drawn to after the last step.

    An evaluation comes after its epoch's end, and is not counted.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = 0.0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._since = time.perf_counter()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.seconds += time.perf_counter() - self._since
