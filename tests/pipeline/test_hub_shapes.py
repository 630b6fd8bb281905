"""What does not fit a checkpoint in the hub is refused before it is fetched: rows of Table 2, by `validate`."""

import pytest
import yaml
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.config.experiment import load
from lightningrl.models.checkpoint import empty_model
from lightningrl.models.transformer import Transformer
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.stages.hub_shapes import KNOWN, shape_in_hub

PAPER = PACKAGE.parent / "config" / "paper.yaml"
WRONG = {
    "a canvas that is no whole blocks": ("llada-256", {"max_new_tokens": 250}, "no whole blocks of 32"),
    "a canvas beyond the context": ("llada-256", {"max_new_tokens": 8192}, "the model has 4096"),
    "a decoder of shifted logits": ("llada-256", {"decoding": {"preset": "d3llm_dream"}}, "llada"),
    "token by token": ("llada-256", {"decoding": {"preset": "autoregressive"}}, "llada"),
    "blocks for a canvas": ("dream-256", {"decoding": {"preset": "sdar_static"}}, "Dream"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_row_that_cannot_be_decoded_is_refused_by_validate(name, tmp_path):
    system, change, told = WRONG[name]
    tree = yaml.safe_load(PAPER.read_text())
    [entry] = [each for each in tree["systems"] if each["name"] == system]
    entry |= change
    path = tmp_path / "paper.yaml"
    path.write_text(yaml.safe_dump(tree))
    done = CliRunner().invoke(app, ["validate", "--config", str(path)])
    assert done.exit_code == 2 and told in done.stderr and system in done.stderr, done.output


def test_the_papers_own_rows_fit_and_every_repository_of_it_is_known():
    done = CliRunner().invoke(app, ["validate", "--config", str(PAPER)])
    assert done.exit_code == 0, done.output
    paper = load(PAPER)
    given = [*paper.checkpoints, *([] if paper.base is None else [paper.base])]
    assert {each.checkpoint for each in given} <= KNOWN.keys()
    sizes = {each.checkpoint: empty_model(shape_in_hub(each)) for each in given}
    assert all(isinstance(model, Transformer) for model in sizes.values())
    count = lambda name: sum(weight.numel() for weight in sizes[name].parameters())  # noqa: E731
    assert count("GSAI-ML/LLaDA-8B-Instruct") == 8_015_581_184
    assert count("Dream-org/Dream-v0-Instruct-7B") == count("Qwen/Qwen2.5-7B-Instruct") == 7_615_616_512
