"""The answers that a distillation trains on: the base's own, judged; worked ones; or a published data set. Resumable.

The base's own answers are decoded in shards, each saved when it is judged, so that a kill costs one shard at most. With
each token the forward that revealed it is kept, which is d3LLM's trajectory. An answer that was refused, or that the
judge has no value for, is counted and left out; a judge that fails stops the stage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightningrl.answering import judged, requests_of
from lightningrl.benchmarks.fetch import FetchedRows, obtain, obtain_in
from lightningrl.benchmarks.sources import Source
from lightningrl.config.distillation import DistillData
from lightningrl.config.train import Learners
from lightningrl.decoding.engine import BlockDecoder
from lightningrl.errors import BenchmarkError, Interrupted, JudgeError, LightningRLError
from lightningrl.inference.policy import make_policy
from lightningrl.models.config_file import read_config
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.decoder import load_decoder, make_task
from lightningrl.pipeline.stages.loading import use_threads
from lightningrl.pipeline.stages.problems import make_judge, read_examples
from lightningrl.tokenization import encode_prompts, encode_texts, load_tokenizer
from lightningrl.training.distillation.answers import row_of
from lightningrl.types import Example, Trajectory
from lightningrl.utils import files
from lightningrl.utils.registry import resolve

FIELDS = ("question", "llm_response")
"""The columns of dParallel's published data; the question went through the chat template already."""
SUFFIXES = (".jsonl", ".json", ".parquet", ".gz")


def run(context: StageContext) -> None:
    """Write distilled.jsonl (a line per answer that is kept) and summary.json (how many, and what they took)."""
    data: DistillData = context.config["data"]
    use_threads(context.threads)
    shape, learners = read_config(context.inputs["base"]), context.config["learners"]
    for each in learners.runs:
        each.implementation.check(shape, f"runs.{each.name}")
    counts: dict[str, Any] = {"answers": 0, "token_forwards": 0}
    if data.source == "own":
        rows, counts = _own(context, data, learners)
    elif data.source == "worked":
        rows = _worked(context, data)
    else:
        rows, counts["dataset"] = _published(context, data)
    kept = [row for row in rows if data.keep == "all" or row["correct"]]
    counts |= {"answers": max(counts["answers"], len(rows)), "correct": sum(row["correct"] for row in rows)}
    files.write_jsonl(context.folder / "distilled.jsonl", kept)
    files.write_json(context.folder / "summary.json", {"source": data.source, "kept": len(kept)} | counts)
    context.report(f"{len(kept)} of {counts['answers']} answers are kept ({counts['correct']} are correct)")


