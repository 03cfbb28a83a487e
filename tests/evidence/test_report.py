"""The report: what it says is what the run says, nothing of it reaches beyond the page, and data stay data."""

import csv
import json
import math
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from manyheads.errors import InputError
from manyheads.evidence.report.drawings import draw_curves, draw_reliability, drawn, inlined
from manyheads.evidence.report.findings import Findings, find
from manyheads.evidence.report.page import page, write_report
from manyheads.formulas import calibration
from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.training.loop import train

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny
    from tests.evidence.conftest import MakeRun

VOID = {"meta", "link", "br", "img", "hr", "input"}
NASTY = "<script>alert(1)</script> \"quoted\" & 'more' $x^{ url(http://host/x)"


class Page(HTMLParser):
    """A page read strictly: tags close in order, identifiers are unique; its words and references are kept."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.described: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        assert sorted(set(self.ids)) == sorted(self.ids)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "xlink:href", "action", "srcset", "data"):
                self.references.append(value or "")
            elif name in ("aria-labelledby",):
                self.described.append(value or "")
            assert not name.startswith("on")
            self.references += re.findall(r"url\(([^)]*)\)", value or "") if name != "aria-label" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def check(text: str) -> Page:
    """What must hold of every report."""
    found = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    for reference in found.references:
        assert reference.startswith(("#", "data:image/png;base64,")), reference
        if reference.startswith("#"):
            assert reference[1:] in found.ids
    for described in found.described:
        assert described in found.ids
    assert not {"script", "link", "iframe", "img", "form", "object"} & set(found.tags)
    assert "@import" not in text
    assert found.tags.count("style") == 1
    assert found.tags.count("h1") == found.tags.count("main") == 1
    assert found.tags.count("table") == found.tags.count("caption")
    assert found.tags.count("svg") == found.tags.count("figure") == found.tags.count("figcaption")
    levels = [int(tag[1]) for tag in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    return found


@pytest.fixture(scope="module")
def findings(tiny_run: Path) -> Findings:
    return find(tiny_run)


def test_it_tells_what_the_run_tells(tiny_run: Path, findings: Findings) -> None:
    mood, pairs = findings.tasks
    assert (mood.name, pairs.name) == ("mood", "pairs")
    assert [split.name for split in mood.splits] == ["dev", "test"]
    run = Run(tiny_run)
    for task in findings.tasks:
        for split in task.splits:
            expected = run.all_scores[split.name][task.name]
            assert {one.name: one.value for one in split.scores} == expected
            first = split.scores[0]
            assert first.interval is not None
            low, high = first.interval
            assert low <= first.value <= high
            assert low < high
            assert all(one.interval is None for one in split.scores[1:])
    assert set(mood.lengths) == {"train", "dev", "test"}
    assert mood.classes["train"] == {"bad": 24, "good": 24}
    assert pairs.classes == {}
    assert pairs.splits[0].confusion is None
    assert pairs.splits[0].calibration is None
    assert pairs.splits[0].wrong is None


def test_the_interval_is_that_of_resampled_examples(tiny_run: Path, findings: Findings) -> None:
    right = np.load(tiny_run / "predictions" / "mood-test.npy")[:, 1]
    generator = np.random.default_rng(9)
    drawn_scores = [generator.choice(right, len(right)).mean() for _ in range(4000)]
    interval = findings.tasks[0].splits[1].scores[0].interval
    assert interval == pytest.approx(tuple(np.quantile(drawn_scores, (0.025, 0.975))), abs=0.07)


def test_calibration_is_that_of_the_raw_answers(tiny: "Tiny", tiny_run: Path, findings: Findings) -> None:
    model = Run(tiny_run).model()
    for split, name in zip(findings.tasks[0].splits, ("dev", "test"), strict=True):
        with open(tiny_run / "predictions" / f"mood-{name}.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found = split.calibration
        assert found is not None
        right = [row["gold"] == row["label"] for row in rows]
        assert found.before.counts.sum() == len(rows)
        with open(tiny.folder / f"mood-{name}.csv", encoding="utf-8", newline="") as file:
            texts = [(row["sentence"],) for row in csv.DictReader(file)]
        outputs, _ = model.outputs("mood", texts)
        assert isinstance(outputs, torch.Tensor)
        logits = (outputs[:, 1:] - outputs[:, :1]).double()
        gold = torch.tensor([row["gold"] == "good" for row in rows])
        if name == "dev":
            # Half for half, as it is written in the findings: the other half's temperature.
            expected = calibration.temperature(logits, gold)
            assert found.temperature == pytest.approx(expected, rel=1e-4)
            shuffled = np.random.default_rng(0).permutation(len(rows))
            halves = [np.sort(half) for half in np.array_split(shuffled, 2)]
            scaled, came = list[float](), list[bool]()
            for half, other in (halves, halves[::-1]):
                own = calibration.temperature(logits[other], gold[other])
                share = torch.sigmoid(logits[half] / own)[:, 0].numpy()
                scaled += np.maximum(share, 1 - share).tolist()
                came += [right[i] for i in half]
            assert found.fitted == "the other half of dev"
        else:
            share = torch.sigmoid(logits / findings.tasks[0].splits[0].calibration.temperature)[:, 0].numpy()  # type: ignore[union-attr, operator]
            scaled, came = np.maximum(share, 1 - share).tolist(), right
            assert found.fitted == "dev"
        assert found.after is not None
        error = calibration.expected_calibration_error(scaled, came)
        assert found.after.error == pytest.approx(error, abs=1e-4)


def test_the_worst_errors_are_those_said_with_most_confidence(
    tiny: "Tiny", tiny_run: Path, findings: Findings
) -> None:
    with open(tiny_run / "predictions" / "mood-dev.csv", encoding="utf-8", newline="") as file:
        wrong = [row for row in csv.DictReader(file) if row["gold"] != row["label"]]
    wrong.sort(key=lambda row: -float(row["score"]))
    with open(tiny.folder / "mood-dev.csv", encoding="utf-8", newline="") as file:
        texts = [row["sentence"] for row in csv.DictReader(file)]
    split = findings.tasks[0].splits[0]
    assert split.wrong == len(wrong)
    assert wrong, "the tiny run is too good for this test"
    assert [one.place for one in split.worst] == [f"row {row['row']} of mood-dev.csv" for row in wrong[:12]]
    for one, row in zip(split.worst, wrong, strict=False):
        assert one.texts == (("sentence", ((texts[int(row["row"]) - 1], None),)),)
        assert (one.gold, one.said) == (row["gold"], row["label"])
        assert one.confidence == pytest.approx(float(row["score"]), rel=1e-4)
    with open(tiny_run / "predictions" / "pairs-dev.csv", encoding="utf-8", newline="") as file:
        far = sorted(csv.DictReader(file), key=lambda row: -abs(float(row["gold"]) - float(row["value"])))
    worst = findings.tasks[1].splits[0].worst
    assert worst[0].place == f"row {far[0]['row']} of pairs-dev.csv"
    assert [name for name, _ in worst[0].texts] == ["a", "b"]


def test_the_page_stands_alone_and_is_the_same_again(tiny_run: Path, findings: Findings) -> None:
    text = page(findings, "1.2.3")
    found = check(text)
    assert "://" not in text
    assert page(find(tiny_run), "1.2.3") == text
    told = found.text
    for expected in (
        "tiny: report",
        "95% interval",
        "Expected calibration error",
        "Label for label on test",
        "The worst errors on dev",
        "Lengths of every split",
        "Those furthest from the value.",
        "1.2.3",
        f"manyheads train {tiny_run}/recipe.yaml",
    ):
        assert expected in told
    split = findings.tasks[0].splits[0]
    assert split.confusion is not None
    gold, said = (
        np.repeat(np.indices((2, 2))[axis].ravel(), split.confusion.counts.ravel()) for axis in (0, 1)
    )
    each = precision_recall_fscore_support(gold, said, zero_division=np.nan)
    for numbers in each[:3]:
        for value in numbers:
            assert ("undefined" if math.isnan(value) else f"{value:.4f}") in told
    for name, print_ in findings.files:
        assert name in told
        assert re.fullmatch(r"[0-9a-f]{64}", print_)


def test_without_the_data_it_says_so(tiny: "Tiny", tmp_path: Path) -> None:
    for name in ("mood-train.csv", "mood-dev.csv", "mood-test.csv", "pairs-train.csv", "pairs-dev.csv"):
        shutil.copy(tiny.folder / name, tmp_path / name)
    recipe = tiny.recipe(data=str(tmp_path), encoder={"from": str(tiny.folder / "bert"), "dropout": 0.1})
    run = train(Recipe.parse(recipe), tmp_path / "run", quiet=True)
    whole = find(run.folder)
    (tmp_path / "mood-dev.csv").unlink()
    (tmp_path / "pairs-train.csv").rename(tmp_path / "elsewhere.csv")
    found = find(run.folder)
    for before, task in zip(whole.tasks, found.tasks, strict=True):
        assert task.missing is not None
        assert "no such file" in task.missing
        assert [split.scores for split in task.splits] == [split.scores for split in before.splits]
        assert [split.examples for split in task.splits] == [split.examples for split in before.splits]
        assert task.lengths == {}
        assert task.splits[0].worst == ()
    assert dict(found.files)["mood-dev.csv"] == "not at hand"
    told = check(page(found)).text
    assert told.count("What needs the data is not here") == 2
    assert "Learning curves" in told

    # The data may have moved.
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("mood-train.csv", "mood-dev.csv", "mood-test.csv", "pairs-train.csv", "pairs-dev.csv"):
        shutil.copy(tiny.folder / name, moved / name)
    assert all(task.missing is None for task in find(run.folder, overrides=[f"data={moved}"]).tasks)

    # Nor need the model be there, or the tallies, or a log.
    shutil.rmtree(run.model_folder)
    for path in (run.folder / "predictions").glob("*.npy"):
        path.unlink()
    (run.folder / "log.jsonl").unlink()
    bare = find(run.folder)
    assert [task.missing for task in bare.tasks] == ["the run's model was not kept"] * 2
    assert all(split.scores[0].interval is None for task in bare.tasks for split in task.splits)
    assert "Learning curves" not in check(page(bare)).text


def test_what_comes_from_data_stays_data(tiny: "Tiny", tmp_path: Path) -> None:
    labels = [NASTY, "</table>"]
    rows = [[f"{NASTY} film {number}", labels[number % 2]] for number in range(24)]
    for split in ("train", "dev", "test"):
        tiny.csv(tmp_path / f"mood-{split}.csv", ["<b>text</b>", "label"], rows)
    section = tiny.mood(text="<b>text</b>", max_length=64)
    recipe = tiny.recipe(data=str(tmp_path), tasks={"mood": section}, schedule={"steps": 2, "batch_size": 8})
    run = train(Recipe.parse(recipe), tmp_path / "run", quiet=True)
    text = page(find(run.folder))
    found = check(text)
    assert "<script" not in text
    assert "</table>" in found.text
    assert NASTY.split(" $")[0] in found.text
    assert "<b>" not in text


def test_a_run_without_evaluations_or_with_gaps_in_its_log(make_run: "MakeRun") -> None:
    folder = make_run("bare", {"mood": ([0.4, 0.9, 0.2], [0, 1, 1]), "pairs": ([1.0, 3.0], [1.5, 2.0])})
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "step", "step": 11, "loss": {"mood": null}}\n[1]\n{"event": "st')
    found = find(folder)
    assert [task.missing for task in found.tasks] == ["the run's model was not kept"] * 2
    check(page(found))


def test_task_affinity_is_drawn_and_told(findings: Findings) -> None:
    cosines = {"embeddings": [[1.0, 0.25], [0.25, 1.0]], "pooler": [[None, None], [None, None]]}
    again = {"embeddings": [[1.0, 0.75], [0.75, 1.0]], "pooler": [[None, None], [None, None]]}
    records = [{"event": "affinity", "tasks": ["mood", "pairs"], "cosines": one} for one in (cosines, again)]
    measured = Findings(
        findings.name,
        findings.folder,
        findings.tasks,
        [*findings.records, *records],
        findings.recipe,
        findings.files,
        findings.tokenizer,
    )
    told = check(page(measured)).text
    assert "Task affinity" in told
    assert "+0.50" in told
    assert "mean of 2 measurements" in told
    assert "Task affinity" not in check(page(findings)).text


def test_pictures_on_one_page_do_not_share_their_parts() -> None:
    found = calibration.reliability([0.2, 0.7, 0.9], [0, 1, 1])
    svg = draw_reliability(found, found)
    a, b = inlined(svg, "a"), inlined(svg, "b")
    assert a != b
    check_ids = Page(f"<html>{a}{b}</html>")
    for reference in check_ids.references:
        assert reference.lstrip("#") in check_ids.ids
    assert "<style" not in a
    assert "http" not in a
    assert draw_reliability(found, None) == draw_reliability(found, None)


def test_curves_of_anything() -> None:
    for losses, measures in (
        ([(1.0, 0.5)], {}),
        ([], {"dev": [(5.0, 0.7)]}),
        ([(float(i), 1 / i) for i in range(1, 3000)], {"dev": [(5.0, 0.7), (9.0, 0.8)], "train": []}),
        ([], {}),
    ):
        assert "<svg" in draw_curves(losses, measures, "accuracy", 5)


def test_a_label_with_dollars_is_no_formula() -> None:
    from manyheads.evidence.pictures import draw_classes

    svg = drawn(lambda path: draw_classes(path, {"train": {"$x^{$": 1, "b": 2}}, "$\\bad{$"))
    assert "$x^{$" in svg


def test_the_command_writes_the_page(tiny_run: Path, command: "Command", tmp_path: Path) -> None:
    out = tmp_path / "deep" / "r.html"
    ended = command("report", tiny_run, "--out", out, "--split", "test")
    assert ended.status == 0, ended
    assert ended.out.strip() == str(out)
    told = check(out.read_text(encoding="utf-8")).text
    assert "Label for label on test" in told
    assert "Label for label on dev" not in told
    assert "no scores of a split 'tset'; there are dev, test" in command.refused(
        "report", tiny_run, "--split", "tset", "--out", out
    )
    assert "expected a file for the report" in command.refused("report", tiny_run, "--out", tmp_path)
    assert "no such run folder" in command.refused("report", tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "no recipe.yaml" in command.refused("report", tmp_path / "empty")


def test_it_lies_in_the_run_folder_by_default(make_run: "MakeRun", command: "Command") -> None:
    folder = make_run("mine", {"mood": ([0.4, 0.9, 0.2], [0, 1, 1])})
    assert write_report(folder) == folder / "report.html"
    assert command("report", folder, "--quiet").out == ""
    with pytest.raises(InputError, match="no scores of a split 'x'"):
        write_report(folder, splits=["x"])
    json.loads((folder / "scores.json").read_text())  # nothing else was touched
