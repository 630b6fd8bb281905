"""What works on this machine and what does not: one check a line, with the remedy. Reads and probes, changes nothing.

Heavy or breakable things (torch, CUDA) are tried in a process of their own, so that a broken install is a finding and
not a crash. Only with `online` is anything asked of the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from lightningrl.benchmarks.fetch import MIRROR_VARIABLE, Origins
from lightningrl.benchmarks.registry import BENCHMARKS, get_benchmark
from lightningrl.config.experiment import Experiment
from lightningrl.pipeline import system
from lightningrl.sandbox import probe

Grade = Literal["ok", "note", "missing"]
FREE_GB = 2.0
"""What the miniature and its environment may take."""
_TORCH = """
import inspect, json, torch
facts = {"version": torch.__version__, "threads": torch.get_num_threads(), "cuda": torch.version.cuda}
facts["gpus"] = [
    {"name": p.name, "gb": round(p.total_memory / 1e9), "capability": f"{p.major}.{p.minor}"}
    for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
] if torch.cuda.is_available() else []
try:
    from torch.nn.attention.varlen import varlen_attn
    facts["varlen"] = "block_table" in inspect.signature(varlen_attn).parameters
except ImportError:
    facts["varlen"] = False
print(json.dumps(facts))
"""
EXPERIMENTAL = (
    "paged kernels and CUDA graphs in the decoder (`BlockDecoder(forwards=...)`), stages on a GPU "
    "(`resources.device: cuda`, with flex attention in training): off until `make gpu-check` has a run"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    >>> Finding("disk", "ok", "20 GB free").grade
    'ok'
    """

    name: str
    grade: Grade
    """`missing`: something that the default experiment needs; `note`: what will not work, or must be known."""
    what: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def examine(experiment: Experiment | None = None, online: bool = False) -> Iterator[Finding]:
    """Every finding, as it is made. experiment: whose mirror and results are looked at; None: the defaults."""
    mirror = experiment.data.mirror if experiment is not None else None
    yield _python()
    yield from _torch()
    yield _packages()
    yield from _jails()
    yield from _disk(Path.cwd())
    yield _snakemake()
    yield from _slurm()
    yield _mirror(Origins(Path(mirror) if mirror else None, Path("config/data.lock.json")))
    if online:
        yield _hub()
    yield _checkout()
    yield Finding("experimental", "note", EXPERIMENTAL)


def _python() -> Finding:
    text = f"{sys.version.split()[0]} at {sys.executable}, {os.cpu_count()} CPUs"
    return Finding("python", "ok", text)


def _torch() -> Iterator[Finding]:
    done = _run([sys.executable, "-c", _TORCH], 60)
    if done is None or done.returncode:
        said = [] if done is None else done.stderr.strip().splitlines()
        why = said[-1] if said else "no answer within a minute"
        yield Finding("torch", "missing", f"cannot be imported: {why}", "install the packages of requirements.lock")
        return
    facts = json.loads(done.stdout.splitlines()[-1])
    yield Finding("torch", "ok", f"{facts['version']}, {facts['threads']} threads")
    yield _flash(facts["varlen"])
    gpus = ", ".join(f"{gpu['name']} ({gpu['gb']} GB, compute {gpu['capability']})" for gpu in facts["gpus"])
    if not gpus:
        built = f"torch is built for CUDA {facts['cuda']}" if facts["cuda"] else "torch is a CPU build"
        yield Finding("cuda", "note", f"no device ({built}): the miniature runs, full size does not")
        return
    yield Finding("cuda", "ok", f"{facts['cuda']}: {gpus}")


def _flash(varlen: bool) -> Finding:
    """The paged kernel that `segments` and `graphs` forwards take (models/static_forward.py); other forwards need none.

    varlen: torch's own attention takes block tables.
    """
    found = _version("flash-attn")
    if varlen:
        beside = "not installed" if found is None else found
        return Finding("flash-attn", "ok", f"{beside}: torch's own paged attention is used")
    if found is None:
        what = "not installed, and this torch has no paged attention: decoding uses plain forwards"
        return Finding(
            "flash-attn", "note", what, "pip install --no-build-isolation 'lightningrl[flash]' for forwards by a kernel"
        )
    return Finding("flash-attn", "ok", f"{found}: used for paged attention, which this torch has not")