def _own(context: StageContext, data: DistillData, learners: Learners) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The base's answers to the train problems, judged, in the problems' order; and the counts of all shards."""
    examples = read_examples(context.inputs["data"] / "train.jsonl")[: data.problems]
    judge = make_judge(context.config["members"]["judge"], context.judge_workers)
    rows, counts = list[dict[str, Any]](), {"answers": 0, "refused": 0, "unjudged": 0, "token_forwards": 0}
    decoder: BlockDecoder | None = None
    try:
        task = make_task(context.config, judge)
        policy = make_policy(context.config, context.config["threshold"], data.temperature, context.config["seed"])
        tokenizer: Any = None
        end = 0
        while (start := end) < len(examples):
            path, end = _shard_at(context.state, start, min(start + data.shard, len(examples)))
            if not path.is_file():
                if context.should_stop():
                    raise Interrupted("stopped between two shards; run the same command again to resume from there")
                if decoder is None:
                    shortest = min(examples, key=lambda each: sum(len(turn["content"]) for turn in each.messages))
                    where = f"runs.{learners.runs[0].name}.method.data.decoding (over `decoding`)"
                    decoder, tokenizer = load_decoder(context, context.config, policy, [shortest], "base", where)
                began = time.monotonic()
                asked = [(example, sample) for example in examples[start:end] for sample in range(data.samples)]
                requests = requests_of(tokenizer, task, asked)
                found = {each.index: each for each in decoder.stream(requests, policy)}
                decoded = [(asked[index][0], found[index].trajectory) for index in sorted(found)]
                files.write_json(path, _shard(tokenizer, task, decoded, decoder.ledger.positions))
                decoder.ledger.clear()
                context.timing(event="shard", start=start, answers=len(asked), seconds=time.monotonic() - began)
                context.report(f"{end} of {len(examples)} problems are answered")
            shard = files.read_json(path)
            rows += shard["rows"]
            counts = {name: value + shard["counts"][name] for name, value in counts.items()}
    finally:
        judge.close()
    if not rows and counts["unjudged"]:
        raise JudgeError(
            f"the judge gave no value to any of {counts['unjudged']} answers. Fix the judge or the benchmark's gold "
            f"data, delete {context.state}, and run the same command again"
        )
    return rows, counts


def _shard_at(state: Path, start: int, end: int) -> tuple[Path, int]:
    """Returns the file of the shard that begins with problem `start`, and where it ends: as it was saved, for the size
    of shards may have been another one then, else at `end`."""
    for path in state.glob(f"shard-{start:06d}-*.json"):
        return path, int(path.stem.rpartition("-")[2])
    return state / f"shard-{start:06d}-{end:06d}.json", end


def _shard(
    tokenizer: Any, task: Any, decoded: Sequence[tuple[Example, Trajectory | None]], positions: int
) -> dict[str, Any]:  # fmt: skip
    """One shard's lines, without those that were refused or have no value, and its counts. Raises JudgeError when the
    judge fails: what it would have said of these answers is not known, so nothing is saved."""
    there = [(example, trajectory) for example, trajectory in decoded if trajectory is not None]
    try:
        answers = judged(tokenizer, task, [example for example, _ in there], [each for _, each in there])
    except LightningRLError:
        raise
    except Exception as error:  # a judge may be anybody's code
        raise JudgeError(
            f"the judge failed over {len(there)} answers ({error!r}). Fix the judge; then run the same command again: "
            "it resumes at the shard that holds these answers"
        ) from error
    scored = [answer for answer in answers if answer.verdict.value is not None]
    counts = {"answers": len(decoded), "refused": len(decoded) - len(there), "unjudged": len(there) - len(scored)}
    return {"rows": [row_of(answer) for answer in scored], "counts": counts | {"token_forwards": positions}}


def _worked(context: StageContext, data: DistillData) -> list[dict[str, Any]]:
    """The benchmark's worked answers, each with the end token. Raises BenchmarkError when a problem has none."""
    examples = read_examples(context.inputs["data"] / "train.jsonl")[: data.problems]
    tokenizer, config = load_tokenizer(context.inputs["base"]), context.config
    benchmark, prompt = resolve(config["members"]["benchmark"]), config["prompt"]
    if unsolved := [example.uid for example in examples if example.solution is None]:
        raise BenchmarkError(f"{unsolved[0]} has no worked answer; take `source: own`")
    prompts = encode_prompts(tokenizer, [benchmark.render(example, prompt) for example in examples], prompt.compat)
    texts = [example.solution or "" for example in examples]
    return list(_lines(tokenizer, [example.uid for example in examples], prompts, texts))


def _published(context: StageContext, data: DistillData) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of a data set with dParallel's columns, from a folder or from the hub; and where they came from."""
    tokenizer, found = load_tokenizer(context.inputs["base"]), fetched(data, context)
    prompts = encode_texts(tokenizer, [row["question"] for row in found.rows])
    uids = [f"{Path(data.dataset).name}/train/{number}" for number in range(len(found.rows))]
    return list(_lines(tokenizer, uids, prompts, [row["llm_response"] for row in found.rows])), found.facts


def fetched(data: DistillData, context: StageContext) -> FetchedRows:
    """Returns the data set's rows. Raises BenchmarkError when files or columns are missing, or rows are others than the
    config's `content_sha256` says."""
    folder, names = Path(data.dataset), tuple(data.files)
    if folder.is_dir():
        there = (path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
        names = names or tuple(sorted(path.relative_to(folder).as_posix() for path in there))
        if not names:
            raise BenchmarkError(f"method.data.dataset: {folder} has no file of {', '.join(SUFFIXES)}")
    elif not names:
        raise BenchmarkError(
            f"method.data.dataset: {data.dataset} is no folder here. Of a data set of the hub, name the `files` to "
            "read, like data/train-00000-of-00001.parquet; or download it (hf download --repo-type dataset) and give "
            "the folder"
        )
    mirror = f"{data.dataset.replace('/', '--')}.jsonl"
    source = Source("train", data.dataset, names, mirror, None, FIELDS, content_sha256=data.content_sha256)
    origins = context.origins
    found = obtain_in(folder, source, origins.require_pins) if folder.is_dir() else obtain(source, origins)
    for number, row in enumerate(found.rows):
        if missing := [name for name in FIELDS if not isinstance(row[name], str)]:
            raise BenchmarkError(f"{data.dataset}, row {number}: no text in {', '.join(missing)}")
    return found


def _lines(tokenizer: Any, uids: Sequence[str], prompts: Sequence[Any], texts: Sequence[str]) -> Iterator[dict]:
    """Yields lines of answers that nobody decoded here: taken to be correct, without an order."""
    for uid, prompt, text, ids in zip(uids, prompts, texts, encode_texts(tokenizer, texts), strict=True):
        response = [*ids.tolist(), tokenizer.eos_token_id]
        told = {"uid": uid, "sample": 0, "prompt_ids": [int(token) for token in prompt], "response_ids": response}
        yield told | {"order": None, "text": text, "correct": True, "status": "ok"}
