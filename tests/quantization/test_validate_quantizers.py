"""`lightningrl validate` asks every quantizer about the shape of the policy that it is for, wherever that is known."""

from __future__ import annotations

import pytest
import yaml
from fixtures.byte_checkpoint import save_byte_checkpoint
from typer.testing import CliRunner

from lightningrl.cli.app import app
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.tokenization import load_tokenizer

NANO = PACKAGE.parent / "config" / "nano.yaml"
SHAPES = {
    "narrow": {}, "twelve": {"head_dim": 12},
    "tied": {"tie_word_embeddings": True, "family": "Fast_dLLM_Qwen", "qk_norm": False, "qkv_bias": True,
             "logit_shift": True, "head_dim": 4},
    "odd": {"num_attention_heads": 26, "num_key_value_heads": 2, "head_dim": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return {name: save_byte_checkpoint(folder / name, max_position_embeddings=512, **shape)
            for name, shape in SHAPES.items()}  # fmt: skip


def told(tmp_path, folders, entry, base="narrow"):
    """What `validate` says where a base, three checkpoints and a run are there, and one quantised system."""
    mask = load_tokenizer(folders["narrow"]).mask_token_id
    tree = {key: value for key, value in yaml.safe_load(NANO.read_text()).items()
            if key not in ("model", "pretrain", "tokenizer")}  # fmt: skip
    plain = {"block_size": 4, "mask_token_id": mask}
    tree |= {
        "base": {"checkpoint": str(folders[base]), **plain},
        "checkpoints": [{"name": name, "checkpoint": str(folders[name]), **plain} for name in SHAPES if name != base],
        "runs": tree["runs"][:1], "systems": [{"name": "q", **entry}],
        "report": {"tables": ["main"], "figures": [], "replays": []},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    done = CliRunner().invoke(app, ["validate", "--config", str(tmp_path / "config.yaml")])
    assert "Traceback" not in done.output
    return done.stderr if done.exit_code else ""


@pytest.mark.parametrize(
    ("policy", "quantizer", "message"),
    [
        ("base", {"name": "gptq", "group": 32}, "group is 32, but a layer has 16 inputs"),
        ("lightningrl", {"name": "rtn", "group": 7}, "group is 7, but a layer has 16 inputs"),
        ("tied", {"name": "quarot"}, "head is tied to its embedding"),
        ("twelve", {"name": "quarot"}, "heads of 12 numbers cannot be rotated"),
        ("odd", {"name": "quarot"}, "no Hadamard matrix here for 26"),
        ("odd", {"name": "duquant", "block": 8}, "block is 8, but a layer has 52 inputs"),
        ("tied", {"name": "duquant", "block": 8, "compat": True, "kv_bits": 4}, "kv_bits is 4, but with compat"),
        ("tied", {"name": "duquant", "block": 8}, ""),
        ("narrow", {"name": "quarot"}, ""),
    ],
)
def test_what_does_not_fit_a_policys_shape_is_said_before_anything_runs(
    tmp_path, folders, policy, quantizer, message
):  # fmt: skip
    policy = "base" if policy == "narrow" else policy
    said = told(tmp_path, folders, {"policy": policy, "quantizer": quantizer})
    assert ("systems.q.quantizer.options: " in said and message in said) if message else not said, said


def test_a_base_that_is_pre_trained_beside_the_experiments_own_has_a_shape_of_its_own(tmp_path):
    other = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
             "num_key_value_heads": 4, "head_dim": 12, "block_size": 4}  # fmt: skip
    for quantizer, message in (
        ({"name": "rtn", "group": 32}, "group is 32, but a layer has 48 inputs"),
        ({"name": "quarot"}, "heads of 12 numbers cannot be rotated"), ({"name": "rtn", "group": 16}, ""),
    ):  # fmt: skip
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({
            "extends": str(NANO), "bases": [{"name": "other", "model": other}],
            "systems": [{"name": "q", "policy": "other", "quantizer": quantizer}],
        }))  # fmt: skip
        done = CliRunner().invoke(app, ["validate", "--config", str(tmp_path / "config.yaml")])
        assert bool(done.exit_code) == bool(message) and message in done.stderr, done.output
