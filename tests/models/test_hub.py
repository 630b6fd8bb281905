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

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from hub import COMMIT, Hub

REPO = "somebody/tiny-b4"
AWAY = "http://127.0.0.1:9"
PROGRAM = """
import json, sys
from pathlib import Path
from lightningrl.errors import LightningRLError
from lightningrl.models.hub import find
for revision, sha256, require in json.loads(sys.argv[1]):
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
    """Calls `find(revision, sha256, require_pins)` one after another in a process; returns what each said."""

    def run(url, *calls, offline=False):
        variables = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        variables |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
        variables |= {"HF_HUB_OFFLINE": "1"} if offline else {}
        command = [sys.executable, "-c", PROGRAM, json.dumps(calls or [(None, None, False)])]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=HANG_S)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_only_weights_config_and_tokenizer_are_taken_the_lock_says_which_and_holds_them(files, find, tmp_path):
    with Hub(files) as hub:
        [found] = find(hub.url)
        asked = [path for _, path, _ in hub.log]
    assert found["names"] == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert found["revision"] == COMMIT
    assert not any("modeling" in path or ".bin" in path for path in asked)
    lock = json.loads((tmp_path / "data.lock.json").read_text())
    assert set(lock) == {f"models/{REPO}/{name}" for name in found["names"]}
    assert {entry["revision"] for entry in lock.values()} == {COMMIT}
    assert lock[f"models/{REPO}/model.safetensors"]["bytes"] == len(files[f"{REPO}/model.safetensors"])
    assert find(AWAY, offline=True) == [found], "from the cache, at the commit of the lock"
    lock[f"models/{REPO}/config.json"]["sha256"] = "0" * 64
    (tmp_path / "data.lock.json").write_text(json.dumps(lock))
    assert "config.json has sha256" in find(AWAY, offline=True)[0]["error"]


def test_what_nobody_pinned_is_refused_where_pins_are_required(files, find):
    with Hub(files) as hub:
        no_commit, no_hash, found, again = find(
            hub.url, (None, None, True), (COMMIT, None, True), (None, None, False), (None, None, True)
        )
        assert "pinned by no hash and no commit" in no_commit["error"] and "pinned by no hash" in no_hash["error"]
        assert again == found
        assert find(hub.url, (COMMIT, found["sha256"], True)) == [found]


def test_a_hub_that_is_away_or_has_no_such_model_is_one_message(find):
    assert f"cannot get the checkpoint {REPO} from the hub" in find(AWAY)[0]["error"]
    with Hub({"other/model/config.json": b"{}"}) as hub:
        assert "Go online" in find(hub.url)[0]["error"]


def test_the_hash_of_all_does_not_depend_on_order_or_place(tmp_path):
    entry, other = ("1" * 64, 1), ("0" * 64, 2)
    one, two = Found(tmp_path, None, {"a": entry, "b": other}), Found(Path("y"), COMMIT, {"b": other, "a": entry})
    assert one.sha256 == two.sha256 != Found(tmp_path, None, {"a": other, "b": entry}).sha256


LOADS = """
import os, sys
import lightningrl
from lightningrl.errors import LightningRLError
try:
    llm = lightningrl.LLM(sys.argv[1], revision=sys.argv[2] or None)
    ids = llm.generate("Hi", max_new_tokens=8)[0].trajectory.token_ids.tolist()
    print(llm.model.config.block_size, llm.folder.name, ids)
except LightningRLError as error:
    print(f"{type(error).__name__}: {error}")
"""


def test_a_model_is_opened_by_its_name_on_the_hub_and_then_from_the_cache(files, tmp_path):
    """As a user does: `LLM("somebody/SDAR-tiny-b4")`; the name says the block size, which config.json does not."""
    renamed = {name.replace(REPO, "somebody/SDAR-tiny-b4"): content for name, content in files.items()}

    def opened(url, name="somebody/SDAR-tiny-b4", revision="", **more):
        variables = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        variables |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"} | more
        command = [sys.executable, "-c", LOADS, name, revision]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=HANG_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with Hub(renamed) as hub:
        found = opened(hub.url)
        assert not any("modeling" in path or ".bin" in path for _, path, _ in hub.log), "no code, no pickles"
    assert found.startswith(f"4 {COMMIT} ["), found
    assert opened(AWAY, HF_HUB_OFFLINE="1") == found == opened(AWAY, revision=COMMIT, HF_HUB_OFFLINE="1")
    assert "cannot get the checkpoint nobody/none from the hub" in opened(AWAY, "nobody/none")
    assert "a repository of the Hugging Face hub as owner/name" in opened(AWAY, "just-a-name")
