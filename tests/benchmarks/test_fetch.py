"""Files come whole or not at all: from a mirror, or by the hub's real client from a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from fixtures.small_benchmarks import MIRROR, SMALL

from lightningrl.benchmarks.fetch import Origins, obtain
from lightningrl.benchmarks.sources import content_hash, parse
from lightningrl.errors import BenchmarkError

sys.path.insert(0, str(Path(__file__).parent))
from hub import COMMIT, Hub

SOURCE = next(source for source in SMALL["gsm8k"].sources if source.key == "train")
TEST = next(source for source in SMALL["gsm8k"].sources if source.key == "test")
ROWS = [json.loads(line) for line in (MIRROR / "gsm8k/train.jsonl").read_text().splitlines()]


def parquet_of(rows) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


PARQUET = parquet_of(ROWS)
FILE = f"{SOURCE.repo}/{SOURCE.files[0]}"


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Fetch the source by the real client, whose hub is the one running or `url`; cache and lock are in tmp_path."""

    def run(url, require_pins=False, offline=False, **changes):
        constants = {
            "ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": offline, "HF_HUB_CACHE": str(run.cache), "HF_HUB_DISABLE_TELEMETRY": True,
        }  # fmt: skip
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        return obtain(replace(SOURCE, **changes), Origins(None, run.lock, require_pins))

    run.lock, run.cache = tmp_path / "data.lock.json", tmp_path / "hub"
    return run


@pytest.fixture
def hub():
    with Hub({FILE: PARQUET}) as running:
        yield running


def downloads(hub):
    return [path for method, path, _ in hub.log if method == "GET"]


def test_the_first_fetch_writes_the_lock_and_the_second_needs_no_download(fetch, hub):
    first = fetch(hub.url)
    entry = {"revision": COMMIT, "sha256": hashlib.sha256(PARQUET).hexdigest(), "bytes": len(PARQUET)}
    assert json.loads(fetch.lock.read_text()) == {FILE: entry}
    assert downloads(hub) == [f"/datasets/{SOURCE.repo}/resolve/{COMMIT}/{SOURCE.files[0]}"]
    assert fetch(hub.url) == first and len(downloads(hub)) == 1
    assert first.rows == ROWS and first.facts["from"] == "hub" and first.facts["revision"] == COMMIT
    mirrored = obtain(SOURCE, Origins(MIRROR, fetch.lock))
    assert mirrored.rows == ROWS and mirrored.facts["content_sha256"] == first.facts["content_sha256"]
    assert mirrored.facts["from"] == "mirror" and str(MIRROR) not in json.dumps(mirrored.facts)


def test_a_download_that_is_cut_off_is_an_error_or_mended_and_never_used_half(fetch, hub):
    hub.cut = len(PARQUET) // 2
    try:
        assert fetch(hub.url).rows == ROWS  # the client may try again by itself
    except BenchmarkError as error:
        assert "cannot get main/train-00000-of-00001.parquet of the dataset openai/gsm8k" in str(error)
    assert fetch(hub.url).rows == ROWS


def test_a_killed_fetch_leaves_nothing_in_the_way(fetch, hub):
    blobs = fetch.cache / "datasets--openai--gsm8k" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(PARQUET).hexdigest()}.incomplete").write_bytes(PARQUET[:100])
    assert fetch(hub.url).rows == ROWS


def test_other_bytes_than_the_lock_says_are_refused_and_deleted(fetch, hub):
    """And only they: another file of the source stays."""
    files, other = {"files": (SOURCE.files[0], "other.parquet")}, parquet_of(ROWS[:1])
    hub.files[f"{SOURCE.repo}/other.parquet"] = other
    fetch(hub.url, **files)
    lock = json.loads(fetch.lock.read_text())
    lock[FILE]["sha256"] = "0" * 64
    fetch.lock.write_text(json.dumps(lock))
    with pytest.raises(BenchmarkError, match=r"the lock says 000[^.]*\. It was not used and is deleted from the cache"):
        fetch(hub.url, **files)
    assert json.loads(fetch.lock.read_text()) == lock
    left = {path.stat().st_size for path in fetch.cache.rglob("*.parquet")}
    assert left == {len(other)} and len(other) != len(PARQUET)


@pytest.mark.parametrize("text", ["{torn", "[1]", '{"a/b": {"sha256": "0"}}', '{"a/b": 1}'])
def test_a_damaged_lock_says_which_file_and_not_to_delete_a_folder(tmp_path, text):
    lock = tmp_path / "data.lock.json"
    lock.write_text(text)
    with pytest.raises(BenchmarkError, match=r"data\.lock\.json is damaged: .* delete this file"):
        obtain(SOURCE, Origins(None, lock))
    assert lock.read_text() == text


