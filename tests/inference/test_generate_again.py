"""`lightningrl generate` a second time: after an end of any kind, the same command completes the same set."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.generating import asked, by_key, rows_of, run
from fixtures.held import heed_ctrl_c
from fixtures.limits import HANG_S, wait_for

from lightningrl.errors import StageError
from lightningrl.inference.response_file import ResponseFile
from lightningrl.pipeline.code_digest import PACKAGE

MANY = 20


def test_a_finished_file_is_left_as_it_is(model, tmp_path):
    source, out = asked(tmp_path / "in.jsonl", {"prompt": "x"}, {"prompt": "y", "samples": 2}), tmp_path / "out"
    arguments = [model, source, "--out", out, "--max-new-tokens", 8]
    assert run(*arguments).exit_code == 0
    before, inode = out.read_bytes(), out.stat().st_ino
    again = run(*arguments)
    assert (again.exit_code, out.read_bytes(), out.stat().st_ino) == (0, before, inode)
    assert "has 3 of 3 responses already" in again.stderr and "0 responses" in again.stderr
    asked(source, {"prompt": "x"}, {"prompt": "y", "samples": 3}, {"prompt": "z"})
    assert run(*arguments).exit_code == 0
    assert out.read_bytes().startswith(before) and len(by_key(out)) == 5


@pytest.mark.parametrize("out", ["real", "link"])
def test_failed_requests_are_tried_again_and_their_lines_replaced_behind_a_link_too(model, tmp_path, out):
    source = asked(tmp_path / "in.jsonl", {"id": 1, "prompt": "x" * 300}, {"id": 2, "prompt": "x"})
    (tmp_path / "real").touch(0o640)
    (tmp_path / "link").symlink_to("real")
    arguments = [model, source, "--out", tmp_path / out, "--max-new-tokens", 8]
    assert [run(*arguments).exit_code for _ in range(2)] == [1, 1]
    assert len(by_key(tmp_path / "real")) == 2
    asked(source, {"id": 1, "prompt": "short"}, {"id": 2, "prompt": "x"})
    assert run(*arguments).exit_code == 0
    assert not [row for row in by_key(tmp_path / "real").values() if "error" in row]
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "link", "real"]


def test_lines_of_no_use_and_names_too_long_are_said(model, tmp_path):
    for line in ('{"id": 1, "sample": 1e999}', "[" * 100_000):
        (tmp_path / "out").write_text(line + "\n")
        done = run(model, "--prompt", "x", "--out", tmp_path / "out")
        assert done.exit_code == 2 and "line 1 is no response" in done.stderr
    for arguments in ((model, "--out", tmp_path / ("x" * 300)), (tmp_path / ("x" * 300),)):
        done = run(*arguments, "--prompt", "x")
        assert done.exit_code == 2 and "File name too long" in done.stderr


@pytest.mark.parametrize("change", ["prompt", "option", "model"])
def test_a_change_under_the_same_id_is_noticed(model, tmp_path, change):
    source, out = asked(tmp_path / "in.jsonl", {"id": "a", "prompt": "x"}), tmp_path / "out"
    assert run(model, source, "--out", out, "--max-new-tokens", 8).exit_code == 0
    before, options = out.read_bytes(), []
    if change == "prompt":
        asked(source, {"id": "a", "prompt": "y"})
    elif change == "option":
        options = ["--temperature", 0.5]
    else:
        model = save_byte_checkpoint(tmp_path / "other", seed=4)
    arguments = [model, source, "--out", out, "--max-new-tokens", 8, *options]
    refused = run(*arguments)
    assert (refused.exit_code, out.read_bytes()) == (2, before)
    assert "1 responses to another prompt, setting or model under the same id, the first is 'a'" in refused.stderr
    assert run(tmp_path / "absent", source, "--out", out, "--overwrite").exit_code == 2
    assert out.read_bytes() == before, "what is there stays until the model is loaded"
    assert run(*arguments, "--overwrite").exit_code == 0
    assert len(rows_of(out)) == 1 and out.read_bytes() != before


def test_two_processes_do_not_write_one_file(tmp_path):
    held = ResponseFile(tmp_path / "out")
    with pytest.raises(StageError, match="being written by another process"):
        ResponseFile(tmp_path / "out")
    held.close()
    ResponseFile(tmp_path / "out").close()


def test_a_file_without_its_failed_lines_is_private_and_locked_before_it_takes_the_name(tmp_path, monkeypatch):
    out, real, seen = tmp_path / "out", os.replace, []
    out.write_text('{"id":1,"sample":0,"error":"x"}\n{"id":2,"sample":0,"hash":"h"}\n')
    out.chmod(0o600)

    def replace(new, old):
        seen.append(os.stat(new).st_mode & 0o777)
        real(new, old)
        with pytest.raises(StageError, match="being written by another process"):
            ResponseFile(out)

    monkeypatch.setattr(os, "replace", replace)
    file = ResponseFile(out)
    (tmp_path / ".out.tmp").write_text("what a kill has left")
    file.begin()
    file.append({"id": 3, "sample": 0})
    file.close()
    assert seen == [0o600] and [row["id"] for row in rows_of(out)] == [2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# Real signals to real processes


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    source = many(folder)
    assert run(model, source, "--out", folder / "out", *HELD).exit_code == 1  # the bad one
    return by_key(folder / "out")


HELD = ("--rows", 1, "--max-new-tokens", 24, "--selector", "fixtures.held:Held")
TESTS = Path(__file__).parents[1]


def many(folder: Path) -> Path:
    lines = [{"id": f"q{i}", "prompt": f"question {i}", "temperature": i % 2} for i in range(MANY)]
    return asked(folder / "in.jsonl", *lines, {"id": "bad", "prompt_ids": [-1]})


def start(folder: Path, *arguments) -> subprocess.Popen:
    command = [sys.executable, "-m", "lightningrl", "generate", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": f"{PACKAGE.parent}:{TESTS}"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=heed_ctrl_c,
    )  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_run_leaves_whole_lines_and_goes_on_to_the_same_set(model, tmp_path, undisturbed, how):
    out = tmp_path / "out"
    (tmp_path / "gate").write_text("out 4")
    process = start(tmp_path, model, many(tmp_path), "--out", out, *HELD)
    wait_for(lambda: (out.exists() and out.read_bytes().count(b"\n") >= 4) or process.poll() is not None, "four lines")
    process.send_signal(how)
    _, said = process.communicate(timeout=HANG_S)
    written = rows_of(out)
    assert 4 <= len(written) < MANY, said
    if how == signal.SIGINT:
        assert process.returncode == 130, said
        done = len([row for row in written if "error" not in row])
        assert f"stopped by Ctrl-C: {done} of {MANY + 1} are in {out}; run the same command again" in said
        assert "Traceback" not in said
    with open(out, "ab") as file:
        file.write(b'{"id":"q39","sample":0,"te')  # what a kill in the middle of a write leaves
    assert run(model, tmp_path / "in.jsonl", "--out", out, *HELD).exit_code == 1
    assert by_key(out) == undisturbed


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is made by mounting a small one: needs root")
def test_a_full_disk_is_said_and_nothing_is_torn(model, tmp_path, undisturbed):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr}")
    try:
        arguments = (model, many(tmp_path), "--out", disk / "out", *HELD)
        full = run(*arguments)
        assert full.exit_code == 2
        assert "no space left on the disk" in full.stderr and "Traceback" not in full.stderr
        assert 4 < len(rows_of(disk / "out")) < MANY
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        assert run(*arguments).exit_code == 1  # the bad one
        assert by_key(disk / "out") == undisturbed
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_line_that_was_half_written_is_taken_back(tmp_path, error):
    class Half:
        def __init__(self, file):
            self.fileno, self._write = file.fileno, file.write

        def write(self, data):
            self._write(data[: len(data) // 2])
            raise error

    file = ResponseFile(tmp_path / "out")
    file.append({"id": 1})
    whole, file._file = file._file, Half(file._file)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else StageError):
        file.append({"id": 2})
    file._file = whole
    file.append({"id": 3})
    file.close()
    assert [row["id"] for row in rows_of(tmp_path / "out")] == [1, 3]
