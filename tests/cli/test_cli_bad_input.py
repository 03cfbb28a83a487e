"""Bad input: status 2 and one line that names the place; no traceback, nothing half-written."""

import errno
import gzip
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import manyheads as mh
from manyheads.encoder import checkpoint
from manyheads.training import loop
from manyheads.training.objective import Objective

if TYPE_CHECKING:
    from tests.conftest import Command, Tiny

HEADER = b"sentence,label\n"
ROWS = b"a good film,good\na bad film,bad\nthe end was fine,good\nugly,bad\n"


def refused_training(
    tiny: "Tiny", command: "Command", folder: Path, *arguments: object, **settings: Any
) -> str:
    """The line that `train` refuses the recipe with; it must not have made a run folder."""
    recipe = tiny.write(folder / "recipe.yaml", **settings)
    told = command.refused("train", recipe, "--out", folder / "run", *arguments)
    assert "Traceback" not in told
    assert not (folder / "run").exists()
    return told


def mood_from(tiny: "Tiny", folder: Path, **settings: Any) -> dict[str, Any]:
    """A task whose files lie in `folder`; the dev file is a good one."""
    (folder / "dev.csv").write_bytes(HEADER + ROWS)
    return {"mood": tiny.mood(**{"files": {"train": "train.csv", "dev": "dev.csv"}, **settings})}


# ---- tables ----

