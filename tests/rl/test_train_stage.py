"""What the train stage hands to its trainer."""

from dataclasses import asdict
from pathlib import Path

import torch
from fixtures.tiny import CoinJudge, tiny_examples, tiny_setup

from lightningrl.benchmarks.fetch import Origins
from lightningrl.config.experiment import load
from lightningrl.models.checkpoint import save_model
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.stages import train
from lightningrl.pipeline.stages.context import StageContext
from lightningrl.rl.setup import TrainSetup
from lightningrl.training.world import World
from lightningrl.utils import files


def set_up(folder: Path, splits: tuple[str, ...], **changes) -> TrainSetup:
    """Nano's first run over a tiny base and splits of different problems."""
    stage = plan(load(PACKAGE.parent / "config" / "nano.yaml")).stage("train", "lightningrl")
    base, data = folder / "base", folder / "data"
    base.mkdir()
    setup = tiny_setup(base)
    save_model(setup.model, base, eos_token_id=setup.tokenizer.eos_token_id, pad_token_id=setup.tokenizer.pad_token_id)
    for split in splits:
        files.write_jsonl(data / f"{split}.jsonl", (asdict(example) for example in tiny_examples(split, 4)))
    given = {
        "config": {**stage.config, "members": dict(stage.members)}, "inputs": {"base": base, "data": data},
        "folder": folder, "state": folder / "state", "cache": folder / "cache", "threads": 1,
        "origins": Origins(None, folder / "lock", False), "judge_workers": 1, "device": "cpu",
        "checkpoint_activations": False, "report": print, "should_stop": lambda: False, "timing": lambda **row: None,
    }  # fmt: skip
    return train._setup(StageContext(**(given | changes)), World(), CoinJudge())


def test_it_trains_on_train_problems_and_chooses_on_validation_problems(tmp_path):
    setup = set_up(tmp_path, ("train", "validation", "test"))
    assert {example.split for example in setup.train} == {"train"} and len(setup.train) == 4
    assert {example.split for example in setup.validation} == {"validation"}


def test_it_never_opens_the_test_problems(tmp_path):
    assert set_up(tmp_path, ("train", "validation")).train


def test_alone_and_in_float32_one_model_trains_and_decodes_and_the_base_is_another(tmp_path):
    setup = set_up(tmp_path, ("train", "validation"), checkpoint_activations=True)
    assert setup.decoder.model is setup.model is not setup.reference and setup.shard is None
    assert setup.model.checkpoint_activations and not any(p.requires_grad for p in setup.reference.parameters())
    for name, tensor in setup.model.state_dict().items():
        assert torch.equal(setup.reference.state_dict()[name], tensor)
