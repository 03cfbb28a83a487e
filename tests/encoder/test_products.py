"""Products by oneDNN against torch's in float64, and when it is asked."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyheads.encoder import products
from manyheads.encoder.layers import Linear
from manyheads.encoder.precision import bfloat16_is_fast

CPU = torch.device("cpu")
there = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")  # type: ignore[no-untyped-call]


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"])
def chosen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """float32 by oneDNN, or by what torch takes, whatever processor this is."""
    monkeypatch.setattr(products, "_beats_mkl", lambda: request.param)
    return bool(request.param)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("lay_out", [True, False], ids=["laid out", "as it is"])
@pytest.mark.parametrize("then", ["none", "gelu"])
@pytest.mark.parametrize("rows", [(0,), (1,), (17,), (3, 5)])
@pytest.mark.usefixtures("chosen")
def test_linear(rows: tuple[int, ...], then: products.Then, lay_out: bool) -> None:
    x, weight, bias = drawn(*rows, 48), drawn(33, 48), drawn(33)
    exact = F.linear(x.double(), weight.double(), bias.double())
    exact = F.gelu(exact) if then == "gelu" else exact
    found = products.linear(x, products.laid_out(weight) if lay_out else weight, bias, then)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("chosen")
def test_times_in_any_order_of_elements(dtype: torch.dtype, turned: tuple[bool, bool]) -> None:
    a, b = (
        (drawn(19, 7).t() if turned[0] else drawn(7, 19)),
        (drawn(11, 19).t() if turned[1] else drawn(19, 11)),
    )
    a, b = a.to(dtype), b.to(dtype)
    limit = 0.05 if dtype is torch.bfloat16 else 1e-5
    torch.testing.assert_close(products.times(a, b).double(), a.double() @ b.double(), atol=limit, rtol=limit)


@pytest.mark.parametrize("then", [False, True], ids=["map", "map, GELU"])
@pytest.mark.usefixtures("chosen")
def test_gradients_of_a_map_in_float32(then: bool) -> None:
    ours = Linear(48, 32)
    nn.init.normal_(ours.weight, std=0.2)
    nn.init.normal_(ours.bias)
    exact = Linear(48, 32).double()
    exact.load_state_dict(ours.state_dict())
    x, above = drawn(4, 16, 48), drawn(4, 16, 32)

    def gradients(module: Linear, x: Tensor, above: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        y = module.then_gelu(x) if then else module(x)
        return list(torch.autograd.grad(y, (x, *module.parameters()), above))

    for found, wanted in zip(
        gradients(ours, x, above), gradients(exact, x.double(), above.double()), strict=True
    ):
        assert found.dtype is torch.float32
        torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)


@there
@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, True), (torch.float32, None), (torch.float64, False)]
)
def test_who_multiplies(chosen: bool, dtype: torch.dtype, expected: bool | None) -> None:
    assert products.by_onednn(dtype, CPU) is (chosen if expected is None else expected)
    assert not products.by_onednn(dtype, torch.device("meta"))


@pytest.mark.parametrize(
    ("vendor", "vectors", "expected"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
)
def test_which_processors(monkeypatch: pytest.MonkeyPatch, vendor: str, vectors: str, expected: bool) -> None:
    told = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu avx512f\n"
    monkeypatch.setattr(products, "open", lambda *_, **__: io.StringIO(told), raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert products._beats_mkl.__wrapped__() is expected


def test_a_processor_that_tells_nothing_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(products, "open", nowhere, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert products._beats_mkl.__wrapped__() is False


@pytest.mark.usefixtures("chosen")
def test_a_graph_is_made_of_torch_s_operations() -> None:
    module = Linear(8, 4).eval()
    with torch.no_grad():
        module(torch.ones(2, 8))
    program = torch.export.export(module, (torch.ones(3, 8),))
    assert not [node for node in program.graph.nodes if "mkldnn" in str(node.target)]


def by_optimizer(module: Linear) -> None:
    module(torch.ones(2, 4)).square().sum().backward()
    torch.optim.AdamW(module.parameters(), lr=0.5, fused=True).step()


def by_hand(module: Linear) -> None:
    with torch.no_grad():
        module.weight.mul_(-3)


@pytest.mark.parametrize("change", [by_optimizer, by_hand])
@pytest.mark.usefixtures("chosen")
def test_laid_out_weights_in_float32_are_never_stale(change: Callable[[Linear], None]) -> None:
    module = Linear(4, 3).eval()
    x = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    for _ in range(3):
        with torch.no_grad():
            before = module(x)
        change(module)
        with torch.no_grad():
            torch.testing.assert_close(module(x), F.linear(x, module.weight, module.bias))
            assert not torch.allclose(module(x), before)


@pytest.mark.skipif(not bfloat16_is_fast(), reason="no bfloat16 arithmetic")
@pytest.mark.usefixtures("chosen")
def test_bfloat16_does_not_ask_about_float32() -> None:
    x, weight, bias = drawn(17, 48).bfloat16(), drawn(32, 48).bfloat16(), drawn(32).bfloat16()
    exact = F.linear(x.double(), weight.double(), bias.double())
    found = products.linear(x, products.laid_out(weight), bias)
    torch.testing.assert_close(found.double(), exact, atol=0.1, rtol=0.02)
