"""A checkpoint from the hub: by the real client, from a hub on this machine; locked, pinned, never run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.byte_checkpoint import save_byte_checkpoint
from fixtures.limits import HANG_S

from lightningrl.models.hub import Found
from lightningrl.utils.files import sha256_file

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from hub import COMMIT, Hub

REPO = "somebody/tiny-b4"
PROGRAM = """
import json, sys
from pathlib import Path
from lightningrl.errors import LightningRLError
from lightningrl.models.hub import find
revision, sha256, require = json.loads(sys.argv[1])
try:
    found = find("somebody/tiny-b4", revision, sha256, Path("data.lock.json"), require)
    print(json.dumps({"revision": found.revision, "names": found.names, "sha256": found.sha256}))
except LightningRLError as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    folder = save_byte_checkpoint(tmp_path_factory.mktemp("tiny"))
    found = {f"{REPO}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    return found | {f"{REPO}/modeling_sdar.py": b"raise SystemExit", f"{REPO}/pytorch_model.bin": b"a pickle"}


@pytest.fixture
def find(tmp_path):
    def run(url, revision=None, sha256=None, require=False, offline=False):
        variables = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        variables |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
        variables |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        command = [sys.executable, "-c", PROGRAM, json.dumps([revision, sha256, require])]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=HANG_S)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_only_weights_config_and_tokenizer_are_taken_and_the_lock_says_which(files, find, tmp_path):
    with Hub(files) as hub:
        found = find(hub.url)
        asked = [path for _, path, _ in hub.log]
    assert found["names"] == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert found["revision"] == COMMIT
    assert not any("modeling" in path or ".bin" in path for path in asked)
    lock = json.loads((tmp_path / "data.lock.json").read_text())
    assert set(lock) == {f"models/{REPO}/{name}" for name in found["names"]}
    assert {entry["revision"] for entry in lock.values()} == {COMMIT}
    [weights] = [entry for name, entry in lock.items() if name.endswith("model.safetensors")]
    assert weights["bytes"] == len(files[f"{REPO}/model.safetensors"])
    again = find("http://127.0.0.1:9", offline=True)
    assert again == found, "from the cache, at the commit of the lock"


def test_what_nobody_pinned_is_refused_where_pins_are_required(files, find):
    with Hub(files) as hub:
        assert "pinned by no hash and no commit" in find(hub.url, require=True)["error"]
        assert "pinned by no hash" in find(hub.url, revision=COMMIT, require=True)["error"]
        found = find(hub.url)
        assert find(hub.url, require=True) == found
        assert find(hub.url, COMMIT, found["sha256"], require=True) == found


def test_a_file_that_is_not_the_locks_is_refused(files, find, tmp_path):
    with Hub(files) as hub:
        find(hub.url)
        lock = tmp_path / "data.lock.json"
        lock.write_text(lock.read_text().replace(json.loads(lock.read_text())[f"models/{REPO}/config.json"]["sha256"],
                                                 "0" * 64))  # fmt: skip
        assert "config.json has sha256" in find(hub.url)["error"]


def test_a_hub_that_is_away_or_has_no_such_model_is_one_message(files, find):
    for url in ("http://127.0.0.1:9",):
        assert f"cannot get the checkpoint {REPO} from the hub" in find(url)["error"]
    with Hub({"other/model/config.json": b"{}"}) as hub:
        assert "Go online" in find(hub.url)["error"]


def test_the_hash_of_all_does_not_depend_on_order_or_place(tmp_path):
    (tmp_path / "x").write_text("x")
    entry = (sha256_file(tmp_path / "x"), 1)
    other = ("0" * 64, 2)
    one, two = Found(tmp_path, None, {"a": entry, "b": other}), Found(Path("y"), COMMIT, {"b": other, "a": entry})
    assert one.sha256 == two.sha256 != Found(tmp_path, None, {"a": other, "b": entry}).sha256
