"""The name of this machine's processor, for manifests and measurements."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> str:
    """Returns the processor's model, or "" where it is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
