"""What jobs on GPUs find in their environment, unless the user has said otherwise; and the folder that Triton fills."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Both names are read by torch."""
SHARED_DISKS = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "fuse.sshfs", "panfs", "wekafs", "afs", "9p")
"""How the types of file systems begin that several machines share."""


def set_gpu_environment(environment: MutableMapping[str, str]) -> None:
    """Sets what is not set: no stage that runs as a job asks the hub; rollouts and updates, which take memory in
    very different sizes, share it; kernels are compiled on a disk of the node's own.

    Works for packages that are not imported yet.
    """
    environment.setdefault("HF_HUB_OFFLINE", "1")
    if not any(name in environment for name in ALLOCATOR):
        environment[ALLOCATOR[0]] = "expandable_segments:True"
    if not environment.get("TRITON_CACHE_DIR"):  # empty, Triton would take the working folder
        environment["TRITON_CACHE_DIR"] = str(own_folder(triton_cache(environment)))


def triton_cache(environment: Mapping[str, str]) -> Path:
    """Returns the folder where jobs on GPUs keep compiled kernels: the user's own choice, else one for temporary files
    on the node (SLURM_TMPDIR, TMPDIR, /tmp)."""
    if chosen := environment.get("TRITON_CACHE_DIR"):
        return Path(chosen)
    return Path(environment.get("SLURM_TMPDIR") or tempfile.gettempdir()) / f"lightningrl-triton-{os.getuid()}"


def own_folder(folder: Path) -> Path:
    """Returns the folder, made for this user alone; a new one where it is somebody else's, who might change kernels."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if found.st_uid == os.getuid() and not folder.is_symlink() and not found.st_mode & 0o022:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="lightningrl-triton-"))


def shared_disk(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Returns the type of the file system that a folder is on, if machines share it, such as `nfs4`; else nothing."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    folder = folder.resolve()
    found = [(len(where), kind) for _, where, kind, *_ in map(str.split, lines) if folder.is_relative_to(where)]
    kind = max(found, default=(0, ""), key=lambda each: each[0])[1]
    return kind if kind.startswith(SHARED_DISKS) else ""
