"""A model for others: a folder as the Hugging Face hub has them, with a model card, written here or pushed there.

The card says the base, the method, measured numbers and the commands; numbers come from the folders that `lightningrl
evaluate MODEL` wrote and are never typed in.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightningrl.errors import CheckpointError, ConfigError
from lightningrl.models.checkpoint import save_model
from lightningrl.quantization.open import is_quantized
from lightningrl.tokenization import TOKENIZER_FILES
from lightningrl.utils import files
from lightningrl.utils.download_lock import is_transport_error
from lightningrl.utils.numbers import shortest

if TYPE_CHECKING:
    from lightningrl.inference.llm import LLM

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model card says beside what the model says of itself."""

    base: str
    """The model it was trained from: a repository of the hub, or a name."""
    method: str
    """How it was trained, in a sentence or more."""
    evaluations: Iterable[Path | str] = ()
    """Folders that `lightningrl evaluate MODEL --out FOLDER` wrote for this model."""
    license: str = ""
    """As the hub names it, say `apache-2.0`; that of the base, as a rule."""


def save(llm: LLM, folder: Path | str, card: ModelCard) -> Path:
    """Writes weights in their dtype, config.json, tokenizer and card; a merged adapter is in the weights.

    Raises CheckpointError for a quantised model, and ConfigError for a folder that is not empty or an evaluation that
    cannot be read; nothing is written then.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} already exists; name a new folder")
    if is_quantized(llm.folder):
        raise CheckpointError(
            f"{llm.folder} is quantised, and only plain weights are saved: `lightningrl export` writes a quantised "
            "model for other engines"
        )
    text = render_card(llm, card, folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = llm.tokenizer
    ids = {name: getattr(tokenizer, name) for name in ("eos_token_id", "pad_token_id", "bos_token_id")}
    save_model(llm.model, folder, **ids)
    for name in TOKENIZER_FILES:
        if (llm.folder / name).exists():
            files.write_bytes(folder / name, (llm.folder / name).read_bytes())
    files.write_text(folder / CARD, text)
    return folder


def push_to_hub(
    llm: LLM, repo: str, card: ModelCard, *, private: bool = True, revision: str | None = None, token: str | None = None
) -> str:
    """Makes the repository where there is none, uploads what `save` writes as one commit, and returns its address.

    private: of a new repository. revision: a branch that exists; None: the main one. token: else `HF_TOKEN`, or what
    `hf auth login` keeps. Raises CheckpointError where the hub is away or refuses, and as `save` does.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    known = (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError)
    with tempfile.TemporaryDirectory() as parent:
        folder = save(llm, Path(parent) / repo.rpartition("/")[2], card)
        api = HfApi(token=token)
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo, folder_path=folder, revision=revision, commit_message="Model, tokenizer and model card"
            )
        except Exception as error:
            if not (isinstance(error, known) or is_transport_error(error)):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"cannot push to {repo} on the hub ({reason}). Check the network and that HF_TOKEN may write there, or "
                "save to a folder and upload that (hf upload)."
            ) from error
    return str(done.commit_url)


def render_card(llm: LLM, card: ModelCard, name: str) -> str:
    """Returns the text of the card. Raises ConfigError for an evaluation that cannot be read."""
    config = llm.model.config
    head: dict[str, Any] = {
        "library_name": "lightningrl", "pipeline_tag": "text-generation", "base_model": card.base,
        "tags": ["diffusion-language-model", "parallel-decoding", config.family],
    }  # fmt: skip
    if card.license:
        head["license"] = card.license
    front = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items())
    size = sum(weight.numel() for weight in llm.model.parameters())
    dtype = str(llm.model.lm_head.weight.dtype).removeprefix("torch.")
    rows = [row for folder in card.evaluations for row in _rows(llm, Path(folder))]
    heads = ["| benchmark | threshold | accuracy | tokens per forward | problems |", "|---|---|---|---|---|"]
    table = "\n".join([*heads, *rows])
    return f"""---
{front}
---

# {name}

**Base:** {card.base}. **Method:** {card.method}

A model of the family `{config.family}` with {size:,} parameters in {dtype} and a block size of {config.block_size}.

## Numbers

{table if rows else "Not measured."}

## Commands

```
pip install lightningrl
lightningrl generate {name} --block-size {config.block_size} --prompt "How many legs do 3 cats have?"
lightningrl evaluate {name} --block-size {config.block_size} --benchmark gsm8k --out gsm8k
```

`{name}` is a folder with these files. In Python: `from lightningrl.inference.llm import LLM; LLM("{name}")`.
"""


def _rows(llm: LLM, folder: Path) -> list[str]:
    """The lines of the table that an evaluation's folder gives. Raises ConfigError where it is of another model."""
    try:
        settings = json.loads((folder / "state" / "settings.json").read_bytes())
        measured = settings["model"]
        rows = [
            f"| {row['benchmark']} | {shortest(row['threshold'])} | {row['accuracy_pct']:.2f} % | {row['tpf']:.2f} "
            f"| {row['n_problems']} |"
            for row in json.loads((folder / "summary.json").read_bytes())
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"{folder} is no finished evaluation ({error!r}). Give a folder that `lightningrl evaluate MODEL "
            "--benchmark NAME --out FOLDER` wrote."
        ) from None
    if measured != llm.fingerprint:
        raise ConfigError(
            f"{folder} is an evaluation of another model (fingerprint {measured[:12]}, this one's is "
            f"{llm.fingerprint[:12]}), as other weights or another dtype are. Evaluate this model, and give "
            "that folder."
        )
    return rows
