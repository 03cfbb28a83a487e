"""What stands between the products of a layer, by the C++ kernels of `elementwise.cpp`: addresses in, tensors out.

Knows tensors' dtypes, shapes and addresses. Must not know the encoder, autograd or which other ways there are.
Letters: T rows, N columns. Rows come in bfloat16 or float32; parameters, sums over rows and gradients of parameters
are float32. `share` is that of the dropped numbers, which ones are depends on `seed` (64 bits) alone.
"""

import torch
from torch import Tensor

from manyheads.native.library import INTEGER, POINTER, REAL, WORD, Library, threads

__all__ = ["add_norm", "add_norm_backward", "columns", "embed", "embed_backward", "gelu_backward", "scatter"]

_PIECE = 32  # rows: that of the source

_GELU_BACKWARD = (*(POINTER,) * 5, *(INTEGER,) * 4)
_COLUMNS = (*(POINTER,) * 3, *(INTEGER,) * 4)
_ADD_NORM = (*(POINTER,) * 7, *(INTEGER,) * 3, REAL, REAL, WORD, INTEGER)
_ADD_NORM_BACKWARD = (*(POINTER,) * 10, *(INTEGER,) * 3, REAL, WORD, INTEGER)
_EMBED = (*(POINTER,) * 11, *(INTEGER,) * 2, REAL, REAL, WORD, INTEGER)
_EMBED_BACKWARD = (*(POINTER,) * 13, *(INTEGER,) * 2, REAL, WORD, INTEGER)
_SCATTER = (*(POINTER,) * 3, *(INTEGER,) * 3)

_LOW = torch.bfloat16


