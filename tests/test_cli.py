"""The command line: quick help, exit codes, messages without tracebacks."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.limits import HANG_S, processor_time
from typer.testing import CliRunner

from lightningrl.cli import app
from lightningrl.errors import Interrupted
from lightningrl.pipeline import runner
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.kinds import KINDS

ROOT = PACKAGE.parent
NANO = str(ROOT / "config" / "nano.yaml")


def run(*arguments: str):
    return CliRunner().invoke(app.app, list(arguments))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)


def test_help_takes_less_than_a_second_and_imports_nothing_heavy():
    program = "import sys; sys.argv = ['lightningrl', '--help']\n"
    program += "from lightningrl.cli.app import app\ntry:\n    app()\nexcept SystemExit:\n    pass\n"
    program += (
        "heavy = {'torch', 'pandas', 'numpy', 'pydantic', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    subprocess.run(command, capture_output=True, env=environment, timeout=HANG_S)  # the first may compile
    with processor_time(1.0):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in (*KINDS, "validate", "stages", "results", "config-help"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_verbs_help_is_its_stages_docstring(kind):
    source = (PACKAGE / "pipeline" / "stages" / f"{kind}.py").read_text()
    first = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
    shown = run(kind, "--help")
    assert shown.exit_code == 0
    assert " ".join(first.split()) in " ".join(shown.output.split())


def test_validate_says_ok():
    done = run("validate", "--config", NANO)
    assert (done.exit_code, done.stdout.split(": ")[1]) == (0, "OK, 25 stages\n")


def test_validate_refuses_with_the_keys_path(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(Path(NANO).read_text().replace("[0.02, 0.9]", "[0.02, 1.3]"))
    done = run("validate", "--config", str(bad))
    assert done.exit_code == 2
    assert "evaluation.thresholds" in done.stderr and "1.3" in done.stderr and "Traceback" not in done.stderr


def test_validate_refuses_options_that_the_selector_does_not_take(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(Path(NANO).read_text() + "\ndecoding: {selector_options: {stepz: 3}}\n")
    done = run("validate", "--config", str(bad))
    assert done.exit_code == 2 and "stepz" in done.stderr and "Traceback" not in done.stderr


def test_stages_lists_what_is_missing_and_what_is_done(monkeypatch):
    listed = run("stages", "--config", NANO).stdout.splitlines()
    assert len(listed) == 25 and all(line.startswith("missing") for line in listed)
    monkeypatch.setattr(runner, "resolve", lambda reference: _write_data)
    assert run("data", "--config", NANO, "--name", "gsm-mini").exit_code == 0
    states = {line.split()[3]: line.split()[0] for line in run("stages", "--config", NANO).stdout.splitlines()[:2]}
    assert states == {"gsm-mini": "done", "code-mini": "missing"}


def test_stages_tells_partial_from_missing_and_with_verify_damaged_from_done(monkeypatch):
    monkeypatch.setattr(runner, "resolve", lambda reference: _write_data)
    assert run("data", "--config", NANO, "--name", "gsm-mini").exit_code == 0
    [line] = [line for line in run("stages", "--config", NANO).stdout.splitlines() if " gsm-mini " in line][:1]
    folder = Path(line.split()[-1])
    (folder / "test.jsonl").write_text("{}\n")
    assert "done" in run("stages", "--config", NANO).stdout.splitlines()[0]
    assert run("stages", "--config", NANO, "--verify").stdout.splitlines()[0].startswith("damaged")
    (folder / "manifest.json").unlink()
    assert run("stages", "--config", NANO).stdout.splitlines()[0].startswith("partial")


def test_a_verb_that_no_kind_has_is_refused_with_the_nearest():
    done = run("trian", "--config", NANO)
    assert done.exit_code == 2 and "No such command 'trian'. Did you mean 'train'" in done.output


def test_version_is_the_installed_ones():
    from importlib.metadata import version

    assert run("--version").stdout == f"lightningrl {version('lightningrl')}\n"


def test_validate_says_when_programs_could_not_be_judged_here(monkeypatch):
    from lightningrl.sandbox import probe

    report = probe.ProbeReport(None, (("bwrap", "bwrap is not on the PATH"),))
    monkeypatch.setattr(probe, "_choice", "auto")
    monkeypatch.setattr(probe, "_report", report)
    done = run("validate", "--config", NANO)
    assert done.exit_code == 0
    assert done.stderr.startswith("but: no jail level works on this machine (bwrap: bwrap is not on the PATH)")


def _write_data(context) -> None:
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "sources.json"):
        (context.folder / name).write_text("")


def test_a_name_is_needed_where_there_are_several():
    done = run("train", "--config", NANO)
    assert done.exit_code == 2
    assert "--name is needed; one of: lightningrl, grpo-traj" in done.stderr


def test_an_unknown_name_is_answered_with_the_known_ones():
    done = run("train", "--config", NANO, "--name", "ppo")
    assert done.exit_code == 2
    assert "no train stage 'ppo'. It has: lightningrl" in done.stderr


@pytest.mark.parametrize(("error", "code"), [(Interrupted("state saved"), 75), (KeyboardInterrupt(), 130)])
def test_exit_codes_of_interruptions(monkeypatch, error, code):
    def stop(context):
        raise error

    monkeypatch.setattr(runner, "resolve", lambda reference: stop)
    done = run("data", "--config", NANO, "--name", "gsm-mini")
    assert done.exit_code == code
    assert "Traceback" not in done.stderr


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    def broken(context):
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "resolve", lambda reference: broken)
    assert isinstance(run("data", "--config", NANO, "--name", "gsm-mini").exception, ZeroDivisionError)


def test_results_without_a_release_says_what_to_run():
    done = run("results", "--config", NANO)
    assert done.exit_code == 2
    assert "no finished release. Run the experiment first: in the clone, `snakemake --cores 2`" in done.stderr


def test_config_help_has_type_default_limits_and_docstring():
    shown = run("config-help", "runs.temperature").stdout.splitlines()
    assert shown[0] == "runs.temperature: float (> 0), default: 1.0"
    assert shown[1].strip() == "The temperature of rollouts."


def test_config_help_of_a_section_lists_what_is_below():
    shown = run("config-help", "pretrain.diffusion").stdout
    assert "pretrain.diffusion.decay: float (>= 0, <= 1), default: 0.0" in shown
    assert "runs." not in shown


def test_config_help_covers_every_key_of_the_shipped_experiments():
    import yaml

    def paths(tree, prefix=""):
        if isinstance(tree, list):
            for item in tree:
                yield from paths(item, prefix)
        elif prefix == "resources.jobs":  # its keys are names of jobs
            yield from (f"{prefix}.{key}" for job in tree.values() for key in job)
        elif isinstance(tree, dict) and not prefix.endswith("mixture"):
            for key, value in tree.items():
                path = f"{prefix}.{key}" if prefix else key
                yield path
                yield from paths(value, path)

    shown = {line.split(":")[0] for line in run("config-help").stdout.splitlines() if not line.startswith(" ")}
    for file in (ROOT / "config").glob("*.yaml"):
        assert set(paths(yaml.safe_load(file.read_text()))) - {"extends"} <= shown


@pytest.mark.parametrize(
    ("path", "message"),
    [("runs.tau", "runs has no key 'tau'. It has: name"), ("seed.x", "seed is a plain value: no key 'x' below it")],
)
def test_config_help_of_no_key(path, message):
    done = run("config-help", path)
    assert done.exit_code == 2
    assert message in done.stderr


def test_only_the_command_line_prints():
    for path in PACKAGE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = [node.func.id for node in calls if isinstance(node.func, ast.Name)]
        assert "print" not in names or path.name == "cli.py", path
