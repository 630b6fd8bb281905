"""The command line: quick help, options made from the config, exit codes, messages without tracebacks."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from fixtures.limits import HANG_S, processor_time
from typer.main import get_command
from typer.testing import CliRunner

from lightningrl.cli import app
from lightningrl.cli.options import decoding_of
from lightningrl.config.decoding import DirectDecoding
from lightningrl.decoding.presets import PRESETS
from lightningrl.errors import ConfigError, Interrupted
from lightningrl.inference.jsonl import make_settings
from lightningrl.inference.policy import direct_policy, policy_of
from lightningrl.pipeline import runner
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.kinds import KINDS
from lightningrl.sandbox import probe

ROOT = PACKAGE.parent
NANO = str(ROOT / "config" / "nano.yaml")
DATA = ("data", "--config", NANO, "--name", "gsm-mini")


def run(*arguments: str):
    return CliRunner().invoke(app.app, list(arguments))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.system, "set_thread_environment", lambda threads: None)


@pytest.fixture
def stage_does(monkeypatch):
    """Replaces what any stage does."""
    return lambda work: monkeypatch.setattr(runner, "resolve", lambda reference: work)


def write_data(context) -> None:
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl", "sources.json"):
        (context.folder / name).write_text("")


def test_help_takes_less_than_a_second_and_imports_nothing_heavy():
    program = "import sys; sys.argv = ['lightningrl', *sys.argv[1:]]\n"
    program += "from lightningrl.cli.app import app\ntry:\n    app()\nexcept SystemExit:\n    pass\n"
    program += "heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def shown(*words: str) -> str:
        command = [sys.executable, "-c", program, *words, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=HANG_S)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for verb in ("evaluate", "bench"):  # which also compiles what there is
        shown(verb)
    program += "assert not {'pydantic', 'pandas', 'numpy'} & set(sys.modules)\n"
    with processor_time(1.0):
        listed = shown()
    assert all(verb in listed for verb in (*KINDS, *app.VERBS))


@pytest.mark.parametrize("kind", KINDS)
def test_a_verbs_help_is_its_stages_docstring(kind):
    source = (PACKAGE / "pipeline" / "stages" / f"{kind}.py").read_text()
    first = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
    assert " ".join(first.split()) in " ".join(run(kind, "--help").output.split())


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("pretrain", ["pretrain.diffusion.steps", "bases.family", "bases.match_compute"]),
        ("checkpoint", ["base.adapter", "checkpoints.role"]),
        ("probe", ["report.looks", "report.probed_problems", "systems.primary_threshold", "decoding.ranking"]),
        ("speed", ["speed.batch", "systems.max_new_tokens"]),
        ("replay", ["report.replayed_problems", "systems.decoding.preset"]),
    ],
)
def test_a_verbs_help_has_the_keys_that_its_stages_read(kind, keys):
    lines = [line.strip() for line in run(kind, "--help").output.splitlines()]
    for key in keys:
        assert any(line.startswith(f"{key}: ") for line in lines), key


@pytest.mark.parametrize("verb", ["evaluate", "generate", "chat", "trace"])
def test_how_to_decode_is_said_with_the_keys_of_the_config(verb):
    command = get_command(app.app).resolve_command(None, [verb])[1]
    options = {option.name: option for option in command.params}
    for name, field in DirectDecoding.model_fields.items():
        if name == "threshold" or (name in ("rows", "memory_mb") and verb in ("chat", "trace")):
            continue
        assert f"--{name.replace('_', '-')}" in options[name].opts
        assert " ".join((field.description or "").split()).startswith(options[name].help.partition(". ")[0])
    assert "--cache" in options["schedule"].opts and "--threshold" in options["threshold"].opts


def test_a_preset_is_what_other_options_do_not_say():
    for name, preset in PRESETS.items():
        asked = {"preset": name} if "parameter" in preset else {"preset": name, "threshold": 4.0}
        found = decoding_of(asked)
        assert preset["decoding"].items() <= found.model_dump().items()
        assert found.threshold == preset.get("parameter", 4.0)
    found = decoding_of({"preset": "entropy_bounded", "stop": "inside_block", "threshold": 0.2, "ranking": None})
    assert (found.selector, found.ranking, found.stop, found.threshold) == (
        "cumulative_entropy", "neg_entropy", "inside_block", 0.2,
    )  # fmt: skip
    assert decoding_of({"preset": "entropy_bounded", "selector": "quota"}).threshold == 0.9
    assert decoding_of({"selector_options": '{"inclusive": true, "steps": null}'}).selector_options == {
        "inclusive": True
    }


def test_responses_depend_on_every_key_but_those_of_the_model_and_of_speed():
    """So a resumed evaluation, or a line of `generate`, decodes as the command says."""
    found = decoding_of({"schedule": "full_sequence", "schedule_options": '{"block_size": 16}'})
    words = found.identity() | {"parameter": found.threshold}
    settings = {"preset", "plugins", "threshold", "adapter", "block_size"}
    elsewhere = settings | {"revision", "dtype", "device", "rows", "memory_mb", "forwards"}
    assert words.keys() - {"parameter"} == DirectDecoding.model_fields.keys() - elsewhere
    assert policy_of(**make_settings(**words).policy_arguments()) == direct_policy(found)
    assert direct_policy(found).schedule.block_size == 16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "sdar_static"}, "sdar_static leaves its parameter to you; say `--threshold`"),
        ({"preset": "sdar_dynamc"}, "Did you mean `sdar_dynamic`"),
        ({"selector_options": "["}, "--selector-options: "),
        ({"schedule_options": "[]"}, "--schedule-options: found \\[\\], expected an object"),
        ({"threshold": float("nan")}, "threshold: found nan; input should be a finite number"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        decoding_of(given)


def test_validate_says_ok_and_when_programs_could_not_be_judged_here(monkeypatch):
    monkeypatch.setattr(probe, "_choice", "auto")
    monkeypatch.setattr(probe, "_report", probe.ProbeReport(None, (("bwrap", "bwrap is not on the PATH"),)))
    done = run("validate", "--config", NANO)
    assert (done.exit_code, done.stdout.split(": ")[1]) == (0, "OK, 25 stages\n")
    assert done.stderr.startswith("but: no jail level works on this machine (bwrap: bwrap is not on the PATH)")


@pytest.mark.parametrize(
    ("jobs", "said"),
    [
        ({"train/4b": {"cpus": 2}}, ["jobs of train/4b ask for no GPU", "Set `gpus` in their entries"]),
        ({"evaluate/17b": {"gpus": 1}}, ["jobs.evaluate/17b: no stage asks for it; there are: evaluate/1.7b,"]),
        ({"evaluate/7b": {"gpus": 1}}, []),
    ],
)
def test_validate_notes_jobs_that_nobody_asks_for_and_those_without_the_gpus_they_need(tmp_path, jobs, said):
    """The sizes named are those that an entry may have: no `speed/8b`, whose jobs ask for what `evaluate` does."""
    tree = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())
    tree["resources"]["jobs"] |= jobs
    file = tmp_path / "paper.yaml"
    file.write_text(yaml.safe_dump(tree))
    done = run("validate", "--config", file)
    notes = [line for line in done.stderr.splitlines() if "jobs" in line]
    assert done.exit_code == 0 and len(notes) == bool(said) and all(text in notes[0] for text in said)
    assert "speed/8b" not in done.stderr


def test_stages_tells_done_partial_damaged_and_missing(stage_does):
    def states(*options: str) -> list[str]:
        listed = run("stages", "--config", NANO, *options).stdout.splitlines()
        assert len(listed) == 25
        return [line.split()[0] for line in listed]

    assert set(states()) == {"missing"}
    stage_does(write_data)
    assert run(*DATA).exit_code == 0
    assert states() == ["done"] + 24 * ["missing"]
    folder = Path(run("stages", "--config", NANO).stdout.splitlines()[0].split()[-1])
    (folder / "test.jsonl").write_text("{}\n")
    assert states()[0] == "done" and states("--verify")[0] == "damaged"
    (folder / "manifest.json").unlink()
    assert states()[0] == "partial"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian", "--config", NANO), "No such command 'trian'. Did you mean 'train'"),
        (("train", "--config", NANO), "--name is needed; one of: lightningrl, grpo-traj"),
        (("train", "--config", NANO, "--name", "ppo"), "no train stage 'ppo'. It has: lightningrl"),
        (("results", "--config", NANO), "no finished release. Run the experiment first: in the clone, `snakemake --co"),
        (("config-help", "runs.tau"), "runs has no key 'tau'. It has: name"),
        (("config-help", "seed.x"), "seed is a plain value: no key 'x' below it"),
        (("validate", "--config", "nowhere.yaml"), "nowhere.yaml does not exist"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_can(words, message):
    done = run(*words)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_make_demo_says_which_config_is_not_there_before_anything_is_installed():
    done = subprocess.run(
        ["make", "-C", str(ROOT), "demo", "CONFIG=nowhere.yaml"], capture_output=True, text=True, timeout=HANG_S
    )
    assert done.returncode == 2 and "error: CONFIG=nowhere.yaml does not exist" in done.stderr
    assert "No rule" not in done.stderr and "pip" not in done.stdout


@pytest.mark.parametrize(("error", "code"), [(Interrupted("state saved"), 75), (KeyboardInterrupt(), 130)])
def test_exit_codes_of_interruptions(stage_does, error, code):
    def stop(context):
        raise error

    stage_does(stop)
    done = run(*DATA)
    assert done.exit_code == code and "Traceback" not in done.stderr
    assert ("run the same command again to resume" in done.stderr) == (code == 130)


def test_a_defect_of_ours_keeps_its_traceback(stage_does):
    stage_does(lambda context: 1 / 0)
    assert isinstance(run(*DATA).exception, ZeroDivisionError)


def test_version_is_the_installed_ones():
    assert run("--version").stdout == f"lightningrl {version('lightningrl')}\n"


def test_config_help_has_type_default_limits_and_docstring_and_what_is_below():
    shown = run("config-help", "runs.temperature").stdout.splitlines()
    assert shown == ["runs.temperature: float (> 0), default: 1.0", "    The temperature of rollouts."]
    below = run("config-help", "pretrain.diffusion").stdout
    assert "pretrain.diffusion.decay: float (>= 0, <= 1), default: 0.0" in below and "runs." not in below


def test_config_help_covers_every_key_of_the_shipped_experiments():
    def paths(tree, prefix=""):
        if isinstance(tree, list):
            for item in tree:
                yield from paths(item, prefix)
        elif prefix == "resources.jobs":  # its keys are names of jobs
            yield from (f"{prefix}.{key}" for job in tree.values() for key in job)
        elif isinstance(tree, dict) and not prefix.endswith(("mixture", "_options", "extra_body")):
            if prefix == "systems.quantizer":  # what stands beside its own keys are the quantizer's options
                tree = {key: value for key, value in tree.items() if key in ("name", "calibration")}
            for key, value in tree.items():
                path = f"{prefix}.{key}" if prefix else key
                yield path
                yield from paths(value, path)

    shown = {line.split(":")[0] for line in run("config-help").stdout.splitlines() if not line.startswith(" ")}
    for file in (ROOT / "config").glob("*.yaml"):
        assert set(paths(yaml.safe_load(file.read_text()))) - {"extends"} <= shown


def test_only_the_command_line_prints():
    for path in PACKAGE.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        assert "print" not in [node.func.id for node in calls if isinstance(node.func, ast.Name)], path
