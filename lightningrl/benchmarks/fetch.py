"""Fetch a benchmark's files from a mirror folder or else from the Hugging Face hub, checked against pins and the lock.

The first fetch of a hub file writes its commit, sha256 and size to the lock file; later fetches must find the same. A
file with a wrong hash is an error and is removed from the hub client's cache, so that no later run uses it either. The
hub client itself resumes interrupted downloads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightningrl.benchmarks.sources import Row, Source, content_hash, read_rows
from lightningrl.errors import BenchmarkError
from lightningrl.utils.download_lock import is_transport_error, locked

MIRROR_VARIABLE = "LIGHTNINGRL_DATA_MIRROR"


@dataclass(frozen=True, slots=True)
class Origins:
    """The places from which files may come.

    >>> Origins(mirror=None, lock=Path("config/data.lock.json")).require_pins
    False
    """

    mirror: Path | None
    """A folder with files at `Source.mirror`; the environment variable LIGHTNINGRL_DATA_MIRROR has priority."""
    lock: Path
    """A JSON file that records what was fetched from the hub."""
    require_pins: bool = False
    """Whether to refuse files that nobody has pinned."""
    is_said: bool = False
    """Whether the mirror was named on the command line, which has priority over the environment."""

    @property
    def mirror_folder(self) -> Path | None:
        """The mirror in use."""
        named = None if self.is_said else os.environ.get(MIRROR_VARIABLE)
        return Path(named) if named else self.mirror


@dataclass(frozen=True, slots=True)
class FetchedRows:
    """The rows of a source, and where they came from."""

    rows: list[Row]
    facts: dict[str, Any]
    """JSON: from (mirror | hub | folder), files with sha256 and bytes, revision, content_sha256, rows; no absolute
    path."""


def obtain(source: Source, origins: Origins) -> FetchedRows:
    """Returns a source's rows. Raises BenchmarkError when they are nowhere to be found, or differ from their pins."""
    folder = origins.mirror_folder
    if folder is None:
        return _from_hub(source, origins, None)
    if not folder.is_dir():
        name = MIRROR_VARIABLE if os.environ.get(MIRROR_VARIABLE) else "`data.mirror`"
        raise BenchmarkError(
            f"the data mirror {folder} is not a folder. Correct {'--mirror' if origins.is_said else name}, or remove "
            "it to use files from the hub."
        )
    path = folder / source.mirror
    return _from_mirror(source, path, origins) if path.is_file() else _from_hub(source, origins, path)


def obtain_in(folder: Path, source: Source, require_pins: bool = False) -> FetchedRows:
    """Returns the rows of a source whose files are in a folder of the user's, below which `Source.files` are. Raises
    BenchmarkError when they cannot be read, differ from `content_sha256`, or are pinned by none and `require_pins`."""
    if require_pins and source.content_sha256 is None:
        raise _unpinned(f"the folder {folder}")
    found = _fetched(source, "folder", None, {name: _read(folder / name) for name in source.files})
    return FetchedRows(found.rows, found.facts | {"repo": None})


def _from_mirror(source: Source, path: Path, origins: Origins) -> FetchedRows:
    data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    if origins.require_pins and source.mirror_sha256 is None and source.content_sha256 is None:
        raise _unpinned(f"the mirror's {source.mirror}")
    if source.mirror_sha256 not in (None, digest):
        raise BenchmarkError(
            f"{path} has sha256 {digest}, expected {source.mirror_sha256}: it is damaged or another version. It was "
            "not used; replace it."
        )
    return _fetched(source, "mirror", None, {source.mirror: data})


def _from_hub(source: Source, origins: Origins, mirror_path: Path | None) -> FetchedRows:
    with locked(origins.lock) as lock:
        entries = {file: lock.get(f"{source.repo}/{file}") for file in source.files}
        revision = source.revision or next((entry["revision"] for entry in entries.values() if entry), None)
        if origins.require_pins and (revision is None or (source.content_sha256 is None and None in entries.values())):
            raise _unpinned(f"the hub's {source.name}")
        revision, paths = _download(source, revision, mirror_path)
        contents = {file: _read(path) for file, path in paths.items()}
        for file, entry in entries.items():
            digest = hashlib.sha256(contents[file]).hexdigest()
            if entry is not None and entry["revision"] == revision and digest != entry["sha256"]:
                _delete_cached(paths[file])
                raise BenchmarkError(
                    f"{source.repo}: {file} has sha256 {digest}, the lock says {entry['sha256']}. It was not used and "
                    "is deleted from the cache. Run again; if the error remains, the file was changed at its origin."
                )
        try:
            fetched = _fetched(source, "hub", revision, contents)
        except BenchmarkError:
            for path in paths.values():  # damaged in transit or changed at the origin: the next run downloads it again
                _delete_cached(path)
            raise
        for file, facts in fetched.facts["files"].items():
            lock[f"{source.repo}/{file}"] = {"revision": revision} | facts
    return fetched


def _download(source: Source, revision: str | None, mirror_path: Path | None) -> tuple[str | None, dict[str, Path]]:
    """Returns the commit and the cached paths of a source's files."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    paths = {}
    try:
        for file in source.files:
            if revision is None:
                revision = get_hf_file_metadata(hf_hub_url(source.repo, file, repo_type="dataset")).commit_hash
            paths[file] = Path(hf_hub_download(source.repo, file, repo_type="dataset", revision=revision))
    except Exception as error:
        known = isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OfflineModeIsEnabled | OSError)
        if not known and not is_transport_error(error):
            raise
        mirror = f"--mirror, {MIRROR_VARIABLE} or `data.mirror`"
        mirror = f"the mirror has no {mirror_path}" if mirror_path else f"no mirror is named ({mirror})"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BenchmarkError(
            f"cannot get {', '.join(source.files)} of the dataset {source.repo} from the hub ({reason}), and {mirror}. "
            f"Go online, or put the file at <mirror>/{source.mirror}; then run the same command again."
        ) from error
    return revision, paths


def _delete_cached(path: Path) -> None:
    """Deletes the cache's link and its target."""
    for each in {path, path.resolve()}:
        with contextlib.suppress(OSError):
            each.unlink(missing_ok=True)


def _fetched(source: Source, origin: str, revision: str | None, contents: dict[str, bytes]) -> FetchedRows:
    rows = read_rows(source, list(contents.items()))
    files = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in contents.items()}
    facts = {"from": origin, "repo": source.repo, "revision": revision, "files": files}
    return FetchedRows(rows, facts | {"rows": len(rows), "content_sha256": content_hash(rows)})


def _unpinned(what: str) -> BenchmarkError:
    return BenchmarkError(
        f"{what} is pinned by no hash and no commit, and data.require_pins refuses what nobody has seen. Fetch it once "
        "with data.require_pins: false, which writes it to the lock; look at it, and commit the lock."
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BenchmarkError(f"{path} cannot be read: {error.strerror}") from error
