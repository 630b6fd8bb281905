"""How Snakemake was called, and what follows: the experiment's file, where jobs get their packages, the rules."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import MutableMapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from snakemake.cli import get_argument_parser
from snakemake.exceptions import WorkflowError

from lightningrl.config.experiment import load
from lightningrl.config.reading import files_of
from lightningrl.config.registries import near
from lightningrl.errors import LightningRLError
from lightningrl.pipeline.again import put_back_all
from lightningrl.pipeline.final_failures import forget_marks
from lightningrl.pipeline.pin import pins_told
from lightningrl.pipeline.plan import Plan, plan
from lightningrl.pipeline.rules import Rules
from lightningrl.pipeline.sharded_evaluation import check_made_by
from lightningrl.pipeline.snakemake import end_what_cannot_succeed, forget_interrupted_jobs, protect_results

ENVIRONMENTS = Path("workflow/envs")


def begin(workflow: Any) -> Rules:
    """Reads the experiment and prepares Snakemake for it; called whenever the Snakefile is read, in jobs too.

    Raises WorkflowError for a config, an option or a results folder that cannot be used.
    """
    root = Path(workflow.basedir).resolve()
    # The jobs run `python -m lightningrl` in whatever folder results/ is in.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    deployment = {"conda", "apptainer"} & {str(each) for each in workflow.deployment_settings.deployment_method}
    config = config_file(workflow, root)
    try:
        planned = plan(load(config))
        if workflow.is_main_process:  # once, not in every job
            for line in pins_told(planned, most=6):
                sys.stderr.write(f"{line}\n")
            put_back_all(planned)  # what a forced run that was killed had set aside
            check_made_by(planned)  # here: while the DAG is built, Snakemake drops what is said about files that exist
    except LightningRLError as error:
        raise WorkflowError(str(error)) from None
    image = _image(root, config, planned, deployment)
    protect_results()
    end_what_cannot_succeed()
    if workflow.is_main_process:
        forget_interrupted_jobs()
        forget_marks(planned.experiment.experiment)
        if any(word.startswith("--delete-a") for word in sys.argv):
            raise WorkflowError(
                "results are removed by `lightningrl results --prune` alone, which knows what they are for"
            )
    cuda = "-cuda" if planned.experiment.resources.device == "cuda" else ""
    conda = str(root / ENVIRONMENTS / f"lightningrl{cuda}.yaml")
    rules = Rules(planned, config, python_of_jobs(bool(deployment)), workflow, conda, image)
    if workflow.is_main_process:
        check_targets(sys.argv[1:], {*rules.targets(), *(rule.name for rule in rules), "all"})
    return rules


def check_targets(words: list[str], known: set[str]) -> None:
    """Raises WorkflowError for an unknown target that is no path, with the known one that is most like it, whatever the
    order of its words: Snakemake's own message names none."""
    sorted_words = {_sorted_words(name): name for name in known}
    for target in get_argument_parser().parse_known_args(words)[0].targets:
        if target in known or "/" in target or Path(target).exists():
            continue
        meant = near(target, known)
        if not meant and (like := get_close_matches(_sorted_words(target), sorted_words, n=1)):
            meant = f" Did you mean `{sorted_words[like[0]]}`?"
        raise WorkflowError(f"there is no target {target!r}.{meant} `lightningrl stages` lists what there is")


def _sorted_words(name: str) -> str:
    return "_".join(sorted(name.lower().split("_")))


def python_of_jobs(is_deployed: bool) -> str:
    """Returns the words of a shell that start a job's Python: this process's, or that of an environment.

    `exec`: signals of a time limit or a preemption reach the stage, not a shell around it that would die of them at
    once. In an environment, what `pip install --user` left would go before its packages.
    """
    return "exec env PYTHONNOUSERSITE=1 python" if is_deployed else f"exec {shlex.quote(sys.executable)}"


