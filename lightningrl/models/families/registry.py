"""Families of checkpoints by the `model_type` of their config.json."""

FAMILIES = {
    "sdar": "lightningrl.models.families.sdar:SDAR",
    "qwen3": "lightningrl.models.families.sdar:SDAR",
    "qwen2": "lightningrl.models.families.qwen2:Qwen2",
    "llama": "lightningrl.models.families.llama:Llama",
    "Dream": "lightningrl.models.families.dream:Dream",
    "Fast_dLLM_Qwen": "lightningrl.models.families.fast_dllm_v2:FastDLLMv2",
}
PLUGGED: dict[str, str] = {}
"""What the plug-ins of the experiment add whose stage this process runs (`pipeline.runner`)."""


def known() -> dict[str, str]:
    """Every model type that this process can read, with the `module:attribute` of its family."""
    return FAMILIES | PLUGGED
