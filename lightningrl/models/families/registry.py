"""Families of checkpoints by the `model_type` of their config.json."""

FAMILIES = {
    "sdar": "lightningrl.models.families.sdar:SDAR",
    "qwen3": "lightningrl.models.families.sdar:SDAR",
}
