"""All layers in one call against torch in double precision, and that it is taken only where it may be."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.ragged import Ragged
from manyheads.native import forward
from manyheads.native.library import Library, library

_found = library()
if _found is None or not forward.able(_found):
    pytest.skip("the processor lacks the instructions, or has better ones", allow_module_level=True)
KERNELS: Library = _found
BF16 = torch.bfloat16
LENGTHS = [1, 2, 5, 27, 128, 64, 300]


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    made = Encoder(Shape(layers=3, hidden=128, heads=4, intermediate=320, vocabulary=500)).eval()
    with torch.no_grad():  # norms and biases that do something
        for parameter in made.layers.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.use(compute=BF16)


def batch(lengths: list[int] = LENGTHS) -> Ragged:
    torch.manual_seed(1)
    return Ragged.of([torch.randint(0, 500, (length,)).tolist() for length in lengths])


def encoded(encoder: Encoder, ragged: Ragged, rows: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        return encoder.encode(ragged, rows=rows).tokens


def taken(encoder: Encoder) -> bool:
    """Whether the layers were packed for the call just made."""
    kept = encoder._stack._kept
    return kept is not None and kept[1] is not None


@pytest.mark.parametrize("rows", [1, 5, 6, 7, 13, 192, 193, 500])
@pytest.mark.parametrize(("inputs", "outputs"), [(2, 64), (96, 128), (384, 192)])
@pytest.mark.parametrize("gelu", [False, True])
def test_product(rows: int, inputs: int, outputs: int, gelu: bool, threads: int) -> None:
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, inputs).to(BF16), torch.randn(outputs, inputs).to(BF16)
    bias = torch.randn(outputs)
    expected = F.linear(x.double(), weight.double(), bias.double())
    found = forward.product(KERNELS, x, forward.pack(KERNELS, weight), bias, gelu)
    torch.testing.assert_close(
        found.double(), F.gelu(expected) if gelu else expected, rtol=2**-8, atol=1e-5 * inputs
    )


def test_gelu_far_from_zero() -> None:
    x = torch.tensor([[-40.0, -9.0, -5.0, 0.0, 5.0, 9.0, 40.0, float("nan")] * 8])
    nothing = forward.pack(KERNELS, torch.zeros(64, 2, dtype=BF16))
    found = forward.product(KERNELS, torch.zeros(1, 2, dtype=BF16), nothing, x[0], gelu=True)
    torch.testing.assert_close(found, F.gelu(x).to(BF16), atol=1e-6, rtol=2**-8, equal_nan=True)


def test_states_are_those_of_double_precision(encoder: Encoder, threads: int) -> None:
    exact = copy.deepcopy(encoder).double().use(compute=None)
    expected = encoded(exact, batch())
    found = encoded(encoder, batch())
    assert taken(encoder)
    assert F.cosine_similarity(found.double(), expected).min() > 0.9995
    torch.testing.assert_close(found.double(), expected, atol=0.06, rtol=0)


def test_they_are_as_near_as_the_layers_own_way(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encoded(copy.deepcopy(encoder).double().use(compute=None), batch())
    found = encoded(encoder, batch())
    monkeypatch.setattr(forward, "able", lambda library: False)
    other = copy.deepcopy(encoder)
    own_way = encoded(other, batch())
    assert not taken(other)
    assert (found - expected).abs().mean() < 1.1 * (own_way - expected).abs().mean()


def test_threads_and_neighbours_change_nothing(encoder: Encoder) -> None:
    found = encoded(encoder, batch())
    before = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            assert torch.equal(encoded(encoder, batch()), found)
        finally:
            torch.set_num_threads(before)
    ids = batch().token_ids
    alone = encoded(encoder, Ragged.of([ids[8:35].tolist()]))  # the fourth sequence
    assert torch.equal(alone, found[8:35])


def test_some_rows_are_those_of_all(encoder: Encoder) -> None:
    rows = torch.tensor([0, 3, 8, 35, 526])
    found = encoded(encoder, batch(), rows)
    assert torch.equal(found[rows], encoded(encoder, batch())[rows])
    others = torch.ones(len(found), dtype=torch.bool)
    others[rows] = False
    assert not found[others].any()


def test_causal(encoder: Encoder) -> None:
    torch.manual_seed(0)
    causal = Encoder(Shape(layers=2, hidden=64, heads=2, intermediate=64, vocabulary=500, causal=True)).eval()
    expected = encoded(copy.deepcopy(causal).double(), batch([9, 30]))
    found = encoded(causal.use(compute=BF16), batch([9, 30]))
    assert taken(causal)
    assert F.cosine_similarity(found.double(), expected).min() > 0.999
    assert torch.equal(found[0], encoded(causal, Ragged.of([batch([9, 30]).token_ids[:1].tolist()]))[0])


def test_moved_weights_are_packed_again(encoder: Encoder) -> None:
    weight: Any = encoder.layers.get_parameter("1.feedforward.up.weight")
    before = encoded(encoder, batch())
    with torch.no_grad():
        weight.mul_(2)
    moved = encoded(encoder, batch())
    assert not torch.equal(before, moved)
    # Who moves them without raising their version, as kernels and fused optimisers do, has made a pass with gradients.
    encoder.encode(batch())
    version = weight._version
    weight.detach().numpy()[:] *= 2
    assert weight._version == version
    again = encoded(encoder, batch())
    assert not torch.equal(again, moved)
    assert torch.equal(again, encoded(copy.deepcopy(encoder), batch()))


def test_where_it_may_not_be_taken(encoder: Encoder) -> None:
    with torch.no_grad():
        encoder.encode(batch())
    assert taken(encoder)
    encoder.encode(batch())  # gradients are asked for
    assert not taken(encoder)
    with torch.no_grad():
        encoder.train().encode(batch())
    assert not taken(encoder)
    encoder.eval()
    for other in (
        copy.deepcopy(encoder).use(compute=None),
        copy.deepcopy(encoder).use(compute=BF16, attention="torch"),
        copy.deepcopy(encoder).to(BF16),
        Encoder(Shape(layers=1, hidden=96, heads=2, intermediate=128, vocabulary=500))
        .eval()
        .use(compute=BF16),
    ):
        encoded(other, batch())
        stack = other._stack._kept
        assert stack is None or stack[1] is None
    with torch.inference_mode():
        deep = encoder.encode(batch(), all_layers=True)
    assert len(deep.layers) == 4
    torch.testing.assert_close(deep.tokens, encoded(encoder, batch()), atol=0.05, rtol=0)


def test_who_watches_a_layer_sees_it(encoder: Encoder) -> None:
    seen = []
    with encoder.layers[1].register_forward_hook(lambda *each: seen.append(each)):
        encoded(encoder, batch())
    assert len(seen) == 1
    encoded(encoder, batch())
    assert len(seen) == 1


def test_copies_pack_their_own(encoder: Encoder) -> None:
    found = encoded(encoder, batch())
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert not taken(other)
        assert torch.equal(encoded(other, batch()), found)


def test_what_does_not_fit_is_refused() -> None:
    packed = forward.pack(KERNELS, torch.zeros(64, 8, dtype=BF16))
    x = torch.zeros(3, 8, dtype=BF16)
    for wrong in (torch.zeros(63, 8, dtype=BF16), torch.zeros(64, 7, dtype=BF16), torch.zeros(64, 8)):
        with pytest.raises(ValueError, match="expected contiguous"):
            forward.pack(KERNELS, wrong)
    for rows, bias in ((x.float(), torch.zeros(64)), (x[:, :6], torch.zeros(64)), (x, torch.zeros(63))):
        with pytest.raises(ValueError, match="expected"):
            forward.product(KERNELS, rows, packed, bias)
    with pytest.raises(ValueError, match=r"a packed weight \[192, 64\]"):
        forward.Layers([[packed, torch.zeros(64)] * 4 + [torch.zeros(64)] * 4])


def test_rows_outside_the_batch_are_refused(encoder: Encoder) -> None:
    with pytest.raises(IndexError, match="rows 0 to 527 of 527"):
        encoded(encoder, batch(), torch.tensor([0, 527]))
