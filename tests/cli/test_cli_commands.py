"""The commands: what they print, what they write, how they end."""

import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]
import pytest

import manyheads as mh
from manyheads.cli import COMMANDS

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny


def table(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), delimiter=delimiter))


# ---- help and version ----


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(command: "Command", name: str) -> None:
    ended = command(name, "--help")
    assert ended.status == 0
    assert f"manyheads {name} [OPTIONS]" in ended.out
    assert ended.err == ""


def test_the_help_names_every_command_and_status(command: "Command") -> None:
    ended = command("--help")
    assert ended.status == 0
    assert all(name in ended.out for name in COMMANDS)
    assert "130" in ended.out
    assert command("--version").out.strip() == mh.__version__


def test_a_word_that_is_no_command_or_option_is_refused(command: "Command") -> None:
    assert command("trian").status == 2
    assert command("train").status == 2
    assert command("evaluate", "x", "--jsn").status == 2


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "manyheads", "evaluate", "no-such-run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: no-such-run: no such run folder\n"


def test_the_schema_is_json_that_names_the_sections(command: "Command") -> None:
    ended = command("schema")
    assert ended.status == 0
    schema = json.loads(ended.out)
    assert {"name", "seed", "encoder", "tasks", "optimizer", "schedule"} <= set(schema["properties"])


# ---- train and evaluate ----


def test_train_prints_the_scores_that_evaluate_finds_again(
    tiny: "Tiny", tmp_path: Path, command: "Command"
) -> None:
    recipe = tiny.write(tmp_path / "r.yaml", schedule={"epochs": 2, "batch_size": 8})
    out = tmp_path / "deep" / "run"
    trained = command("train", recipe, "--out", out, "--quiet", "--json")
    assert (trained.status, trained.err) == (0, "")
    scores = json.loads((out / "scores.json").read_text())
    assert json.loads(trained.out) == {"run": str(out), "scores": scores}
    found = command("evaluate", out, "--json")
    assert (found.status, found.err) == (0, "")
    assert json.loads(found.out) == scores
    only = command("evaluate", out, "--json", "--split", "dev")
    assert json.loads(only.out) == {"dev": scores["dev"]}
    shown = command("evaluate", out).out
    assert f"{scores['dev']['mood']['accuracy']:.4f}" in shown
    assert f"{scores['dev']['pairs']['pearson']:.4f}" in shown


def test_evaluate_computes_as_the_run_was_trained(tiny: "Tiny", tmp_path: Path, command: "Command") -> None:
    for precision in ("float32", "auto"):
        out = tmp_path / precision
        mh.train(mh.Recipe.parse(tiny.recipe(precision=precision)), out, quiet=True)
        found = json.loads(command("evaluate", out, "--json").out)
        wanted = json.loads((out / "scores.json").read_text())
        for split, tasks in wanted.items():
            for task, measures in tasks.items():
                assert found[split][task] == pytest.approx(measures, abs=1e-6), (precision, split, task)


def test_train_says_what_it_does(tiny: "Tiny", tmp_path: Path, command: "Command") -> None:
    recipe = tiny.write(tmp_path / "r.yaml")
    ended = command("train", recipe, "--out", tmp_path / "run", "--set", "schedule.epochs=2", "--seed", "3")
    assert ended.status == 0
    assert "48 / 20 / 12" in ended.err
    assert "24 steps, 12 an epoch" in ended.err
    assert "step 24/24" in ended.err
    assert "accuracy" in ended.out
    resolved = mh.Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert (resolved.seed, resolved.schedule.epochs) == (3, 2)


