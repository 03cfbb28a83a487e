"""Names of sizes against the papers' tables, and what is said of a name that is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyheads.encoder.bert import Encoder, Shape
from manyheads.encoder.sizes import NAMED, size_of

# Name → layers, hidden, heads, as printed: Devlin et al. 2019, section 3 and table 6; Turc et al. 2019, table 1.
PRINTED = {
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "3x768": (3, 768, 12),
    "6x768/3": (6, 768, 3),
    "6x768": (6, 768, 12),
    "12x768": (12, 768, 12),
    "12x1024": (12, 1024, 16),
    "24x1024": (24, 1024, 16),
    "10x128": (10, 128, 2),
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_sizes_of_the_papers(name: str) -> None:
    size = size_of(name)
    assert (size.layers, size.hidden, size.heads) == PRINTED[name]
    assert size.intermediate == 4 * size.hidden
    Shape(**size._asdict())


def test_every_name_is_printed_somewhere() -> None:
    assert set(NAMED) <= set(PRINTED)


@pytest.mark.parametrize(
    # Parameters in millions as the papers round them: BASE 110, LARGE 340 (section 3); tiny 4.4, mini 11.3,
    # small 29.1, medium 41.7 (Turc et al., table 1).
    ("name", "millions", "within"),
    [
        ("base", 110, 1),
        ("large", 340, 5),
        ("tiny", 4.4, 0.05),
        ("mini", 11.2, 0.1),
        ("small", 28.8, 0.4),
        ("medium", 41.4, 0.4),
    ],
)
def test_as_many_parameters_as_the_papers_say(name: str, millions: float, within: float) -> None:
    import torch

    with torch.device("meta"):
        encoder = Encoder(Shape(**size_of(name)._asdict()))
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=within)


@given(layers=st.integers(1, 99), heads=st.integers(1, 40), width=st.integers(1, 200))
def test_any_layers_and_width(layers: int, heads: int, width: int) -> None:
    assert size_of(f"{layers}x{64 * heads}") == (layers, 64 * heads, heads, 256 * heads)
    assert size_of(f"{layers}x{width * heads}/{heads}") == (
        *(layers, width * heads, heads, 4 * width * heads),
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "bass",
            "expected tiny, mini, small, medium, base, large, or layers x width such as 4x256, found 'bass'",
        ),
        ("bass", r"did you mean 'base'\?$"),
        ("LARGE", r"found 'LARGE'; did you mean 'large'\?$"),
        ("12*768", r"did you mean '12x768'\?$"),
        ("6x768/", r"did you mean '6x768(/3)?'\?$"),
        ("4x250", r"a width in multiples of 64 \(4x192 or 4x256\), .* found '4x250'$"),
        ("2x32", r"\(2x64\), or with the heads as in 6x768/3, found '2x32'$"),
        ("6x768/5", r"a multiple of the heads \(5\), found '6x768/5'$"),
        ("4x256/0", "found '4x256/0'"),
        ("04x256", "found '04x256'"),
        ("4x256\n", r"found '4x256\\n'"),
        ("٤x256", "found '٤x256'"),
        ("", "found ''"),
        (f"{'9' * 5000}x64", "found '999"),
    ],
)
def test_a_name_of_no_size(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        size_of(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
