# The plan, and how rules see it: paths, threads, ancient inputs.
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(workflow.basedir).resolve()
# How jobs get their packages: with `--sdm conda` or `--sdm apptainer` from workflow/envs, else they have this process's.
DEPLOYMENT = {"conda", "apptainer"} & {str(method) for method in workflow.deployment_settings.deployment_method}
PYTHON = "python" if DEPLOYMENT else sys.executable
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
# For the jobs: they run `python -m lightningrl` in whatever folder results/ is in.
environment = os.environ
environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))

from snakemake.cli import get_argument_parser

from lightningrl.config.experiment import files_of, load
from lightningrl.errors import LightningRLError
from lightningrl.pipeline.again import put_back_all
from lightningrl.pipeline.sharded_evaluation import check_made_by, marker
from lightningrl.pipeline.pin import pins_told
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.runner import threads_of
from lightningrl.pipeline.snakemake import (
    forced,
    forget_interrupted_jobs,
    protect_results,
    reconsidered,
    settle,
    tell_jobs,
    told_when_stale,
)
from lightningrl.pipeline.stage import MANIFEST
from lightningrl.pipeline.stages.release import link


def config_file():
    """The one experiment file; Snakemake's own merged config is never looked at."""
    if workflow.config_settings is not None and workflow.config_settings.config:
        raise WorkflowError(
            "--config is not supported: write a YAML with `extends: config/config.yaml`, give it with --configfile"
        )
    if len(workflow.configfiles) > 1:
        raise WorkflowError("one --configfile at a time: files are not merged; use `extends:` inside the file")
    if workflow.configfiles:
        return str(Path(workflow.configfiles[0]).resolve())
    if workflow.is_main_process:
        environment["LIGHTNINGRL_CONFIG"] = str(experiment_asked_for())  # also for the jobs of a cluster
    return str(Path(environment.get("LIGHTNINGRL_CONFIG", ROOT / "config" / "config.yaml")).resolve())


def experiment_asked_for():
    """`snakemake study`: config/study.yaml. Else config/config.yaml."""
    known = {path.stem: path for path in (ROOT / "config").glob("*.yaml")}
    asked = known.keys() & set(sys.argv[1:])
    if asked:  # as targets, not as values of options
        asked &= set(get_argument_parser().parse_known_args(sys.argv[1:])[0].targets)
    if len(asked) > 1:
        raise WorkflowError(f"one experiment at a time: found {' and '.join(sorted(asked))}")
    return known[asked.pop() if asked else "config"]


CONFIG = config_file()
try:
    PLAN = plan(load(CONFIG))
    if workflow.is_main_process:  # once, not in every job
        for line in pins_told(PLAN, most=6):
            print(line, file=sys.stderr)
        put_back_all(PLAN)  # what a forced run that was killed had set aside
        check_made_by(PLAN)  # here: while the DAG is built, Snakemake drops what is said about files that exist
except LightningRLError as error:
    raise WorkflowError(str(error)) from None
EXPERIMENT = PLAN.experiment.experiment
RESOURCES = PLAN.experiment.resources
CONDA = str(ROOT / "workflow" / "envs" / f"lightningrl{'-cuda' if RESOURCES.device == 'cuda' else ''}.yaml")
IMAGE = ROOT / "workflow" / "envs" / "lightningrl.sif"