def config_file(workflow: Any, root: Path) -> Path:
    """Returns the one experiment file; Snakemake's own merged config is never looked at.

    Without --configfile it is `config/<target>.yaml` where a target has such a name (`snakemake study`), else the
    miniature. The jobs of a cluster find it in an environment variable.
    """
    if workflow.config_settings is not None and workflow.config_settings.config:
        raise WorkflowError(
            "--config is not supported: write a YAML with `extends: config/config.yaml`, give it with --configfile"
        )
    if len(workflow.configfiles) > 1:
        found = ", ".join(str(path) for path in get_argument_parser().parse_known_args(sys.argv[1:])[0].configfile)
        raise WorkflowError(
            f"one --configfile at a time: files are not merged; use `extends:` inside the file. Found {found}: all "
            "words after `--configfile` are files, up to the next option. A target goes before it, or after "
            "`--configfile=FILE`, which takes one file"
        )
    if workflow.configfiles:
        return Path(workflow.configfiles[0]).resolve()
    if workflow.is_main_process:
        os.environ["LIGHTNINGRL_CONFIG"] = str(experiment_asked_for(root / "config", sys.argv[1:]))
    return Path(os.environ.get("LIGHTNINGRL_CONFIG", root / "config" / "config.yaml")).resolve()


def experiment_asked_for(folder: Path, words: list[str]) -> Path:
    """Returns the experiment's file in a folder that a target names on Snakemake's command line, else `config.yaml`."""
    known = {path.stem: path for path in folder.glob("*.yaml")}
    named = known.keys() & set(words)
    if named:  # as targets, not as values of options
        named &= set(get_argument_parser().parse_known_args(words)[0].targets)
    if len(named) > 1:
        raise WorkflowError(f"one experiment at a time: found {' and '.join(sorted(named))}")
    return known[named.pop() if named else "config"]


def _image(root: Path, config: Path, planned: Plan, deployment: set[str]) -> str:
    """Returns the image of `--sdm apptainer`, after showing it what jobs use; empty where it is not asked for."""
    if len(deployment) > 1:
        raise WorkflowError("--sdm conda or --sdm apptainer, not both: the image has all packages and no conda")
    if "apptainer" not in deployment:
        return ""
    mirror = os.environ.get("LIGHTNINGRL_DATA_MIRROR") or planned.experiment.data.mirror
    show_to_containers([root, *files_of(config)], mirror, os.environ)
    image = root / ENVIRONMENTS / "lightningrl.sif"
    if not image.exists():  # a file, or the folder that `apptainer build --sandbox` makes
        raise WorkflowError(f"--sdm apptainer needs {image}: build it, as the head of lightningrl.def beside it says")
    return str(image)


def show_to_containers(used: list[Path], mirror: str | None, environment: MutableMapping[str, str]) -> None:
    """Binds what jobs use outside the working folder: these files, the mirror of data, the hub's cache. A container has
    another home, so the cache is named. Raises WorkflowError for a path that no bind can name."""
    cache = Path(environment.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "huggingface"
    if cache.is_dir():
        environment.setdefault("HF_HOME", str(cache))
    caches = [Path(environment[name]) for name in ("HF_HOME", "HF_HUB_CACHE") if environment.get(name)]
    for folder in caches:
        folder.mkdir(parents=True, exist_ok=True)
    named = [*used, *caches, *([Path(mirror)] if mirror else [])]
    paths = [str(path) for name in named if name.exists() for path in (name.absolute(), name.resolve())]
    if odd := [path for path in paths if "," in path or ":" in path]:
        raise WorkflowError(f"--sdm apptainer: {odd[0]} has a comma or a colon in its name, which no bind can name")
    bound = environment.get("APPTAINER_BIND") or environment.get("SINGULARITY_BIND", "")
    bind = ",".join(dict.fromkeys(filter(None, [*bound.split(","), *paths])))
    environment["APPTAINER_BIND"] = environment["SINGULARITY_BIND"] = bind
