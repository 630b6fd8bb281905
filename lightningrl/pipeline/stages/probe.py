"""Look into a policy: honesty of its confidence, tokens revealed together, phrasings left. On validation problems.

Three decodes of the first problems, all at temperature 0 but the second: at the primary threshold (what is revealed
together, in which words), the same at temperature 1 (words), and one token a forward (confidence). What the numbers
mean, `lightningrl.evaluation.probing` says. Nothing is judged. Other looks, or these alone, are `stages/looks.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lightningrl.decoding.engine import BlockDecoder
from lightningrl.decoding.protocol import DecodePolicy, Request
from lightningrl.errors import Interrupted
from lightningrl.evaluation import probing
from lightningrl.inference.policy import make_policy
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.decoder import load_decoder, make_requests
from lightningrl.pipeline.stages.loading import use_threads
from lightningrl.pipeline.stages.problems import read_examples
from lightningrl.report.formats import csv_text
from lightningrl.tokenization import decode_response, text_pieces
from lightningrl.types import Example, Trajectory
from lightningrl.utils.files import write_text
from lightningrl.utils.numbers import shortest
from lightningrl.utils.registry import resolve

COLUMNS = ("measure", "label", "count", "value")
"""What was measured, of what (a bin of confidence, a class of tokens, a kind of phrase), over how many, the number."""
Row = tuple[str, str, int, float]


def run(context: StageContext) -> None:
    """Write probe.csv."""
    use_threads(context.threads)
    config = context.config
    examples = read_examples(context.inputs["data"] / "validation.jsonl")[: config["problems"]]
    rows = list(_answers(context, examples)) if "careful" in config["members"] else []
    for role, look in config["members"].items():
        if role.startswith("look/"):
            rows += resolve(look)(context, examples)
            _go_on(context, role.removeprefix("look/"))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    write_text(context.folder / "probe.csv", csv_text(table))
    context.report(f"probe.csv: {len(table)} rows, of {len(examples)} problems, in {config['precision']}")


def _answers(context: StageContext, examples: Sequence[Example]) -> Iterator[Row]:
    """Yields what three decodes say."""
    config = context.config
    usual = make_policy(config, config["threshold"])
    decoder, tokenizer = load_decoder(context, config, usual, examples)
    requests = make_requests(config, tokenizer, examples)
    fast = decoder.decode(requests, usual)
    yield from _classes(tokenizer, examples, fast)
    yield from _phrases(context, tokenizer, examples, fast, "greedy")
    _go_on(context, "decoded at the primary threshold")
    sampled = decoder.decode(requests, replace(usual, temperature=1.0, seed=config["seed"]))
    yield from _phrases(context, tokenizer, examples, sampled, "sampled")
    _go_on(context, "decoded at temperature 1")
    blocks = config["max_new_tokens"], decoder.model.config.block_size
    yield from _reliability(decoder, requests, one_a_forward(usual, config["members"]["careful"], *blocks))


def one_a_forward(policy: DecodePolicy, quota: str, max_new_tokens: int, model_size: int) -> DecodePolicy:
    """Returns a policy that reveals one position of its block a forward: a quota over as many steps as the schedule's
    blocks have positions, which may be others than the model's, and one block of a whole response."""
    return replace(policy, selector=resolve(quota)(policy.schedule.size(max_new_tokens, model_size)))


def _classes(tokenizer: Any, examples: Sequence[Example], trajectories: Sequence[Trajectory]) -> Iterator[Row]:
    """Yields for each class of tokens the share revealed with at least one other, how many a forward, how sure."""
    kinds, company, confidence = list[str](), list[np.ndarray](), list[np.ndarray]()
    for example, trajectory in zip(examples, trajectories, strict=True):
        ids = trajectory.response_ids.tolist()
        pieces = text_pieces(lambda part: tokenizer.decode(part, clean_up_tokenization_spaces=False), ids)
        stops = [trajectory.stop == "eos" and at == len(ids) - 1 for at in range(len(ids))]
        kinds += probing.token_classes(example.messages[-1]["content"], pieces, stops)
        company.append(probing.together(trajectory))
        confidence.append(np.exp(trajectory.behaviour_logp[: len(ids)].astype(float)))
    kind_n, company_n, confidence_n = np.array(kinds), np.concatenate(company), np.concatenate(confidence)
    for kind in (*probing.CLASSES, "all"):
        mine = kind_n == kind if kind != "all" else np.ones(len(kind_n), bool)
        if mine.any():
            count = int(mine.sum())
            yield "class_parallel_share", kind, count, float((company_n[mine] > 1).mean())
            yield "class_together", kind, count, float(company_n[mine].mean())
            yield "class_confidence", kind, count, float(confidence_n[mine].mean())


def _phrases(
    context: StageContext, tokenizer: Any, examples: Sequence[Example], trajectories: Sequence[Trajectory], how: str
) -> Iterator[Row]:
    """Entropy of the words by what they are for, and over all of that; nothing where the benchmark has no `phrases`."""
    if "phrases" not in context.config["members"]:
        return
    phrases = resolve(context.config["members"]["phrases"])
    found: dict[str, list[str]] = {}
    for example, trajectory in zip(examples, trajectories, strict=True):
        for role, words in phrases(example, decode_response(tokenizer, trajectory.response_ids)):
            found.setdefault(role, []).append(words)
    total = sum(len(words) for words in found.values())
    if not total:  # nothing but stop tokens
        return
    for role, words in sorted(found.items()):
        yield f"phrasing_nats_{how}", role, len(words), probing.entropy_nats(words)
    everywhere = sum(len(words) * probing.entropy_nats(words) for words in found.values()) / total
    yield f"phrasing_nats_{how}", "all", total, everywhere


def _reliability(decoder: BlockDecoder, requests: Sequence[Request], policy: DecodePolicy) -> Iterator[Row]:
    observer = probing.Reliability()
    bins = observer.bins(decoder.decode(requests, policy, observer))
    for each in bins:
        label = f"{shortest(each.low)}-{shortest(each.high)}"
        yield "confidence", label, each.count, each.confidence
        yield "agreement", label, each.count, each.agreement
    if bins:
        yield "calibration_error", "all", sum(each.count for each in bins), probing.calibration_error(bins)


def _go_on(context: StageContext, done: str) -> None:
    context.report(done)
    if context.should_stop():
        raise Interrupted("stopped between two decodes; run the same command again, it starts anew and takes a minute")
