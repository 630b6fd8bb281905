"""A checkpoint's files: in a folder, or in the Hugging Face hub's cache, fetched there; with their hashes, and pinned.

Nothing is loaded, and no code of a repository is taken. The first fetch from the hub writes each file's commit, sha256
and size to the lock (`pins`); later ones must find the same. A folder has no lock: its pin is the `sha256` of all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightningrl.errors import CheckpointError
from lightningrl.tokenization import TOKENIZER_FILES
from lightningrl.utils.download_lock import is_transport_error, locked
from lightningrl.utils.files import canonical_json, read_json, sha256_file, sha256_text

WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
PATTERNS = ("config.json", *WEIGHTS, *TOKENIZER_FILES)
"""The files that are taken from a folder or repository."""
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""Those of an adapter's."""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""The name of a hub repository: owner/name."""


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint's files."""

    folder: Path
    revision: str | None
    """Commit of the hub's repository; None: a folder."""
    files: Mapping[str, tuple[str, int]]
    """Name -> sha256, bytes."""

    @property
    def names(self) -> list[str]:
        return sorted(self.files)

    @property
    def sha256(self) -> str:
        """One hash for all files, over names and hashes, the same wherever the files are."""
        return sha256_text(canonical_json({name: digest for name, (digest, _) in self.files.items()}))


def find(
    checkpoint: str,
    revision: str | None,
    sha256: str | None,
    lock: Path,
    require_pins: bool,
    patterns: tuple[str, ...] = PATTERNS,
    keys: tuple[str, str] = ("base.checkpoint", "base.sha256"),
) -> Found:
    """The files of a folder of this name, else of a hub repository, by their patterns. keys: what the config calls the
    place and the hash, for messages.

    Raises CheckpointError: neither, not to be had, other files than pinned, or nothing pins them and `require_pins`.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        if require_pins and sha256 is None:
            raise CheckpointError(
                f"the folder {checkpoint} is pinned by no `{keys[1]}`, and data.require_pins refuses what nobody "
                "has seen. Import it once with data.require_pins: false; checkpoint.json of that stage says its sha256."
            )
        found = Found(folder, None, _hashes(folder, patterns))
    elif REPOSITORY.fullmatch(checkpoint):
        found = _from_hub(checkpoint, revision, sha256, lock, require_pins, patterns)
    else:
        raise CheckpointError(
            f"{keys[0]}: found {checkpoint!r}, which is no folder here and no name of a hub repository "
            "(owner/name). Give one of them."
        )
    if sha256 is not None and found.sha256 != sha256:
        raise CheckpointError(
            f"{checkpoint}: its files have sha256 {found.sha256} together, {keys[1]} says {sha256}: they are damaged "
            "or another version. Nothing was imported."
        )
    return found


def located(checkpoint: Path | str, revision: str | None = None) -> Path:
    """Returns the folder of a checkpoint for a tool that loads it: the folder of this name, else the repository of this
    name in the hub's cache, fetched there if it is not yet.

    The commit is what `revision` (a branch, a tag, a commit) means today; nothing is hashed or pinned. `HF_TOKEN`,
    `HF_HOME` and `HF_HUB_OFFLINE` mean what they do for every tool of the hub. Raises CheckpointError where it is
    neither a folder nor to be had.
    """
    if Path(checkpoint).exists() or not REPOSITORY.fullmatch(str(checkpoint)):
        return Path(checkpoint)
    return _snapshot(str(checkpoint), revision or None, PATTERNS)


def block_size_named(checkpoint: Path | str, folder: Path) -> int | None:
    """Returns the block size that the name of an official checkpoint says, where config.json in its folder says none.

    >>> block_size_named("JetLM/SDAR-8B-Chat-b32", Path("nowhere")), block_size_named("llada-8b", Path("nowhere"))
    (32, None)
    """
    found, config = re.search(r"(?i)SDAR.*-b(\d+)$", Path(checkpoint).name), folder / "config.json"
    if found is None or (config.is_file() and "block_size" in read_json(config)):
        return None
    return int(found[1])


def _hashes(folder: Path, patterns: tuple[str, ...]) -> dict[str, tuple[str, int]]:
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    try:
        return {path.name: (sha256_file(path), path.stat().st_size) for path in paths}
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from error


def _from_hub(
    repo: str, revision: str | None, sha256: str | None, lock: Path, require_pins: bool, patterns: tuple[str, ...]
) -> Found:
    """The lock is not held while gigabytes come in: what it said before is what it must say after."""
    prefix = f"models/{repo}/"
    with locked(lock) as entries:
        known = [entry for name, entry in entries.items() if name.startswith(prefix)]
    pinned = revision or (known[0]["revision"] if known else None)
    if require_pins and (pinned is None or (sha256 is None and not known)):
        raise CheckpointError(
            f"the hub's {repo} is pinned by no hash and no commit, and data.require_pins refuses what nobody has "
            f"seen. Import it once with data.require_pins: false, which writes it to {lock}; look at it, and commit "
            "the lock."
        )
    folder = _snapshot(repo, pinned, patterns)
    found = Found(folder, folder.name, _hashes(folder, patterns))
    with locked(lock) as entries:
        for name, (digest, size) in found.files.items():
            entry: dict[str, Any] | None = entries.get(prefix + name)
            if entry is not None and revision is None and entry["revision"] != found.revision:
                raise CheckpointError(f"{repo}: another import has locked {entry['revision']} meanwhile. Run again.")
            if entry is not None and entry["revision"] == found.revision and entry["sha256"] != digest:
                raise CheckpointError(
                    f"{repo}: {name} has sha256 {digest}, the lock {lock} says {entry['sha256']}. It was not used. "
                    f"Delete {folder / name} and what it links to, and run again; if it stays so, the file was changed "
                    "at its origin."
                )
            entries[prefix + name] = {"revision": found.revision, "sha256": digest, "bytes": size}
    return found


def _snapshot(repo: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """Its folder in the hub's cache, named by the commit; what is there already is not fetched again."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    known = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:
        if not (isinstance(error, known) or is_transport_error(error)):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        what = f"{repo} at {revision}" if revision else repo
        raise CheckpointError(
            f"cannot get the checkpoint {what} from the hub ({reason}), and there is no folder of this name. Go online "
            "and run the same command again (a gated repository needs HF_TOKEN), or give a folder with its files."
        ) from error
