"""Further bases that an experiment pre-trains: what they take from its own, what is refused, what their keys hold."""

from __future__ import annotations

import pytest
import yaml

from lightningrl.config.experiment import Experiment
from lightningrl.config.model import Architecture
from lightningrl.errors import ConfigError
from lightningrl.models.config_file import family_named
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.stages.pretrain import shape_of

NANO = yaml.safe_load((PACKAGE.parent / "config" / "nano.yaml").read_text())
LLADA = {
    "name": "llada", "family": "llada", "match_compute": "base",
    "pretrain": {"autoregressive": None, "diffusion": {"objective": "masked", "copies": 1}},
}  # fmt: skip
VANILLA = {"name": "llada", "decoding": {"preset": "llada"}, "thresholds": [8]}


def experiment_of(*bases, **changes):
    return Experiment.model_validate(NANO | {"bases": list(bases), "systems": [VANILLA]} | changes)


def test_a_base_takes_from_the_experiment_what_it_does_not_say():
    own = experiment_of(systems=[])
    [base] = experiment_of(LLADA | {"model": {"num_hidden_layers": 3}}).bases
    assert base.model == own.model.model_copy(update={"num_hidden_layers": 3})
    assert base.pretrain.phases.keys() == {"diffusion"} and base.pretrain.validate_every == 3
    assert base.pretrain.diffusion.model_dump() == own.pretrain.diffusion.model_dump() | LLADA["pretrain"]["diffusion"]


def test_it_is_a_policy_that_its_own_row_decodes_and_runs_start_from():
    run = NANO["runs"][0] | {"name": "from-llada", "base": "llada"}
    planned = plan(experiment_of(LLADA, runs=[run], report={"replays": []}))
    stage = planned.stage("pretrain", "llada")
    objectives = {role: member for role, member in stage.members.items() if role.startswith("objective/")}
    assert objectives == {"objective/diffusion": "lightningrl.training.supervised.objectives.masked:Masked"}
    assert stage.members["schedule"].endswith(":FullSequence") and stage.config["primary_threshold"] == 8
    assert stage.inputs["matched"] is planned.stage("pretrain", "base")
    assert planned.stage("train", "from-llada").inputs["base"] is stage
    assert planned.stage("evaluate", "llada/gsm-mini").inputs["policy"] is stage


def test_what_it_changes_changes_its_own_key_alone():
    keys = [
        {stage.label: stage.key for stage in plan(experiment_of(LLADA | changes)) if stage.kind == "pretrain"}
        for changes in ({}, {"model": {"num_hidden_layers": 3}}, {"match_compute": None})
    ]
    assert len({each["pretrain/base"] for each in keys}) == 1
    assert len({each["pretrain/llada"] for each in keys}) == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"family": "lada"}, "bases.llada.family: there is no family 'lada'. Did you mean `llada`?"),
        ({"pretrain": {"diffusion": {"objective": "maskt"}}}, "bases.llada.pretrain.diffusion.objective: there is no"),
        ({"pretrain": {"autoregressive": None, "diffusion": None}}, "both `autoregressive` and `diffusion` are null"),
        ({"match_compute": "llada"}, r"bases.llada.match_compute: found 'llada', allowed: one of \['base'\]"),
        ({"name": "base"}, "two policies are named 'base'"),
        ({"model": {"max_position_embeddings": 20}}, "bases.llada.model.max_position_embeddings: found 20"),
        ({"pretrain": {"mixture": {"x": 1}}}, r"bases.llada.pretrain.mixture: \['x'\] are not"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_key(changes, expected):
    with pytest.raises((ValueError, ConfigError), match=expected):
        experiment_of(LLADA | changes, systems=[])


def test_bases_need_the_sections_beside_which_they_are_trained():
    base = {"checkpoint": "models/x", "block_size": 8, "mask_token_id": 5}
    whole = LLADA | {"model": NANO["model"], "pretrain": NANO["pretrain"]}
    with pytest.raises(ValueError, match="no `model` and `pretrain` beside which they are trained"):
        experiment_of(whole, base=base, model=None, pretrain=None)


def test_a_shape_that_the_familys_file_cannot_say_is_refused_and_others_come_back_from_it():
    shape = Architecture(**NANO["model"])
    for name in ("sdar", "llada", "Dream", "Fast_dLLM_Qwen", "qwen2"):
        config = shape_of(shape, name, 50, 49)
        family = family_named(name)
        assert config.family == name and config.attention == family.facts["attention"]
    with pytest.raises(ConfigError, match="a llada model cannot say this shape: head_dim would be 16, not 8"):
        shape_of(shape.model_copy(update={"head_dim": 8}), "llada", 50, 49)