def test_the_default_folder_is_runs_and_the_name(
    tiny: "Tiny", tmp_path: Path, command: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tiny.write(tmp_path / "r.yaml", schedule={"steps": 1})
    assert command("train", recipe, "--quiet").status == 0
    assert (tmp_path / "runs" / "tiny" / "scores.json").is_file()


# ---- ask ----


def test_ask_puts_one_text_through_the_heads_that_take_it(tiny_run: Path, command: "Command") -> None:
    ended = command("ask", tiny_run, "a good film", "--json", "--precision", "float32")
    assert ended.status == 0
    found = json.loads(ended.out)
    (wanted,) = mh.load(tiny_run, "float32").predict("mood", ["a good film"])
    assert set(found) == {"mood"}
    assert found["mood"]["label"] == wanted.label
    assert found["mood"]["score"] == pytest.approx(wanted.score)
    assert found["mood"]["truncated"] is False
    assert wanted.label is not None
    assert wanted.label in command("ask", tiny_run, "a good film").out


def test_ask_takes_a_pair(tiny_run: Path, command: "Command") -> None:
    found = json.loads(command("ask", tiny_run, "a good film", "a good film", "--json").out)
    assert set(found) == {"pairs"}
    assert found["pairs"]["value"] == pytest.approx(5, abs=0.01)
    assert "cut by" in command("ask", tiny_run, "film " * 50, "film").out
    told = command.refused("ask", tiny_run, "a text", "--task", "pairs")
    assert "'pairs' does not read a single text" in told
    assert "did you mean 'mood'" in command.refused("ask", tiny_run, "a text", "--task", "moods")


# ---- predict ----


@pytest.fixture
def sentences() -> list[str]:
    chance = random.Random(5)
    words = ["film", "good", "bad", 'the "end"', "a, b", "zebra", "日本", "café"]
    return [" ".join(chance.choices(words, k=chance.randint(1, 9))) for _ in range(60)]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format of the name."""
    columns = list(rows[0])
    if ".parquet" in path.name:
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    if ".jsonl" in path.name:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif ".json" in path.name:
        text = json.dumps(rows)
    elif ".tsv" in path.name:
        text = "\n".join(["\t".join(columns), *("\t".join(map(str, row.values())) for row in rows)]) + "\n"
    else:
        file = io.StringIO()
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
        text = file.getvalue()
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    if ".jsonl" in path.name:
        return [json.loads(line) for line in text.splitlines()]
    if ".tsv" in path.name:
        lines = [line.split("\t") for line in text.splitlines()]
        return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    return list(table(text))


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "parquet"])
def test_predict_reads_and_writes_each_format_in_order(
    tiny_run: Path, tmp_path: Path, command: "Command", sentences: list[str], ending: str
) -> None:
    source = written(
        tmp_path / f"in.{ending}", [{"id": str(i), "sentence": one} for i, one in enumerate(sentences)]
    )
    out = tmp_path / f"out.{ending}"
    ended = command("predict", tiny_run, source, "--task", "mood", "--out", out, "--precision", "float32")
    assert (ended.status, ended.out, ended.err) == (0, "", "")
    wanted = mh.load(tiny_run, "float32").predict("mood", sentences)
    rows = read(out)
    assert [row["id"] for row in rows] == [str(i) for i in range(60)]
    assert [row["sentence"] for row in rows] == sentences
    assert [row["label"] for row in rows] == [one.label for one in wanted]
    assert [float(row["score"]) for row in rows] == pytest.approx([one.score for one in wanted], abs=1e-6)
    assert [str(row["truncated"]).lower() for row in rows] == [str(one.truncated).lower() for one in wanted]
    assert [int(row["tokens_dropped"]) for row in rows] == [one.tokens_dropped for one in wanted]
    assert list(rows[0]) == ["id", "sentence", "label", "score", "truncated", "tokens_dropped"]


def test_predict_writes_csv_to_standard_output_with_all_probabilities(
    tiny_run: Path, tmp_path: Path, command: "Command", sentences: list[str]
) -> None:
    source = written(tmp_path / "in.json", [{"words": one, "n": 1.5} for one in sentences])
    arguments = ("predict", tiny_run, source, "--task", "mood", "--text", "words", "--probabilities")
    ended = command(*arguments)
    assert (ended.status, ended.err) == (0, "")
    rows = table(ended.out)
    assert [row["words"] for row in rows] == sentences
    assert {row["n"] for row in rows} == {"1.5"}
    for row in rows:
        assert float(row["p:bad"]) + float(row["p:good"]) == pytest.approx(1)
        assert float(row["score"]) == max(float(row["p:bad"]), float(row["p:good"]))
    as_lines = command(*arguments, "--out-format", "jsonl").out
    assert [json.loads(line)["label"] for line in as_lines.splitlines()] == [row["label"] for row in rows]


def test_predict_reads_standard_input(
    tiny_run: Path, command: "Command", sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(json.dumps({"sentence": one}) + "\n" for one in sentences)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    ended = command("predict", tiny_run, "-", "--task", "mood", "--format", "jsonl")
    assert (ended.status, ended.err) == (0, "")
    assert [row["sentence"] for row in table(ended.out)] == sentences
    bad = "sentence\nfine\n\xff".encode("latin-1")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bad)))
    told = command.refused("predict", tiny_run, "-", "--task", "mood", "--format", "csv")
    assert "standard input, row 2 (line 3)" in told


def test_predict_labels_pairs_from_named_columns(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, command: "Command"
) -> None:
    source = tiny.csv(tmp_path / "in.csv", ["x", "y"], [("a good film", "a good film"), ("ugly", "the end")])
    ended = command("predict", tiny_run, source, "--task", "pairs", "--pair", "x", "y")
    same, other = table(ended.out)
    assert float(same["value"]) == pytest.approx(5, abs=0.01)
    assert float(other["value"]) < 5
    assert "label" not in same


def test_columns_with_our_names_are_kept_beside_ours(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, command: "Command"
) -> None:
    source = tiny.csv(
        tmp_path / "in.csv", ["label", "sentence", "score", "value"], [("gold", "a good film", "s", "v")]
    )
    (row,) = table(command("predict", tiny_run, source, "--task", "mood").out)
    assert (row["input.label"], row["input.score"], row["input.value"]) == ("gold", "s", "v")
    assert row["label"] in ("bad", "good")


def test_the_text_may_stand_in_a_column_with_our_name(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, command: "Command"
) -> None:
    source = tiny.csv(tmp_path / "in.csv", ["label"], [("a good film",)])
    (row,) = table(command("predict", tiny_run, source, "--task", "mood", "--text", "label").out)
    assert row["input.label"] == "a good film"


def test_predict_in_place_of_its_input(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, command: "Command"
) -> None:
    source = tiny.csv(tmp_path / "in.csv", ["sentence"], [(f"film {i}",) for i in range(9000)])
    assert command("predict", tiny_run, source, "--task", "mood", "--out", source, "--quiet").status == 0
    assert [row["sentence"] for row in read(source)] == [f"film {i}" for i in range(9000)]


def test_an_error_half_way_leaves_nothing(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, command: "Command"
) -> None:
    rows = [f'{{"sentence": "film {i}"}}' for i in range(1, 6001)]
    rows[4999] = '{"sentence": null}'
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(rows))
    out = tmp_path / "out" / "out.csv"
    out.parent.mkdir()
    told = command.refused("predict", tiny_run, source, "--task", "mood", "--out", out)
    assert f"{source}, row 5000 (line 5000), column 'sentence': found null" in told
    assert list(out.parent.iterdir()) == []
    out.write_text("mine")
    command.refused("predict", tiny_run, source, "--task", "mood", "--out", out)
    assert [path.name for path in out.parent.iterdir()] == ["out.csv"]
    assert out.read_text() == "mine"


MEASURE = """
import re, sys
from manyheads.cli import main

def peak():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1]) / 1024