def gelu_backward(library: Library, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x Φ(x) for x [T, N] from that of its result, in x's dtype, and the sum of its columns [N]."""
    _check(x, above)
    rows, width = x.shape
    below, pieces, sums = torch.empty_like(x), _pieces(rows, width), torch.empty(width)
    library.function("mh_gelu_backward", *_GELU_BACKWARD)(
        x.data_ptr(),
        above.data_ptr(),
        below.data_ptr(),
        pieces.data_ptr(),
        sums.data_ptr(),
        rows,
        width,
        x.dtype is _LOW,
        threads(),
    )
    return below, sums


def columns(library: Library, x: Tensor) -> Tensor:
    """The sum of each column of x [T, N], in float32: [N]."""
    _check(x)
    rows, width = x.shape
    pieces, sums = _pieces(rows, width), torch.empty(width)
    library.function("mh_columns", *_COLUMNS)(
        x.data_ptr(), pieces.data_ptr(), sums.data_ptr(), rows, width, x.dtype is _LOW, threads()
    )
    return sums


def add_norm(
    library: Library,
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    share: float,
    seed: int,
    low: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """LayerNorm(residual + dropout(x)) of rows [T, N] in float32, again in bfloat16 where `low`, and what the
    backward reads: mean and 1/deviation of each row, [T, 2]."""
    rows, width = _check(residual, x, dtype=False)
    _check_parameters(width, weight, bias)
    exact, rounded, stats = _results(residual, low)
    library.function("mh_add_norm", *_ADD_NORM)(
        x.data_ptr(),
        residual.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        exact.data_ptr(),
        _address(rounded),
        stats.data_ptr(),
        rows,
        width,
        x.dtype is _LOW,
        eps,
        share,
        seed % 2**64,
        threads(),
    )
    return exact, rounded, stats


def add_norm_backward(
    library: Library,
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    stats: Tensor,
    above: Tensor | None,
    above_low: Tensor | None,
    share: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `add_norm` for x (in its dtype), the residual, and weight, bias and the columns of x: [3, N].

    `above` and `above_low` are those of its two results; the rest is what it was called with, and `stats`.
    """
    rows, width = _check(residual, x, dtype=False)
    _check_above(residual, above, above_low)
    of_x, of_residual = torch.empty_like(x), torch.empty_like(residual)
    pieces, sums = _pieces(rows, 3 * width), torch.empty(3, width)
    library.function("mh_add_norm_backward", *_ADD_NORM_BACKWARD)(
        x.data_ptr(),
        residual.data_ptr(),
        weight.data_ptr(),
        stats.data_ptr(),
        _address(above),
        _address(above_low),
        of_x.data_ptr(),
        of_residual.data_ptr(),
        pieces.data_ptr(),
        sums.data_ptr(),
        rows,
        width,
        x.dtype is _LOW,
        share,
        seed % 2**64,
        threads(),
    )
    return of_x, of_residual, sums


def embed(
    library: Library,
    words: Tensor,
    positions: Tensor,
    segments: Tensor,
    ids: Tensor | None,
    places: Tensor,
    kinds: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    share: float,
    seed: int,
    low: bool,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """dropout(LayerNorm(words[ids] + positions[places] + segments[kinds])), as `add_norm` gives its results.

    Tables […, N] float32, places in them [T] int64, which must lie within; without `ids` words are [T, N] themselves.
    """
    width = _check_tables(words, positions, segments, ids, places, kinds)
    _check_parameters(width, weight, bias)
    rows = len(places)
    exact, rounded, stats = _results(words.new_empty(rows, width), low)
    library.function("mh_embed", *_EMBED)(
        words.data_ptr(),
        positions.data_ptr(),
        segments.data_ptr(),
        _address(ids),
        places.data_ptr(),
        kinds.data_ptr(),
        weight.data_ptr(),
        bias.data_ptr(),
        exact.data_ptr(),
        _address(rounded),
        stats.data_ptr(),
        rows,
        width,
        eps,
        share,
        seed % 2**64,
        threads(),
    )
    return exact, rounded, stats


def embed_backward(
    library: Library,
    words: Tensor,
    positions: Tensor,
    segments: Tensor,
    ids: Tensor | None,
    places: Tensor,
    kinds: Tensor,
    weight: Tensor,
    stats: Tensor,
    above: Tensor | None,
    above_low: Tensor | None,
    share: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of `embed` for the sum of the three rows of each token [T, N], and for weight and bias [2, N]."""
    width = _check_tables(words, positions, segments, ids, places, kinds)
    rows = len(places)
    below = words.new_empty(rows, width)
    _check_above(below, above, above_low)
    pieces, sums = _pieces(rows, 2 * width), torch.empty(2, width)
    library.function("mh_embed_backward", *_EMBED_BACKWARD)(
        words.data_ptr(),
        positions.data_ptr(),
        segments.data_ptr(),
        _address(ids),
        places.data_ptr(),
        kinds.data_ptr(),
        weight.data_ptr(),
        stats.data_ptr(),
        _address(above),
        _address(above_low),
        below.data_ptr(),
        pieces.data_ptr(),
        sums.data_ptr(),
        rows,
        width,
        share,
        seed % 2**64,
        threads(),
    )
    return below, sums


def scatter(library: Library, x: Tensor, places: Tensor, count: int) -> Tensor:
    """[count, N]: the sum of the rows of x [T, N] float32 at each of their places [T] int64, which must lie within."""
    _check(x)
    if x.dtype is not torch.float32 or places.shape != x.shape[:1]:
        raise ValueError(f"places {list(places.shape)} for rows {list(x.shape)}, {x.dtype}")
    _check_places(places)
    out = x.new_zeros(count, x.shape[1])
    library.function("mh_scatter", *_SCATTER)(
        x.data_ptr(), places.data_ptr(), out.data_ptr(), len(x), x.shape[1], threads()
    )
    return out


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _pieces(rows: int, width: int) -> Tensor:
    """Room for the sums of each piece of rows."""
    return torch.empty((rows + _PIECE - 1) // _PIECE, width)


def _results(like: Tensor, low: bool) -> tuple[Tensor, Tensor | None, Tensor]:
    """Room for rows, for rows rounded, and for two numbers a row."""
    rounded = torch.empty_like(like, dtype=_LOW) if low else None
    return torch.empty_like(like), rounded, like.new_empty(len(like), 2)


def _check(*given: Tensor, dtype: bool = True) -> torch.Size:
    """The kernels read memory by these; a wrong one would read somebody else's. The shape that all have."""
    shape, wanted = given[0].shape, given[0].dtype
    for x in given:
        if (
            x.shape != shape
            or (dtype and x.dtype is not wanted)
            or x.dtype not in (_LOW, torch.float32)
            or x.device.type != "cpu"
            or not x.is_contiguous()
        ):
            raise ValueError(
                f"expected contiguous rows {list(shape)} on the CPU, found {list(x.shape)}, {x.dtype}"
            )
    return shape


def _check_parameters(width: int, *given: Tensor) -> None:
    for x in given:
        if x.shape != (width,) or x.dtype is not torch.float32 or not x.is_contiguous():
            raise ValueError(f"expected {width} float32 numbers, found {list(x.shape)}, {x.dtype}")


def _check_above(rows: Tensor, above: Tensor | None, above_low: Tensor | None) -> None:
    for x, dtype in ((above, torch.float32), (above_low, _LOW)):
        if x is not None and (x.shape != rows.shape or x.dtype is not dtype or not x.is_contiguous()):
            raise ValueError(f"a gradient of {list(x.shape)}, {x.dtype} for rows {list(rows.shape)}, {dtype}")


def _check_tables(
    words: Tensor, positions: Tensor, segments: Tensor, ids: Tensor | None, places: Tensor, kinds: Tensor
) -> int:
    """The width of the tables."""
    width = words.shape[1]
    for table in (words, positions, segments):
        if table.shape[1:] != (width,) or table.dtype is not torch.float32 or not table.is_contiguous():
            raise ValueError(f"expected tables of {width} columns, found {list(table.shape)}, {table.dtype}")
    for each, table in ((ids, words), (places, positions), (kinds, segments)):
        if each is None:
            continue
        _check_places(each)
        if len(each) != len(places):
            raise ValueError(f"{len(places)} places and {len(each)} in another table")
        low, high = torch.aminmax(each) if len(each) else (0, 0)
        if int(low) < 0 or int(high) >= len(table):
            raise IndexError(f"places {int(low)} to {int(high)} in a table of {len(table)} rows")
    if ids is None and len(words) != len(places):
        raise ValueError(f"{len(words)} words at {len(places)} places")
    return width


def _check_places(places: Tensor) -> None:
    if places.dim() != 1 or places.dtype is not torch.int64 or not places.is_contiguous():
        raise ValueError(f"expected contiguous int64 [T], found {list(places.shape)}, {places.dtype}")
