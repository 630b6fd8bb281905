"""From a `Decoding` section, its names looked up, to what the decoder is given. Nothing is looked up here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from lightningrl.decoding.protocol import DecodePolicy
from lightningrl.errors import ConfigError
from lightningrl.utils.registry import resolve

if TYPE_CHECKING:
    from lightningrl.config.tasks import Decoding


def build_policy(
    decoding: Decoding,
    members: Mapping[str, str],
    parameter: float,
    *,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
) -> DecodePolicy:
    """Returns the policy whose pieces are those of `members` (piece -> `module:attribute`), with the options that
    `decoding` has for them. The selector is called with `parameter` first.

    Raises ConfigError for options that a piece does not take, DecodeError for a number out of its range.
    """
    built: dict[str, Any] = {}
    for piece in (field.name for field in fields(DecodePolicy) if field.name in members):
        options: Mapping[str, Any] = getattr(decoding, f"{piece}_options", {})
        arguments = (parameter,) if piece == "selector" else ()
        try:
            built[piece] = resolve(members[piece])(*arguments, **options)
        except TypeError as error:
            told = f" (its options: {dict(options)})" if options else ""
            raise ConfigError(f"{piece} {getattr(decoding, piece)}: {error}{told}") from None
    return DecodePolicy(**built, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
