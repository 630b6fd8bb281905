"""Which failures leave the mark that ends all attempts, and what GPU jobs find in their environment."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightningrl.errors import CheckpointError, Interrupted, StartError
from lightningrl.pipeline import gpu_jobs
from lightningrl.pipeline.final_failures import mark_of, marking, reason_in
from lightningrl.pipeline.runner import run_stage


def fails_by(error):
    def run(context):
        raise error

    return run


def test_a_gpu_that_is_full_before_anything_is_saved_is_final(nano, entry, write_outputs):
    stage = nano.stage("data", "gsm-mini")
    mark = mark_of(stage.last_log())
    entry(fails_by(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")))
    with pytest.raises(StartError, match=r"Tried to allocate 2\.00 GiB.*decoding\.memory_mb.*lightningrl plan"):
        run_stage(nano, stage)
    assert reason_in(mark).startswith("StartError: data gsm-mini") and "StartError: " in stage.log.read_text()
    (stage.folder / "state" / "step-000001").mkdir()
    (stage.folder / "state" / "step-000001" / "part.pt").write_text("saved")
    with pytest.raises(torch.OutOfMemoryError):
        run_stage(nano, stage)
    assert not reason_in(mark), "the next attempt goes on from what is saved, maybe past that point"
    entry(write_outputs)
    assert run_stage(nano, stage)


def test_a_checkpoint_that_does_not_fit_is_final_and_one_that_a_disk_withholds_is_not(nano, entry):
    stage = nano.stage("data", "gsm-mini")
    unread = CheckpointError("model.safetensors is damaged (Stale file handle)")
    unread.__context__ = OSError(116, "Stale file handle")
    for error, is_final in (
        (CheckpointError("unexpected weight"), True), (unread, False), (Interrupted("saved"), False),
        (RuntimeError("the device is gone"), False), (torch.OutOfMemoryError(), True),
    ):  # fmt: skip
        entry(fails_by(error))
        with pytest.raises(StartError if isinstance(error, torch.OutOfMemoryError) else type(error)):
            run_stage(nano, stage)
        assert bool(reason_in(mark_of(stage.last_log()))) == is_final, error


def test_a_part_of_an_evaluation_has_a_mark_of_its_own(nano):
    stage = nano.stage("evaluate", "base/gsm-mini")
    with pytest.raises(CheckpointError), marking(stage, (2, 8)):
        raise CheckpointError("unexpected weight")
    assert reason_in(mark_of(stage.last_log((2, 8)))) and not reason_in(mark_of(stage.last_log()))


NAMES = ("HF_HUB_OFFLINE", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "TRITON_CACHE_DIR")


def test_jobs_on_gpus_get_what_the_user_has_not_set(with_resources, tmp_path, monkeypatch, entry):
    """A job of the config's device alone: what fetches data beside Snakemake may ask the hub."""
    monkeypatch.chdir(tmp_path)
    seen = []

    def run(context):
        seen.append({name: os.environ.get(name) for name in NAMES})
        raise Interrupted("seen")

    entry(run)
    for device, kind in (("cuda", "selfcheck"), ("cpu", "data"), ("cuda", "data")):
        with monkeypatch.context() as patch:
            for variable in NAMES:
                patch.setenv(variable, "")
                patch.delenv(variable)
            patch.setenv("TMPDIR", str(tmp_path))
            patch.setattr(gpu_jobs.tempfile, "tempdir", None)
            patch.setattr("lightningrl.pipeline.manifest.check_inputs", lambda stage: {})
            planned = with_resources(device=device)
            with pytest.raises(Interrupted):
                run_stage(planned, planned.stage(kind, "gsm-mini"))
    job, *others = seen
    cache = tmp_path / f"lightningrl-triton-{os.getuid()}"
    assert job == dict(zip(NAMES, ("1", "expandable_segments:True", None, str(cache)), strict=True))
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert others == [dict.fromkeys(NAMES)] * 2
    own = {"HF_HUB_OFFLINE": "0", "PYTORCH_ALLOC_CONF": "max_split_size_mb:128", "TRITON_CACHE_DIR": "/scratch/triton"}
    gpu_jobs.set_gpu_environment(kept := dict(own))
    assert kept == own
    gpu_jobs.set_gpu_environment(empty := {"TRITON_CACHE_DIR": "", "TMPDIR": str(tmp_path)})
    assert Path(empty["TRITON_CACHE_DIR"]).is_absolute(), "empty, Triton would take the working folder"


def test_what_reads_the_environment_is_not_imported_before_it_is_set():
    program = "import lightningrl.cli.app, lightningrl.pipeline.runner, sys\n"
    program += "print([name for name in ('torch', 'triton', 'huggingface_hub.constants') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_somebody_elses_folder_is_not_taken_for_kernels(tmp_path: Path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    for name in ("open", "link"):
        other = gpu_jobs.own_folder(tmp_path / name)
        assert other != tmp_path / name and stat.S_IMODE(other.stat().st_mode) == 0o700
        other.rmdir()
    assert gpu_jobs.own_folder(tmp_path / "mine") == tmp_path / "mine"


def test_a_disk_that_machines_share_is_told_by_its_mount(tmp_path: Path):
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\ntmpfs /home/local tmpfs rw 0 0\n")
    found = {path: gpu_jobs.shared_disk(Path(path), mounts) for path in ("/tmp", "/home/me", "/home/local/me")}
    assert found == {"/tmp": "", "/home/me": "nfs4", "/home/local/me": ""}