def show_to_containers():
    """What jobs use outside the working folder: the checkout, the config's files, the mirror of data, the hub's cache. A
    container has another home, so the cache is named."""
    cache = Path(environment.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "huggingface"
    if cache.is_dir():
        environment.setdefault("HF_HOME", str(cache))
    caches = [Path(environment[name]) for name in ("HF_HOME", "HF_HUB_CACHE") if environment.get(name)]
    for folder in caches:
        folder.mkdir(parents=True, exist_ok=True)
    mirror = environment.get("LIGHTNINGRL_DATA_MIRROR") or PLAN.experiment.data.mirror
    named = [ROOT, *files_of(CONFIG), *caches, *([Path(mirror)] if mirror else [])]
    paths = [str(path) for name in named if name.exists() for path in (name.absolute(), name.resolve())]
    if odd := [path for path in paths if "," in path or ":" in path]:
        raise WorkflowError(f"--sdm apptainer: {odd[0]} has a comma or a colon in its name, which no bind can name")
    given = environment.get("APPTAINER_BIND") or environment.get("SINGULARITY_BIND", "")
    bind = ",".join(dict.fromkeys(filter(None, [*given.split(","), *paths])))
    environment.update(APPTAINER_BIND=bind, SINGULARITY_BIND=bind)


if len(DEPLOYMENT) > 1:
    raise WorkflowError("--sdm conda or --sdm apptainer, not both: the image has all packages and no conda")
if "apptainer" in DEPLOYMENT:
    show_to_containers()
    if not IMAGE.exists():  # a file, or the folder that `apptainer build --sandbox` makes
        raise WorkflowError(f"--sdm apptainer needs {IMAGE}: build it, as the head of lightningrl.def beside it says")

    container: str(IMAGE)


wildcard_constraints:
    name="[a-z0-9][a-z0-9_/-]*",
    key="[0-9a-f]{8}",
    part="[0-9]+",
    parts="[0-9]+",


def outputs(kind):
    """A kind's final files as patterns of its rule; a checkpoint from elsewhere has more, which its manifest lists."""
    return [f"results/{EXPERIMENT}/{kind}/{{name}}-{{key}}/{file}" for file in (*PLAN.patterns(kind), MANIFEST)]


def log_of(kind):
    """What the last start of a stage said; `<name>-<key>.log` beside it has all starts."""
    return f"logs/{EXPERIMENT}/{kind}/{{name}}-{{key}}.last.log"


def benchmark_of(kind):
    """Seconds, memory and CPU of the job, as Snakemake measures them."""
    return f"benchmarks/{EXPERIMENT}/{kind}/{{name}}-{{key}}.tsv"


# `exec`: signals of a time limit or a preemption reach the stage, not a shell around it that would die of them at once.
# In an environment: what `pip install --user` left would go before its packages.
PREFIX = "exec env PYTHONNOUSERSITE=1" if DEPLOYMENT else "exec"
RUN = f"{PREFIX} {shlex.quote(PYTHON)} -m lightningrl"


def size_of(kind, wildcards):
    return PLAN.stage(kind, wildcards.name).size


def job_of(kind, like=None):
    """What a job asks a cluster for, by the size of its model; `like`: whose entry in the config it goes by."""
    return lambda wildcards: RESOURCES.job(like or kind, size_of(kind, wildcards))


def launch(wildcards):
    """How a training is started: alone, or as so many processes of one node as it has GPUs."""
    count = RESOURCES.processes(size_of("train", wildcards))
    torchrun = f"-m torch.distributed.run --standalone --nproc-per-node {count}"
    return RUN if count == 1 else f"{PREFIX} {shlex.quote(PYTHON)} {torchrun} -m lightningrl"


def asked(kind, like=None):
    """A job's resources; where the config says nothing of jobs, the profile's defaults hold."""
    if not RESOURCES.jobs:
        return {}
    job = job_of(kind, like)
    return {
        "gpu": lambda wildcards: job(wildcards).gpus or None,
        "mem_mb": lambda wildcards, attempt: job(wildcards).memory_mb(attempt),
        "runtime": lambda wildcards: job(wildcards).minutes,
    }


def threads_for(kind, like=None):
    """CPUs of a job: those asked for, or the threads of a stage's own computations."""
    if not RESOURCES.jobs:
        return threads_of(RESOURCES, kind)
    return lambda wildcards: job_of(kind, like)(wildcards).cpus


def until(wildcards, resources):
    """In a cluster's job, the option with which a stage saves and ends by itself before the time limit: less than what
    Slurm says is left by now, because two starts of Snakemake, maybe from a slow disk, came before."""
    limit = resources.get("runtime")
    if not workflow.remote_exec or not limit:
        return ""
    return f" --max-minutes {max(0.0, minutes_left(limit) - min(5.0, 0.1 * limit)):.2f}"


@cache
def minutes_left(limit):
    """Until this job's time limit; all of the limit where Slurm cannot be asked."""
    command = ["squeue", "--noheader", "--format=%L", "--jobs", environment.get("SLURM_JOB_ID", "")]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return limit
    left = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", said)  # days-hours:minutes:seconds
    if not left:
        return limit
    days, hours, minutes, seconds = (int(number or 0) for number in left.groups())
    return min(limit, 60 * (24 * days + hours) + minutes + seconds / 60)


def files_of(stage):
    return [(stage.folder / name).as_posix() for name in stage.outputs]


protect_results()
if workflow.is_main_process:
    forget_interrupted_jobs()
    if any(word.startswith("--delete-a") for word in sys.argv):
        raise WorkflowError("results are removed by `lightningrl results --prune` alone, which knows what they are for")


@cache
def forced_stages():
    """Folders of the stages that the command line forces, or whose inputs have changed, with what follows; in a job of a
    cluster none, because there Snakemake forces the job itself. Known when the DAG is built, not yet when rules are read."""
    settle(workflow)
    if not workflow.is_main_process:
        return set()
    folders = forced(workflow, PLAN)
    tell_jobs(folders, PLAN)
    return reconsidered(folders, PLAN)


def upstream(kind):
    """Input function of a kind's rule: the manifests of what it reads, which are written last; the stage itself checks
    the files behind them.

    A folder's name says what is in it, so times mean nothing: inputs of a finished stage are ancient, unless it is to be
    made again. An unfinished stage has ordinary inputs, because Snakemake would leave it out of a run that
    makes an existing ancient input again. What must only be finished before it (the self-check of a judge) concerns it
    until it is made: a finished stage has its result in its manifest.
    """

    def inputs(wildcards):
        forced_here = forced_stages()
        stage = PLAN.stage(kind, wildcards.get("name", "release"))
        if wildcards.key != stage.key:
            raise WorkflowError(
                f"{kind} {stage.name}: {wildcards.key} is not the key of today's config and code ({stage.key}); "
                "an older version cannot be made again from here"
            )
        if stage.manifest.is_file() and stage.folder not in forced_here:
            return [ancient(source.manifest.as_posix()) for source in stage.inputs.values()]
        return [source.manifest.as_posix() for source in stage.upstream]

    return inputs


def parts_of_evaluation(wildcards):
    """What an unfinished evaluation waits for, where it is spread over several jobs."""
    stage, count = PLAN.stage("evaluate", wildcards.name), PLAN.experiment.resources.evaluate_parts
    if count == 1 or stage.manifest.is_file():
        return []
    return [marker(stage, (index, count)).as_posix() for index in range(1, count + 1)]


def show_results():
    """After a run that reached the release: the HTML report beside it, then the table and the paths."""
    release = PLAN.release
    page = release.folder / "report.html"
    sys.stderr.write(told_when_stale(PLAN))
    if not release.manifest.is_file():
        return
    link(release.folder)  # `latest` is what was asked for last, also where nothing had to run
    if not page.is_file() or page.stat().st_mtime < release.manifest.stat().st_mtime:
        # --nolock: the lock is this very run's, whose jobs are all done.
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(ROOT / "Snakefile"),
            "--configfile",
            str(CONFIG),
        ]
        command += ["--report", str(page), "--nolock", "--cores", "1", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.stderr.write(f"the HTML report could not be made:\n{done.stderr}\n")
    if "LIGHTNINGRL_RESULTS_LATER" not in os.environ:  # `make demo` prints them itself, also when nothing had to run
        subprocess.run([sys.executable, "-m", "lightningrl", "results", "--config", str(CONFIG)], check=False)