BAD_TABLES: dict[str, tuple[bytes, str]] = {
    "missing column": (b"text,label\na,good\nb,bad\n", r"train.csv.*'sentence'"),
    "missing label column": (
        b"sentence,labels\na,good\nb,bad\n",
        r"train.csv.*'label'.*did you mean 'labels'",
    ),
    "one label": (HEADER + b"a,good\nb,good\n", r"train.csv, column 'label'.*two or more labels"),
    "empty file": (b"", r"train.csv: the file is empty"),
    "header only": (HEADER, r"train.csv.*no rows"),
    "unbalanced quotes": (HEADER + b'a,good\n"b,bad\nc,good\n', r"train.csv, row 2 \(line 3\).*quote"),
    "latin-1": (HEADER + b"a,good\ncaf\xe9,bad\n", r"train.csv, row 2 \(line 3\).*0xe9"),
    "nul": (HEADER + b"a,good\nb\0b,bad\n", r"train.csv, row 2 \(line 3\).*NUL"),
    "long row": (HEADER + b"a,good\nb,bad,more\n", r"train.csv, row 2 \(line 3\).*3"),
    "short row": (HEADER + b"a,good\nb\nc,bad\n", r"train.csv, row 2 \(line 3\).*'label'"),
    "no labels": (HEADER + b"a,good\nb,\nc,bad\n", r"train.csv, row 2 \(line 3\), column 'label'.*1 of 3"),
    "gzip without the name": (gzip.compress(HEADER + ROWS), r"train.csv.*\.gz"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\r", r"train.csv"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_training_table(tiny: "Tiny", tmp_path: Path, command: "Command", case: str) -> None:
    content, told = BAD_TABLES[case]
    (tmp_path / "train.csv").write_bytes(content)
    line = refused_training(tiny, command, tmp_path, data=str(tmp_path), tasks=mood_from(tiny, tmp_path))
    assert_matches(told, line)


def assert_matches(pattern: str, line: str) -> None:
    import re

    assert re.search(pattern, line), line


GOOD_TABLES: dict[str, bytes] = {
    "byte order mark": b"\xef\xbb\xbf" + HEADER + ROWS,
    "CRLF": (HEADER + ROWS).replace(b"\n", b"\r\n"),
    "no last line end": (HEADER + ROWS).rstrip(b"\n"),
    "quoted": HEADER + b'"a ""good"", long\nfilm",good\n' + ROWS,
    "columns more": b"id,label,x,sentence\n"
    + b"".join(b"%d,%s,,film %d\n" % (i, [b"bad", b"good"][i % 2], i) for i in range(8)),
}


@pytest.mark.parametrize("case", GOOD_TABLES)
def test_a_table_that_only_looks_odd_is_read(
    tiny: "Tiny", tmp_path: Path, command: "Command", case: str
) -> None:
    (tmp_path / "train.csv").write_bytes(GOOD_TABLES[case])
    recipe = tiny.write(
        tmp_path / "r.yaml", data=str(tmp_path), tasks=mood_from(tiny, tmp_path), schedule={"steps": 1}
    )
    ended = command("train", recipe, "--out", tmp_path / "run", "--quiet")
    assert (ended.status, ended.err) == (0, "")
    assert json.loads((tmp_path / "run" / "model" / "heads.json").read_text())["tasks"]["mood"]["facts"][
        "labels"
    ] == ["bad", "good"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train.csv.gz", gzip.compress(HEADER + ROWS * 500)[:-30], r"train.csv.gz.*cut off"),
        ("train.csv.gz", HEADER + ROWS, r"train.csv.gz.*expected gzip"),
        (
            "train.json",
            b'[{"sentence": "a", "label": "good"}, {"sentence": "b", "label": "bad"},]',
            r"train.json.*line 1",
        ),
        (
            "train.jsonl",
            b'{"sentence": "a", "label": "x"}\n{"sentence": "b", "label": "y",}\n',
            r"train.jsonl, row 2 \(line 2\)",
        ),
        (
            "train.jsonl",
            b'{"sentence": "a", "label": "x"}\n{"sentence": ["b"], "label": "y"}\n',
            r"row 2 \(line 2\), column 'sentence'",
        ),
        (
            "train.jsonl",
            b'{"sentence": "a", "label": "x"}\n{"label": "y"}\n',
            r"row 2 \(line 2\).*'sentence'",
        ),
        ("train.parquet", b"PAR1 and not more", r"train.parquet"),
        ("train.xyz", HEADER + ROWS, r"train.xyz"),
        ("none.csv", None, r"none.csv.*no such file"),
    ],
)
def test_a_bad_training_file(
    tiny: "Tiny", tmp_path: Path, command: "Command", name: str, content: bytes | None, told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    tasks = mood_from(tiny, tmp_path, files={"train": name})
    line = refused_training(tiny, command, tmp_path, data=str(tmp_path), tasks=tasks)
    assert_matches(told, line)


def test_a_label_of_dev_that_training_has_not(tiny: "Tiny", tmp_path: Path, command: "Command") -> None:
    (tmp_path / "train.csv").write_bytes(HEADER + ROWS)
    tasks = mood_from(tiny, tmp_path)
    (tmp_path / "dev.csv").write_bytes(HEADER + b"a,good\nb,godo\n")
    told = refused_training(tiny, command, tmp_path, data=str(tmp_path), tasks=tasks)
    assert (
        f"{tmp_path / 'dev.csv'}, row 2 (line 3), column 'label': found 'godo', expected one of bad, good"
        in told
    )
    assert "did you mean 'good'" in told


def test_a_label_that_the_recipe_does_not_list(tiny: "Tiny", tmp_path: Path, command: "Command") -> None:
    (tmp_path / "train.csv").write_bytes(HEADER + ROWS + b"c,maybe\n")
    tasks = mood_from(tiny, tmp_path, labels=["bad", "good"])
    told = refused_training(tiny, command, tmp_path, data=str(tmp_path), tasks=tasks)
    assert "train.csv, row 5 (line 6), column 'label': found 'maybe', expected one of bad, good" in told


@pytest.mark.parametrize("score", ["nan", "NaN", "inf", "5.01", "-1", "four", "1,5", "0x1"])
def test_a_score_that_is_none(tiny: "Tiny", tmp_path: Path, command: "Command", score: str) -> None:
    tiny.csv(
        tmp_path / "train.csv", ["a", "b", "score"], [("x", "y", "1"), ("x", "z", score), ("z", "y", "2")]
    )
    tasks = {"pairs": tiny.pairs(files={"train": "train.csv"})}
    told = refused_training(tiny, command, tmp_path, data=str(tmp_path), tasks=tasks)
    expected = f"row 2 (line 3), column 'score': found {score!r}, expected a number from 0 to 5"
    assert f"{tmp_path / 'train.csv'}, {expected}" in told


def test_no_training_split(tiny: "Tiny", tmp_path: Path, command: "Command") -> None:
    told = refused_training(tiny, command, tmp_path, tasks={"mood": tiny.mood(files={"dev": "mood-dev.csv"})})
    assert "tasks.mood" in told
    assert "'train'" in told


# ---- recipes ----


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "name: x\ntasks:\n  a: {kind: classification, files: {train: t.csv}, text: s}\nshedule: {epochs: 1}\n",
            r"r.yaml, line 4: .*shedule.*did you mean 'schedule'",
        ),
        (
            "name: x\ntasks:\n  a: {kind: clasification, files: {train: t.csv}, text: s}\n",
            r"r.yaml, line 3: .*did you mean 'classification'",
        ),
        (
            "name: ../x\ntasks:\n  a: {kind: classification, files: {train: t.csv}, text: s}\n",
            r"r.yaml, line 1: name.*'\.\./x'",
        ),
        (
            "name: /tmp/x\ntasks:\n  a: {kind: classification, files: {train: t.csv}, text: s}\n",
            r"r.yaml, line 1: name",
        ),
        (
            "name: x\ntasks:\n  a/b: {kind: classification, files: {train: t.csv}, text: s}\n",
            r"r.yaml, line 3.*'a/b'",
        ),
        ("name: !!python/object/apply:os.system [true]\n", r"r.yaml, line 1: tags are not read"),
        ("name: x\ntasks: [\n", r"r.yaml, line 3: not valid YAML"),
        ("name: x\n", r"r.yaml.*tasks"),
        ("", r"r.yaml"),
        ("- a\n- b\n", r"r.yaml"),
        ("name: x\nname: y\n", r"r.yaml, line 2: name: stands twice"),
    ],
)
def test_a_bad_recipe(tmp_path: Path, command: "Command", text: str, told: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    assert_matches(told, command.refused("train", path, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_is_no_text(tmp_path: Path, command: "Command") -> None:
    path = tmp_path / "r.yaml"
    assert f"{path}: no such file" in command.refused("train", path)
    path.write_bytes("name: café\n".encode("latin-1"))
    assert_matches(r"r.yaml, line 1: .*0xe9", command.refused("train", path))
    path.write_bytes(b"name: a\0b\n")
    assert "r.yaml" in command.refused("train", path)
    assert "is a folder" in command.refused("train", tmp_path)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("name=../x", r"--set name=\.\./x: name: expected a plain name"),
        ("schedule.epoch=1", r"--set schedule.epoch=1: .*did you mean 'epochs'"),
        ("schedule.epochs=many", r"--set schedule.epochs=many"),
        ("schedule", r"--set schedule: expected key.path=value"),
        ("tasks.mood.files.train=none.csv", r"none.csv: no such file"),
        ("tasks.mood.max_length=1000", r"tasks.mood.max_length: 1000 is more than the 64 positions"),
        ("encoder.from=./none", r"\./none.*no such folder"),
        ("data=/none", r"/none/mood-train.csv"),
    ],
)
def test_a_bad_override(tiny: "Tiny", tmp_path: Path, command: "Command", said: str, told: str) -> None:
    assert_matches(told, refused_training(tiny, command, tmp_path, "--set", said))


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--device", "gpu", r"device 'gpu'"),
        ("--device", "cuda:99", r"device 'cuda:99'"),
        ("--precision", "float16", r"float16"),
        ("--attention", "flash", r"attention.*'flash'"),
        ("--seed", "-1", r"seed"),
    ],
)
def test_a_bad_option(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, command: "Command", option: str, value: str, told: str
) -> None:
    assert_matches(told, refused_training(tiny, command, tmp_path, option, value))
    if option == "--seed":
        return
    for arguments in (
        ["evaluate", tiny_run],
        ["ask", tiny_run, "x"],
        ["predict", tiny_run, "-", "--task", "mood"],
    ):
        assert_matches(told, command.refused(*arguments, option, value))


