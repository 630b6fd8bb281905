"""A decoding policy from words: registry names or `module:attribute`, as the command line and JSON lines have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from lightningrl.config.registries import DECODER, member
from lightningrl.config.tasks import Decoding
from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.errors import ConfigError
from lightningrl.inference.build_policy import build_policy


def decoding_of(selector: str = "threshold", options: Mapping[str, Any] | None = None, **pieces: Any) -> Decoding:
    """Returns the config section that says what these words say: `selector` with its options, `pieces` named as there.

    An option that is None is the selector's own default. Raises ConfigError for a key that there is not, or options of
    another kind than a config's.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    try:
        return Decoding.model_validate({"selector": selector, "selector_options": given, **pieces})
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"decoding: {told}") from None


def policy_of(
    selector: str = "threshold",
    parameter: float = 0.9,
    options: Mapping[str, Any] | None = None,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    **pieces: Any,
) -> DecodePolicy:
    """Returns the policy that decodes as `decoding_of` the words says, with the selector at `parameter`.

    Raises ConfigError for a name that is not there or options a piece does not take, DecodeError for a number out of
    range.

    >>> policy_of("quota", 4, stop="inside_block").selector
    Quota(steps=4)
    """
    decoding = decoding_of(selector, options, **pieces)
    members = {piece: member(piece, getattr(decoding, piece), piece) for piece in DECODER}
    return build_policy(decoding, members, parameter, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
