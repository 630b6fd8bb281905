"""The numbers of bits that quantizers' options have. No torch: what reads their options needs none."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

BITS = range(2, 9)
"""Of a grid."""
UNROUNDED = 16
"""The bits of what stays as it is."""


def check_bits(bits: int) -> int:
    """Returns the bits. Raises ValueError unless a grid has so many, or they are `UNROUNDED`."""
    if bits not in BITS and bits != UNROUNDED:
        raise ValueError(f"expected {BITS[0]} to {BITS[-1]} bits, or {UNROUNDED} for what is not to be quantised")
    return bits


Bits = Annotated[int, AfterValidator(check_bits)]
"""2 to 8, or 16: not to be quantised."""
