"""Shapes of models by size: the official SDAR's, and smaller ones to measure with. No torch."""

from __future__ import annotations


def _shape(
    vocab: int, hidden: int, inner: int, layers: int, heads: int, kv: int, head_dim: int, positions: int
) -> dict[str, int | float]:
    return {
        "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head_dim,
        "max_position_embeddings": positions, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "initializer_range": 0.02,
    }  # fmt: skip


SHAPES = {
    "miniature": _shape(400, 128, 384, 3, 4, 2, 32, 1024),
    "0.1b": _shape(16384, 768, 2048, 12, 12, 4, 64, 4096),
    "0.3b": _shape(32768, 1024, 3072, 16, 16, 8, 64, 4096),
    "1.7b": _shape(151936, 2048, 6144, 28, 16, 8, 128, 32768),
    "4b": _shape(151936, 2560, 9728, 36, 32, 8, 128, 32768),
    "8b": _shape(151936, 4096, 12288, 36, 32, 8, 128, 32768),
}
"""By size; the last three are the official SDAR's."""
