"""How stages load a checkpoint with its tokenizer, and save one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from lightningrl.models.checkpoint import save_model, stored_weights
from lightningrl.models.transformer import Transformer
from lightningrl.quantization.open import open_model
from lightningrl.tokenization import TOKENIZER_FILES, check_mask, load_tokenizer
from lightningrl.utils import files


def load_policy(
    folder: Path, device: torch.device | str = "cpu", precision: Literal["float32", "bfloat16"] = "float32"
) -> tuple[Transformer, Any]:
    """A checkpoint's model and tokenizer; vocabulary rows without a token are marked unusable."""
    model = open_model(folder, device=device, dtype=getattr(torch, precision))
    tokenizer = load_tokenizer(folder)
    check_mask(model.config.mask_token_id, tokenizer, folder)
    mark_usable(model, tokenizer)
    return model, tokenizer


def stored_precision(folder: Path) -> Literal["float32", "bfloat16"]:
    """Returns bfloat16 where all weights of a folder are stored so, else float32; only headers are read."""
    kinds = {entry.dtype for entry in stored_weights(folder).values()}
    return "bfloat16" if kinds == {torch.bfloat16} else "float32"


def mark_usable(model: Transformer, tokenizer: Any) -> None:
    """Marks the vocabulary rows without a token as unusable."""
    model.usable_vocab = min(len(tokenizer), model.config.vocab_size)


def save_policy(model: Transformer, tokenizer: Any, tokenizer_folder: Path, folder: Path) -> None:
    """Model and tokenizer files side by side, as a checkpoint is published."""
    ids = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
    save_model(model, folder, **ids)
    for name in TOKENIZER_FILES:
        if (tokenizer_folder / name).exists():
            files.write_bytes(folder / name, (tokenizer_folder / name).read_bytes())


def use_threads(count: int) -> None:
    """CPU threads of torch; the same count gives the same bits."""
    torch.set_num_threads(count)
    torch.set_deterministic_debug_mode("error")  # use_deterministic_algorithms would import the compiler: over a second
    # That mode also fills each new tensor before it is written, which only finds defects and takes 5 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
