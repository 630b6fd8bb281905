"""Training on several processes gives what one gives: launched by torchrun and by accelerate, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fixtures import killing
from fixtures.limits import HANG_S
from fixtures.tiny import tiny_setup
from fixtures.trained import dying, main

TESTS = Path(__file__).parents[1]
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no",
                   "--num_machines", "1", "--main_process_port", "0", "--num_processes"],
}  # fmt: skip
RUN = {"steps": 2, "prompts": 4, "updates": 2, "method": {"filter_all_wrong": False, "filter_tpf_range": 0.0}}
"""Two steps of two updates of eight trajectories."""


def trained(folder, processes=1, launcher=None, **options):
    """Weights and metrics, from processes of a fork server or, with all their imports, of a launcher."""
    tiny_setup(folder)  # makes the tokenizer, which all processes read
    out = folder / "out.pt"
    if launcher is None:
        killing.run_ranks(processes, main, str(folder), str(out), RUN | options)
    else:
        command = [sys.executable, "-m", *LAUNCHERS[launcher], str(processes)]
        command += [str(TESTS / "fixtures" / "trained.py"), str(folder), str(out), json.dumps(RUN | options)]
        path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
        environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
        environment |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(out)
    assert found["processes"] == processes
    assert found["gathered"] == [], "a value model keeps nothing gathered behind its estimate"
    return found["weights"], found["rows"]


def assert_same(one, two, but=frozenset()):
    """Weights, and every metric but some."""
    torch.testing.assert_close(two[0], one[0], rtol=0, atol=1e-10)
    for row, other in zip(one[1], two[1], strict=True):
        assert row.keys() == other.keys()
        for key in row.keys() - but:
            if isinstance(row[key], float):
                assert other[key] == pytest.approx(row[key], abs=1e-7, rel=1e-7), key
            else:
                assert other[key] == row[key], key


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone"), microbatch=8)


def test_one_by_eight_and_eight_by_one_are_the_same_update(alone, tmp_path):
    assert_same(alone, trained(tmp_path, microbatch=1))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_by_four_are_the_same_update(alone, tmp_path, launcher):
    """Weights within 1e-10 in float64 after four updates, and every metric; rollouts, judging, updates are shared."""
    if launcher == "accelerate":
        pytest.importorskip("accelerate")
    assert_same(alone, trained(tmp_path, 2, launcher, microbatch=4))


FILTERED = {"prompts": 3, "responses": 3, "max_rounds": 3, "method": {"filter_accuracy": [0.3, 0.7]}}
"""Most groups fail, and prompts take their place."""


def test_prompts_that_take_the_place_of_failed_ones_are_the_same_on_two_processes(tmp_path):
    """Whichever process has the group that fails. What was sampled and kept, in how many rounds, and what was lost."""
    one, two = trained(tmp_path, microbatch=8, **FILTERED), trained(tmp_path, 2, microbatch=4, **FILTERED)
    assert_same(one, two)
    assert any(row["rounds"] > 1 for row in one[1]) and all(row["groups_sampled"] > 3 for row in one[1])


def test_a_process_that_dies_in_its_rollouts_ends_the_others_with_a_clear_error(tmp_path):
    """It is killed after a few turns; the other one waits for it at the next exchange."""
    tiny_setup(tmp_path)
    killing.run_ranks(2, dying, str(tmp_path), expected=[-9, 0])
    assert "process 0 of 2 lost the others" in (tmp_path / "said").read_text()


@pytest.mark.slow
def test_three_processes_with_unequal_shares_are_the_same_update(alone, tmp_path):
    """Sixteen trajectories an update in micro-batches of five: four for three processes."""
    assert_same(alone, trained(tmp_path, 3, microbatch=5))


SPLIT = {"microbatch": 4, "microbatch_positions": 28}
"""Most trajectories in two to five forwards (test_split.py)."""
COMPUTED = frozenset({"trained_positions", "token_forwards"})
"""In which a repeated clean part counts."""


def test_split_trajectories_on_two_processes_are_the_same_update(alone, tmp_path):
    """Parts of one trajectory are in both."""
    assert_same(alone, trained(tmp_path, 2, **SPLIT), but=COMPUTED)


def test_a_value_model_is_sharded_too_and_values_of_split_trajectories_are_gathered(tmp_path):
    """A discounted estimate of each action needs the values of all later ones."""
    value = {"learning_rate": 1e-2, "gamma": 0.9, "lam": 0.8}
    method = {"filter_accuracy": [0.0, 1.0], "value": value, "shrink": 2}
    options = {"algorithm": "tracerl", "method": method}
    whole = trained(tmp_path, microbatch=4, **options)
    assert_same(whole, trained(tmp_path, 2, **options | SPLIT), but=COMPUTED)


@pytest.mark.parametrize("algorithm", ["lightningrl", "tracerl"])
def test_a_part_of_the_states_on_two_processes_is_the_same_update(tmp_path, algorithm):
    """The same states are taken, whole trajectories or parts; a value model's estimate is over all of them."""
    options = {"algorithm": algorithm, "state_share": 0.4}
    options |= {"method": {"filter_accuracy": [0.0, 1.0]}} if algorithm == "tracerl" else {}
    whole = trained(tmp_path, microbatch=8, **options)
    assert_same(whole, trained(tmp_path, 2, **options | SPLIT), but=COMPUTED)


