"""Looks into a system beside the usual probes: `states`, what quantisation moves on the float weights' own states, and
`inputs`, outliers among the inputs of its linear layers.

Each is called with the stage's context and the problems, and yields rows of `probe.csv`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lightningrl.inference.policy import make_policy
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.decoder import make_decoder, make_requests
from lightningrl.pipeline.stages.loading import load_policy
from lightningrl.quantization.calibration import visited
from lightningrl.quantization.fixed_states import moved
from lightningrl.quantization.open import is_quantized
from lightningrl.quantization.outliers import TOKENS, outliers
from lightningrl.quantization.protocol import Calibration
from lightningrl.training.world import device_of
from lightningrl.types import Example

Row = tuple[str, str, int, float]
STATE_TOKENS = 2**17
"""Positions of the states that are compared, at most."""
USUAL_THRESHOLD = 0.9
"""Where the system's own parameter is no probability."""


def states(context: StageContext, examples: Sequence[Example]) -> Iterator[Row]:
    """Yields what the system's weights say against those that they were made from; nothing for plain weights."""
    if "exact" not in context.inputs:
        return
    exact, found = _visited(context, examples, "exact", STATE_TOKENS)
    own, _ = _loaded(context, "policy")
    threshold = context.config["threshold"]
    threshold = threshold if 0 < threshold < 1 else USUAL_THRESHOLD
    if (how := moved(exact, own, found, threshold)) is None:
        return
    for name in ("over_threshold", "confidence", "entropy"):
        for label, value in zip(("exact", "own"), getattr(how, name), strict=True):
            yield f"state_{name}", label, how.positions, float(value)
    yield "state_kl", "all", how.positions, float(how.kl)
    yield "state_flips", "revealed", how.revealed, float(how.flips)
    yield "state_flips", "all", how.positions, float(how.flips_all)


def inputs(context: StageContext, examples: Sequence[Example]) -> Iterator[Row]:
    """Yields the outliers on the system's own states; the surface of plain weights only, which alone is drawn."""
    model, found = _visited(context, examples, "policy", TOKENS)
    yield from outliers(model, found, surface=not is_quantized(context.inputs["policy"]))


def _loaded(context: StageContext, role: str) -> tuple[Transformer, Any]:
    return load_policy(context.inputs[role], device_of(context.device), context.config["precision"])


def _visited(
    context: StageContext, examples: Sequence[Example], role: str, tokens: int
) -> tuple[Transformer, Calibration]:  # fmt: skip
    """Returns the weights of a role and the states that the system's decoder visits with them."""
    config = context.config
    model, tokenizer = _loaded(context, role)
    decoder = make_decoder(config, model, tokenizer, context.inputs[role], forwards="spans")
    requests = make_requests(config, tokenizer, examples)
    return model, visited(model, decoder, requests, make_policy(config, config["threshold"]), tokens)
