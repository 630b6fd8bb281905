"""What a row of Table 2 costs under its published arguments: one response at a time, on one device, by formulas.

Assumed: mean lengths of problems and answers (`estimate.budget`) and of examples, and forwards by the published TPF
where the decoder's steps do not say them. Judging is not counted.
"""

from __future__ import annotations

from lightningrl.bench.costs import Device, Lengths, PhaseCost, Shares, decoding_cost
from lightningrl.bench.estimate.budget import KNOWN
from lightningrl.bench.model_shape import Shape
from lightningrl.bench.schedule_costs import decoded
from lightningrl.config.decoding import Decoding, preset
from lightningrl.report.paper.harness import Cell

PROBLEMS = {"gsm8k": 1319, "math500": 5000, "mbpp": 500, "humaneval": 164}
"""Test problems of the harness's tasks; `minerva_math` has all of MATH's, not the 500."""
EXAMPLE_TOKENS = 160
"""The tokens of an example with its answer, assumed for all tasks."""
SIZES = {"llada": "llada-8b", "Dream": "7b", "qwen2": "7b"}


def cell_cost(cell: Cell, device: Device) -> PhaseCost:
    """Returns what all problems of a cell take, decoded one after the other as published."""
    assumed = KNOWN[cell.benchmark]
    prompt = assumed.prompt_tokens + cell.shots * EXAMPLE_TOKENS
    response = min(assumed.response_tokens, float(cell.tokens))
    lengths = Lengths(prompt, response, cell.published()["tpf"])
    shape = Shape.of_size(SIZES[cell.family], 32)
    decoding = Decoding.model_validate(preset(cell.preset)["decoding"] | cell.options)
    one = decoded(decoding, cell.parameter, lengths, cell.tokens, shape.block_size)
    count = PROBLEMS[cell.benchmark]
    return decoding_cost(
        shape, device, Shares(), lengths, count, 1, cell.name, one=(one.forwards, one.prefill, one.decode)
    )  # fmt: skip
