"""Ragged batches: nothing is lost on the way in, through the blocks, and back to padded tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from manyheads.encoder.ragged import Ragged, kept, pad, pad_square
from manyheads.errors import InputError

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=24)
ROWS = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=12), min_size=1, max_size=10)


def of_lengths(lengths: list[int]) -> Ragged:
    """A batch whose token ids are 0, 1, 2 … from end to end."""
    ends = np.cumsum(lengths)
    return Ragged.of([list(range(end - length, end)) for end, length in zip(ends, lengths, strict=True)])


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    size, length = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    cells = draw(st.lists(st.booleans(), min_size=size * length, max_size=size * length))
    return torch.tensor(cells).view(size, length)


@given(ROWS)
def test_lists_lie_end_to_end(rows: list[list[int]]) -> None:
    ragged = Ragged.of(rows, [[token % 2 for token in row] for row in rows])
    assert ragged.token_ids.tolist() == [token for row in rows for token in row]
    assert ragged.segment_ids.tolist() == [token % 2 for row in rows for token in row]
    assert ragged.positions.tolist() == [place for row in rows for place in range(len(row))]
    assert ragged.lengths.tolist() == [len(row) for row in rows]
    assert ragged.sequence_of_token.tolist() == [number for number, row in enumerate(rows) for _ in row]
    assert ragged.cu_seqlens.tolist() == [0, *np.cumsum([len(row) for row in rows]).tolist()]
    assert ragged.cu_seqlens.dtype is torch.int32
    assert ragged.starts.tolist() == ragged.cu_seqlens.tolist()[:-1]
    assert ragged.max_seqlen == max(map(len, rows))
    assert ragged.tokens == sum(map(len, rows))
    assert len(ragged) == len(rows)
    assert not Ragged.of(rows).segment_ids.any()


@given(ROWS)
def test_padded_and_ragged_are_the_same_batch(rows: list[list[int]]) -> None:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    one, two = Ragged.of(rows), Ragged.of_padded(ids, mask)
    for name in ("token_ids", "segment_ids", "positions", "cu_seqlens"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert (one.lengths == two.lengths).all()
    assert torch.equal(pad(two.token_ids, kept(mask, len(rows), longest, ids.device)), ids)


@given(masks())
def test_any_mask_there_and_back(mask: Tensor) -> None:
    size, length = mask.shape
    ids = torch.arange(1, size * length + 1).view(size, length)
    kinds, places = ids % 3, ids % 7
    keep = kept(mask.long(), size, length, ids.device)
    for row, given_row in zip(keep, mask, strict=True):
        # A row without a token keeps its first place; every other row is as the mask says.
        assert torch.equal(row, given_row if given_row.any() else torch.arange(length) == 0)
    ragged = Ragged.of_padded(ids, mask.long(), kinds, places)
    assert ragged.lengths.tolist() == keep.sum(1).tolist()
    for flat, padded in ((ragged.token_ids, ids), (ragged.segment_ids, kinds), (ragged.positions, places)):
        assert torch.equal(pad(flat, keep), padded * keep)
    states = torch.stack([ragged.token_ids, -ragged.token_ids], 1)
    assert torch.equal(pad(states, keep), torch.stack([ids, -ids], 2) * keep[:, :, None])
    columns = Ragged.of_padded(ids, mask.long()).positions
    assert torch.equal(columns, torch.arange(length).expand(size, length)[keep])


@given(masks())
def test_weights_between_tokens_go_to_their_places(mask: Tensor) -> None:
    size, length = mask.shape
    keep = kept(mask, size, length, mask.device)
    longest = int(keep.sum(1).max())
    weights = torch.rand(size, 2, longest, longest) + 1
    full = pad_square(weights, keep)
    assert full.shape == (size, 2, length, length)
    for row in range(size):
        at = keep[row].nonzero()[:, 0].tolist()
        for i in range(length):
            for j in range(length):
                found = full[row, :, i, j]
                if i in at and j in at:
                    assert torch.equal(found, weights[row, :, at.index(i), at.index(j)])
                else:
                    assert not found.any()


@given(LENGTHS)
def test_blocks_cover_every_token_once(lengths: list[int]) -> None:
    ragged = of_lengths(lengths)
    grouping = ragged.grouping
    assert sorted(np.concatenate([block.sequences for block in grouping.blocks])) == list(range(len(lengths)))
    slots = grouping.spread(ragged.token_ids + 1)
    assert slots.shape == (grouping.slots,)
    reached = 0
    for block in grouping.blocks:
        count = len(block.sequences)
        assert block.first_slot == reached
        reached += count * block.length
        rectangle = slots[block.first_slot : reached].view(count, block.length)
        inside = [lengths[sequence] for sequence in block.sequences]
        assert block.length == max(inside)
        assert min(inside) >= 0.75 * block.length  # at most a quarter of a row is a hole
        holes = torch.arange(block.length) >= torch.tensor(inside)[:, None]
        if block.mask is None:
            assert not holes.any()
        else:
            assert torch.equal(block.mask[:, 0] == -torch.inf, holes)
            assert not block.mask[:, 0][~holes].any()
        for row, sequence in zip(rectangle, block.sequences, strict=True):
            begin = int(ragged.starts[sequence])
            tokens = torch.arange(begin, begin + lengths[sequence]) + 1
            assert torch.equal(row[: lengths[sequence]], tokens)
            assert not row[lengths[sequence] :].any()
    assert reached == grouping.slots
    assert torch.equal(grouping.gather(slots), ragged.token_ids + 1)


def test_equal_lengths_are_one_block_that_is_not_moved() -> None:
    grouping = of_lengths([7, 7, 7]).grouping
    assert len(grouping.blocks) == 1
    assert grouping.slot_of_token is None
    assert grouping.blocks[0].mask is None
    rows = torch.rand(21, 3)
    assert grouping.spread(rows) is rows
    assert grouping.gather(rows) is rows


def test_spread_and_gather_pass_gradients() -> None:
    grouping = of_lengths([3, 9, 8, 1]).grouping
    rows = torch.rand(21, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: grouping.gather(grouping.spread(x) ** 2), (rows,))


@pytest.mark.parametrize("rows", [[], [[1], []], [[]]])
def test_an_empty_sequence_is_refused(rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Ragged.of(rows)


@pytest.mark.parametrize("name", ["attention_mask", "token_type_ids"])
def test_shapes_that_do_not_fit_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: expected shape \[2, 3\], found \[2, 4\]"):
        Ragged.of_padded(torch.ones(2, 3, dtype=torch.int64), **{name: torch.ones(2, 4, dtype=torch.int64)})


def test_ids_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected shape \[batch, length\], found \[3\]"):
        Ragged.of_padded(torch.ones(3, dtype=torch.int64))


def test_another_device_has_the_same_batch() -> None:
    there = of_lengths([2, 3]).to("meta")
    assert there.device.type == "meta"
    assert {there.segment_ids.device.type, there.positions.device.type} == {"meta"}
    assert there.lengths.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((5, 3, 1), "token id 5: the encoder has 0 to 4"),
        ((6, 2, 1), "position 2: the encoder has 0 to 1"),
        ((6, 3, 0), "segment id 0: the encoder has 0 to -1"),
    ],
)
def test_tables_that_are_too_small(sizes: tuple[int, int, int], said: str) -> None:
    ragged = of_lengths([3, 3])
    ragged.check(6, 3, 1)
    with pytest.raises(InputError) as error:
        ragged.check(*sizes)
    assert str(error.value) == said
