"""The shapes of models by size, and the counts that follow: parameters, KV numbers and activations per position.

No torch: the counts are those of `models.transformer.ModelConfig` and `models.attention.PagedKV`, as tests prove.
Names: V vocabulary, H hidden, I intermediate, L layers, N query heads, M key/value heads, D head size, K block size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lightningrl.config.base import size_in
from lightningrl.errors import ConfigError
from lightningrl.utils.registry import resolve

KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "max_position_embeddings")  # fmt: skip
NUMBERS = {
    "miniature": (400, 128, 384, 3, 4, 2, 32, 1024),
    "0.1b": (16384, 768, 2048, 12, 12, 4, 64, 4096),
    "0.3b": (32768, 1024, 3072, 16, 16, 8, 64, 4096),
    "1.7b": (151936, 2048, 6144, 28, 16, 8, 128, 32768),
    "4b": (151936, 2560, 9728, 36, 32, 8, 128, 32768),
    "8b": (151936, 4096, 12288, 36, 32, 8, 128, 32768),
}
SHAPES: dict[str, dict[str, Any]] = {
    size: dict(zip(KEYS, numbers, strict=True)) | {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "initializer_range": 0.02}
    for size, numbers in NUMBERS.items()
}
"""The keys of a config.json by size. The last three are the official SDAR models; the others are for measurements."""
FAMILIES = {
    # Qwen2.5-7B, and Dream and Fast-dLLM v2, which began as it.
    "7b": (152064, 3584, 18944, 28, 28, 4, 128, 32768),
    "llada-8b": (126464, 4096, 12288, 32, 32, 32, 128, 4096),
}
"""The same numbers of other families, by size, with the family's name before it where SDAR has the size as well."""
BIASED = frozenset({"7b"})
"""Those with biases of queries, keys and values. None of them has norms of heads."""


def sized(checkpoint: str, size: str) -> str:
    """Returns the name of a size among the shapes, with the family's where a checkpoint is named by it.

    >>> sized("GSAI-ML/LLaDA-8B-Instruct", "8b"), sized("JetLM/SDAR-8B-Chat", "8b")
    ('llada-8b', '8b')
    """
    families = {name.split("-")[0]: name for name in FAMILIES if name.endswith(f"-{size}")}
    return next((name for family, name in families.items() if family in checkpoint.lower()), size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of a model.

    >>> Shape.of_size("8b", block_size=32).parameters
    8190735360
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    block_size: int
    has_head_norms: bool = True
    """Whether queries and keys have norms, as SDAR's."""
    has_biases: bool = False
    """Whether queries, keys and values have biases, as Qwen2's."""

    @staticmethod
    def of(raw: Mapping[str, Any], block_size: int) -> Shape:
        """Returns the shape that the keys of a config.json name. Raises KeyError for a missing one."""
        names = [field.name for field in fields(Shape) if field.name in KEYS]
        numbers: dict[str, Any] = {name: int(raw[name]) for name in names}
        return Shape(**numbers, block_size=block_size)

    @staticmethod
    def of_size(size: str, block_size: int) -> Shape:
        """Returns one of `SHAPES` or `FAMILIES`. Raises ConfigError for an unknown size."""
        if size in FAMILIES:
            found = Shape.of(dict(zip(KEYS, FAMILIES[size], strict=True)), block_size)
            return replace(found, has_head_norms=False, has_biases=size in BIASED)
        if size not in SHAPES:
            raise ConfigError(f"--model-size: found {size!r}, allowed: {', '.join((*SHAPES, *FAMILIES))}")
        return Shape.of(SHAPES[size], block_size)

    @staticmethod
    def of_family(folder: Path) -> Shape:
        """Returns the shape of a folder of any family, whose keys have names of their own. Imports torch."""
        config = resolve("lightningrl.models.config_file:read_config")(folder)
        found = Shape.of(asdict(config), config.block_size)
        return replace(found, has_head_norms=config.qk_norm, has_biases=config.qkv_bias)

    @staticmethod
    def of_checkpoint(checkpoint: str, block_size: int) -> Shape:
        """Returns the shape of a folder's config.json, or of the size in a repository's name (`SDAR-8B-Chat-b32`).

        Raises ConfigError when there is neither.
        """
        path = Path(checkpoint) / "config.json"
        if path.is_file():
            try:
                raw = json.loads(path.read_text(encoding="utf-8"))
                if raw.get("model_type", "sdar") != "sdar":
                    return Shape.of_family(path.parent)
                return Shape.of(raw, block_size)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(f"{path} is no config.json of an SDAR model: {error!r}") from None
        named = sized(checkpoint, size_in(checkpoint))
        if named not in (*SHAPES, *FAMILIES):
            raise ConfigError(
                f"the checkpoint {checkpoint!r} names no size: write it beside it in the config (`size: 8b`), or give "
                f"--model-size for the experiment's base; one of {', '.join((*SHAPES, *FAMILIES))}"
            )
        return Shape.of_size(named, block_size)

    @property
    def query_numbers(self) -> int:
        """N D: the numbers of one position's queries in a layer."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_numbers(self) -> int:
        """M D: the numbers of one position's keys in a layer."""
        return self.num_key_value_heads * self.head_dim

    @property
    def trunk_matrices(self) -> int:
        """L (2 H N D + 2 H M D + 3 H I): the weights that every position is multiplied with in the layers."""
        numbers = 2 * self.query_numbers + 2 * self.key_numbers + 3 * self.intermediate_size
        return self.num_hidden_layers * self.hidden_size * numbers

    @property
    def trunk_parameters(self) -> int:
        """The layers' matrices, the weights of their norms (2 H, and 2 D of heads) and biases (N D + 2 M D)."""
        norms = 2 * (self.hidden_size + self.head_dim * self.has_head_norms)
        biases = (self.query_numbers + 2 * self.key_numbers) * self.has_biases
        return self.trunk_matrices + self.num_hidden_layers * (norms + biases)

    @property
    def head_parameters(self) -> int:
        """V H. The embedding has as many, which cost memory but no arithmetic."""
        return self.vocab_size * self.hidden_size

    @property
    def parameters(self) -> int:
        """2 V H + L (parameters of a layer) + H."""
        return 2 * self.head_parameters + self.trunk_parameters + self.hidden_size

    @property
    def kv_numbers(self) -> int:
        """2 L M D: keys and values of one position."""
        return 2 * self.num_hidden_layers * self.key_numbers

    @property
    def layer_activations(self) -> int:
        """6 H + 3 N D + 2 M D + 4 I + N + M + 2 and 2 N D + 2 M D + N: what a layer keeps per position for backward.

        Both norms keep input and normalised input, the projections their input (6 H, 2 inverse scales); the norms of q
        and k keep input and normalised input (2 N D + 2 M D, N + M scales), the output projection its input (N D); the
        gate, its SiLU, the up projection and their product are kept (4 I). A fused attention keeps q, k, v, its output
        and a log-sum (2 N D + 2 M D + N).
        """
        heads = 2 * self.num_attention_heads + self.num_key_value_heads
        own = 6 * self.hidden_size + 4 * self.intermediate_size + heads + 2
        return own + 5 * self.query_numbers + 4 * self.key_numbers