def _packages() -> Finding:
    names = ("transformers", "tokenizers", "math-verify", "sympy", "pyarrow", "huggingface-hub", "pandas", "matplotlib")
    gone = [name for name in names if _version(name) is None]
    if gone:
        return Finding("packages", "missing", f"not installed: {', '.join(gone)}", "install those of requirements.lock")
    return Finding("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in names))


def _jails() -> Iterator[Finding]:
    """Every level by itself; the best that holds is in use."""
    in_use = None
    for row in probe.survey():
        if row.reason is None:
            used = " (in use)" if in_use is None else ""
            in_use = in_use or row.name
            yield Finding(f"jail {row.name}", "ok", f"holds{used}")
        else:
            yield Finding(f"jail {row.name}", "note", row.reason, row.remedy)
    if in_use is None:
        yield Finding("jails", "missing", "no level holds: programs are not judged here", "mend one of the above")


def _disk(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free / 1e9
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as name:
            path = Path(name) / "a"
            with open(path, "wb") as file:
                file.write(b"x")
                os.fsync(file.fileno())
            os.replace(path, Path(name) / "b")
    except OSError as error:
        yield Finding("disk", "missing", f"{folder}: {error.strerror}", "work in a folder that you may write")
        return
    text = f"{folder}: {free:.1f} GB free, written, synced and renamed"
    if free < FREE_GB:
        yield Finding("disk", "missing", text, f"free {FREE_GB:g} GB")
    else:
        yield Finding("disk", "ok", text)


def _snakemake() -> Finding:
    found = _version("snakemake")
    if found is None:
        return Finding("snakemake", "missing", "not installed", "pip install 'snakemake>=9.20,<10'")
    return Finding("snakemake", "ok", found)


def _slurm() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        yield Finding("slurm", "note", "sbatch is not on the PATH: jobs run on this machine")
        return
    done = _run(["sinfo", "--noheader", "--format=%P %a %D"], 20)
    if done is None or done.returncode:
        said = "no answer" if done is None else " ".join(done.stderr.split())[:200]
        yield Finding("slurm", "note", f"sinfo fails: {said}", "ask for access to the controller")
    else:
        listed = "; ".join(line for line in done.stdout.splitlines() if line.strip())
        yield Finding("slurm", "ok", f"partitions (name, state, nodes): {listed or 'none'}")
    plugin = _version("snakemake-executor-plugin-slurm")
    if plugin is None:
        yield Finding("slurm plugin", "note", "not installed", "pip install 'lightningrl[slurm]'")
    else:
        yield Finding("slurm plugin", "ok", plugin)


def _mirror(origins: Origins) -> Finding:
    folder = origins.mirror_folder
    sources = {s.mirror: name for name in BENCHMARKS for s in get_benchmark(name).sources}
    if folder is None:
        what = f"none ({MIRROR_VARIABLE}, data.mirror): published benchmarks come from the hub"
        return Finding("data mirror", "note", what, "the generated benchmarks need none")
    there = [path for path in sources if (folder / path).is_file()]
    gone = [path for path in sources if path not in there]
    text = f"{folder}: {len(there)} of {len(sources)} files" + (f"; not there: {', '.join(gone)}" if gone else "")
    return Finding("data mirror", "ok" if there else "note", text)


def _hub() -> Finding:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        status = get_session().get(f"{constants.ENDPOINT}/api/datasets/openai/gsm8k", timeout=10).status_code
    except Exception as error:  # the client's transports have errors of their own; whichever it is, it is the finding
        return Finding("hub", "note", f"{constants.ENDPOINT} does not answer: {error}", "use a data mirror")
    grade: Grade = "ok" if status == 200 else "note"
    return Finding("hub", grade, f"{constants.ENDPOINT} answers {status}")


def _checkout() -> Finding:
    git = system.git_state()
    if git["commit"] is None:
        return Finding("checkout", "note", "not a git checkout: manifests will not say the commit")
    changed = ", with changes that are not committed" if git["dirty"] else ""
    return Finding("checkout", "ok", f"commit {git['commit'][:12]}{changed}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None


def report(findings: list[Finding]) -> dict[str, Any]:
    """JSON: the findings, and whether the default experiment can run."""
    return {"ok": all(f.grade != "missing" for f in findings), "findings": [f.to_json() for f in findings]}