# ---- weights and vocabularies ----


@pytest.fixture
def bert(tiny: "Tiny", tmp_path: Path) -> Path:
    """A copy of the tiny encoder's folder, to be spoilt."""
    folder = tmp_path / "bert"
    folder.mkdir()
    for path in (tiny.folder / "bert").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def other_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"intermediate_size": 64', '"intermediate_size": 48'))


def fewer_layers(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def evil_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Evil(str(folder / "owned"))}))


def evil_archive(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"x": Evil(str(folder / "owned"))}, folder / "pytorch_model.bin")


def twice_in_the_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    path = folder / "vocab.txt"
    lines = path.read_text().splitlines()
    lines[10] = lines[9]
    path.write_text("\n".join(lines) + "\n")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"hidden_size": 32,}')


SPOILT: list[tuple[Callable[[Path], None], str]] = [
    (other_config, r"bert/model.safetensors: .*shape \[64, 32\].*\[48, 32\]"),
    (fewer_layers, r"bert/model.safetensors.*layer"),
    (cut_weights, r"bert/model.safetensors: not a whole safetensors file"),
    (evil_pickle, r"bert/pytorch_model.bin"),
    (evil_archive, r"bert/pytorch_model.bin: the pickle holds more than tensors and was not run"),
    (twice_in_the_vocabulary, r"bert/vocab.txt, line 11: found .* again, line 10"),
    (no_config, r"bert/config.json: no such file"),
    (broken_config, r"bert/config.json: .*JSON"),
]


