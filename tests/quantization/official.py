"""What the official code of the methods gives: tests/fixtures/quantization/README.md."""

import json
from pathlib import Path

from safetensors.torch import load_file

FOLDER = Path(__file__).parents[1] / "fixtures" / "quantization"
TENSORS = load_file(FOLDER / "official.safetensors")
CASES = json.loads((FOLDER / "official.json").read_text())
W, X = TENSORS["in.W"].float(), TENSORS["in.X"].float()


def share_off(found, expected, scale_rtol=1e-6):
    """The share of entries that differ by more than a part in a million, or a millionth."""
    return float(((found - expected).abs() > scale_rtol * expected.abs().clamp(min=1)).float().mean())
