"""A stage that is made again, because it was asked for or its inputs have other content, loses nothing on the way."""

from __future__ import annotations

import pytest
from small import change_json, files, never

from lightningrl.errors import Interrupted
from lightningrl.pipeline import again, manifest
from lightningrl.pipeline.runner import run_stage
from lightningrl.utils.files import read_json, write_text
from lightningrl.utils.lease import lease


def test_what_somebody_insists_on_is_made_again_once(nano, finished, monkeypatch):
    monkeypatch.setenv(again.VARIABLE, again.request(nano))
    before = finished.manifest.read_bytes()
    assert run_stage(nano, finished) is True
    assert finished.manifest.read_bytes() != before and not (finished.folder / "state").exists()
    assert run_stage(nano, finished) is False, "a job that Snakemake starts a second time finds it made again"
    other = nano.stage("data", "code-mini")
    assert run_stage(nano, other) is True and run_stage(nano, other) is False, "finished since: not what was meant"


def test_a_stage_is_made_again_where_its_inputs_were_made_anew_with_other_content(
    nano, tokenizer, finished, entry, write_outputs
):
    """And what it keeps between attempts is kept apart: records decoded with other weights are not gathered."""
    caches = []

    def noted(context):
        caches.append(context.cache)
        write_outputs(context)

    for content, is_other in (("one", True), ("one", False), ("two", True), ("one", True)):
        before = finished.manifest.read_bytes()
        finished.manifest.unlink()

        def anew(context, content=content):
            write_outputs(context)
            write_text(context.folder / "train.jsonl", content)

        entry(anew)
        run_stage(nano, finished)
        assert finished.manifest.read_bytes() != before, "when it was made is another"
        entry(noted)
        assert run_stage(nano, tokenizer) is is_other and run_stage(nano, tokenizer) is False
    assert tokenizer.log.read_text().count("making it again, because what it was made from has been") == 2
    assert caches[0] == caches[2] != caches[1] and {cache.parent for cache in caches} == {tokenizer.cache}


def test_an_input_that_is_replaced_meanwhile_is_recorded_as_it_was_read(
    nano, tokenizer, finished, entry, write_outputs
):
    before = read_json(finished.manifest)["outputs"]

    def replaced_meanwhile(context):
        with change_json(finished.manifest) as tree:
            tree["outputs"]["train.jsonl"]["sha256"] = "0" * 64
        write_outputs(context)

    entry(replaced_meanwhile)
    run_stage(nano, tokenizer)
    assert read_json(tokenizer.manifest)["inputs"]["data/gsm-mini"]["outputs"] == before
    assert manifest.state(tokenizer) == "stale"


@pytest.mark.parametrize("error", [RuntimeError, Interrupted, KeyboardInterrupt])
def test_what_is_made_again_and_ends_early_leaves_what_was_there(
    nano, finished, entry, write_outputs, monkeypatch, error
):
    before = files(finished.folder)
    monkeypatch.setenv(again.VARIABLE, again.request(nano))

    def ends_early(context):
        assert not finished.manifest.exists() and again.is_set_aside(finished.folder)
        write_text(context.folder / "train.jsonl", "half")
        write_text(context.state / "step", "3")
        raise error

    def goes_on(context):
        assert (context.state / "step").read_text() == "3"
        write_outputs(context)

    entry(ends_early)
    with pytest.raises(error):
        run_stage(nano, finished)
    assert files(finished.folder) == before
    assert "the old results are back in their place" in finished.log.read_text()
    entry(goes_on)
    assert run_stage(nano, finished) is True and not (finished.folder / "state").exists()
    assert run_stage(nano, finished) is False


def test_what_a_killed_attempt_has_set_aside_is_put_back_where_nobody_works_on_it(nano, finished, entry):
    before = files(finished.folder)
    with lease(finished.folder / "state"):
        again.set_aside(finished)
        again.put_back_all(nano)
        assert again.is_set_aside(finished.folder)
    again.put_back_all(nano)
    assert files(finished.folder) == before
    with lease(finished.folder / "state"):
        again.set_aside(finished)
    entry(never)
    assert run_stage(nano, finished) is False
    assert files(finished.folder) == before and not (finished.folder / "state").exists()
