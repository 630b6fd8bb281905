"""The rank and the number of processes that a launcher set: torchrun, accelerate launch, or srun with their names."""

from __future__ import annotations

import os

from lightningrl.errors import ConfigError


def process() -> tuple[int, int]:
    """Returns (rank, size) from RANK and WORLD_SIZE, or (0, 1) without a launcher. Raises ConfigError for other
    values.
    """
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise ConfigError(
            f"RANK={rank!r}, WORLD_SIZE={size!r}: expected numbers with RANK < WORLD_SIZE, as torchrun or accelerate "
            "launch set them; unset both to run one process"
        )
    return int(rank), int(size)


_LAUNCH = ("SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")


def launch_id() -> str:
    """Returns a text that only the processes of one launch share; empty without a launcher."""
    return " ".join(f"{name}={os.environ[name]}" for name in _LAUNCH if name in os.environ)
