"""The folder of an export is whole or not there."""

import errno
from pathlib import Path

import pytest

from manyheads.errors import InputError, WorkError
from manyheads.export.folder import new_folder


def test_it_is_there_when_all_is_written(tmp_path: Path) -> None:
    place = tmp_path / "out"
    with new_folder(place) as folder:
        (folder / "a").write_text("x")
        assert not place.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (place / "a").read_text() == "x"


def test_an_empty_folder_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert (tmp_path / "out" / "a").exists()


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_nothing_is_left_of_what_failed(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").touch()
            raise error

    with pytest.raises(type(error)):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"), new_folder(tmp_path / "file"):
        pass
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(InputError, match="is not empty"), new_folder(tmp_path / "full"):
        pass
    with pytest.raises(InputError, match="does not exist"), new_folder(tmp_path / "none" / "out"):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine"]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="full"), new_folder(tmp_path / "out") as folder:
        raise OSError(errno.ENOSPC, "no space", str(folder))
    assert list(tmp_path.iterdir()) == []