run, small, large, out = sys.argv[1:]
peaks = []
for source in (small, large):
    sys.argv = ["manyheads", "predict", run, source, "--task", "mood", "--out", out, "--quiet"]
    try:
        main()
    except SystemExit as left:
        assert not left.code, left.code
    peaks.append(peak())
print(*peaks)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures with Linux's /proc")
def test_predict_takes_no_more_memory_for_a_long_file(tiny_run: Path, tmp_path: Path) -> None:
    line = "the film was good, row {} " + "x" * 200
    sizes = {"small": 12_000, "large": 80_000}  # several chunks, so that both have all buffers
    for name, count in sizes.items():
        with (tmp_path / f"{name}.tsv").open("w") as file:
            file.write("sentence\n")
            file.writelines(line.format(i) + "\n" for i in range(count))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            MEASURE,
            tiny_run,
            tmp_path / "small.tsv",
            tmp_path / "large.tsv",
            tmp_path / "out.tsv",
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    small, large = map(float, done.stdout.split())
    with (tmp_path / "out.tsv").open() as file:
        assert sum(1 for _ in file) == sizes["large"] + 1
    assert large - small < 30, (small, large)  # MB; the rows and answers held would be twice that


def test_a_reader_that_leaves_early_is_no_error(tiny: "Tiny", tiny_run: Path, tmp_path: Path) -> None:
    source = tiny.csv(tmp_path / "in.csv", ["sentence"], [(f"film {i}",) for i in range(9000)])
    process = subprocess.Popen(
        [sys.executable, "-m", "manyheads", "predict", tiny_run, source, "--task", "mood"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"sentence,")
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


# ---- quickstart ----


def test_quickstart_trains_scores_and_asks(tiny: "Tiny", tmp_path: Path, command: "Command") -> None:
    out = tmp_path / "run"
    settings = [f"encoder.from={tiny.folder / 'bert'}", "schedule.steps=2"]
    settings += [f"tasks.{name}.max_length=32" for name in ("sentiment", "questions", "similarity")]
    arguments = [part for one in settings for part in ("--set", one)]
    ended = command("quickstart", "--out", out, "--quiet", *arguments)
    assert (ended.status, ended.err) == (0, "")
    assert "accuracy" in ended.out
    assert "The soup was cold" in ended.out
    again = command("quickstart", "--out", out, "--quiet")
    assert again.status == 0
    assert "holds a finished run" in again.err
    assert again.out == ended.out
