"""What the train stage hands to its trainer."""

from dataclasses import asdict

import pytest
import torch
from fixtures.tiny import CoinJudge, tiny_examples, tiny_setup

from lightningrl.benchmarks.fetch import Origins
from lightningrl.config.experiment import load
from lightningrl.models.checkpoint import save_model
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.stages import train
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.training.world import World
from lightningrl.utils import files


@pytest.fixture(scope="module", params=["base", "rollout"])
def set_up(tmp_path_factory, request):
    """Nano's first run, with its KL term to one or the other, over a tiny base and splits of different problems; there
    are no test problems to open."""
    stage = plan(load(PACKAGE.parent / "config" / "nano.yaml")).stage("train", "lightningrl")
    folder = tmp_path_factory.mktemp("stage")
    base, data = folder / "base", folder / "data"
    base.mkdir()
    setup = tiny_setup(base)
    save_model(setup.model, base, eos_token_id=setup.tokenizer.eos_token_id, pad_token_id=setup.tokenizer.pad_token_id)
    for split in ("train", "validation"):
        files.write_jsonl(data / f"{split}.jsonl", (asdict(example) for example in tiny_examples(split, 4)))
    run = stage.config["run"]
    run = run.model_copy(update={"method": run.method.model_copy(update={"kl_to": request.param})})
    context = StageContext(
        config={**stage.config, "members": dict(stage.members), "run": run}, inputs={"base": base, "data": data},
        folder=folder, state=folder / "state", cache=folder / "cache", threads=1,
        origins=Origins(None, folder / "lock", False), judge_workers=1, device="cpu",
        checkpoint_activations=True, report=print, should_stop=lambda: False, timing=lambda **row: None,
    )  # fmt: skip
    return train._setup(context, World(), CoinJudge())


def test_it_trains_on_train_problems_and_chooses_on_validation_problems(set_up):
    assert {example.split for example in set_up.train} == {"train"} and len(set_up.train) == 4
    assert {example.split for example in set_up.validation} == {"validation"}


def test_alone_and_in_float32_one_model_trains_and_decodes_and_the_base_is_another(set_up):
    """Where the KL term is to the rollouts' policy there is no base, and nothing is held twice."""
    assert set_up.decoder.model is set_up.model and set_up.load_shards is None and set_up.model.checkpoint_activations
    has_base = set_up.run.method.kl_to == "base"
    assert (set_up.reference is set_up.model) != has_base
    assert any(p.requires_grad for p in set_up.reference.parameters()) != has_base
    for name, tensor in set_up.model.state_dict().items():
        assert torch.equal(set_up.reference.state_dict()[name], tensor)
