"""A file is whole or not there, and what went wrong is said in one line."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from manyheads.errors import InputError, WorkError
from manyheads.files import finite, replacing, reporting, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(path: Path, text: str, error: BaseException | None = None) -> None:
    with replacing(path) as beside:
        beside.write_text(text)
        if error is not None:
            raise error


def test_replaces_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as beside:
        assert beside.parent == tmp_path
        assert beside.name == f".a.txt.part-{os.getpid()}"
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_leaves_the_old_file_and_nothing_else_on_any_exception(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        fill(path, "half", error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_reaches_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(name: str) -> None:
        original = getattr(os, name)

        def call(*args: Any) -> Any:
            order.append(name)
            return original(*args)

        monkeypatch.setattr(os, name, call)

    noted("fsync")
    noted("replace")
    write_text(tmp_path / "a.txt", "x")
    assert order[:2] == ["fsync", "replace"]


def test_a_link_keeps_pointing_to_what_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "real" / "a.txt")
    write_text(link, "new")
    assert link.is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none/a\.txt: the folder '.*none' does not exist"):
        write_text(tmp_path / "none" / "a.txt", "x")


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        write_text(tmp_path, "x")


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(InputError, match=r"/dev/null: is no ordinary file"):
        write_text(Path("/dev/null"), "x")
    assert not Path("/dev/null").is_file()


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name is too long"):
        write_text(tmp_path / ("x" * 300), "x")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_a_work_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.with_name(f".a.txt.part-{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(WorkError, match=r"a\.txt: the disk is full"):
        fill(path, "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EACCES, InputError, "no permission"),
        (errno.EROFS, InputError, "read-only"),
        (errno.EDQUOT, WorkError, "quota"),
        (errno.EIO, WorkError, "cannot be written"),
    ],
)
def test_errors_of_writing_become_one_line(number: int, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=rf"^out\.csv: .*{words}"), reporting("out.csv"):
        raise OSError(number, os.strerror(number))


def test_errors_about_another_file_pass() -> None:
    with pytest.raises(PermissionError, match=r"other\.csv"), reporting("out.csv"):
        raise PermissionError(errno.EACCES, "Permission denied", "other.csv")
    with pytest.raises(BrokenPipeError), reporting("out.csv"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_text_is_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "é\r\n好\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n好\n".encode()


def test_json_is_readable_by_any_parser(tmp_path: Path) -> None:
    value = {"b": [1.5, math.nan, (math.inf, "é")], "a": {"x": -math.inf, "y": True}}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse) == {
        "b": [1.5, None, [None, "é"]],
        "a": {"x": None, "y": True},
    }
    assert "é" in text
    assert text.endswith("}\n")
    assert list(json.loads(text)) == ["b", "a"]
    assert finite(2.0) == 2.0


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert json.loads((tmp_path / "a.json").read_text()) == [1]
