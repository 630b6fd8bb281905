"""Families of checkpoints by the `model_type` of their config.json."""

from __future__ import annotations

from collections.abc import Iterable

from lightningrl.config.registries import names, usable
from lightningrl.errors import ConfigError

FAMILIES = {
    "sdar": "lightningrl.models.families.sdar:SDAR",
    "qwen3": "lightningrl.models.families.sdar:SDAR",
    "llada": "lightningrl.models.families.llada:LLaDA",
    "qwen2": "lightningrl.models.families.qwen2:Qwen2",
    "llama": "lightningrl.models.families.llama:Llama",
    "Dream": "lightningrl.models.families.dream:Dream",
    "Fast_dLLM_Qwen": "lightningrl.models.families.fast_dllm_v2:FastDLLMv2",
}
PLUGGED: dict[str, str] = {}
"""What plug-ins add: those of the experiment whose stage this process runs (`pipeline.runner`), or of `plug_in`."""


def known() -> dict[str, str]:
    """Every model type that this process can read, with the `module:attribute` of its family."""
    return FAMILIES | PLUGGED


def plug_in(plugins: str | Iterable[str]) -> None:
    """Lets this process read the families that plug-ins add, with those that it reads already.

    Raises ConfigError for a plug-in that cannot be used, or a model type that another family has.
    """
    for name, reference in names("family", usable(plugins)).items():
        if name not in FAMILIES and PLUGGED.setdefault(name, reference) != reference:
            raise ConfigError(
                f"plugins: model_type {name!r} is read by {PLUGGED[name]} in this process, so not by {reference} too"
            )
