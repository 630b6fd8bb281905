"""Where jobs get their packages: Snakemake's own Python, or with --sdm the environment's; locks and environments agree.

conda and apptainer are stand-ins here, which note what they are asked and run the commands they are given; but for one
test, which runs where Apptainer is on the PATH and LIGHTNINGRL_IMAGE names an image built from lightningrl.def.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from checkouts import Checkout

from lightningrl.pipeline.code_digest import PACKAGE

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
echo "image $image, sees $APPTAINER_BIND" >> {log}
PATH={prefix}/inside:$PATH bash -c "$2"
"""
INSIDE = """#!/bin/bash
echo "python of the environment: $*" >> {log}
echo "user site off: $PYTHONNOUSERSITE" >> {log}
exec {python} "$@"
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with `bin` for the PATH; `log` has a line for each call of a tool and of the environment's python."""
    prefix, log = tmp_path / "tools", tmp_path / "tools" / "log"
    files = {
        "bin/conda": CONDA,
        "bin/apptainer": APPTAINER,
        "bin/activate": 'export PATH="$1/bin:$PATH"\n',
        "inside/python": INSIDE,
    }
    for name, text in files.items():
        path = prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(log=log, prefix=prefix, python=sys.executable) if "{log}" in text else text)
        path.chmod(0o755)
    log.write_text("")
    return prefix


def run(checkout: Checkout, tools: Path, *arguments: str, config: str = "config/nano.yaml", **variables: str) -> str:
    variables["PATH"] = f"{tools / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    checkout.run("data_gsm-mini", "--cores", "1", "--no-hooks", *arguments, config=config, **variables)
    assert list(checkout.path("results/nano/data").glob("gsm-mini-*/manifest.json"))
    return (tools / "log").read_text()


def test_without_sdm_jobs_run_in_snakemakes_own_python(checkout: Checkout, tools: Path) -> None:
    assert run(checkout, tools) == ""


def test_with_conda_jobs_run_in_its_environment(checkout: Checkout, tools: Path) -> None:
    log = run(checkout, tools, "--sdm", "conda")
    assert re.search(r"conda env create .*--file \S+\.yaml --prefix \S+", log)
    assert "python of the environment: -m lightningrl data" in log and "user site off: 1" in log


def test_with_apptainer_jobs_run_in_its_image(checkout: Checkout, tools: Path) -> None:
    image = checkout.path("workflow/envs/lightningrl.sif")
    image.write_text("an image")
    log = run(checkout, tools, "--sdm", "apptainer")
    assert f"image {image}, sees" in log and "python of the environment: -m lightningrl data" in log


def test_a_container_sees_the_checkout_the_files_of_the_config_the_cache_and_the_mirror(
    checkout: Checkout, tools: Path, tmp_path: Path
) -> None:
    checkout.path("workflow/envs/lightningrl.sif").write_text("an image")
    (tmp_path / "mirror").mkdir()
    mine, nano = tmp_path / "own.yaml", checkout.path("config/nano.yaml")
    mine.write_text(f"extends: {nano}\n")
    told = {"HF_HOME": str(tmp_path / "hub"), "LIGHTNINGRL_DATA_MIRROR": str(tmp_path / "mirror")}
    log = run(checkout, tools, "--sdm", "apptainer", config=str(mine), SINGULARITY_BIND="/srv", **told)
    seen = re.findall(r"sees (.*)", log)[-1].split(",")
    expected = ["/srv", checkout.root, mine, nano, tmp_path / "hub", tmp_path / "mirror"]
    assert list(dict.fromkeys(seen)) == list(map(str, expected)), "not the config's folder, which may be a home"
    assert (tmp_path / "hub").is_dir(), "made, so that a job in a container can write there"


@pytest.mark.skipif(
    not (shutil.which("apptainer") and "LIGHTNINGRL_IMAGE" in os.environ),
    reason="needs Apptainer, and LIGHTNINGRL_IMAGE with an image's path",
)
def test_with_the_real_apptainer_programs_are_judged_in_the_image(checkout: Checkout) -> None:
    checkout.path("workflow/envs/lightningrl.sif").symlink_to(Path(os.environ["LIGHTNINGRL_IMAGE"]).resolve())
    checkout.run("evaluate_base_code-mini", "--cores", "1", "--no-hooks", "--sdm", "apptainer")
    [folder] = checkout.path("results/nano/evaluate/base").glob("code-mini-*")
    levels = {json.loads(line)["sandbox"] for line in (folder / "records.jsonl").read_text().splitlines()}
    assert levels <= {"bwrap", "unshare", "landlock"} and len(levels) == 1


def test_the_environments_are_what_the_locks_say() -> None:
    spec = importlib.util.spec_from_file_location("write_environments", ROOT / "workflow" / "envs" / "write.py")
    assert spec is not None and spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    for name, locks in writer.ENVIRONMENTS.items():
        written = (ROOT / "workflow" / "envs" / f"{name}.yaml").read_text()
        assert written == writer.text(name), "stale; write it anew with `python workflow/envs/write.py`"
        # `nodefaults` is no channel: conda 26.7 takes it for one, and ends because there is none of that name.
        assert yaml.safe_load(written)["channels"] == ["conda-forge"]
        [python, *tools, pip, packages] = yaml.safe_load(written)["dependencies"]
        assert (python, pip) == ("python =3.11", "pip")
        assert tools == ["c-compiler"] * (name == "lightningrl-cuda")
        assert packages["pip"] == [pin for lock in locks for pin in writer.pins(lock)]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-cuda.lock"])
def test_locks_pin_every_package_and_name_no_address(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    packages = [line for line in lines if not line.startswith("--requirement")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+", line) for line in packages)
    packages = [line for line in packages if not (name == "requirements-dev.lock" and line.startswith("triton=="))]
    cuda = [line for line in packages if line.startswith(("nvidia-", "cuda-", "triton"))]
    assert cuda == (packages if name == "requirements-cuda.lock" else [])
    others = [line for line in lines if line not in packages and not line.startswith("triton==")]
    assert others == ["--requirement requirements.lock"] * bool(cuda)
