"""What the official code of the methods gives: tests/fixtures/quantization/README.md."""

import json
from pathlib import Path

from fixtures.tiny import MASK_ID, requests_of
from safetensors.torch import load_file

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.inference.policy import policy_of
from lightningrl.quantization.calibration import visited

FOLDER = Path(__file__).parents[1] / "fixtures" / "quantization"
TENSORS = load_file(FOLDER / "official.safetensors")
CASES = json.loads((FOLDER / "official.json").read_text())
W, X = TENSORS["in.W"].float(), TENSORS["in.X"].float()


def share_off(found, expected, scale_rtol=1e-6):
    """The share of entries that differ by more than a part in a million, or a millionth."""
    return float(((found - expected).abs() > scale_rtol * expected.abs().clamp(min=1)).float().mean())


def visited_states(model, vocab=MASK_ID, count=6):
    """The states of a tiny model on random prompts."""
    requests = requests_of([5] * count, 12, vocab=vocab)
    return visited(model, BlockDecoder(model, [1]), requests, policy_of(parameter=0.3), 10**6)