DISTILLED = {
    "dparallel": {"family": "sdar", "method": {"adapter": {"rank": 2}}, "averaging": 0.5},
    "d2f": {"family": "llada", "method": {"block_size": 4}},
    "d3llm": {"family": "dream", "method": {"block_sizes": [4, 8], "mean_over": 2}},
}  # fmt: skip
"""Adapters over a block-causal model; all weights with a frozen teacher; units of two answers."""


@pytest.mark.parametrize("algorithm", DISTILLED)
def test_a_distillation_on_two_processes_is_the_same_training(algorithm, tmp_path):
    """Two steps of five answers, of which one process has fewer forwards than the other."""
    options = DISTILLED[algorithm] | {"algorithm": algorithm, "prompts": 1, "updates": 1, "sequences": 5}
    whole = trained(tmp_path, microbatch=5, **options)
    assert_same(whole, trained(tmp_path, 2, microbatch=2, **options))
    assert all(0 < row["loss"] < 1e3 and row["skipped"] == 0 for row in whole[1])


def test_the_supervised_control_on_two_processes_is_the_same_training(tmp_path):
    """Two steps of five sequences, of which one process has fewer micro-batches; the second step's validation decodes
    the weights after both, so that they were published. Muon steps whole matrices, however they are sharded."""
    own = {"algorithm": "supervised", "method": {}, "sequences": 5}
    one, two = trained(tmp_path, microbatch=5, **own), trained(tmp_path, 2, microbatch=2, **own)
    assert_same(one, two)
    before = dict(tiny_setup(tmp_path, dtype=torch.float64, **own).model.named_parameters())
    assert all(not torch.equal(weight, before[name]) for name, weight in one[0].items() if "proj" in name)
    assert "validation_tpf" in one[1][-1]


@pytest.mark.parametrize("algorithm", ["dultra", "planner_pretraining"])
def test_a_planner_trained_on_two_processes_is_that_of_one(tmp_path, algorithm):
    own = {"algorithm": algorithm, "method": {}, "sequences": 4}
    one, two = trained(tmp_path, microbatch=8, **own), trained(tmp_path, 2, microbatch=2, **own)
    assert_same(one, two)
    assert any(name.startswith("planner.") for name in one[0])


def test_the_same_seed_and_world_give_the_same_bits(tmp_path):
    one, two = (trained(tmp_path, 2, microbatch=4, dtype="float32") for _ in range(2))
    assert one[1] == two[1]
    assert all(torch.equal(tensor, two[0][name]) for name, tensor in one[0].items())


def test_bfloat16_computes_in_it_and_keeps_float32_masters(tmp_path):
    """The decoder's and the trainer's log-probabilities are of one precision: their gap stays small."""
    weights, rows = trained(tmp_path, 2, microbatch=4, dtype="float32", precision="bfloat16")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    assert all(0 < row["logp_gap_mean"] < 0.05 for row in rows)
    rounded = [tensor.bfloat16().float() for tensor in weights.values()]
    assert any((a != b).any() for a, b in zip(weights.values(), rounded, strict=True)), "finer than bfloat16"
