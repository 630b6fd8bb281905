"""A model keeps the dtype that its weights are stored in, and is quantised as if it were in float32."""

import pytest
import torch
from fixtures.tiny import tiny_model
from official_quantizers import visited_states

from lightningrl.quantization.layerwise import inner_linears
from lightningrl.quantization.protocol import make_quantizer
from lightningrl.quantization.registry import QUANTIZERS
from lightningrl.quantization.uniform import quantized_of

OPTIONS = {
    "gptq": {"group": 8},
    "awq": {"group": 8, "bits": 3},
    "duquant": {"block": 8, "steps": 4},
    "rtn": {"bits": 3},
}


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "noise"])
def test_codes_of_a_bfloat16_model_are_those_of_its_weights_in_float32(name):
    half = tiny_model(3, dtype=torch.bfloat16)
    whole = tiny_model(3)
    whole.load_state_dict(half.state_dict())
    found = visited_states(whole)
    for model in (half, whole):
        make_quantizer(QUANTIZERS[name], OPTIONS.get(name, {})).quantize(model, found)
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    for (key, mine), (_, other) in zip(inner_linears(half), inner_linears(whole), strict=True):
        one, two = quantized_of(mine), quantized_of(other)
        assert torch.equal(mine.weight, one.values(torch.bfloat16)), key
        # QuaRot's embedding, which stays in bfloat16, is rounded once when it is rotated.
        assert name == "quarot" or (torch.equal(one.codes_OI, two.codes_OI) and torch.equal(one.scale_OG, two.scale_OG))
        assert one.codes_OI.device.type == "cpu"
        assert mine.errors == other.errors or name in ("quarot", "rtn"), key
