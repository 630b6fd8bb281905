"""`lightningrl bench phases`: seconds of a training by phase, from its own files; and `bench judges`."""

import json

import pytest
import torch
from fixtures.tiny import make_trainer, tiny_setup
from typer.testing import CliRunner

from lightningrl.bench.costs import positions_of
from lightningrl.bench.judges import mathematics, solutions
from lightningrl.bench.phases import phases
from lightningrl.cli.app import app
from lightningrl.errors import CheckpointError
from lightningrl.judges.boxed_answer import BoxedJudge
from lightningrl.models.checkpoint import save_model
from lightningrl.types import Example
from lightningrl.utils import files


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A training of two steps, written as its stage writes it, and the trajectories that they were trained on."""
    folder = tmp_path_factory.mktemp("finished")
    setup = tiny_setup(folder, steps=2)
    trainer = make_trainer(setup)
    trained, draw = [], trainer._draw

    def noting(step):
        drawn = draw(step)
        trained.extend(drawn.kept.trajectories)
        return drawn

    trainer._draw = noting
    results = [trainer.step() for _ in range(2)]
    save_model(setup.model, folder, eos_token_id=1, pad_token_id=0)
    files.write_jsonl(folder / "metrics.jsonl", (dict(result.metrics) for result in results))
    rows = [{"event": "start"}, *({"step": i, **result.timing} for i, result in enumerate(results, 1))]
    files.write_jsonl(folder / "timing.jsonl", rows)
    return folder, setup, [dict(result.metrics) for result in results], trained


def test_positions_of_a_real_update_are_those_the_trainer_counts(finished):
    """Everything that was kept is trained on once; the token-forwards so far are 1 + 3 of it beside the rollouts."""
    *_, metrics, trained = finished
    rollouts = sum(row["rollout_positions"] for row in metrics)
    assert 4 * positions_of(trained) == metrics[-1]["token_forwards"] - rollouts > 0


def test_positions_and_operations_are_those_of_the_runs_steps(finished):
    folder, setup, metrics, _ = finished
    found = phases(folder, torch.device("cpu"), torch.float32)
    assert [row["phase"] for row in found["phases"]] == ["rollout", "reference", "update"]
    rollout, reference, update = found["phases"]
    assert rollout["positions"] == metrics[1]["rollout_positions"]
    assert reference["positions"] == update["positions"] > 0
    matrices = sum(p.numel() for p in setup.model.model.layers.parameters() if p.ndim == 2)
    expected = 100 * 2 * 3 * matrices * update["positions"] / update["seconds"] / found["peak_operations_per_s"]
    assert update["of_peak_pct"] == pytest.approx(expected) and 0 < expected < 100
    assert 0 < found["logp_gap_mean"] < 1e-4 and found["rollout_tokens_per_s"] > 0


def test_the_verb_prints_a_line_a_phase_and_writes_json(finished, tmp_path):
    done = CliRunner().invoke(app, ["bench", "phases", str(finished[0]), "--out", str(tmp_path / "p.json")])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.output.splitlines()[-3:]] == ["rollout", "reference", "update"]
    assert len(json.loads((tmp_path / "p.json").read_text())["phases"]) == 3


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no finished training"):
        phases(tmp_path, torch.device("cpu"), torch.float32)


def test_judgements_a_second_of_every_way_of_judging():
    examples = [Example(f"m/test/{i}", (), {"answer": gold}, gold) for i, gold in enumerate(("12", "x+3"))]
    rows = mathematics(examples, workers=1)
    assert [(row["judged"], row["correct"]) for row in rows] == [(2, 2)] * 3 and all(row["per_s"] > 0 for row in rows)
    [row] = solutions(examples, lambda workers: BoxedJudge(), workers=1, rounds=3)
    assert (row["judged"], row["correct"]) == (6, 0) and row["cpu_ms"] >= 0
