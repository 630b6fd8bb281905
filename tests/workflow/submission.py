"""The line by which the executor plugin submits a job: made by the plugin itself from what a rule asks for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from snakemake.iocontainers import ResourceList

from lightningrl.config.experiment import load
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.rules import Rules


class Wildcards(SimpleNamespace):
    """What Snakemake gives to the functions of a rule."""

    def get(self, name: str, otherwise: str) -> str:
        return getattr(self, name, otherwise)


def submission_line(config: Path, label: str, site: dict[str, Any], partition: str = "-p gpu") -> str:
    """Returns the `sbatch` line of a stage's first attempt, but for the command that is wrapped in it.

    site: the entry of a site's `set-resources`, whose values go before the experiment's.
    """
    from snakemake_executor_plugin_slurm import submit_string, utils

    rules = Rules(plan(load(config)), config, "exec python", SimpleNamespace(is_main_process=True, remote_exec=False))
    stage = rules.plan.stage(*label.split("/", 1))
    rule = next(each for each in rules if each.name == stage.kind)
    found = Wildcards(name=stage.name, key=stage.key)
    asked = {name: ask(found, *([1] if name == "mem_mb" else [])) for name, ask in rule.resources.items()}
    told = {name: value for name, value in (asked | site).items() if value is not None and name != "slurm_partition"}
    threads = rule.threads(found) if callable(rule.threads) else rule.threads
    job: Any = SimpleNamespace(threads=threads, resources=ResourceList(fromdict=told))
    facts = {"run_uuid": "u", "slurm_logfile": "/dev/null", "comment_str": label, "account": "", "workdir": ""}
    return submit_string.get_submit_command(job, facts | {"partition": partition}) + utils.set_gres_string(job)
