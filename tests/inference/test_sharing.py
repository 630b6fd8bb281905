"""A model saved and pushed for others: the weights come back as they were, and the card says what was measured."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from fixtures.byte_checkpoint import byte_adapter
from fixtures.limits import HANG_S

from lightningrl.errors import ConfigError
from lightningrl.inference.llm import LLM
from lightningrl.inference.sharing import ModelCard

COMMIT = "d" * 40
CARD = ModelCard("somebody/base-b4", "GRPO on its own answers.", license="apache-2.0")


@pytest.fixture(scope="module")
def measured(model, tmp_path_factory):
    """An evaluation by the verb, on two problems."""
    out = tmp_path_factory.mktemp("measured") / "gsm"
    command = [sys.executable, "-m", "lightningrl", "evaluate", str(model), "--benchmark", "gsm-mini", "--limit", "2"]
    command += ["--max-new-tokens", "8", "--device", "cpu", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return out


def front(folder):
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


def test_a_saved_model_is_the_same_model(llm, tmp_path):
    folder = llm.save(tmp_path / "mine", CARD)
    again = LLM(folder)
    assert again.fingerprint == llm.fingerprint and again.stop_ids == llm.stop_ids
    one, two = (each.generate(["Hi"], max_new_tokens=12)[0].trajectory.token_ids for each in (llm, again))
    assert one.tolist() == two.tolist()
    assert front(folder)["base_model"] == "somebody/base-b4" and front(folder)["license"] == "apache-2.0"
    assert "Not measured." in (folder / "README.md").read_text()


def test_an_adapter_is_merged_into_what_is_saved(llm, tmp_path):
    adapted = LLM(llm.folder, adapter=byte_adapter(tmp_path / "lora", llm.model))
    saved = LLM(adapted.save(tmp_path / "merged", CARD))
    assert saved.fingerprint == adapted.fingerprint != llm.fingerprint


def test_the_card_has_the_numbers_of_the_evaluations_and_its_command_runs(llm, measured, tmp_path):
    card = ModelCard("base", "None.", [measured])
    folder = llm.save(tmp_path / "mine", card)
    text = (folder / "README.md").read_text()
    [row] = json.loads((measured / "summary.json").read_bytes())
    line = next(line for line in text.splitlines() if line.startswith("| gsm-mini"))
    numbers = [float(each) for each in re.findall(r"[\d.]+", line)]
    assert numbers == pytest.approx([row["threshold"], row["accuracy_pct"], row["tpf"], 2], abs=0.005)
    command = next(line for line in text.splitlines() if line.startswith("lightningrl generate"))
    program = f"{sys.executable} -m {command} --max-new-tokens 8"
    done = subprocess.run(program, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr


def test_numbers_of_another_model_or_of_no_evaluation_and_folders_in_use_are_refused(llm, measured, tmp_path):
    other = LLM(llm.folder, adapter=byte_adapter(tmp_path / "lora", llm.model))
    with pytest.raises(ConfigError, match="an evaluation of another model"):
        other.save(tmp_path / "mine", ModelCard("base", "None.", [measured]))
    with pytest.raises(ConfigError, match="is no finished evaluation"):
        llm.save(tmp_path / "mine", ModelCard("base", "None.", [tmp_path]))
    assert not (tmp_path / "mine").exists()
    with pytest.raises(ConfigError, match="already exists"):
        llm.save(tmp_path, CARD)


class Receiver(BaseHTTPRequestHandler):
    """What the hub answers to a push of small files; `server.got` has them by name, `server.made` what was made."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Quiet."""

    def do_GET(self):
        self._answer({"id": "me/mine", "sha": COMMIT, "siblings": []})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            return self._answer({"url": f"{self.server.url}/me/mine", "id": "me/mine"})
        if "/preupload/" in self.path:
            names = [each["path"] for each in json.loads(body)["files"]]
            return self._answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.got[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._answer(
                {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.url}/me/mine/commit/{COMMIT}"}
            )
        return self._answer({"errors": [], "warnings": []})

    def _answer(self, said):
        data = json.dumps(said).encode()
        self.send_response(200)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


PUSHES = """
import sys
from lightningrl.errors import LightningRLError
from lightningrl.inference.llm import LLM
from lightningrl.inference.sharing import ModelCard
try:
    print(LLM(sys.argv[1]).push_to_hub("me/mine", ModelCard("base", "None.")))
except LightningRLError as error:
    print(f"{type(error).__name__}: {error}")
"""


def push(model, url, home):
    variables = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    variables |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_of_a_test"}
    command = [sys.executable, "-c", PUSHES, str(model)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_pushed_by_the_real_client_is_the_model(llm, model, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.got, server.made, server.tokens = {}, [], set()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        assert push(model, server.url, tmp_path / "home").strip().endswith(COMMIT)
    finally:
        server.shutdown()
        server.server_close()
    assert server.made[0]["visibility"] == "private" and "Bearer hf_of_a_test" in server.tokens
    folder = Path(tmp_path / "received")
    folder.mkdir()
    for name, content in server.got.items():
        (folder / name).write_bytes(content)
    assert LLM(folder).fingerprint == llm.fingerprint and front(folder)["base_model"] == "base"


def test_a_hub_that_is_away_is_one_message(model, tmp_path):
    assert "CheckpointError: cannot push to me/mine on the hub" in push(model, "http://127.0.0.1:9", tmp_path / "home")
