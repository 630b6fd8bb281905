"""Where jobs get their packages: Snakemake's own Python, or with --sdm the environment's; locks and environments agree.

conda and apptainer themselves are stand-ins here, which note what they are asked and run the commands they are given.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout

from lightningrl.provenance.digest import PACKAGE

pytestmark = pytest.mark.slow  # a minute of real Snakemakes, with stand-ins for both tools

ROOT = PACKAGE.parent
CONDA = """#!/bin/bash
echo "conda $*" >> {log}
case "$*" in
    "info --json") echo '{{"conda_prefix": "{prefix}", "platform": "linux-64"}}' ;;
    "--version") echo "conda 25.9.0" ;;
    "config --get channel_priority --json") echo '{{"get": {{"channel_priority": "strict"}}}}' ;;
    "env create"*)
        target=$(echo "$*" | sed 's/.*--prefix //')
        mkdir -p "$target/bin" && cp {prefix}/inside/python "$target/bin/python" ;;
    "clean "*) ;;
    *) exit 3 ;;
esac
"""
APPTAINER = """#!/bin/bash
if [ "$1" = --version ]; then echo "apptainer version 1.4.2"; exit; fi
echo "apptainer $*" >> {log}
while [ "$1" != -c ]; do image=$last; last=$1; shift; done
echo "image $image" >> {log}
PATH={prefix}/inside:$PATH bash -c "$2"
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with `bin` for the PATH; `log` has a line for each call of a tool and of the environment's python."""
    prefix, log = tmp_path / "tools", tmp_path / "tools" / "log"
    files = {
        "bin/conda": CONDA,
        "bin/apptainer": APPTAINER,
        "bin/activate": 'export PATH="$1/bin:$PATH"\n',
        "inside/python": f'#!/bin/bash\necho "python of the environment: $*" >> {{log}}\nexec {sys.executable} "$@"\n',
    }
    for name, text in files.items():
        path = prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(log=log, prefix=prefix) if "{log}" in text else text)
        path.chmod(0o755)
    log.write_text("")
    return prefix


def run(checkout: Checkout, tools: Path, *arguments: str) -> str:
    path = f"{tools / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    done = checkout.snakemake("data_gsm-mini", "--cores", "1", "--no-hooks", *arguments, PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(checkout.path("results/nano/data").glob("gsm-mini-*/manifest.json"))
    return (tools / "log").read_text()


def test_without_sdm_jobs_run_in_snakemakes_own_python(checkout: Checkout, tools: Path) -> None:
    assert run(checkout, tools) == ""


def test_with_conda_jobs_run_in_its_environment(checkout: Checkout, tools: Path) -> None:
    log = run(checkout, tools, "--sdm", "conda")
    assert re.search(r"conda env create .*--file \S+\.yaml --prefix \S+", log)
    assert "python of the environment: -m lightningrl data" in log


def test_with_apptainer_jobs_run_in_its_image(checkout: Checkout, tools: Path) -> None:
    image = checkout.path("workflow/envs/lightningrl.sif")
    refused = checkout.snakemake("data_gsm-mini", "--cores", "1", "--dry-run", "--sdm", "apptainer")
    assert refused.returncode and "build it, as the head of lightningrl.def" in refused.stdout + refused.stderr
    image.write_text("an image")
    log = run(checkout, tools, "--sdm", "apptainer")
    assert f"image {image}" in log and "python of the environment: -m lightningrl data" in log


def test_the_environments_are_what_the_locks_say() -> None:
    spec = importlib.util.spec_from_file_location("write_environments", ROOT / "workflow" / "envs" / "write.py")
    assert spec is not None and spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    for name, locks in writer.ENVIRONMENTS.items():
        written = (ROOT / "workflow" / "envs" / f"{name}.yaml").read_text()
        assert written == writer.text(name), "stale; write it anew with `python workflow/envs/write.py`"
        [python, pip, packages] = yaml.safe_load(written)["dependencies"]
        assert (python, pip) == ("python =3.11", "pip")
        assert packages["pip"] == [pin for lock in locks for pin in writer.pins(lock)]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-cuda.lock"])
def test_locks_pin_every_package_and_name_no_address(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    packages = [line for line in lines if not line.startswith("--requirement")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line) for line in packages)
    cuda = [line for line in packages if line.startswith(("nvidia-", "cuda-", "triton"))]
    assert cuda == (packages if name == "requirements-cuda.lock" else [])
    assert [line for line in lines if line not in packages] == ["--requirement requirements.lock"] * bool(cuda)