def test_a_first_download_of_other_content_is_not_left_for_the_next_run(fetch, hub):
    """Damaged on the way: the same ETag, other bytes. No lock knows it yet; only the content does."""
    good = content_hash(ROWS)
    fetch(hub.url)
    fetch.lock.unlink()
    [blob] = [p for p in fetch.cache.rglob("blobs/*") if p.is_file() and p.stat().st_size == len(PARQUET)]
    for bad in (PARQUET[:-9], parquet_of(ROWS[:-1])):
        blob.write_bytes(bad)
        with pytest.raises(BenchmarkError):
            fetch(hub.url, content_sha256=good)
        assert not fetch.lock.exists() and not blob.exists()
        assert fetch(hub.url, content_sha256=good).rows == ROWS
        fetch.lock.unlink()


def test_another_content_or_number_of_rows_is_refused(fetch, hub):
    with pytest.raises(BenchmarkError, match=f"{len(ROWS)} rows, expected 7473"):
        fetch(hub.url, rows=7473)
    hub.files[FILE] = parquet_of([*ROWS[:-1], {"question": "?", "answer": "#### 1"}])
    with pytest.raises(BenchmarkError, match="content sha256"):
        fetch(hub.url, content_sha256=content_hash(ROWS))
    assert not fetch.lock.exists()


def test_a_pinned_revision_is_the_one_that_is_asked_for(fetch, hub):
    assert fetch(hub.url, revision=COMMIT).rows == ROWS
    assert all(f"/resolve/{COMMIT}/" in path for _, path, _ in hub.log)
    with pytest.raises(BenchmarkError, match="cannot get"):
        fetch(hub.url, revision="d" * 40)


def test_null_pins_are_refused_where_pins_are_required_and_the_lock_is_one(fetch, hub):
    with pytest.raises(BenchmarkError, match=r"data\.require_pins"):
        fetch(hub.url, require_pins=True)
    assert not hub.log
    fetch(hub.url)
    assert fetch(hub.url, require_pins=True).rows == ROWS


@pytest.mark.parametrize("offline", [True, False])
def test_without_a_hub_it_says_what_it_wanted_and_where_it_looked(fetch, tmp_path, offline):
    with pytest.raises(BenchmarkError) as refused:
        fetch("http://127.0.0.1:9", offline=offline)
    for words in (
        "main/train-00000-of-00001.parquet of the dataset openai/gsm8k",
        "--mirror, LIGHTNINGRL_DATA_MIRROR or `data.mirror`",
        "<mirror>/gsm8k/train.jsonl",
    ):
        assert words in str(refused.value)
    with pytest.raises(BenchmarkError, match=f"the mirror has no {tmp_path / 'gsm8k' / 'train.jsonl'}"):
        obtain(SOURCE, Origins(tmp_path, tmp_path / "lock.json"))


@pytest.mark.parametrize(
    ("environment", "mirror", "is_said", "named"),
    [("mirorr", MIRROR, False, "LIGHTNINGRL_DATA_MIRROR"), ("mirorr", "mirorr", True, "--mirror"),
     (None, "mirorr", False, "`data.mirror`")],
)  # fmt: skip
def test_a_mirror_that_is_not_there_is_an_error_and_not_the_hub(monkeypatch, environment, mirror, is_said, named):
    if environment:
        monkeypatch.setenv("LIGHTNINGRL_DATA_MIRROR", environment)
    with pytest.raises(BenchmarkError, match=f"mirorr .*Correct {named}"):
        obtain(SOURCE, Origins(Path(mirror), Path("lock.json"), is_said=is_said))


def test_a_mirror_file_of_another_hash_is_not_used(tmp_path):
    path = tmp_path / TEST.mirror
    path.parent.mkdir()
    shutil.copy(MIRROR / TEST.mirror, path)
    pinned = replace(TEST, mirror_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    origins = Origins(tmp_path, tmp_path / "lock.json", require_pins=True)
    assert obtain(pinned, origins).facts["from"] == "mirror"
    with open(path, "ab") as file:
        file.write(b" ")
    with pytest.raises(BenchmarkError, match="damaged or another version"):
        obtain(pinned, origins)
    with pytest.raises(BenchmarkError, match="pinned by no hash"):
        obtain(TEST, origins)


def test_the_command_lines_mirror_goes_before_the_environments_and_that_before_the_configs(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNINGRL_DATA_MIRROR", str(MIRROR))
    assert obtain(SOURCE, Origins(tmp_path, tmp_path / "lock.json")).rows == ROWS
    monkeypatch.setenv("LIGHTNINGRL_DATA_MIRROR", str(tmp_path))
    assert obtain(SOURCE, Origins(MIRROR, tmp_path / "lock.json", is_said=True)).rows == ROWS


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.json", b"{}"), ("a.json", b"[1]"), ("a.json", b"["), ("a.jsonl", b"{}\n["), ("a.jsonl.gz", b"x"),
     ("a.json.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xff\xff\xff"), ("a.json", b"[" * 100_000),
     ("a.parquet", b"PAR1"), ("a.json", b"\xff")],
)  # fmt: skip
def test_damaged_files_are_named(name, data):
    with pytest.raises(BenchmarkError, match=name):
        parse(name, data)


def test_lone_line_separators_do_not_split_json_lines():
    assert parse("a.jsonl", '{"q": "a\u2028b"}\n'.encode()) == [{"q": "a\u2028b"}]
