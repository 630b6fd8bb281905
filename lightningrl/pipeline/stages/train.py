"""Post-train from the base checkpoint with one algorithm; the checkpoint is chosen on validation. Resumable."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lightningrl.config.train import Run
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.errors import ConfigError
from lightningrl.inference.policy import make_policy
from lightningrl.judges.protocol import Judge
from lightningrl.models.adapters import split_factors, write_adapter
from lightningrl.models.config_file import read_config
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.pipeline.stages.decoder import check_decoding, make_decoder, make_task
from lightningrl.pipeline.stages.loading import load_policy, mark_usable, save_policy, use_threads
from lightningrl.pipeline.stages.problems import make_judge, read_examples
from lightningrl.rl.algorithm import OnlineAlgorithm
from lightningrl.rl.likelihood import check_scorable
from lightningrl.rl.samples import samples_text
from lightningrl.rl.setup import TrainSetup
from lightningrl.tokenization import load_tokenizer
from lightningrl.training.loop import diverged, train
from lightningrl.training.sharded_loading import Change, load_shards, make_replica
from lightningrl.training.shards import PRECISIONS
from lightningrl.training.world import World, device_of, join
from lightningrl.types import Example
from lightningrl.utils import files
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write the chosen checkpoint, metrics.jsonl (every step), selection.json (why this checkpoint), and samples.jsonl
    and samples.md (responses to read)."""
    use_threads(context.threads)
    precision = context.config["run"].precision
    with join(is_sharded=precision != "float32") as world:
        judge = make_judge(context.config["members"]["judge"], context.judge_workers)
        try:
            _train(context, world, judge)
        finally:
            judge.close()


def _train(context: StageContext, world: World, judge: Judge) -> None:
    config, base = context.config, context.inputs["base"]
    settings: Run = config["run"]
    setup = _setup(context, world, judge)
    trainer = resolve(config["members"]["algorithm"])(settings.method).trainer(setup)
    history = train(
        trainer,
        context.state,
        save_every=settings.save_every,
        fingerprint=context.fingerprint,
        report=context.report,
        timing=context.timing,
        should_stop=context.should_stop,
        world=world,
    )
    skipped = [row["skipped"] for row in history.rows if row.get("skipped") is not None]
    if skipped and min(skipped) == 1:
        raise diverged(len(skipped))
    if world.is_first:
        selection, chosen = trainer.selection, trainer.selection.chosen
        replica = setup.decoder.model
        weights, factors = split_factors(selection.weights)
        replica.load_weights(weights)
        save_policy(replica, setup.tokenizer, base, context.folder)
        if factors:
            adapter = settings.implementation.config.adapter
            write_adapter(context.folder, replica.config.family, factors, adapter.scaled_by)
        files.write_jsonl(context.folder / "metrics.jsonl", history.rows)
        files.write_jsonl(context.folder / "samples.jsonl", history.samples)
        files.write_text(context.folder / "samples.md", samples_text(history.samples))
        files.write_json(context.folder / "selection.json", selection.report())
        context.report(
            f"chose step {chosen['step']}: validation accuracy {chosen['validation_accuracy_pct']:.1f} % (base "
            f"{selection.base['validation_accuracy_pct']:.1f} %), tpf {chosen['validation_tpf']:.2f} "
            f"(base {selection.base['validation_tpf']:.2f})"
        )
        if not any(row.get("updates", 1) for row in history.rows):
            context.report("but no update was taken: no group passed the filter, so these are the base's weights")
    world.barrier()


