# The DAG of an experiment: a rule for each kind of stage (lightningrl/pipeline/kinds.py), which calls
# `python -m lightningrl <verb>`, and a target for each stage. What a rule says is lightningrl/pipeline/rules.py's
# business. Without --configfile: config/config.yaml, the miniature of the paper.
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")
if str(Path(workflow.basedir).resolve()) not in sys.path:
    sys.path.insert(0, str(Path(workflow.basedir).resolve()))

from lightningrl.pipeline.invocation import begin
from lightningrl.pipeline.rules import files_of
from lightningrl.pipeline.snakemake import show_results

THIS = begin(workflow)


report: "workflow/report/experiment.rst"


if THIS.image:

    container: THIS.image


wildcard_constraints:
    name="[a-z0-9][a-z0-9_/-]*",
    key="[0-9a-f]{8}",
    part="[0-9]+",
    parts="[0-9]+",


for each in THIS:

    rule:
        name:
            each.name
        input:
            each.inputs,
        output:
            each.outputs,
        log:
            each.log,
        benchmark:
            each.benchmark
        localrule: each.is_local
        conda:
            THIS.conda
        threads: each.threads
        resources:
            **each.resources,
        params:
            command=each.command,
        shell:
            "{params.command}"


for target, files in THIS.targets().items():

    rule:
        name:
            target
        input:
            files,
        localrule: True


rule all:
    default_target: True
    input:
        files_of(THIS.plan.release),
    localrule: True


onsuccess:
    show_results(THIS.plan, THIS.config, Path(workflow.basedir).resolve())
