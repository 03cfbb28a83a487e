"""What a training leaves behind, against scikit-learn, SciPy and transformers."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped, unused-ignore]
import sklearn.metrics  # type: ignore[import-untyped, unused-ignore]
import torch
import transformers

import manyheads as mh
from manyheads.training.evaluate import Running

if TYPE_CHECKING:
    from tests.conftest import Tiny


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_holds_what_the_contract_names_and_nothing_else(tiny_run: Path) -> None:
    assert {path.name for path in tiny_run.iterdir()} == {
        "recipe.yaml",
        "scores.json",
        "model",
        "checkpoints",
        "predictions",
        "tensorboard",
        "log.jsonl",
    }
    model = {path.name for path in (tiny_run / "model").iterdir()}
    assert model - {"tokenizer_config.json"} == {
        "config.json",
        "model.safetensors",
        "heads.json",
        "heads.safetensors",
        "tokenizer.json",
        "vocab.txt",
    }
    predictions = {path.name for path in (tiny_run / "predictions").iterdir()}
    splits = ("mood-dev", "mood-test", "pairs-dev")
    assert predictions == {f"{split}.{ending}" for split in splits for ending in ("csv", "npy")}
    checkpoints = sorted(path.name for path in (tiny_run / "checkpoints").iterdir())
    assert checkpoints == ["best.safetensors", "step-00000012.safetensors"]
    assert [path.name.split(".")[:3] for path in (tiny_run / "tensorboard").iterdir()] == [
        ["events", "out", "tfevents"]
    ]


def test_the_resolved_recipe_loads_as_the_one_that_was_trained(tiny: "Tiny", tiny_run: Path) -> None:
    assert mh.Recipe.load(tiny_run / "recipe.yaml") == mh.Recipe.parse(tiny.recipe())


def test_transformers_loads_the_encoder_with_equal_states(tiny_run: Path) -> None:
    theirs = transformers.AutoModel.from_pretrained(tiny_run / "model").eval()
    ours = mh.Encoder.from_pretrained(tiny_run / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_run / "model")
    batch = tokenizer(
        ["a fine film", "the plot was awful, but the music and the end!"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        wanted, found = theirs(**batch), ours(**batch)
    mask = batch["attention_mask"][..., None]
    torch.testing.assert_close(
        found.last_hidden_state * mask, wanted.last_hidden_state * mask, atol=1e-5, rtol=0
    )
    torch.testing.assert_close(found.pooler_output, wanted.pooler_output, atol=1e-5, rtol=0)


def test_scores_are_those_of_the_predictions_by_scikit_learn_and_scipy(tiny_run: Path) -> None:
    scores = json.loads((tiny_run / "scores.json").read_text())
    assert {split: set(tasks) for split, tasks in scores.items()} == {
        "dev": {"mood", "pairs"},
        "test": {"mood"},
    }
    for split in ("dev", "test"):
        rows = table(tiny_run / "predictions" / f"mood-{split}.csv")
        gold, guess = [row["gold"] for row in rows], [row["label"] for row in rows]
        found = scores[split]["mood"]
        assert found["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(gold, guess), abs=1e-12)
        wanted = sklearn.metrics.f1_score(gold, guess, average="macro", zero_division=0)
        assert found["macro_f1"] == pytest.approx(wanted, abs=1e-12)
        wanted = sklearn.metrics.f1_score(gold, guess, pos_label="good", zero_division=0)
        assert found["f1"] == pytest.approx(wanted, abs=1e-12)
        assert found["matthews"] == pytest.approx(sklearn.metrics.matthews_corrcoef(gold, guess), abs=1e-12)
        # The loss is that of the scores as they are; the file has calibrated probabilities.
        raised = mh.load(tiny_run).task("mood").kind.temperature
        powers = [[float(row[name]) ** raised for name in ("p:bad", "p:good")] for row in rows]
        shares = [[bad / (bad + good), good / (bad + good)] for bad, good in powers]
        assert found["loss"] == pytest.approx(sklearn.metrics.log_loss(gold, shares), abs=1e-6)
    rows = table(tiny_run / "predictions" / "pairs-dev.csv")
    golds, values = [float(row["gold"]) for row in rows], [float(row["value"]) for row in rows]
    found = scores["dev"]["pairs"]
    assert found["pearson"] == pytest.approx(scipy.stats.pearsonr(golds, values).statistic, abs=1e-6)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(golds, values).statistic, abs=1e-6)
    assert found["mse"] == pytest.approx(sklearn.metrics.mean_squared_error(golds, values), abs=1e-5)


def test_predictions_are_in_the_order_of_the_rows_with_probabilities(tiny: "Tiny", tiny_run: Path) -> None:
    given, written = table(tiny.folder / "mood-dev.csv"), table(tiny_run / "predictions" / "mood-dev.csv")
    assert [int(row["row"]) for row in written] == list(range(1, len(given) + 1))
    assert [row["gold"] for row in written] == [row["label"] for row in given]
    answers = mh.load(tiny_run, "float32").predict("mood", [row["sentence"] for row in given])
    for row, answer in zip(written, answers, strict=True):
        assert row["label"] == answer.label
        assert float(row["score"]) == pytest.approx(answer.score, abs=1e-6)
        assert float(row["p:bad"]) + float(row["p:good"]) == pytest.approx(1)
        assert row["truncated"] == str(answer.truncated).lower()


def test_the_log_has_each_step_once_and_every_evaluation(tiny_run: Path) -> None:
    records = [json.loads(line) for line in (tiny_run / "log.jsonl").read_text().splitlines()]
    steps = [record for record in records if record["event"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 13))
    assert [next(iter(record["loss"])) for record in steps] == ["mood", "pairs"] * 6
    assert [record["step"] for record in records if record["event"] == "evaluation"] == [12]
    assert records[0]["event"] == "start"
    assert records[-1]["event"] == "end"
    assert records[-1]["scores"] == json.loads((tiny_run / "scores.json").read_text())
    rates = [record["lr"] for record in steps]
    rising = round(0.1 * 12)
    wanted = [1e-3 * (step / rising if step < rising else (12 - step) / (12 - rising)) for step in range(12)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-12)


def test_tensorboard_reads_the_curves(tiny_run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped, unused-ignore]

    events = EventAccumulator(str(tiny_run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/mood")] == [1, 3, 5, 7, 9, 11]
    assert [event.step for event in events.Scalars("lr")] == list(range(1, 13))
    found = json.loads((tiny_run / "scores.json").read_text())["dev"]["mood"]["accuracy"]
    assert events.Scalars("dev/mood/accuracy")[0].value == pytest.approx(found)
    # And what the training's own batches said meanwhile.
    told = [json.loads(line) for line in (tiny_run / "log.jsonl").read_text().splitlines()]
    (evaluation,) = (record for record in told if record["event"] == "evaluation")
    assert set(evaluation["train"]) == {"mood", "pairs"}
    for task, measures in evaluation["train"].items():
        for name, value in measures.items():
            assert events.Scalars(f"train/{task}/{name}")[0].value == pytest.approx(value)


def test_what_is_told_of_the_training_s_own_batches_is_scikit_learn_s(
    tiny: "Tiny", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[list[int], list[int]]] = []
    plain = Running.note

    def note(self: Running, parts: Any, outputs: Any) -> None:
        said.append((parts[0].targets.long().tolist(), outputs[0].argmax(1).tolist()))
        plain(self, parts, outputs)

    monkeypatch.setattr(Running, "note", note)
    tasks = {"mood": tiny.mood(measure="macro_f1")}
    schedule = {"epochs": 3, "batch_size": 8, "keep_every": 2}
    run = mh.train(mh.Recipe.parse(tiny.recipe(tasks=tasks, schedule=schedule)), tmp_path / "run", quiet=True)
    records = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    told = [record["train"]["mood"] for record in records if record["event"] == "evaluation"]
    assert len(told) == 3
    for number, measures in enumerate(told):
        steps = said[6 * number : 6 * number + 6]
        gold, guess = ([label for step in steps for label in step[side]] for side in (0, 1))
        assert measures["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(gold, guess))
        assert measures["macro_f1"] == pytest.approx(
            sklearn.metrics.f1_score(gold, guess, average="macro", labels=[0, 1], zero_division=0)
        )


def test_every_so_many_epochs_the_model_is_kept(tiny: "Tiny", tmp_path: Path) -> None:
    tasks = {"mood": tiny.mood()}
    schedule = {"epochs": 5, "batch_size": 16, "keep_every": 2, "decay": "constant", "keep": "last"}
    recipe = tiny.recipe(tasks=tasks, schedule=schedule)
    run = mh.train(mh.Recipe.parse(recipe), tmp_path / "run", quiet=True)
    assert sorted(path.name for path in (run.folder / "epochs").iterdir()) == ["2", "4"]
    # The one of epoch 4 is what a training of four epochs ends with: at a constant rate nothing else differs.
    shorter = tiny.recipe(tasks=tasks, schedule={**schedule, "epochs": 4, "warmup": 2})
    longer = tiny.recipe(tasks=tasks, schedule={**schedule, "warmup": 2})
    ends = [
        mh.train(mh.Recipe.parse(one), tmp_path / name, quiet=True).folder
        for name, one in (("four", shorter), ("five", longer))
    ]
    texts = ["the film was good", "a dull film"]
    four, kept, five = (
        mh.Model.load(folder, "float32").predict("mood", texts, raw=True)
        for folder in (ends[0] / "model", ends[1] / "epochs" / "4", ends[1] / "model")
    )
    assert four == kept
    assert four != five
