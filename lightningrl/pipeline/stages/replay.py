"""Replay a few test problems by a trained system and the one that it is compared with.

The pages show which forward revealed each token, and in which precision. The problems are the benchmark's first,
decoded greedily at each system's primary threshold; no page was chosen by its look.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightningrl.inference.policy import make_policy
from lightningrl.inference.trace import Recorder, Trace, trace_of
from lightningrl.inference.trace_page import render_page
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.decoder import load_decoder, make_requests
from lightningrl.pipeline.stages.loading import use_threads
from lightningrl.pipeline.stages.problems import read_examples
from lightningrl.types import Example
from lightningrl.utils.files import write_text
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write `<name>-1.html`, ...: a problem a page, both systems side by side."""
    use_threads(context.threads)
    config = context.config
    examples = read_examples(context.inputs["data"] / "test.jsonl")[: config["problems"]]
    before, after = (_traces(context, role, examples) for role in ("base", "policy"))
    for number, pair in enumerate(zip(before, after, strict=True), 1):
        path = context.folder / f"{config['policy']['name']}-{number}.html"
        write_text(path, render_page(pair))
        context.report(f"{path}: {pair[0].tpf:.2f} and {pair[1].tpf:.2f} tokens per forward")


def _traces(context: StageContext, role: str, examples: Sequence[Example]) -> list[Trace]:
    """Decodes the problems with one of the two systems."""
    config, benchmark = context.config, resolve(context.config["members"]["benchmark"])
    members = {name.removeprefix(f"{role}/"): each for name, each in config["members"].items()}
    system = config[role] | {"members": members, "prompt": config["prompt"]}
    policy = make_policy(system, system["threshold"])
    decoder, tokenizer = load_decoder(context, system, policy, examples, role)
    requests = make_requests(system, tokenizer, examples)
    recorder = Recorder(range(len(requests)))
    trajectories = decoder.decode(requests, policy, recorder)
    traces = [
        trace_of(
            tokenizer, benchmark.render(example, config["prompt"]), trajectory, recorder.seen[index],
            name=system["name"], policy=policy,
        )
        for index, (example, trajectory) in enumerate(zip(examples, trajectories, strict=True))
    ]  # fmt: skip
    return [replace(trace, policy=f"{trace.policy}, {config['precision']}") for trace in traces]
