"""The kinds of values that quantizers' options have."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from lightningrl.quantization.uniform import check_bits

Bits = Annotated[int, AfterValidator(check_bits)]
"""2 to 8, or 16: not to be quantised."""
