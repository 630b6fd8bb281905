"""Families of checkpoints by the `model_type` of their config.json."""

FAMILIES = {
    "sdar": "lightningrl.models.families.sdar:SDAR",
    "qwen3": "lightningrl.models.families.sdar:SDAR",
    "llada": "lightningrl.models.families.llada:LLaDA",
}
PLUGGED: dict[str, str] = {}
"""What the plug-ins of the experiment add whose stage this process runs (`pipeline.runner`)."""


def known() -> dict[str, str]:
    """Every model type that this process can read, with the `module:attribute` of its family."""
    return FAMILIES | PLUGGED