@pytest.mark.parametrize(("spoil", "told"), SPOILT)
def test_a_spoilt_encoder(
    tiny: "Tiny", tmp_path: Path, bert: Path, command: "Command", spoil: Callable[[Path], None], told: str
) -> None:
    spoil(bert)
    assert_matches(told, refused_training(tiny, command, tmp_path, encoder={"from": str(bert)}))
    assert not (bert / "owned").exists()


# ---- places ----


def test_places_that_cannot_hold_a_run(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, command: "Command"
) -> None:
    recipe = tiny.write(tmp_path / "r.yaml")
    file = tmp_path / "file"
    file.write_text("mine")
    assert f"{file}: is a file" in command.refused("train", recipe, "--out", file)
    assert str(file) in command.refused("train", recipe, "--out", file / "below")
    assert file.read_text() == "mine"
    before = (tiny_run / "scores.json").read_bytes()
    assert "exists already; --resume" in command.refused("train", recipe, "--out", tiny_run)
    assert (tiny_run / "scores.json").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tiny: "Tiny", tiny_run: Path, tmp_path: Path, command: "Command") -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    recipe = tiny.write(tmp_path / "r.yaml")
    assert "no permission" in command.refused("train", recipe, "--out", closed / "run")
    source = tiny.csv(tmp_path / "in.csv", ["sentence"], [("x",)])
    told = command.refused("predict", tiny_run, source, "--task", "mood", "--out", closed / "out.csv")
    assert "no permission" in told
    source.chmod(0)
    assert "no permission" in command.refused("predict", tiny_run, source, "--task", "mood")


