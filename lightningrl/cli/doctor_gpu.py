"""What stages on a GPU need beside the GPU: a C compiler with Python's headers, a place for kernels, no hub.

Triton compiles a small extension module of Python before its first kernel, which is after the first rollouts.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from lightningrl.cli.finding import Finding
from lightningrl.pipeline.gpu_jobs import shared_disk, triton_cache

SOURCE = """\
#include <Python.h>
PyMODINIT_FUNC PyInit_tried(void) { return NULL; }
"""
REMEDY = "apt-get install gcc libc6-dev python3-dev, or conda install c-compiler; CC names another compiler"
COMPILE_S = 60


def examine_gpu(has_gpu: bool, is_asked_for: bool, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yields the findings. is_asked_for: whether the experiment's device is cuda, which then needs all of it."""
    if has_gpu or is_asked_for:
        yield compiler(environment, is_asked_for)
    else:
        found = compiler_path(environment) or "none here"
        what = f"not tried ({found}): stages on a GPU need a C compiler and Python's headers, those on a CPU none"
        yield Finding("C compiler", "note", what, f"on a machine with a GPU: {REMEDY}")
    yield kernel_cache(environment)
    yield hub_in_jobs(environment)


def compiler_path(environment: Mapping[str, str]) -> str | None:
    """Returns the compiler that Triton would take: CC, else gcc, else clang."""
    if chosen := environment.get("CC"):
        return shutil.which(chosen, path=environment.get("PATH"))
    return next(filter(None, (shutil.which(name, path=environment.get("PATH")) for name in ("gcc", "clang"))), None)


def headers() -> Path:
    """Returns the folder that should have this Python's headers, as Triton looks it up."""
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    return Path(sysconfig.get_paths(scheme=scheme)["include"])


def compiler(environment: Mapping[str, str], is_needed: bool) -> Finding:
    """Compiles an extension module as Triton does, in a folder of its own."""
    bad = "missing" if is_needed else "note"
    found = compiler_path(environment)
    if found is None:
        named = f"CC is {environment['CC']}, which is not there" if environment.get("CC") else "no gcc and no clang"
        return Finding("C compiler", bad, f"{named}: Triton cannot start, so nothing trains on a GPU", REMEDY)
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
            (Path(folder) / "tried.c").write_text(SOURCE)
            command = [found, "tried.c", "-O3", "-shared", "-fPIC", f"-I{headers()}", "-o", "tried.so"]
            done = subprocess.run(
                command, cwd=folder, env=dict(environment), capture_output=True, text=True, timeout=COMPILE_S
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("C compiler", bad, f"{found} cannot be run: {error}", REMEDY)
    if done.returncode == 0:
        return Finding("C compiler", "ok", f"{found} has compiled with {headers()}/Python.h")
    errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["no word"]
    return Finding("C compiler", bad, f"{found} does not compile an extension of Python: {errors[0].strip()}", REMEDY)


def kernel_cache(environment: Mapping[str, str]) -> Finding:
    """Says where jobs keep compiled kernels: that must be a folder to write to, and should not be a shared disk."""
    folder = triton_cache(environment)
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    remedy = "set TRITON_CACHE_DIR to a folder on a disk of the node's own"
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding("kernel cache", "note", f"{folder} cannot be written: {error.strerror}", remedy)
    if kind := shared_disk(there):
        what = f"{folder} is on {kind}, where kernels of several nodes meet and each look-up waits for the network"
        return Finding("kernel cache", "note", what, remedy)
    return Finding("kernel cache", "ok", f"{folder}, writable")


def hub_in_jobs(environment: Mapping[str, str]) -> Finding:
    """Says whether jobs on GPUs ask the hub: they set HF_HUB_OFFLINE=1 unless it is set."""
    said = environment.get("HF_HUB_OFFLINE", "1")
    if said.upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("hub in jobs", "ok", "jobs on GPUs run with HF_HUB_OFFLINE=1")
    what = f"HF_HUB_OFFLINE is {said!r} here, and jobs keep it: on a node without Internet a question to the hub hangs"
    return Finding("hub in jobs", "note", what, "unset HF_HUB_OFFLINE; what is fetched is fetched beside Snakemake")
