"""GLUE's submission files, byte by byte: of models whose answers are known, and of a run with all nine tasks."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

import manyheads as mh
from manyheads.data.read import Row
from manyheads.errors import InputError
from manyheads.evidence import glue
from manyheads.evidence.ensemble import Ensemble
from manyheads.evidence.glue import GLUE, Submission, write_submission
from manyheads.model import Task
from manyheads.recipe import Recipe
from manyheads.run import Run
from manyheads.tasks import KINDS, Prediction
from manyheads.training import splits

if TYPE_CHECKING:
    from tests.conftest import Command, Ended, Tiny


@dataclass
class Said:
    """Stands in for a model: its answers are written down, or follow from the input."""

    recipe: Recipe
    answers: Any
    asked: int = 0

    def task(self, name: str) -> Task:
        section = self.recipe.tasks[name]
        return Task(name, KINDS[section.kind](section), section.max_length)

    def answer(self, task: str, inputs: Sequence[Any]) -> list[Prediction]:
        self.asked = max(self.asked, len(inputs))
        return [self.answers(one) for one in inputs]


def label(name: str, *others: str) -> Prediction:
    return Prediction(label=name, score=0.9, probabilities=dict.fromkeys((name, *others), 0.5))


def submitted(
    tmp_path: Path, name: str, section: Mapping[str, Any], rows: Sequence[Sequence[object]], answers: Any
) -> tuple[Submission, dict[str, str]]:
    """A recipe of one task with the test rows (after a header), and what was written."""
    files = {"train": "none.tsv", **section.get("files", {"test": "test.tsv"})}
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    for file in set(files.values()) - {"none.tsv"}:
        (tmp_path / file).write_text(text, encoding="utf-8")
    recipe = Recipe.parse({"name": "x", "data": str(tmp_path), "tasks": {name: {**section, "files": files}}})
    return written(recipe, tmp_path / "out", answers)


def written(recipe: Recipe, out: Path, answers: Any) -> tuple[Submission, dict[str, str]]:
    found = write_submission(recipe, cast(Ensemble, Said(recipe, answers)), out)
    return found, {path.name: path.read_bytes().decode() for path in out.iterdir()}


TEXT = {"kind": "classification", "text": "sentence"}
PAIR = {"kind": "classification", "pair": ["a", "b"]}
ROWS = [("index", "sentence"), (7, "x"), (8, "y"), (9, "z")]


# ---- labels ----


@pytest.mark.parametrize(
    ("name", "file", "hub", "expected"),
    [
        ("cola", "CoLA.tsv", ("unacceptable", "acceptable"), ("0", "1")),
        ("sst2", "SST-2.tsv", ("negative", "positive"), ("0", "1")),
        ("mrpc", "MRPC.tsv", ("not_equivalent", "equivalent"), ("0", "1")),
        ("qqp", "QQP.tsv", ("not_duplicate", "duplicate"), ("0", "1")),
        ("wnli", "WNLI.tsv", ("not_entailment", "entailment"), ("0", "1")),
        ("rte", "RTE.tsv", ("entailment", "not_entailment"), ("entailment", "not_entailment")),
        ("qnli", "QNLI.tsv", ("entailment", "not_entailment"), ("entailment", "not_entailment")),
        (
            "mnli",
            "MNLI-m.tsv",
            ("neutral", "contradiction", "entailment"),
            ("neutral", "contradiction", "entailment"),
        ),
    ],
)
def test_labels_are_written_as_glue_names_them(
    tmp_path: Path, name: str, file: str, hub: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    for names in (hub, expected):  # as the hub calls them, and as the files do
        said = dict(zip("xyz", itertools.cycle(names), strict=False))
        _, found = submitted(tmp_path, name, TEXT, ROWS, lambda one, said=said: label(said[one[0]]))
        answers = [expected[names.index(said[one])] for one in "xyz"]
        lines = "".join(f"{number}\t{answer}\n" for number, answer in enumerate(answers))
        # Rows are counted from 0 in the file's order, whatever its own index says.
        assert found == {file: "index\tprediction\n" + lines}


def test_numbers_are_clipped_and_have_three_decimals(tmp_path: Path) -> None:
    values = {"x": 5.0004, "y": 2.71849, "z": -0.0}
    section = {"kind": "regression", "pair": ["a", "b"]}
    rows = [("a", "b"), ("x", "?"), ("y", "?"), ("z", "?"), ("x", "?")]
    told = iter((*values.values(), -3.5))
    found = submitted(tmp_path, "stsb", section, rows, lambda one: Prediction(value=next(told)))[1]
    assert found == {"STS-B.tsv": "index\tprediction\n0\t5.000\n1\t2.718\n2\t0.000\n3\t0.000\n"}


def test_mnli_has_a_file_for_each_of_its_test_sets(tmp_path: Path) -> None:
    files = {"test": "m.tsv", "test_mismatched": "mm.tsv", "ax": "ax.tsv", "dev_mismatched": "none.tsv"}
    rows = [("a", "b"), ("x", "y")]
    found, texts = submitted(tmp_path, "mnli", {**PAIR, "files": files}, rows, lambda one: label("neutral"))
    assert set(texts) == {"MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"}
    assert set(texts.values()) == {"index\tprediction\n0\tneutral\n"}
    assert {path.name: rows for path, rows in found.rows.items()} == dict.fromkeys(texts, 1)
    assert found.missing == ()


def test_a_split_of_several_files_is_counted_through(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.tsv").write_text("sentence\nx\ny\n")
    section = {**TEXT, "files": {"train": "none.tsv", "test": ["1.tsv", "2.tsv"]}}
    recipe = Recipe.parse({"name": "x", "data": str(tmp_path), "tasks": {"cola": section}})
    _, found = written(recipe, tmp_path / "out", lambda one: label("01"["xy".index(one[0])]))
    assert found == {"CoLA.tsv": "index\tprediction\n0\t0\n1\t1\n2\t0\n3\t1\n"}


def test_rows_are_answered_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glue, "_AT_ONCE", 4)
    (tmp_path / "test.tsv").write_text("sentence\n" + "".join(f"{number}\n" for number in range(11)))
    section = {**TEXT, "files": {"train": "none.tsv", "test": "test.tsv"}}
    recipe = Recipe.parse({"name": "x", "data": str(tmp_path), "tasks": {"wnli": section}})
    models = Said(recipe, lambda one: label(str(int(one[0]) % 2)))
    told: list[tuple[str, int]] = []
    write_submission(recipe, cast(Ensemble, models), tmp_path / "out", progress=lambda *one: told.append(one))
    lines = (tmp_path / "out" / "WNLI.tsv").read_text().splitlines()
    assert lines == ["index\tprediction", *(f"{number}\t{number % 2}" for number in range(11))]
    assert models.asked == 4
    assert told == [("WNLI.tsv", 1)] * 11


# ---- the hub ----


def test_the_test_rows_of_the_hub_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str, *, split: str, name: str | None = None, need: Sequence[str] = ()) -> Iterator[Row]:
        assert (path, split, name, tuple(need)) == ("nyu-mll/glue", "test", "cola", ("sentence",))
        for number, text in enumerate("xyx", start=1):
            yield Row(number, None, {"sentence": text, "label": None, "idx": number - 1})

    monkeypatch.setattr(splits, "read_hub", read)
    recipe = Recipe.load(Path(__file__).parents[2] / "recipes" / "glue" / "hub" / "cola.yaml")
    said = {"x": "unacceptable", "y": "acceptable"}
    _, found = written(recipe, tmp_path / "out", lambda one: label(said[one[0]]))
    assert found == {"CoLA.tsv": "index\tprediction\n0\t0\n1\t1\n2\t0\n"}


# ---- QNLI as a ranking ----

RANKING = {
    "kind": "ranking",
    "query": "question",
    "candidate": "sentence",
    "relevance": "label",
    "positive": "entailment",
}


def longest_first(one: tuple[str, list[str]]) -> Prediction:
    lengths = [len(text) for text in one[1]]
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    return Prediction(
        label=one[1][order[0]],
        ranking=tuple(order),
        shares=tuple(length / sum(lengths) for length in lengths),
    )


def test_the_best_candidate_of_a_question_is_entailed(tmp_path: Path) -> None:
    # As in the second release, the rows of a question lie apart; q3 has one row.
    rows = [
        ("index", "question", "sentence"),
        (0, "q1", "abc"),
        (1, "q2", "ab"),
        (2, "q1", "abcd"),
        (3, "q3", "a"),
        (4, "q2", "a"),
        (5, "q1", "a"),
    ]
    _, found = submitted(tmp_path, "qnli", RANKING, rows, longest_first)
    expected = [
        "not_entailment",
        "entailment",
        "entailment",
        "entailment",
        "not_entailment",
        "not_entailment",
    ]
    lines = "".join(f"{number}\t{answer}\n" for number, answer in enumerate(expected))
    assert found == {"QNLI.tsv": "index\tprediction\n" + lines}


# ---- what is passed over, and what is refused ----


def test_what_is_no_glue_task_or_has_no_test_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text("sentence\nx\n")
    test = {"train": "none.tsv", "test": "test.tsv"}
    tasks = {
        "mood": {**TEXT, "files": test},
        "cola": {**TEXT, "files": test},
        "sst2": {**TEXT, "files": {"train": "none.tsv"}},
        "mnli": {**PAIR, "hub": {"path": "x", "splits": {"train": "train"}}},
    }
    recipe = Recipe.parse({"name": "x", "data": str(tmp_path), "tasks": tasks})
    found, texts = written(recipe, tmp_path / "deep" / "out", lambda one: label("1"))
    assert set(texts) == {"CoLA.tsv"}
    assert found.missing == (
        "the task 'mood' is none of GLUE's",
        "the task 'sst2' has no split 'test' for SST-2.tsv; --set tasks.sst2.files.test=FILE adds it",
        "the task 'mnli' has no split 'test' for MNLI-m.tsv; --set tasks.mnli.hub.splits.test=NAME adds it",
        "the task 'mnli' has no split 'test_mismatched' for MNLI-mm.tsv; "
        "--set tasks.mnli.hub.splits.test_mismatched=NAME adds it",
    )
    only = Recipe.parse({"name": "x", "data": str(tmp_path), "tasks": {"mood": tasks["mood"]}})
    with pytest.raises(InputError) as caught:
        written(only, tmp_path / "none", None)
    assert str(caught.value) == "nothing to submit to GLUE: the task 'mood' is none of GLUE's"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "section", "answers", "message"),
    [
        (
            "cola",
            TEXT,
            lambda one: label("1", "maybe"),
            "the task 'cola' answers with the label 'maybe'; CoLA.tsv expects 0, 1",
        ),
        (
            "rte",
            TEXT,
            lambda one: label("1", "0"),
            "the task 'rte' answers with the label '1'; RTE.tsv expects entailment, not_entailment",
        ),
        (
            "sst2",
            {**TEXT, "kind": "regression"},
            lambda one: Prediction(value=1.0),
            "the task 'sst2' answers with no label; SST-2.tsv expects 0, 1",
        ),
        (
            "stsb",
            TEXT,
            lambda one: label("3"),
            "the task 'stsb' answers with labels; STS-B.tsv expects numbers",
        ),
        (
            "rte",
            {**RANKING, "query": "sentence", "candidate": "index"},
            longest_first,
            "the task 'rte' is of a kind that gives no label or number for a row of GLUE's files",
        ),
        (
            "qnli",
            {"kind": "choice", "text": "sentence", "choices": ["index", "sentence"]},
            lambda one: Prediction(label="x", shares=(0.5, 0.5), ranking=(0, 1)),
            "the task 'qnli' gives no answer for each row of QNLI.tsv",
        ),
        (
            "cola",
            {**TEXT, "sample": {"test": 2}},
            None,
            "tasks.cola.sample.test: CoLA.tsv expects an answer to every row of GLUE's file",
        ),
        (
            "cola",
            {**TEXT, "files": {}, "hold_out": {"test": 0.5}},
            None,
            "tasks.cola.hold_out.test: CoLA.tsv expects an answer to every row of GLUE's file",
        ),
    ],
)
def test_answers_that_glue_does_not_take_are_refused(
    tmp_path: Path, name: str, section: dict[str, Any], answers: Any, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        submitted(tmp_path, name, section, ROWS, answers)
    assert str(caught.value) == message
    assert not list((tmp_path / "out").glob("*"))


def test_a_row_that_cannot_be_read_is_told_once_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        submitted(tmp_path, "cola", TEXT, [*ROWS, ("only one",)], lambda one: label("1"))
    assert (
        str(caught.value)
        == f"{tmp_path}/test.tsv, row 4 (line 5): found 1 field, expected 2 ('index', 'sentence')"
    )
    (tmp_path / "a.jsonl").write_text('{"sentence": "x"}\n{"sentence": null}\n')
    section = {**TEXT, "files": {"train": "none.tsv", "test": "a.jsonl"}}
    recipe = Recipe.parse({"name": "x", "data": str(tmp_path), "tasks": {"cola": section}})
    with pytest.raises(InputError) as caught:
        written(recipe, tmp_path / "out", lambda one: label("1"))
    assert str(caught.value) == (
        f"{tmp_path}/a.jsonl, row 2 (line 2), column 'sentence': found null, expected a text"
    )


def test_a_missing_test_file_is_told_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text("sentence\nx\n")
    tasks = {
        "cola": {**TEXT, "files": {"train": "none.tsv", "test": "test.tsv"}},
        "sst2": {**TEXT, "files": {"train": "none.tsv", "test": "tset.tsv"}},
    }
    recipe = Recipe.parse({"name": "x", "data": str(tmp_path), "tasks": tasks})
    with pytest.raises(InputError, match=r"tset\.tsv: no such file; did you mean 'test\.tsv'"):
        written(recipe, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match=r"/out: is a file, expected a folder$"):
        written(recipe.with_overrides(["use=[cola]"]), tmp_path / "out", lambda one: label("1"))


# ---- a run ----

NINE = [*GLUE]


@pytest.fixture(scope="module")
def run(tiny: "Tiny", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run of `recipes/glue_all.yaml`, a few steps of it, on a few rows in GLUE's layout."""
    root = tmp_path_factory.mktemp("glue")
    recipe = Path(__file__).parents[2] / "recipes" / "glue_all.yaml"
    write_glue(tiny, root / "glue")
    tasks = [f"tasks.{name}.max_length=32" for name in NINE]
    small = ["precision=float32", "optimizer.lr=1e-2", "schedule.steps=12", "schedule.batch_size=4"]
    loaded = Recipe.load(recipe, [f"encoder.from={tiny.folder / 'bert'}", *tasks, *small], data=root)
    return mh.train(loaded, root / "run", quiet=True).folder


