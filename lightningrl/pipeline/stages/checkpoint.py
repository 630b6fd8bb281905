"""Take a checkpoint that exists already as the base: from a folder, or fetched from the Hugging Face hub; checked.

Weights are not copied. They become hard links to the files in the folder or in the hub's cache, so that they stay when
those are cleared away; symbolic links where a hard link is impossible (another file system). With an adapter they are
written anew, merged. The small files are copies, and config.json is the checkpoint's own with block size and mask token
written in.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lightningrl.config.base import Base
from lightningrl.errors import CheckpointError
from lightningrl.models.checkpoint import inspect_model, write_weights
from lightningrl.models.config_file import family_named
from lightningrl.models.hub import ADAPTER, Found, find
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.quantization.open import check_plain
from lightningrl.tokenization import check_mask, load_tokenizer
from lightningrl.utils import files
from lightningrl.utils.registry import resolve


def run(context: StageContext) -> None:
    """Write config.json, the tokenizer's files, links to the weights, and checkpoint.json: what was taken."""
    base: Base = context.config["base"]
    origins = context.origins
    adapter = None
    if base.adapter:  # first: it is small, and the checkpoint's files are long to hash
        adapter = find(
            base.adapter, None, base.adapter_sha256, origins.lock, origins.require_pins, ADAPTER,
            ("base.adapter", "base.adapter_sha256"),
        )  # fmt: skip
    found = find(base.checkpoint, base.revision, base.sha256, origins.lock, origins.require_pins)
    context.report(f"{base.checkpoint}: {len(found.files)} files, sha256 {found.sha256}")
    facts, links = check(found.folder, base), set[str]()
    if adapter is not None:
        write_merged(context, base, found.folder, adapter.folder)
    for name in found.names:
        if name.endswith((".safetensors", ".safetensors.index.json")):
            if adapter is None:
                links.add(link(found.folder / name, context.folder / name))
        elif name != "config.json":
            files.write_bytes(context.folder / name, (found.folder / name).read_bytes())
    config = json.loads((found.folder / "config.json").read_text(encoding="utf-8"))
    told = base.model_dump(include={"block_size", "mask_token_id"}, exclude_none=True)
    files.write_json(context.folder / "config.json", config | told)
    described = facts | describe(base, found) | ({} if adapter is None else {"adapter": origin(base.adapter, adapter)})
    files.write_json(context.folder / "checkpoint.json", described)
    how = ", ".join(sorted(links)) or f"{base.adapter} merged"
    context.report(f"{facts['parameters']:,} parameters in {facts['shards']} files ({how}), {facts['tokens']} tokens")


def write_merged(context: StageContext, base: Base, folder: Path, adapter: Path) -> None:
    """Writes the weights with the adapter merged, in the dtype and under the names that they were stored with."""
    load_merged = resolve(context.config["members"]["adapter"])
    model: Transformer = load_merged(
        folder, adapter, dtype=None, block_size=base.block_size, mask_token_id=base.mask_token_id
    )
    family = family_named(model.config.family)
    write_weights(context.folder, {family.stored_name(name): weight for name, weight in model.weights().items()})


def check(folder: Path, base: Base) -> dict[str, Any]:
    """Parameters, shards, dtypes, tokens of a checkpoint that can be used; CheckpointError, saying why, if it cannot.

    Read are config.json, the tokenizer and the headers of the weights' files.
    """
    check_plain(folder)
    model, stored = inspect_model(folder, block_size=base.block_size, mask_token_id=base.mask_token_id)
    tokenizer = load_tokenizer(folder)
    if tokenizer.mask_token_id not in (None, model.config.mask_token_id):
        raise CheckpointError(
            f"{folder}: the tokenizer's mask token {tokenizer.mask_token!r} is {tokenizer.mask_token_id}, "
            f"base.mask_token_id says {base.mask_token_id}: they must agree"
        )
    check_mask(model.config.mask_token_id, tokenizer, folder)
    used = max(tokenizer.get_vocab().values()) + 1
    if used > model.config.vocab_size:
        raise CheckpointError(f"{folder}: the tokenizer has {used} tokens, config.json says {model.config.vocab_size}")
    return {
        "parameters": model.config.num_parameters,
        "shards": len({entry.file for entry in stored.values()}),
        "dtypes": sorted({str(entry.dtype).removeprefix("torch.") for entry in stored.values()}),
        "tokens": len(tokenizer),
    }


def describe(base: Base, found: Found) -> dict[str, Any]:
    """Where the files came from, without a path of this machine, and their hashes."""
    return origin(base.checkpoint, found) | {"block_size": base.block_size, "mask_token_id": base.mask_token_id}


def origin(place: str, found: Found) -> dict[str, Any]:
    """Where the files of a folder or repository came from, without a path of this machine, and their hashes."""
    return {
        "from": "folder" if found.revision is None else "hub",
        "repo": None if found.revision is None else place,
        "revision": found.revision,
        "sha256": found.sha256,
        "files": {name: {"sha256": digest, "bytes": size} for name, (digest, size) in found.files.items()},
    }


def link(source: Path, target: Path) -> str:
    """Make `target` another name of the file behind `source`; says which kind of link it became.

    Raises StageError where neither can be made.
    """
    source = source.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
            kind = "hard links"
        except OSError:  # another file system, or one that has none, or a file of somebody else's
            temporary.symlink_to(source)
            kind = "symbolic links"
        target.unlink(missing_ok=True)  # renaming one name of a file to another of its names does nothing
        os.replace(temporary, target)
        files.fsync_dir(target.parent)
    except OSError as error:
        raise files.disk_error(target, error) from error
    return kind
