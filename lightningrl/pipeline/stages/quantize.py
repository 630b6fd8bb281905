"""Quantise a policy's weights: a checkpoint that later stages load like any other.

What the quantizer does and which options it has, its module under `lightningrl/quantization/` says. Weights are stored
as codes with their scales; `quantization.json` has the quantizer, its options, and the grid of each layer.
"""

from __future__ import annotations

from typing import Any

from lightningrl.errors import ConfigError
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.loading import load_policy, use_threads
from lightningrl.pipeline.stages.problems import read_examples
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
    model, tokenizer = load_policy(source, device_of(context.device))
    calibration = _calibration(context, quantizer, model, tokenizer)
    facts = {"quantizer": config["members"]["quantizer"], "options": dict(config["options"])}
    facts["calibration_problems"] = len(calibration.sequences)
    found = save_quantized(quantizer.quantize(model, calibration), context.folder, facts)
    for name in ("config.json", *TOKENIZER_FILES):
        if (source / name).is_file():
            files.write_bytes(context.folder / name, (source / name).read_bytes())
    context.report(f"{len(found['layers'])} layers, {found['bits_per_weight']:.2f} bits a weight, scales included")


def _calibration(context: StageContext, quantizer: Quantizer, model: Transformer, tokenizer: Any) -> Calibration:
    """Returns the data that the config names; none where it names none and the quantizer needs none."""
    config = context.config
    if "calibration" not in config:
        if quantizer.needs_calibration:
            raise ConfigError(
                f"{config['members']['quantizer']} needs data to look at: give its system's `quantizer` a "
                "`calibration: {benchmark: ..., problems: ...}`"
            )
        return Calibration(seed=config["seed"])
    settings, benchmark = config["calibration"], resolve(config["members"]["benchmark"])
    examples = read_examples(context.inputs["data"] / "train.jsonl")[: settings["problems"]]
    corpus = build_corpus(
        tokenizer, examples, lambda example: benchmark.render(example, settings["prompt"]), model.config.block_size
    )
    sequences = [CalibrationSequence(each.prompt_ids, each.response_ids) for each in corpus]
    return Calibration(sequences, config["seed"])
