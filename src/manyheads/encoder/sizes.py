"""Sizes of encoders by name: those that have one in the papers, and all others as layers x width.

Knows names and numbers. Must not know layers, tensors or recipes.
"""

import re
from typing import Final, NamedTuple

from manyheads.errors import nearest, shown

__all__ = ["NAMED", "PATTERN", "Size", "size_of"]

# `base` and `large` are those of Devlin et al. 2019, section 3; the smaller ones of Turc et al. 2019 (arXiv
# 1908.08962) and the checkpoints that came with it.
NAMED: Final[dict[str, str]] = {
    "tiny": "2x128",
    "mini": "4x256",
    "small": "4x512",
    "medium": "8x512",
    "base": "12x768",
    "large": "24x1024",
}
# What an unknown name may have been meant as: the sizes of Devlin et al. 2019, table 6, and of Turc et al.'s grid.
_USUAL: Final = (
    *("3x768", "6x768/3", "6x768", "12x768", "12x1024", "24x1024"),
    *(f"{layers}x{hidden}" for layers in (2, 4, 6, 8, 10, 12) for hidden in (128, 256, 512, 768)),
)
_HEAD: Final = 64  # the width of an attention head in all of these, but where the heads are said
PATTERN: Final = r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})(?:/([1-9][0-9]{0,5}))?"
"""A size in full: layers x width, and after a stroke the attention heads where they are not width / 64."""


class Size(NamedTuple):
    """The numbers behind a name."""

    layers: int
    hidden: int
    heads: int
    intermediate: int
    """Four times `hidden`, as in both papers."""


def size_of(name: str) -> Size:
    """The size called `name`: one of `NAMED`, `4x256` (4 layers of width 256, with a head for each 64 of it), or
    `6x768/3` with another number of heads.

    Raises ValueError, in one line, where the name says none.
    """
    said = re.fullmatch(PATTERN, NAMED.get(name, name))
    if said is None:
        raise ValueError(
            f"expected {', '.join(NAMED)}, or layers x width such as 4x256, found {shown(name)}"
            f"{nearest(name.lower(), (*NAMED, *_USUAL))}"
        )
    layers, hidden = int(said[1]), int(said[2])
    if said[3] is None and hidden % _HEAD:
        below = hidden // _HEAD * _HEAD
        near = [f"{layers}x{width}" for width in (below, below + _HEAD) if width]
        raise ValueError(
            f"expected a width in multiples of {_HEAD} ({' or '.join(near)}), or with the heads as in 6x768/3, "
            f"found {shown(name)}"
        )
    heads = hidden // _HEAD if said[3] is None else int(said[3])
    if hidden % heads:
        raise ValueError(f"expected a width that is a multiple of the heads ({heads}), found {shown(name)}")
    return Size(layers, hidden, heads, 4 * hidden)
