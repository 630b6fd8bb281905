"""`lightningrl serve` as a process: it says where it listens, answers, and ends when it is told to."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import pytest
from fixtures.limits import HANG_S
from typer.testing import CliRunner

from lightningrl.cli.app import app


def test_it_says_where_it_listens_and_sigterm_ends_it(model, llm):
    environment = os.environ | {"LIGHTNINGRL_API_KEY": "k" * 16, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lightningrl", "serve", str(model), "--port", "0", "--threshold", "0.3"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = line.split(" at ")[1].split(",")[0]
        assert line == f"model at {url}, chat at {url.removesuffix('v1')}\n"
        body = {"model": "model", "prompt": "Hi", "max_tokens": 8}
        request = urllib.request.Request(
            f"{url}/completions", json.dumps(body).encode(), {"Authorization": "Bearer " + "k" * 16}
        )
        with urllib.request.urlopen(request, timeout=HANG_S) as reply:
            assert json.load(reply)["usage"]["completion_tokens"] == 8
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG_S) in (0, -signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "an API key is required: set LIGHTNINGRL_API_KEY, or give --api-key-file"),
        (["--api-key-file", "absent"], "absent: No such file or directory"),
        (["--context", "9999"], "--context is 9999, the model has 256 positions"),
        (["--threshold", "1.5"], "threshold"),
    ],
)
def test_what_cannot_be_is_said_before_it_listens(model, options, message, monkeypatch):
    monkeypatch.delenv("LIGHTNINGRL_API_KEY", raising=False)
    done = CliRunner().invoke(app, ["serve", str(model), "--port", "0", *options])
    assert done.exit_code == 2 and message in done.stderr
