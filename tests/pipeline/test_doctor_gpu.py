"""What the doctor says of a machine's means for stages on a GPU: the compiler is really called, where it matters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightningrl.cli import doctor_gpu
from lightningrl.cli.doctor_gpu import compiler, examine_gpu, headers, hub_in_jobs, kernel_cache
from lightningrl.pipeline.code_digest import PACKAGE

CAN_COMPILE = shutil.which("gcc") is not None and (headers() / "Python.h").is_file()


@pytest.fixture
def stand_in(tmp_path: Path):
    """Makes a program that stands for gcc, alone on the PATH of the environment that is returned."""

    def make(script: str) -> dict[str, str]:
        program = tmp_path / "bin" / "gcc"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return {"PATH": str(program.parent)}

    return make


@pytest.mark.skipif(not CAN_COMPILE, reason="apt-get install gcc libc6-dev python3-dev")
def test_a_compiler_with_pythons_headers_is_tried_and_without_them_is_not_enough(tmp_path, monkeypatch):
    found = compiler(os.environ, is_needed=True)
    assert found.grade == "ok" and "has compiled with" in found.what, found
    monkeypatch.setattr(doctor_gpu, "headers", lambda: tmp_path)
    found = compiler(os.environ, is_needed=True)
    assert found.grade == "missing" and "Python.h" in found.what and "python3-dev" in found.remedy, found


@pytest.mark.skipif(not CAN_COMPILE, reason="apt-get install gcc libc6-dev python3-dev")
@pytest.mark.parametrize("has_header", [True, False])
def test_an_image_without_a_compiler_or_headers_is_not_built(tmp_path, has_header):
    """The check of the image's own `%test`, run here; it installs both, as the conda environment for GPUs does."""
    definition = (PACKAGE.parent / "workflow" / "envs" / "lightningrl.def").read_text()
    assert "bubblewrap git gcc libc6-dev\n" in definition
    tried = definition.partition("%test\n")[2].partition("%help")[0]
    tried = tried[tried.index("    echo '#include <Python.h>'") :].replace("/tmp/", f"{tmp_path}/")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n{f"exec {sys.executable}" if has_header else "echo /nowhere; exit 0"} "$@"\n')
    python.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-ec", tried], env={"PATH": path}, capture_output=True, text=True)
    assert (done.returncode == 0) == has_header, done.stderr
    assert "  - c-compiler\n" in (PACKAGE.parent / "workflow" / "envs" / "lightningrl-cuda.yaml").read_text()


def test_without_a_compiler_an_experiment_on_a_gpu_lacks_something(stand_in, tmp_path):
    nowhere = {"PATH": str(tmp_path)}
    for is_needed, grade in ((True, "missing"), (False, "note")):
        found = compiler(nowhere, is_needed)
        assert found.grade == grade and "no gcc and no clang" in found.what and "gcc" in found.remedy
    assert "CC is icx, which is not there" in compiler(nowhere | {"CC": "icx"}, True).what
    failing = compiler(stand_in("echo 'tried.c:1: fatal error: no such thing' >&2; exit 1"), True)
    assert failing.grade == "missing" and "no such thing" in failing.what
    assert compiler(stand_in("exit 0"), True).grade == "ok"


@pytest.mark.parametrize(("has_gpu", "is_asked_for"), [(False, False), (True, False), (False, True)])
def test_it_compiles_only_where_a_gpu_is_there_or_asked_for(stand_in, tmp_path, has_gpu, is_asked_for):
    environment = stand_in(f": > {tmp_path}/called") | {"TRITON_CACHE_DIR": str(tmp_path)}
    findings = list(examine_gpu(has_gpu, is_asked_for, environment))
    assert [finding.name for finding in findings] == ["C compiler", "kernel cache", "hub in jobs"]
    assert (tmp_path / "called").exists() == (has_gpu or is_asked_for)
    if not (has_gpu or is_asked_for):
        assert findings[0].grade == "note" and "need a C compiler and Python's headers" in findings[0].what


def test_kernels_want_a_disk_of_the_node(tmp_path, monkeypatch):
    own = {"TRITON_CACHE_DIR": str(tmp_path / "deep" / "cache")}
    assert kernel_cache(own).grade == "ok" and not (tmp_path / "deep").exists(), "nothing is changed"
    monkeypatch.setattr(doctor_gpu, "shared_disk", lambda folder: "nfs4")
    found = kernel_cache(own)
    assert found.grade == "note" and "nfs4" in found.what and "TRITON_CACHE_DIR" in found.remedy
    refused = kernel_cache({"TRITON_CACHE_DIR": "/proc/none"})
    assert refused.grade == "note" and "cannot be written" in refused.what


def test_jobs_do_not_ask_the_hub_unless_they_are_made_to():
    assert hub_in_jobs({}).grade == hub_in_jobs({"HF_HUB_OFFLINE": "1"}).grade == "ok"
    assert hub_in_jobs({"HF_HUB_OFFLINE": "0"}).grade == "note"