def write_glue(tiny: "Tiny", folder: Path) -> None:
    """All nine tasks in GLUE's layout, the texts those of the tiny tables; SST-2 with its test file."""
    sentences = [line.split(",") for line in (tiny.folder / "mood-train.csv").read_text().splitlines()[1:]]
    texts = [text for text, _ in sentences]
    folders = {
        "CoLA": ("0", "1"),
        "SST-2": ("0", "1"),
        "MRPC": ("0", "1"),
        "STS-B": ("0.5", "4.250"),
        "QQP": ("0", "1"),
        "MNLI": ("entailment", "neutral", "contradiction"),
        "QNLI": ("entailment", "not_entailment"),
        "RTE": ("entailment", "not_entailment"),
        "WNLI": ("0", "1"),
    }
    parse = ["promptID", "pairID", "genre", "s1b", "s2b", "s1p", "s2p"]
    inference = ["index", *parse, "sentence1", "sentence2"]
    for task, labels in folders.items():
        (folder / task).mkdir(parents=True)
        for split, begin in {"train": 0, "dev": 16, "test": 28}.items():
            halves = ("_matched", "_mismatched") if task == "MNLI" and split != "train" else ("",)
            for number, half in enumerate(halves):
                lines = []
                for row in range(9 - number):
                    a, b, label = (
                        texts[begin + row],
                        texts[begin + row + 2 + number],
                        labels[row % len(labels)],
                    )
                    known = [] if split == "test" else [label]
                    index = str(row)
                    match task:
                        case "CoLA":
                            lines.append([index, a] if split == "test" else ["gj04", label, "", a])
                        case "SST-2":
                            lines.append([index, a] if split == "test" else [a, label])
                        case "MRPC":
                            lines.append([*(known or [index]), "70", "71", a, b])
                        case "STS-B":
                            lines.append([index, "g", "f", "y", "o", "n", "n", a, b, *known])
                        case "QQP":
                            lines.append([index, a, b] if split == "test" else [index, "1", "2", a, b, label])
                        case "MNLI":
                            lines.append([index, *parse, a, b, *known])
                        case _:
                            lines.append([index, a, b, *known])
                test = split == "test"
                header = {
                    "CoLA": ["index", "sentence"] if test else [],
                    "SST-2": ["index", "sentence"] if test else ["sentence", "label"],
                    "MRPC": ["index" if test else "Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
                    "STS-B": [*"abcdefg", "sentence1", "sentence2", *([] if test else ["score"])],
                    "QQP": ["id", *([] if test else ["q1", "q2"]), "question1", "question2"]
                    + ([] if test else ["is_duplicate"]),
                    "MNLI": [*inference, *([] if test else ["gold_label"])],
                    "QNLI": ["index", "question", "sentence", *([] if test else ["label"])],
                }.get(task, ["index", "sentence1", "sentence2", *([] if test else ["label"])])
                written = "".join("\t".join(line) + "\n" for line in [*([header] if header else []), *lines])
                (folder / task / f"{split}{half}.tsv").write_text(written)


def expected_of(run: Path) -> dict[str, str]:
    """The nine files and MNLI's second, from what the run's model says of the texts, asked from Python."""
    model, root = mh.load(run), run.parent / "glue"
    columns = {
        "CoLA": ("cola", ["sentence"]),
        "SST-2": ("sst2", ["sentence"]),
        "MRPC": ("mrpc", ["#1 String", "#2 String"]),
        "STS-B": ("stsb", ["sentence1", "sentence2"]),
        "QQP": ("qqp", ["question1", "question2"]),
        "QNLI": ("qnli", ["question", "sentence"]),
        "RTE": ("rte", ["sentence1", "sentence2"]),
        "WNLI": ("wnli", ["sentence1", "sentence2"]),
        "MNLI-m": ("mnli", ["sentence1", "sentence2"]),
        "MNLI-mm": ("mnli", ["sentence1", "sentence2"]),
    }
    found = {}
    for file, (task, named) in columns.items():
        folder, _, half = file.partition("-m") if file.startswith("MNLI") else (file, "", None)
        name = {"": "test_matched.tsv", "m": "test_mismatched.tsv", None: "test.tsv"}[half]
        header, *lines = [line.split("\t") for line in (root / folder / name).read_text().splitlines()]
        texts = [tuple(line[header.index(column)] for column in named) for line in lines]
        said = model.predict(task, [one if len(one) == 2 else one[0] for one in texts])
        told = ["index\tprediction"]
        for number, one in enumerate(said):
            told.append(
                f"{number}\t{one.label if one.value is None else format(min(5, max(0, one.value)), '.3f')}"
            )
        found[f"{file}.tsv"] = "\n".join(told) + "\n"
    return found


def test_a_run_with_all_nine_tasks_writes_every_file(run: Path, tmp_path: Path, command: "Command") -> None:
    out = tmp_path / "submission"
    sst2 = ["--set", "tasks.sst2.files.test=glue/SST-2/test.tsv"]
    ended: Ended = command("predict", run, "--glue", out, *sst2)
    assert (ended.status, ended.err) == (0, "")
    expected = expected_of(run)
    assert {path.name: path.read_bytes().decode() for path in out.iterdir()} == expected
    assert sorted(ended.out.splitlines()) == sorted(
        f"{out / name}: {text.count(chr(10)) - 1} rows" for name, text in expected.items()
    )
    answers = {
        text.partition("\n")[2].replace(str(row), "") for text in expected.values() for row in range(9)
    }
    assert len(answers) > 3  # not the same answer everywhere


def test_without_its_test_file_a_task_is_passed_over(run: Path, tmp_path: Path, command: "Command") -> None:
    out = tmp_path / "submission"
    ended: Ended = command("predict", run, "--glue", out, "--set", "use=[sst2, wnli]")
    assert ended.status == 0
    assert ended.out == (
        f"{out / 'WNLI.tsv'}: 9 rows\n"
        "passed over: the task 'sst2' has no split 'test' for SST-2.tsv; --set tasks.sst2.files.test=FILE adds it\n"
    )
    quiet: Ended = command("predict", run, "--glue", out, "--set", "use=[sst2, wnli]", "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "", "")
    told = command.refused("predict", run, "--glue", out, "--set", "use=[sst2]")
    assert told.startswith("error: nothing to submit to GLUE: the task 'sst2' has no split 'test'")


def test_the_diagnostic_set_is_answered_by_mnli(run: Path, tmp_path: Path, command: "Command") -> None:
    more = ["--set", "use=[mnli]", "--set", "tasks.mnli.files.ax=glue/RTE/test.tsv"]
    assert command("predict", run, "--glue", tmp_path, *more).status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["AX.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"]
    lines = (tmp_path / "AX.tsv").read_text().splitlines()
    assert [line.partition("\t")[0] for line in lines] == ["index", *map(str, range(9))]
    assert {line.partition("\t")[2] for line in lines[1:]} <= {"entailment", "neutral", "contradiction"}


def test_several_runs_answer_together(run: Path, tmp_path: Path, command: "Command") -> None:
    only = ["--set", "use=[stsb]"]
    assert command("predict", run, "--glue", tmp_path / "one", *only).status == 0
    assert command("predict", run, "--with", run, "--glue", tmp_path / "two", *only).status == 0
    assert (tmp_path / "two/STS-B.tsv").read_bytes() == (tmp_path / "one/STS-B.tsv").read_bytes()


def test_what_does_not_go_together_is_refused(run: Path, tmp_path: Path, command: "Command") -> None:
    source = tmp_path / "in.csv"
    source.write_text("sentence\nfine\n")
    for extra, named in (
        ([source], "INPUT"),
        (["--task", "cola"], "--task"),
        (["--out", "x.csv"], "--out"),
        (["--text", "sentence"], "--text"),
        (["--pair", "a", "b"], "--pair"),
        (["--format", "csv"], "--format"),
        (["--out-format", "csv"], "--out-format"),
    ):
        told = command.refused("predict", run, *extra, "--glue", tmp_path / "out")
        assert told == f"error: {named} does not go with --glue, which reads the test files of the recipe\n"
    expected = "error: expected --task NAME and INPUT, the file to label, or --glue DIR\n"
    assert command.refused("predict", run) == expected
    assert command.refused("predict", run, source) == expected
    assert command.refused("predict", run, "--task", "cola") == expected
    told = command.refused("predict", run, source, "--task", "cola", "--set", "use=[cola]")
    assert told == "error: --set goes with --glue alone: no recipe is read to label a file\n"
    assert "not a run folder" in command.refused("predict", tmp_path, "--glue", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_runs_own_predictions_of_test_are_the_same(run: Path, tmp_path: Path, command: "Command") -> None:
    # Training has labelled the test splits already, by another way through the code.
    assert command("predict", run, "--glue", tmp_path, "--set", "use=[rte, qqp]").status == 0
    for task, file in (("rte", "RTE.tsv"), ("qqp", "QQP.tsv")):
        lines = (Run(run).folder / "predictions" / f"{task}-test.csv").read_text().splitlines()
        place = lines[0].split(",").index("label")
        said = [line.split(",")[place] for line in lines[1:]]
        assert [line.split("\t")[1] for line in (tmp_path / file).read_text().splitlines()[1:]] == said
