# The DAG of an experiment. Rules call `python -m lightningrl <verb>`; what a stage is, and its key, is the plan's
# business (lightningrl/pipeline/plan.py). Without --configfile: config/config.yaml, the miniature of the paper.
from snakemake.utils import min_version

min_version("9.20")


report: "workflow/report/experiment.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/targets.smk"


rule all:
    default_target: True
    input:
        files_of(PLAN.release),
    localrule: True


onsuccess:
    show_results()