def test_what_is_no_run(tiny: "Tiny", tmp_path: Path, command: "Command") -> None:
    source = tiny.csv(tmp_path / "in.csv", ["sentence"], [("x",)])
    for arguments in (["evaluate"], ["ask", "x"], ["predict", source, "--task", "mood"]):
        name, *rest = arguments
        assert "none: no such run folder" in command.refused(name, tmp_path / "none", *rest)
        assert "not a run folder (it has no recipe.yaml)" in command.refused(name, tmp_path, *rest)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"text\nx\n", r"in.csv.*'sentence'"),
        (b"", r"in.csv: the file is empty"),
        (b"sentence\n", r"in.csv.*no rows"),
        (b'sentence\nx\n"y\n', r"in.csv, row 2 \(line 3\)"),
        (b"sentence\nx\n\xe9\n", r"in.csv, row 2 \(line 3\)"),
        (b"sentence\nx\ny,z\n", r"in.csv, row 2 \(line 3\)"),
    ],
)
def test_predict_refuses_bad_tables(
    tiny_run: Path, tmp_path: Path, command: "Command", content: bytes, told: str
) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(content)
    assert_matches(told, command.refused("predict", tiny_run, source, "--task", "mood", "--out", out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--task", "moods"], r"no task 'moods'.*did you mean 'mood'"),
        (["--task", "mood", "--pair", "sentence", "sentence"], r"'mood' reads one text: use --text"),
        (["--task", "pairs", "--text", "sentence"], r"'pairs' reads a pair: use --pair"),
        (["--task", "mood", "--text", "words"], r"in.csv.*'words'"),
        (["--task", "mood", "--format", "xlsx"], r"format.*xlsx"),
        (["--task", "mood", "--out-format", "xlsx"], r"unknown output format 'xlsx'"),
        (["--task", "mood", "--out", "none/out.csv"], r"none"),
        (["--task", "mood", "--out", "out.xlsx"], r"out.xlsx"),
        (["--task", "mood", "--out", "."], r"\."),
    ],
)
def test_predict_refuses_bad_arguments(
    tiny: "Tiny",
    tiny_run: Path,
    tmp_path: Path,
    command: "Command",
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = tiny.csv(tmp_path / "in.csv", ["sentence"], [("x",)])
    assert_matches(told, command.refused("predict", tiny_run, source, *arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_evaluate_refuses_other_files(
    tiny: "Tiny", tiny_run: Path, tmp_path: Path, command: "Command"
) -> None:
    assert "no task has a split 'val'; there are dev, test, train" in command.refused(
        "evaluate", tiny_run, "--split", "val"
    )
    (tmp_path / "dev.csv").write_bytes(HEADER + b"a,good\nb,new\n")
    (tmp_path / "pairs-dev.csv").write_bytes((tiny.folder / "pairs-dev.csv").read_bytes())
    said = ["--set", f"data={tmp_path}", "--set", "tasks.mood.files.dev=dev.csv", "--split", "dev"]
    told = command.refused("evaluate", tiny_run, *said)
    assert "dev.csv, row 2 (line 3), column 'label': found 'new', expected one of bad, good" in told


@pytest.mark.parametrize(
    "name", ["model/heads.json", "model/config.json", "recipe.yaml", "model/heads.safetensors"]
)
def test_a_damaged_run(tiny_run: Path, tmp_path: Path, command: "Command", name: str) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[: len(whole) // 2])
    assert name in command.refused("evaluate", run)


# ---- a full disk, and other failures of the machine: status 1 ----


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_while_a_checkpoint_is_written(
    tiny: "Tiny", tmp_path: Path, command: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.write(tmp_path / "r.yaml")
    monkeypatch.setattr(checkpoint, "save_file", full)
    told = command.refused("train", recipe, "--out", tmp_path / "run", "--quiet", status=1)
    assert "the disk is full" in told
    assert "checkpoints" in told
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


LIMITED = """
import resource, signal, sys
from manyheads.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.argv = ["manyheads", *sys.argv[2:]]
main()
"""


def limited(size: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command with files that cannot grow beyond `size` bytes: writes fail as on a full disk."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_weights_that_cannot_be_written_whole(tiny: "Tiny", tmp_path: Path) -> None:
    recipe = tiny.write(tmp_path / "r.yaml")
    done = limited(50_000, "train", recipe, "--out", tmp_path / "run", "--quiet")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "best.safetensors" in done.stderr
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_predictions_that_cannot_be_written_whole(tiny: "Tiny", tiny_run: Path, tmp_path: Path) -> None:
    source = tiny.csv(tmp_path / "in.csv", ["sentence"], [(f"film {i}",) for i in range(5000)])
    for name in ("out.csv", "out.parquet"):
        done = limited(
            10_000, "predict", tiny_run, source, "--task", "mood", "--out", tmp_path / name, "--quiet"
        )
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith(f"error: {tmp_path / name}"), done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_a_full_disk_at_the_end_leaves_a_run_that_can_be_resumed(
    tiny: "Tiny", tmp_path: Path, command: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny.write(tmp_path / "r.yaml")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "write_predictions", full)
        told = command.refused("train", recipe, "--out", tmp_path / "run", "--quiet", status=1)
    assert "the disk is full" in told
    assert command("train", recipe, "--out", tmp_path / "run", "--quiet", "--resume").status == 0
    assert (tmp_path / "run" / "scores.json").is_file()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory"),
    ],
)
def test_too_little_memory(
    tiny: "Tiny", tmp_path: Path, command: "Command", monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(Objective, "forward", fail)
    recipe = tiny.write(tmp_path / "r.yaml")
    told = command.refused("train", recipe, "--out", tmp_path / "run", "--quiet", status=1)
    assert "out of memory; a smaller schedule.batch_size" in told


def test_a_bug_of_ours_keeps_its_traceback(
    tiny: "Tiny", tmp_path: Path, command: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Objective, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        command("train", tiny.write(tmp_path / "r.yaml"), "--out", tmp_path / "run")


def test_python_callers_get_the_same_errors(tiny: "Tiny", tmp_path: Path) -> None:
    with pytest.raises(mh.InputError) as caught:
        mh.train(mh.Recipe.parse(tiny.recipe(data=str(tmp_path))), tmp_path / "run")
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == f"{tmp_path / 'mood-train.csv'}: no such file"