def _setup(context: StageContext, world: World, judge: Judge) -> TrainSetup:
    """Everything that this process trains with."""
    config, base = context.config, context.inputs["base"]
    settings: Run = config["run"]
    device, is_sharded = device_of(context.device), world.size > 1 or settings.precision != "float32"
    tokenizer = load_tokenizer(base)
    policy, *mixture = (make_policy(config, at) for at in (settings.threshold, *settings.rollout_thresholds))
    sets = {split: read_examples(context.inputs["data"] / f"{split}.jsonl") for split in ("train", "validation")}
    _check(context, tokenizer, [policy, *mixture], sets["validation"])  # too long a train problem is left out
    algorithm, precision = settings.implementation, settings.precision if is_sharded else None
    needs, adapt = algorithm.needs_reference, algorithm.adapt
    model, reference, replica = _models(base, tokenizer, device, precision, needs, adapt)
    distilled = context.inputs.get("distilled")
    model.checkpoint_activations = context.checkpoint_activations
    return TrainSetup(
        run=settings,
        seed=seed_of(config["seed"], settings.seed),
        model=model,
        reference=reference,
        decoder=make_decoder(config, replica, tokenizer, base),
        policy=policy,
        tokenizer=tokenizer,
        task=make_task(config, judge),
        **sets,
        compute_budget=_budget(context),
        checkpoints={role: context.inputs[role] for role in algorithm.checkpoints},
        distilled=list(files.read_jsonl(distilled / "distilled.jsonl")) if distilled else (),
        distilled_forwards=files.read_json(distilled / "summary.json")["token_forwards"] if distilled else 0,
        mixture=mixture,
        world=world,
        load_shards=partial(_load_changed, base, device, settings.precision) if is_sharded else None,
    )


def _check(
    context: StageContext, tokenizer: Any, policies: list[DecodePolicy], examples: Sequence[Example]
) -> None:  # fmt: skip
    """Raises ConfigError, before a weight is read, for a base that the algorithm cannot train, and for rollouts that
    the base's family cannot have or that have no likelihood to train on."""
    config, base = context.config, context.inputs["base"]
    run: Run = config["run"]
    where = f"the rollouts of {run.name} (`decoding`, of base {run.base})"
    implementation = run.implementation
    beside = {role: read_config(context.inputs[role]) for role in implementation.checkpoints}
    implementation.check(read_config(base), f"runs.{run.name}", beside)
    adds_planner = implementation.adds_planner
    check_decoding(config, config["decoding"], base, tokenizer, policies, examples, where, adds_planner)
    if isinstance(run.implementation, OnlineAlgorithm):
        check_scorable(read_config(base).attention, policies, run.accept_inexact_caches)


def _models(
    base: Path, tokenizer: Any, device: torch.device, precision: str | None, needs_reference: bool, adapt: Change
) -> tuple[Transformer, Transformer, Transformer]:
    """Returns the policy, the frozen reference (the policy itself where none is needed), and what decodes: the policy
    itself where nothing is sharded (precision None) and it has no adapters, otherwise a whole plain replica in the
    precision of forwards, in which the reference is, too. adapt: changes the policy's modules."""
    if precision is None:
        policy = reference = replica = load_policy(base, device)[0]
        if adapt(policy):
            replica = load_policy(base, device)[0].requires_grad_(False)
        if needs_reference:
            reference = load_policy(base, device)[0].requires_grad_(False)
    else:
        dtype = PRECISIONS[precision]
        policy = reference = load_shards(base, device, precision, change=adapt)
        if needs_reference:
            reference = load_shards(base, device, precision, dtype=dtype).requires_grad_(False)
        replica = make_replica(policy, dtype, device)
    for model in (policy, reference, replica):
        mark_usable(model, tokenizer)
    return policy, reference, replica


def _load_changed(base: Path, device: torch.device, precision: str, change: Change) -> Transformer:
    return load_shards(base, device, precision, change=change)


def seed_of(experiment_seed: int, run_seed: int) -> int:
    """One non-negative seed for both; run seeds below 100,000 do not collide."""
    return experiment_seed * 100_000 + run_seed


def _budget(context: StageContext) -> int | None:
    """Returns the token-forwards that the matched run and those before it spent, less what was spent on the way to this
    run's base. Raises ConfigError where nothing is left."""
    if "matched" not in context.inputs:
        return None
    spent = {
        role: _spent(folder) for role, folder in context.inputs.items() if role.startswith(("matched", "earlier/"))
    }
    budget = sum(count if role.startswith("matched") else -count for role, count in spent.items())
    if budget <= 0:
        run: Run = context.config["run"]
        raise ConfigError(
            f"runs.{run.name}.match_compute: the runs through which its base came to be spent as much as "
            f"{run.match_compute}, so nothing is left to train with. Match a run that spent more, or leave "
            "match_compute out and say `steps`"
        )
    return budget


def _spent(folder: Path) -> int:
    return list(files.read_jsonl(folder / "metrics.jsonl"))[-1]["token_forwards"]
