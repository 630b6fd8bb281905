"""`lightningrl doctor`: what works on this machine and what does not, with the remedy; nothing is changed.

Heavy or breakable things (torch, CUDA) are tried in a process of their own, so that a broken install is a finding and
not a crash. Only with `--online` is anything asked of the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from lightningrl.benchmarks.fetch import MIRROR_VARIABLE, Origins
from lightningrl.benchmarks.registry import BENCHMARKS, get_benchmark
from lightningrl.cli.doctor_gpu import examine_gpu
from lightningrl.cli.finding import Finding
from lightningrl.config.experiment import load
from lightningrl.pipeline import system
from lightningrl.sandbox import probe

FREE_GB = 2.0
"""What the miniature and its environment may take."""
_TORCH = """
import inspect, json, torch
facts = {"version": torch.__version__, "threads": torch.get_num_threads(), "cuda": torch.version.cuda}
facts["gpus"] = [
    f"{p.name} ({round(p.total_memory / 1e9)} GB, compute {p.major}.{p.minor})"
    for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
] if torch.cuda.is_available() else []
try:
    from torch.nn.attention.varlen import varlen_attn
    facts["varlen"] = "block_table" in inspect.signature(varlen_attn).parameters
except ImportError:
    facts["varlen"] = False
print(json.dumps(facts))
"""
PACKAGES = (
    "transformers", "tokenizers", "math-verify", "sympy", "pyarrow", "huggingface-hub", "pandas", "matplotlib",
)  # fmt: skip
EXPERIMENTAL = (
    "paged kernels and CUDA graphs in the decoder (`decoding.forwards`), stages on a GPU "
    "(`resources.device: cuda`, with flex attention in training): off until `make gpu-check` has a run"
)


def doctor(
    config: Annotated[Path | None, typer.Option("--config", help="Look at its device and data mirror.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
    online: Annotated[bool, typer.Option("--online", help="Also ask whether the Hugging Face hub answers.")] = False,
) -> None:
    """Python, torch, CUDA, compiler, jails, disk, Snakemake, Slurm, data mirror: what works here, the remedy where not.

    `ok`: it works. `note`: what will not work here, or should be known. `missing`: the default experiment needs it, or
    that of --config, which on a GPU needs a C compiler. Run it on a node of the kind that jobs run on.
    Exit codes: 0, or 1 when something is missing. Nothing is changed, and nothing is asked of the network but with
    --online.
    """
    experiment = None if config is None else load(config)
    mirror = None if experiment is None else experiment.data.mirror
    findings = []
    for finding in examine(mirror, online, experiment is not None and experiment.resources.device == "cuda"):
        findings.append(finding)
        if not as_json:
            remedy = f" -> {finding.remedy}" if finding.remedy and finding.grade != "ok" else ""
            typer.echo(f"{finding.grade:8}{finding.name:16}{finding.what}{remedy}")
    ok = all(finding.grade != "missing" for finding in findings)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "findings": [asdict(finding) for finding in findings]}, indent=1))
    if not ok:
        raise typer.Exit(1)


def examine(mirror: str | None = None, online: bool = False, on_cuda: bool = False) -> Iterator[Finding]:
    """Yields every finding, as it is made. mirror: the experiment's `data.mirror`. on_cuda: its device is cuda."""
    yield Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}, {os.cpu_count()} CPUs")
    has_gpu = False
    for finding in _torch():
        has_gpu |= (finding.name, finding.grade) == ("cuda", "ok")
        yield finding
    yield from examine_gpu(has_gpu, on_cuda, os.environ)
    if gone := [name for name in PACKAGES if _version(name) is None]:
        yield Finding("packages", "missing", f"not installed: {', '.join(gone)}", "install those of requirements.lock")
    else:
        yield Finding("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    yield from _jails()
    yield _disk(Path.cwd())
    yield _installed("snakemake", "missing", "snakemake", "pip install 'snakemake>=9.20,<10'")
    yield from _slurm()
    yield _mirror(Origins(Path(mirror) if mirror else None, Path("config/data.lock.json")))
    if online:
        yield _hub()
    git = system.git_state()
    if git["commit"] is None:
        yield Finding("checkout", "note", "not a git checkout: manifests will not say the commit")
    else:
        changed = ", with changes that are not committed" if git["dirty"] else ""
        yield Finding("checkout", "ok", f"commit {git['commit'][:12]}{changed}")
    yield Finding("experimental", "note", EXPERIMENTAL)


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
    if facts["gpus"]:
        yield Finding("cuda", "ok", f"{facts['cuda']}: {', '.join(facts['gpus'])}")
    else:
        built = f"torch is built for CUDA {facts['cuda']}" if facts["cuda"] else "torch is a CPU build"
        yield Finding("cuda", "note", f"no device ({built}): the miniature runs, full size does not")


def _flash(varlen: bool) -> Finding:
    """The paged kernel that `segments` and `graphs` forwards take (models/static_forward.py); other forwards need none.

    varlen: torch's own attention takes block tables.
    """
    found = _version("flash-attn")
    if varlen:
        return Finding("flash-attn", "ok", f"{found or 'not installed'}: torch's own paged attention is used")
    if found is None:
        what = "not installed, and this torch has no paged attention: decoding uses plain forwards"
        remedy = "pip install --no-build-isolation 'lightningrl[flash]' for forwards by a kernel"
        return Finding("flash-attn", "note", what, remedy)
    return Finding("flash-attn", "ok", f"{found}: used for paged attention, which this torch has not")


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
        yield Finding("jails", "missing", "no level holds: programs are not judged here", "fix one of the above")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as name:
            path = Path(name) / "a"
            with open(path, "wb") as file:
                file.write(b"x")
                os.fsync(file.fileno())
            os.replace(path, Path(name) / "b")
    except OSError as error:
        return Finding("disk", "missing", f"{folder}: {error.strerror}", "work in a folder that you may write")
    text = f"{folder}: {free:.1f} GB free, written, synced and renamed"
    return Finding("disk", "missing", text, f"free {FREE_GB:g} GB") if free < FREE_GB else Finding("disk", "ok", text)


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
    plugin = "snakemake-executor-plugin-slurm"
    yield _installed("slurm plugin", "note", plugin, "pip install 'lightningrl[slurm]'")


def _mirror(origins: Origins) -> Finding:
    folder = origins.mirror_folder
    sources = {s.mirror: name for name in BENCHMARKS for s in get_benchmark(name).sources}
    if folder is None:
        what = f"none ({MIRROR_VARIABLE}, data.mirror): published benchmarks come from the hub"
        return Finding("data mirror", "note", what, "the generated benchmarks need none")
    gone = [path for path in sources if not (folder / path).is_file()]
    text = f"{folder}: {len(sources) - len(gone)} of {len(sources)} files"
    text += f"; not there: {', '.join(gone)}" if gone else ""
    return Finding("data mirror", "note" if len(gone) == len(sources) else "ok", text)


def _hub() -> Finding:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        status = get_session().get(f"{constants.ENDPOINT}/api/datasets/openai/gsm8k", timeout=10).status_code
    except Exception as error:  # the client's transports have errors of their own; whichever it is, it is the finding
        return Finding("hub", "note", f"{constants.ENDPOINT} does not answer: {error}", "use a data mirror")
    return Finding("hub", "ok" if status == 200 else "note", f"{constants.ENDPOINT} answers {status}")


def _installed(name: str, otherwise: Literal["note", "missing"], package: str, remedy: str) -> Finding:
    found = _version(package)
    return Finding(name, otherwise, "not installed", remedy) if found is None else Finding(name, "ok", found)


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
