"""Quantise a policy's weights: a checkpoint that later stages load like any other.

What the quantizer does and which options it has, its module under `lightningrl/quantization/` says. Weights are stored
as codes with their scales; `quantization.json` has the quantizer, its options, and the grid and the errors of each
layer. Weights are held as they are stored, in bfloat16 or float32. The data that a quantizer looks at is of train
problems only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.inference.policy import make_policy
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.decoder import make_decoder, make_requests
from lightningrl.pipeline.stages.loading import load_policy, stored_precision, use_threads
from lightningrl.pipeline.stages.problems import read_examples
from lightningrl.quantization.calibration import clean, random, visited
from lightningrl.quantization.open import is_quantized
from lightningrl.quantization.protocol import Calibration, CalibrationSequence, Quantizer, make_quantizer
from lightningrl.quantization.stored import save_quantized
from lightningrl.tokenization import TOKENIZER_FILES
from lightningrl.training.supervised.corpus import build_corpus
from lightningrl.training.world import device_of
from lightningrl.utils import files
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write the quantised checkpoint: config.json, model.safetensors, quantization.json, the tokenizer's files."""
    use_threads(context.threads)
    config, source = context.config, context.inputs["policy"]
    quantizer = make_quantizer(config["members"]["quantizer"], config["options"])
    _check(source)
    model, tokenizer = load_policy(source, device_of(context.device), stored_precision(source))
    calibration = _calibration(context, quantizer, model, tokenizer)
    facts = {"quantizer": config["members"]["quantizer"], "options": dict(config["options"])}
    facts["calibration_problems"] = len(calibration.sequences)
    if "calibration" in config:
        facts["calibration"] = {"source": config["calibration"]["source"], "tokens": calibration.tokens}
    found = save_quantized(quantizer.quantize(model, calibration), context.folder, facts)
    for name in ("config.json", *TOKENIZER_FILES):
        if (source / name).is_file():
            files.write_bytes(context.folder / name, (source / name).read_bytes())
    context.report(f"{len(found['layers'])} layers{_told(found)}")


def _told(found: dict[str, Any]) -> str:
    bits = f", {found['effective_bits']:.2f} bits a weight, scales included" if "effective_bits" in found else ""
    errors = [each["errors"]["output"] for each in found["layers"].values() if "output" in each.get("errors", {})]
    return bits + (f"; outputs off by {100 * sum(errors) / len(errors):.3g} % in squares, the mean" if errors else "")


def _check(source: Path) -> None:
    """Raises CheckpointError for what is quantised already, or an adapter without the weights that it is added to."""
    if is_quantized(source):
        raise CheckpointError(f"{source} is quantised already: quantise the checkpoint that it was made from")
    if (source / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{source} has an adapter that is not merged, and codes are made of whole weights: name it as `adapter` of "
            "the checkpoint that it belongs to (`base` or `checkpoints`), which merges it, and quantise that"
        )


def _calibration(context: StageContext, quantizer: Quantizer, model: Transformer, tokenizer: Any) -> Calibration:
    """Returns the data that the config names; none where it names none and the quantizer needs none."""
    config = context.config
    if "calibration" not in config:
        if quantizer.needs_calibration:
            raise ConfigError(
                f"{config['members']['quantizer']} needs data to look at: give its system's `quantizer` a "
                "`calibration`, such as `calibration: decode`"
            )
        return Calibration(seed=config["seed"])
    settings, benchmark, seed = config["calibration"], resolve(config["members"]["benchmark"]), config["seed"]
    examples = read_examples(context.inputs["data"] / "train.jsonl")[: settings["problems"]]
    if settings["source"] == "decode":
        decoder = make_decoder(config, model, tokenizer, context.inputs["policy"], forwards="spans")
        requests, policy = make_requests(config, tokenizer, examples), make_policy(config, config["threshold"])
        sequences = [CalibrationSequence(each.prompt_ids, np.empty(0, dtype=np.int64)) for each in requests]
        return visited(model, decoder, requests, policy, settings["tokens"], seed, sequences, context.report)
    corpus = build_corpus(
        tokenizer, examples, lambda example: benchmark.render(example, settings["prompt"]), model.config.block_size
    )
    sequences = [CalibrationSequence(each.prompt_ids, each.response_ids) for each in corpus]
    return {"clean": clean, "random": random}[settings["source"]](model.config, sequences, settings["tokens"], seed)
