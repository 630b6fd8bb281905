"""Post-train from the base checkpoint with one algorithm; the checkpoint is chosen on validation. Resumable."""

from __future__ import annotations

from lightningrl import io
from lightningrl.resolve import resolve
from lightningrl.rl.trainer import TrainSetup
from lightningrl.stages.context import StageContext
from lightningrl.stages.decoder import make_decoder, make_policy, make_task
from lightningrl.stages.loading import load_policy, save_policy, use_threads
from lightningrl.stages.problems import make_judge, read_examples
from lightningrl.training.loop import train


def run(context: StageContext) -> None:
    """Write the chosen checkpoint, metrics.jsonl (every step) and selection.json (why this checkpoint)."""
    use_threads(context.threads)
    config, base = context.config, context.inputs["base"]
    members, settings = config["members"], config["run"]
    model, tokenizer = load_policy(base)
    reference, _ = load_policy(base)
    judge = make_judge(members["judge"], context.judge_workers)
    setup = TrainSetup(
        run=settings,
        seed=seed_of(config["seed"], settings.seed),
        model=model,
        reference=reference,
        decoder=make_decoder(config, model, tokenizer, base),
        policy=make_policy(config, settings.threshold),
        tokenizer=tokenizer,
        task=make_task(config, judge),
        train=read_examples(context.inputs["data"] / "train.jsonl"),
        validation=read_examples(context.inputs["data"] / "validation.jsonl"),
        compute_budget=_budget(context),
    )
    trainer = resolve(members["algorithm"])(setup)
    try:
        rows = train(
            trainer,
            context.state,
            save_every=settings.save_every,
            report=context.report,
            timing=context.timing,
            should_stop=context.should_stop,
        )
    finally:
        judge.close()
    selection = trainer.selection
    model.load_state_dict(selection.weights)
    save_policy(model, tokenizer, base, context.folder)
    io.write_jsonl(context.folder / "metrics.jsonl", rows)
    io.write_json(context.folder / "selection.json", selection.report())
    chosen = selection.chosen
    context.report(
        f"chose step {chosen['step']}: validation accuracy {chosen['validation_accuracy_pct']:.1f} % (base "
        f"{selection.base['validation_accuracy_pct']:.1f} %), tpf {chosen['validation_tpf']:.2f} "
        f"(base {selection.base['validation_tpf']:.2f})"
    )


def seed_of(experiment_seed: int, run_seed: int) -> int:
    """One non-negative seed for both; run seeds below 100,000 do not collide."""
    return experiment_seed * 100_000 + run_seed


def _budget(context: StageContext) -> int | None:
    if "matched" not in context.inputs:
        return None
    return [row["token_forwards"] for row in io.read_jsonl(context.inputs["matched"] / "metrics.jsonl")][-1]
