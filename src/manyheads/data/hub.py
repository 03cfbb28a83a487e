"""Rows of a Hugging Face data set, from the hub or from a local folder, through the extra `hub`.

Knows the library `datasets` and its features. Must not know what a column means: labels, tasks.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from manyheads.data.read import Row
from manyheads.errors import InputError, WorkError, nearest

__all__ = ["read_hub"]


def read_hub(path: str, *, split: str, name: str | None = None, need: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of one split, its columns checked before this returns; rows have no line numbers.

    Where the data set gives its class numbers names, the values are the names; the class -1, which
    stands for "not labelled" there, is None.

    Args:
        path: a name on the hub such as `SetFit/sst5`, or a local folder of csv, json or parquet files.
        split: `train`, or a slice in the library's own words such as `train[:10%]`.
        name: the configuration, where the data set has several.

    Raises:
        InputError: the library, the data set, the split or a column of `need` is missing.
        WorkError: the hub cannot be reached.
    """
    try:
        import datasets  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise InputError(
            'reading a hub data set needs the library datasets: pip install "manyheads[hub]"'
        ) from error
    where = f"{path}{f' ({name})' if name else ''}, split {split!r}"
    folder = Path(path).expanduser()
    try:
        found = datasets.load_dataset(str(folder) if folder.is_dir() else path, name, split=split)
    except MemoryError:
        raise
    # The library passes on the errors of some ten others, which share no class; each is about what the
    # recipe named or about the way there.
    except Exception as error:
        raise _as_ours(error, where) from error
    columns: list[str] = found.column_names
    for column in need:
        if column not in columns:
            raise InputError(
                f"no column {column!r}; found {', '.join(map(repr, columns))}{nearest(column, columns)}",
                file=where,
            )
    named = {column: change for column, feature in found.features.items() if (change := _namer(feature))}
    return _rows(found, named)


def _rows(found: Any, named: dict[str, Callable[[Any], Any]]) -> Iterator[Row]:
    for number, values in enumerate(found, 1):
        for column, change in named.items():
            values[column] = change(values[column])
        yield Row(number, None, values)


def _namer(feature: Any) -> Callable[[Any], Any] | None:
    """What turns a value of `feature` from class numbers into names; None where there are none."""
    import datasets

    if isinstance(feature, datasets.ClassLabel) and feature.names:
        names: list[str] = list(feature.names)
        return lambda value: names[value] if value is not None and 0 <= value < len(names) else None
    if isinstance(feature, datasets.List | datasets.LargeList) and (inner := _namer(feature.feature)):
        return lambda value: None if value is None else [inner(item) for item in value]
    return None


def _as_ours(error: Exception, where: str) -> InputError | WorkError:
    message = (str(error) or type(error).__name__).partition("\n")[0]
    if isinstance(error, ConnectionError | TimeoutError):
        return WorkError(f"{where}: the hub cannot be reached: {message}")
    return InputError(f"cannot be loaded: {message}", file=where)
