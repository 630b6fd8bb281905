"""The rules as Snakemake is given them, and how Snakemake was called, without running it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.exceptions import WorkflowError
from snakemake.io import is_flagged

from lightningrl.config.describe import describe
from lightningrl.config.experiment import Experiment, load
from lightningrl.config.machine import Resources
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.invocation import config_file, experiment_asked_for, python_of_jobs, show_to_containers
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.plan import plan
from lightningrl.pipeline.rules import Rule, Rules
from lightningrl.utils.files import write_text

NANO = PACKAGE.parent / "config" / "nano.yaml"
DRY_RUN = SimpleNamespace(is_main_process=True, remote_exec=False)


class Wildcards(SimpleNamespace):
    def get(self, name: str, otherwise: str) -> str:
        return getattr(self, name, otherwise)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rules_of(workflow: SimpleNamespace = DRY_RUN, forced: set[Path] | None = None, **resources: object) -> Rules:
    tree = yaml.safe_load(NANO.read_text())
    made = Rules(plan(Experiment.model_validate(tree | {"resources": resources})), NANO, "exec python", workflow)
    made.__dict__["_forced"] = forced or set()
    return made


def rule(rules: Rules, name: str) -> Rule:
    return next(each for each in rules if each.name == name)


def wildcards(rules: Rules, label: str, **more: str) -> Wildcards:
    stage = rules.plan.stage(*label.split("/", 1))
    return Wildcards(key=stage.key, **({} if stage.kind == "release" else {"name": stage.name}), **more)


def test_a_rules_patterns_are_the_paths_of_every_stage() -> None:
    rules = rules_of()
    for stage in rules.plan:
        made = rule(rules, stage.kind)
        found = {str(each).format(name=stage.name, key=stage.key) for each in made.outputs}
        assert found == {(stage.folder / name).as_posix() for name in stage.outputs}, stage.label
        assert made.log.format(name=stage.name, key=stage.key) == stage.last_log().as_posix()
        assert made.is_local == (stage.kind in ("data", "tokenizer", "collect", "table", "figure", "release"))


def test_what_the_report_shows_comes_first_and_has_its_own_labels() -> None:
    rules = rules_of()
    for name, shown in {"table": 1, "figure": 1, "replay": 2, "release": 1, "evaluate": 0}.items():
        outputs = rule(rules, name).outputs
        assert [is_flagged(each, "report") for each in outputs] == [True] * shown + [False] * (len(outputs) - shown)
    first, second = rule(rules, "replay").outputs[:2]
    assert [each.flags["report"].labels["problem"] for each in (first, second)] == ["1", "2"]
    assert first.endswith("{name}-1.html") and second.endswith("{name}-2.html")
    captions = [kind.shown.caption for kind in KINDS.values() if kind.shown]
    assert all(caption and (PACKAGE.parent / caption).is_file() for caption in captions) and len(captions) == 4


def test_the_command_of_each_kind() -> None:
    rules = rules_of(train_processes=3)
    three = "-m torch.distributed.run --standalone --nproc-per-node 3"
    for label, start, ends in (
        ("data/gsm-mini", "exec python -m lightningrl data", "--name gsm-mini --key {key}"),
        ("evaluate/base/gsm-mini", "exec python -m lightningrl evaluate", "--name base/gsm-mini --key {key}"),
        ("release/release", "exec python -m lightningrl release", "--key {key}"),
        ("train/lightningrl", f"exec python {three} -m lightningrl train", "--name lightningrl --key {key}"),
    ):
        found = wildcards(rules, label)
        said = rule(rules, label.split("/")[0]).command(found, {"runtime": 60})
        assert said == f"{start} --config {NANO} {ends.format(key=found.key)}"
    part = wildcards(rules, "evaluate/base/gsm-mini", part="2", parts="8")
    assert rule(rules, "evaluate_part").command(part, {}).endswith(f" --key {part.key} --part 2/8")


def test_in_a_clusters_job_only_what_saves_is_told_when_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # Slurm cannot be asked
    rules = rules_of(SimpleNamespace(is_main_process=False, remote_exec=True))
    told = {}
    for stage in rules.plan:
        said = rule(rules, stage.kind).command(wildcards(rules, stage.label), {"runtime": 40})
        told[stage.kind] = said.partition(" --max-minutes ")[2]
    assert {kind for kind, minutes in told.items() if minutes} == {"selfcheck", "pretrain", "train", "evaluate"}
    assert told["train"] == "36.00"
    assert "--max" not in rule(rules, "train").command(wildcards(rules, "train/lightningrl"), {})


def test_what_a_job_asks_for() -> None:
    rules = rules_of(jobs={"evaluate": {"gpus": 1, "cpus": 5, "memory_gb": 8, "hours": 2}}, evaluate_threads=3)
    for name in ("evaluate", "evaluate_part", "replay"):
        made = rule(rules, name)
        found = wildcards(rules, "replay/lightningrl" if name == "replay" else "evaluate/base/gsm-mini")
        assert callable(made.threads) and made.threads(found) == 5
        assert (made.resources["gpu"](found), made.resources["runtime"](found)) == (1, 120)
        assert made.resources["nodes"](found) == 1
        assert [made.resources["mem_mb"](found, attempt) for attempt in (1, 2)] == [8000, 12000]
    assert (rule(rules, "table").resources, rule(rules, "table").threads) == ({}, 1)
    without = rules_of(evaluate_threads=3)
    assert (list(rule(without, "evaluate").resources), rule(without, "evaluate").threads) == (["nodes"], 3)
    assert rule(without, "replay").threads == 1


def test_inputs_of_a_finished_stage_are_ancient_unless_it_is_forced() -> None:
    rules = rules_of(evaluate_parts=2)
    stage = rules.plan.stage("evaluate", "base/gsm-mini")
    inputs, found = rule(rules, "evaluate").inputs, wildcards(rules, stage.label)
    waited = {source.manifest.as_posix() for source in stage.upstream}
    marks = {each for each in inputs(found) if "/cache/parts/" in each}
    assert len(marks) == 2 and set(inputs(found)) == waited | marks
    assert set(rule(rules, "evaluate_part").inputs(found)) == waited
    pattern = rule(rules, "evaluate_part").outputs[0]
    assert marks == {pattern.format(name=stage.name, key=stage.key, part=part, parts=2) for part in (1, 2)}
    write_text(stage.manifest, "{}")
    ready = inputs(found)
    assert {str(each) for each in ready} == {source.manifest.as_posix() for source in stage.inputs.values()}
    assert all(is_flagged(each, "ancient") for each in ready)
    again = rule(rules_of(evaluate_parts=2, forced={stage.folder}), "evaluate").inputs(found)
    assert set(again) == waited and not any(is_flagged(each, "ancient") for each in again)
    with pytest.raises(WorkflowError, match="00000000 is not the key of today's config and code"):
        inputs(Wildcards(name=stage.name, key="00000000"))


def test_targets_are_every_stage_and_the_experiment() -> None:
    rules = rules_of()
    found = rules.targets()
    assert set(found) == {stage.target for stage in rules.plan.stages[:-1]} | {"nano"}
    assert found["nano"][-1] == rules.plan.release.manifest.as_posix()


def test_the_table_of_kinds_names_what_there_is() -> None:
    experiment = load(NANO)
    for kind in KINDS.values():
        assert set(kind.sure_files) <= set(kind.files) and (not kind.collected or kind.collected in kind.files)
        assert kind.job == "" or KINDS[kind.job].job == kind.job
        assert kind.threads == "" or kind.threads in Resources.model_fields
        assert kind.shown is None or kind.shown.file in kind.files
        assert all(list(describe(Experiment, key)) for key in kind.reads) and kind.files_in(experiment)
        assert {f"{table}.csv" for table in kind.collected_in} <= set(KINDS["collect"].files)


def test_a_target_names_the_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config", "study", "nano"):
        (tmp_path / f"{name}.yaml").touch()
    for words, expected in (
        ([], "config"), (["study", "--cores", "2"], "study"), (["--directory", "study"], "config"),
        (["table_main", "-n"], "config"),
    ):  # fmt: skip
        assert experiment_asked_for(tmp_path, words).stem == expected, words
    with pytest.raises(WorkflowError, match="one experiment at a time: found nano and study"):
        experiment_asked_for(tmp_path, ["nano", "study"])


def test_jobs_of_a_cluster_find_the_experiment_of_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNINGRL_CONFIG", "/somewhere/own.yaml")
    job = SimpleNamespace(config_settings=None, configfiles=[], is_main_process=False)
    assert config_file(job, PACKAGE.parent) == Path("/somewhere/own.yaml")
    job.configfiles = [str(NANO)]
    assert config_file(job, PACKAGE.parent) == NANO
    assert python_of_jobs(True) == "exec env PYTHONNOUSERSITE=1 python", "not the user's own packages"
    assert python_of_jobs(False).startswith("exec /")


def test_a_container_sees_each_path_once(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    environment = {"APPTAINER_BIND": "/srv", "XDG_CACHE_HOME": str(tmp_path / "none")}
    used = tmp_path / "used"
    show_to_containers([used, tmp_path / "not there"], str(used), environment)
    assert environment["SINGULARITY_BIND"] == environment["APPTAINER_BIND"] == f"/srv,{used}"
    with pytest.raises(WorkflowError, match="has a comma or a colon"):
        (tmp_path / "a,b").mkdir()
        show_to_containers([tmp_path / "a,b"], None, {"XDG_CACHE_HOME": str(tmp_path / "none")})
