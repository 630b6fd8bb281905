"""Facts about this machine and this checkout for manifests: git, versions, hardware. Never part of a key."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.utils.machine import processor

PACKAGES = (
    "lightningrl", "torch", "numpy", "pandas", "pydantic", "safetensors", "tokenizers", "transformers", "matplotlib",
    "math-verify", "sympy", "snakemake",
)  # fmt: skip
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def set_thread_environment(threads: int) -> None:
    """Tell the numerical libraries how many threads to use; works for those that are not imported yet.

    Stages that use torch call `torch.set_num_threads(context.threads)` themselves.
    """
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def spin_briefly() -> None:
    """Before torch is imported: OpenMP threads that wait spin for some 10 us before they sleep.

    libgomp's default spins 30 times longer, which costs many times the work itself as soon as anything else wants a
    core; sleeping at once costs half the speed of an idle one.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def git_state() -> dict[str, Any]:
    """Commit of the checkout that the code runs from and whether it has changes; None outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no").strip())}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def versions() -> dict[str, str]:
    """Returns the versions of the packages that results depend on, where they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, memory and, only where a stage has loaded torch already, the GPUs."""
    facts: dict[str, Any] = {"machine": platform.machine(), "processor": processor(), "cpus": os.cpu_count()}
    facts["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        facts["cuda"] = torch.version.cuda
    return facts


def torch_threads() -> int | None:
    """Threads torch ran with; None where the stage did not load it."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()


def peak_memory_bytes() -> dict[str, int]:
    """Largest resident set so far of this process, and of the largest of its finished children."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = {"self": resource.RUSAGE_SELF, "largest_child": resource.RUSAGE_CHILDREN}
    return {name: resource.getrusage(number).ru_maxrss * unit for name, number in who.items()}
