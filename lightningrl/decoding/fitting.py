"""Whether a model can be decoded by a policy, and a response of some length: by its config.json alone, without weights.

The engine asks for each request; stages and `lightningrl validate` ask before anything heavy.
"""

from __future__ import annotations

from lightningrl.decoding.canvas import Canvas
from lightningrl.decoding.planning import planning_misfit
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.decoding.window import Window
from lightningrl.errors import ConfigError, DecodeError
from lightningrl.models.transformer import ModelConfig
from lightningrl.utils.registry import resolve


def check_fits(
    config: ModelConfig,
    policy: DecodePolicy,
    new_tokens: int,
    prompt_tokens: int = 1,
    *,
    forwards: str = "spans",
    where: str = "decoding",
    length: str = "max_new_tokens",
) -> None:
    """Raises ConfigError where a model cannot be decoded by a policy, or cannot answer a prompt of `prompt_tokens` with
    `new_tokens`. where, length: what the config calls how it decodes, and how long an answer may be."""
    told = forwards_misfit(config, forwards) or misfit(config, policy, forwards)
    if told is not None:
        raise ConfigError(f"{where}: {told}")
    block = policy.schedule.size(new_tokens, config.block_size)
    canvas = policy.schedule.canvas(prompt_tokens, new_tokens, block)
    if (told := length_misfit(config, policy, canvas, block, prompt_tokens, new_tokens)) is not None:
        raise ConfigError(f"{length}: {told}")


def forwards_misfit(config: ModelConfig, forwards: str) -> str | None:
    """Why a model's forwards cannot be launched in this way; None where they can."""
    if forwards == "spans" or (config.attention == "block_causal" and not config.logit_shift):
        return None
    kind = "a model with shifted logits" if config.attention == "block_causal" else f"{config.attention} attention"
    return f"forwards is {forwards!r}, but {kind} has 'spans' only"


def misfit(config: ModelConfig, policy: DecodePolicy, forwards: str = "spans") -> str | None:
    """Why the model cannot be decoded by a policy: what it leaves out that the model sees, or computes that it has not;
    None where it can. forwards: how they are launched, as the engine's."""
    schedule = policy.schedule
    kind = f"{config.attention} attention and {'shifted' if config.logit_shift else 'unshifted'} logits"
    if isinstance(schedule, Window):
        told = _window_misfit(config, policy, schedule, kind, forwards)
        return told or planning_misfit(config, policy) or policy.logits.refusal(config.vocab_size)
    if config.attention == "full" and not schedule.fills_canvas:
        return (
            f"{schedule}: the model attends to all later masks, which this schedule does not compute; take one over "
            f"the whole canvas (full_sequence, prefix_cache, dual_cache), or a published decoder that has one: "
            f"{_fitting(config)}"
        )
    if not schedule.computes_active and not (config.logit_shift and config.attention == "causal"):
        return (
            f"{schedule}: the model is no autoregressive one; it has {config.attention} attention, so the masked "
            "positions must be computed, too. Take another schedule, such as "
            + ("full_sequence" if config.attention == "full" else "fused")
        )
    if schedule.computes_active and not config.has_mask:
        return (
            f"{schedule} computes masked positions, and a {config.family} model has no mask token; take the preset "
            "or the schedule autoregressive, one token a forward"
        )
    if schedule.is_productive and not (config.logit_shift and config.attention == "block_causal"):
        return (
            f"{schedule} reveals a block's first token by the logits of the block before it, for which a model needs "
            f"block_causal attention and shifted logits (Fast-dLLM v2); this {config.family} model has {kind}"
        )
    if schedule.knows_first and not (config.logit_shift and config.attention == "full"):
        return (
            f"{schedule} reveals a block's first position alone, for models with full attention and shifted logits "
            f"(Dream); this {config.family} model has {kind}. Leave opens_first out"
        )
    try:
        schedule.check(schedule.block_size or config.block_size)
    except DecodeError as error:
        return str(error)
    return planning_misfit(config, policy) or policy.logits.refusal(config.vocab_size)


def _window_misfit(
    config: ModelConfig, policy: DecodePolicy, schedule: Window, kind: str, forwards: str
) -> str | None:  # fmt: skip
    """`misfit` for schedules with several open blocks. kind: what the model has, in words."""
    if schedule.needs not in (None, config.attention):
        return (
            f"{schedule} is for models with {schedule.needs} attention, and this {config.family} model has {kind}. "
            f"Published decoders that fit it: {_fitting(config)}"
        )
    if not config.has_mask:
        return f"{schedule} computes masked positions, and a {config.family} model has no mask token"
    if forwards != "spans":
        return f"forwards is {forwards!r}, and {schedule} has several open blocks: take 'spans'"
    if policy.logits.cfg_scale:
        return f"cfg_scale is {policy.logits.cfg_scale}, which {schedule} does not have: leave it out"
    return None


def _fitting(config: ModelConfig) -> str:
    fitting = resolve("lightningrl.decoding.presets:fitting")
    return ", ".join(fitting(config.attention, config.logit_shift, config.has_planner))


def length_misfit(
    config: ModelConfig, policy: DecodePolicy, canvas: Canvas, block: int, prompt_tokens: int, new_tokens: int
) -> str | None:
    """Why a response of this length cannot be decoded behind this prompt: it is no whole blocks of a canvas, or longer
    than the model's context; None where it can. canvas, block: what the schedule says of it."""
    if policy.schedule.fills_canvas and canvas.origin and new_tokens % block:
        few = f"{new_tokens // block * block} or " if new_tokens > block else ""
        return (
            f"{new_tokens} new tokens are no whole blocks of {block}, and the length of a canvas changes what is "
            f"answered. Ask for {few}{-(-new_tokens // block) * block}, or say a block size that divides {new_tokens}"
        )
    limit = config.max_position_embeddings
    if canvas.end > limit:
        return (
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones need {canvas.end} positions, the model has "
            f"{limit}: shorten the prompt or max_new_tokens"
        )
    return None
