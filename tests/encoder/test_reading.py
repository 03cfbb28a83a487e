"""Only the last states that are read are computed: the same numbers and the same gradients as of all of them."""

from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.ragged import Ragged
from manyheads.encoder.reading import Reading, Reads, rows_read

LENGTHS = np.array([4, 1, 6, 3])
MARKS = np.array([0, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0], dtype=np.bool_)


def places(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, dtype=np.int64)


def test_first_last_and_marked_tokens_are_found() -> None:
    def found(reads: str, sequences: NDArray[np.int64], marks: NDArray[np.bool_] | None = None) -> list[int]:
        rows = rows_read(LENGTHS, [Reading(cast(Reads, reads), sequences, marks)])
        assert rows is not None
        return [int(row) for row in rows]

    assert found("first", places(0, 1, 2, 3)) == [0, 4, 5, 11]
    assert found("first", places(2)) == [5]
    assert found("last", places(0, 3)) == [3, 13]
    assert found("marked", places(0, 1, 2, 3), MARKS) == [1, 2, 4, 9]
    # The marks are those of the sequences that are read, in the order they are read.
    assert found("marked", places(2, 0), np.array([0, 0, 0, 0, 1, 0, 0, 1, 1, 0], dtype=np.bool_)) == [
        1,
        2,
        9,
    ]


def test_several_readers_get_what_any_of_them_wants() -> None:
    rows = rows_read(LENGTHS, [Reading("first", places(0, 1)), Reading("last", places(2))])
    assert rows is not None
    assert rows.tolist() == [0, 4, 10]


def test_whoever_reads_all_tokens_gets_all() -> None:
    assert rows_read(LENGTHS, [Reading("first", places(0)), Reading("tokens", places(1))]) is None
    assert rows_read(LENGTHS, [Reading("marked", places(0))]) is None  # marks that nobody has told


def test_nearly_all_are_all_and_none_is_one() -> None:
    marks = np.ones(14, dtype=np.bool_)
    marks[:2] = False
    assert rows_read(LENGTHS, [Reading("marked", places(0, 1, 2, 3), marks)]) is None
    none = rows_read(LENGTHS, [Reading("marked", places(0, 1, 2, 3), np.zeros(14, dtype=np.bool_))])
    assert none is not None
    assert len(none) == 1


@pytest.mark.parametrize("causal", [False, True])
def test_states_and_gradients_are_those_of_the_whole_layer(causal: bool) -> None:
    torch.manual_seed(0)
    shape = Shape(
        layers=3, hidden=16, heads=2, intermediate=32, vocabulary=30, positions=8, segments=2, causal=causal
    )
    encoder = Encoder(shape, dropout=0.0).double()
    ragged = Ragged.of([[1, 2, 3, 4], [5], [6, 7, 8, 9, 10, 11], [12, 13, 14]])
    rows = torch.tensor([0, 4, 9])
    weigh = torch.randn(3, 16, dtype=torch.float64)

    def gradients(some: torch.Tensor | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        encoder.zero_grad(set_to_none=True)
        states = encoder.encode(ragged, rows=some).tokens
        (states.index_select(0, rows) * weigh).sum().backward()  # type: ignore[no-untyped-call]
        found = [each.grad for each in encoder.layers.parameters() if each.grad is not None]
        assert encoder.embeddings.word.weight.grad is not None
        return states.detach(), [encoder.embeddings.word.weight.grad, *found]

    whole, by_all = gradients(None)
    part, by_some = gradients(rows)
    torch.testing.assert_close(part[rows], whole[rows], rtol=1e-12, atol=1e-12)
    others = torch.ones(14, dtype=torch.bool)
    others[rows] = False
    assert not part[others].any()
    assert len(by_all) == len(by_some)
    for a, b in zip(by_all, by_some, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-12)
