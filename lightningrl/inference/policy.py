"""A decoding policy from a stage's config, or from words, as the command line and JSON lines have them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lightningrl.config.decoding import ELSEWHERE, DirectDecoding
from lightningrl.decoding.logits import Logits
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.errors import ConfigError
from lightningrl.models.config_file import family_of, has_planner
from lightningrl.utils.registry import resolve


def make_policy(
    config: Mapping[str, Any], parameter: float, temperature: float = 0.0, seed: int = 0,
    *, top_k: int = 0, top_p: float = 1.0,
) -> DecodePolicy:  # fmt: skip
    """Returns the policy of a config like a stage's: `decoding` is its section, `members` has the `module:attribute` of
    each piece, which is called with the section's options for it, the selector with `parameter` first.

    Raises ConfigError for options that a piece does not take, DecodeError for a number out of its range.
    """
    built: dict[str, Any] = {}
    decoding, members = config["decoding"], config["members"]
    for piece in (field.name for field in fields(DecodePolicy) if field.name in members):
        options: Mapping[str, Any] = getattr(decoding, f"{piece}_options", {})
        arguments = (parameter,) if piece == "selector" else ()
        made = resolve(members[piece])
        try:
            built[piece] = made(*arguments, **options)
        except TypeError as error:
            known = ", ".join([*inspect.signature(made).parameters][len(arguments) :]) or "none"
            told = f"its options are {known}; found {dict(options) or 'none'}"
            raise ConfigError(f"{piece} {getattr(decoding, piece)}: {error}; {told}") from None
    try:
        built["logits"] = Logits(**decoding.logits_options)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(Logits))
        raise ConfigError(f"logits_options: {error}; its options are {known}") from None
    return DecodePolicy(**built, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)


def direct_policy(decoding: DirectDecoding, parameter: float | None = None) -> DecodePolicy:
    """Returns the policy of a tool that is given no experiment. parameter: the selector's, in place of `threshold`.

    Raises ConfigError for a name that is not there, a threshold that is no probability, and as `make_policy` does.
    """
    config = {"decoding": decoding, "members": decoding.members()}
    at = decoding.threshold if parameter is None else parameter
    decoding.check_parameter("threshold", at)
    return make_policy(config, at, decoding.temperature, decoding.seed, top_k=decoding.top_k, top_p=decoding.top_p)


def policy_of(
    selector: str | None = None,
    parameter: float | None = None,
    options: Mapping[str, Any] | None = None,
    **words: Any,
) -> DecodePolicy:
    """Returns the policy of these words, which are keys of `DirectDecoding`; `parameter` and `options` are the
    selector's. An option that is None is the selector's own default. What is left out is that of the `preset`, where
    one is named; else the selector `threshold` at 0.9.

    Raises ConfigError also for a key that is no part of a policy, or options of another kind than a config's.

    >>> policy_of("quota", 4, stop="inside_block").selector, policy_of(preset="dparallel_llada").selector
    (Quota(steps=4), Entropy(nats=0.5, strict=False))
    """
    if foreign := words.keys() & {*ELSEWHERE, "threshold"}:
        raise ConfigError(
            f"decoding: found {', '.join(sorted(foreign))}, which no policy has. Say a threshold as `parameter`; the "
            "others are the model's (`LLM`)."
        )
    given = {"selector": selector, "threshold": parameter}
    if options is not None:
        given["selector_options"] = {name: value for name, value in options.items() if value is not None}
    tree = {name: value for name, value in given.items() if value is not None}
    try:
        decoding = DirectDecoding.model_validate(tree | words)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"decoding: {told}") from None
    return direct_policy(decoding, parameter)


def require_fitting(model: Path | str, preset: str) -> None:
    """Raises ConfigError for a published decoder that is not for models like this checkpoint's, by its family and its
    config.json, before any weight is read; it names those that are."""
    if not preset or not (Path(model) / "config.json").is_file():
        return
    facts = family_of(Path(model)).facts
    attention, logit_shift = facts.get("attention"), facts.get("logit_shift", False)
    needs, fitting = (resolve(f"lightningrl.decoding.presets:{name}") for name in ("needs", "fitting"))
    planned = has_planner(Path(model))
    if attention is not None and preset not in (names := fitting(attention, logit_shift, planned)):
        logits = f"{'shifted' if logit_shift else 'unshifted'} logits{'' if planned else ', and no planner'}"
        raise ConfigError(
            f"the decoder {preset} is for models with {needs(preset)}, and {model} has {attention} attention and "
            f"{logits}. Decoders that fit it: {', '.join(names) or 'none'}"
        )
