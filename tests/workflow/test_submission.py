"""What the executor plugin asks Slurm for: one node, and GPUs in the way that the site takes; no Slurm is needed."""

from __future__ import annotations

import pytest
import yaml
from submission import submission_line

from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.kinds import KINDS

pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install 'lightningrl[slurm]'")
ROOT = PACKAGE.parent
PAPER, PROFILES = ROOT / "config" / "paper.yaml", ROOT / "workflow" / "profiles"
JOBS = (("train/lightningrl-gsm8k", 8), ("train/lightningrl-1_7b-b32-gsm8k", 4), ("evaluate/base/gsm8k", 1))


def sites(name: str) -> dict[str, dict[str, object]]:
    return yaml.safe_load((PROFILES / name).read_text())["set-resources"]


@pytest.mark.parametrize(("label", "gpus"), JOBS)
def test_a_job_asks_for_one_node_and_the_gpus_of_the_config(label: str, gpus: int) -> None:
    rule = label.split("/")[0]
    for site in (sites("my-site.example.yaml")[rule], sites("slurm/config.yaml")[rule]):
        words = submission_line(PAPER, label, site).split()
        assert words.count("--nodes=1") == 1 and words.count(f"--gpus=h100:{gpus}") == 1
        assert not [word for word in words if word.startswith(("--gres", "--ntasks"))]
    assert f"--gpus={gpus}" in submission_line(PAPER, label, {}).split(), "a site whose GPUs have no type"


@pytest.mark.parametrize("name", ["slurm/config.yaml", "my-site.example.yaml", "my-site-gres.example.yaml"])
def test_every_rule_that_may_ask_for_gpus_has_an_entry_in_each_profile(name: str) -> None:
    """Without one its jobs ask the partition of CPUs for GPUs, which no node of it has."""
    kinds = [kind for kind in KINDS.values() if kind.job in ("train", "pretrain", "evaluate")]
    rules = {kind.name for kind in kinds} | {f"{kind.name}_part" for kind in kinds if kind.in_parts}
    assert sites(name).keys() == rules


def test_a_job_without_gpus_asks_for_one_node_too() -> None:
    words = submission_line(PAPER, "selfcheck/gsm8k", {}).split()
    assert "--nodes=1" in words and "gpu" not in " ".join(words).replace("-p gpu", "")


def test_a_site_that_refuses_gpus_is_asked_by_gres_alone() -> None:
    site = sites("my-site-gres.example.yaml")
    assert site.keys() == sites("my-site.example.yaml").keys()
    for label, gpus in (("train/lightningrl-gsm8k", 8), ("evaluate/base/gsm8k", 1)):
        words = submission_line(PAPER, label, site[label.split("/")[0]]).split()
        assert words.count(f"--gres=gpu:h100:{gpus}") == 1 and "--nodes=1" in words
        assert not [word for word in words if word.startswith("--gpus")]
    for wrong in ({"gres": "gpu:h100:8"}, {"gpu": 0, "gpu_model": "h100", "gres": "gpu:h100:8"}):
        assert "--gpus" in submission_line(PAPER, "train/lightningrl-gsm8k", wrong), "why both are in the example"
