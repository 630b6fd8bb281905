"""The package's own shape: which code a stage's key holds, who may import torch, and in which direction imports go."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lightningrl.config.experiment import load
from lightningrl.pipeline.code_digest import PACKAGE, Sources, normalise
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.plan import plan

ROOT, SOURCES = PACKAGE.parent, Sources()
MODULES = sorted(p.relative_to(ROOT).with_suffix("") for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")
NAMES = [".".join(path.parts) for path in MODULES]

LAYERS = [
    ["errors", "types"],
    ["utils"],
    ["config"],
    ["sandbox"],
    ["benchmarks", "judges", "tokenization"],
    ["models"],
    ["decoding", "quantization"],
    ["answering", "inference"],
    ["serving"],
    ["training"],
    ["training.supervised", "training.distillation", "rl"],
    ["bench"],
    ["evaluation"],
    ["report", "bench.estimate"],
    ["pipeline.stages"],
    ["pipeline"],
    ["results"],
    ["cli", "__main__"],
]
"""Imports go up this list (from later lines to earlier ones) or stay within a line."""

NO_TORCH = (
    "errors", "types", "config", "utils", "benchmarks", "judges", "sandbox", "report", "results", "cli",
    "rl.algorithm", "rl.policy_gradient", "rl.registry", "training.supervised.algorithm",
    *(f"training.distillation.{name}" for name in ("algorithm", "dparallel", "d3llm", "d2f")),
    *(f"rl.algorithms.{path.stem}" for path in (PACKAGE / "rl" / "algorithms").glob("*.py")),
    *(f"pipeline.{path.stem}" for path in (PACKAGE / "pipeline").glob("*.py")),
    *(f"pipeline.stages.{name}" for name in ("context", "data", "collect", "table", "figure", "release", "selfcheck")),
    "pipeline.stages.problems", "pipeline.stages.sources",
    "evaluation.metrics", "evaluation.aup", "evaluation.intervals", "evaluation.selfcheck", "evaluation.problems",
    "evaluation.external", "evaluation.scoring", "decoding.presets", "quantization.registry",
    "bench.model_shape", "bench.costs", "bench.estimate.budget",
    *(f"inference.endpoint.{name}" for name in ("reply", "request", "client", "asking")), "evaluation.endpoint",
    "evaluation.reported", "bench.rates", "bench.endpoint_speed", "pipeline.stages.endpoint",
    "pipeline.stages.endpoint_speed",
)  # fmt: skip


def layer_of(module: str) -> int:
    parts = module.split(".")[1:]
    prefixes = [".".join(parts[:size]) for size in range(len(parts), 0, -1)]
    return next(number for prefix in prefixes for number, layer in enumerate(LAYERS) if prefix in layer)


def direct_imports(module: str) -> set[str]:
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in SOURCES.references(path)}


@pytest.mark.parametrize("module", NAMES)
def test_imports_point_one_way(module):
    for imported in direct_imports(module):
        if imported.endswith("__init__") or imported.count(".") == 0:
            continue
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}"


def test_torch_is_not_imported_where_start_up_matters():
    names = [name for name in NAMES if name.removeprefix("lightningrl.") in NO_TORCH or name.split(".")[1] in NO_TORCH]
    assert len(names) > 30
    program = f"import importlib, sys\nfor name in {names}:\n    importlib.import_module(name)\n"
    program += "    assert 'torch' not in sys.modules, name\n    assert 'transformers' not in sys.modules, name\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_init_files_are_empty_but_for_the_packages_own_which_loads_nothing():
    for path in PACKAGE.rglob("__init__.py"):
        assert path.parent == PACKAGE or normalise(path.read_text()) == "", path
    program = "import sys, lightningrl\nassert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
    program += "print(lightningrl.__version__, lightningrl.LLM.__module__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [version("lightningrl"), "lightningrl.inference.llm"], done.stderr


@pytest.fixture(scope="module")
def stages():
    return {(stage.kind, stage.name): stage for stage in plan(load(ROOT / "config" / "nano.yaml"))}


def folders(stage) -> set[str]:
    names = [name for name in stage.sources if not name.startswith("lightningrl/pipeline/stages/")]
    return {name.split("/")[1].removesuffix(".py") for name in names}


def test_no_stage_holds_what_its_results_do_not_come_from(stages):
    """Registries, provenance, the command line; reporting and evaluation in training; the code of other kinds."""
    for (kind, name), stage in stages.items():
        far = {"pipeline", "results", "cli", "__main__"}
        far |= {"report", "evaluation"} if kind in ("data", "tokenizer", "pretrain", "train") else set()
        assert not folders(stage) & far, (kind, name, sorted(stage.sources))
        registries = [each for each in stage.sources if each.endswith("registry.py") and "/utils/" not in each]
        assert not registries, (kind, name)
        others = {f"lightningrl/pipeline/stages/{other}.py" for other in KINDS if other != kind}
        assert not others & set(stage.sources), (kind, name)


def test_a_run_holds_its_own_algorithm_only(stages):
    def algorithms(run: str) -> set[str]:
        found = {Path(name).stem for name in stages["train", run].sources if "/algorithms/" in name}
        return found - {"protocol"}

    assert algorithms("grpo-traj") == {"grpo_traj"}
    assert algorithms("lightningrl") == algorithms("lightningrl-code") == {"lightningrl"}
    assert algorithms("supervised") == set()


def test_a_stage_holds_the_files_of_its_members(stages):
    for stage in stages.values():
        paths = {reference.partition(":")[0].replace(".", "/") + ".py" for reference in stage.members.values()}
        assert paths <= set(stage.sources), (stage.kind, stage.name)
    assert "lightningrl/benchmarks/code_mini.py" not in stages["data", "gsm-mini"].sources
    assert "lightningrl/benchmarks/gsm_mini.py" not in stages["data", "code-mini"].sources


def test_closures_of_the_small_modules():
    assert SOURCES.closure("lightningrl.utils.files") == ["lightningrl/errors.py", "lightningrl/utils/files.py"]
    assert SOURCES.closure("lightningrl.types") == ["lightningrl/types.py"]
