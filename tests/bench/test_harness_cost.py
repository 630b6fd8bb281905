"""What the rows of Table 2 cost by their published arguments: one response at a time, forwards as the decoder says."""

import pytest
from typer.testing import CliRunner

from lightningrl.bench.costs import Shares
from lightningrl.bench.estimate.budget import DEVICES
from lightningrl.bench.estimate.harness import cell_cost
from lightningrl.bench.model_shape import Shape
from lightningrl.cli.app import app
from lightningrl.report.paper.harness import ROW, cells

COSTS = {(c.row, c.benchmark): cell_cost(c, DEVICES["h100"]) for c in cells() if c.point == ROW}


def test_a_canvas_of_256_tokens_takes_256_forwards_over_all_of_it_and_autoregression_reads_all_weights_each():
    vanilla = COSTS["LLaDA", "gsm8k"]
    assert vanilla.positions == 1319 * 256 * (120 + 256)
    qwen, device = COSTS["Qwen-2.5-7B-Instruct", "gsm8k"], DEVICES["h100"]
    read_s = 2 * Shape.of_size("7b", 32).parameters / (Shares().bandwidth * device.bytes_per_s)
    assert qwen.bound == "bandwidth" and qwen.seconds == pytest.approx(1319 * 151 * read_s, rel=0.1)
    for row in ("Fast-dLLM-LLaDA", "dParallel-LLaDA", "d3LLM-LLaDA"):
        assert COSTS[row, "gsm8k"].seconds < vanilla.seconds / 4


def test_the_list_of_rows_says_hours_and_their_sum():
    told = CliRunner().invoke(app, ["harness"]).stdout
    hours = sum(cell_cost(cell, DEVICES["h100"]).seconds for cell in cells()) / 3600
    assert f"in all {hours:,.0f} hours of one H100" in told and "H100 hours" in told.splitlines()[0]
