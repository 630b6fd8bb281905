"""The memory that `lightningrl plan` says, against bytes alive: of small trainings, and of 8B under fake tensors.

On a CPU the host's tensors count as well: the chosen weights, and tables of positions.
"""

import json

import pytest
from fixtures import killing, memory_8b, memory_walk

from lightningrl.bench.memory import DRAW_LOGITS, HEAD_LOGITS, OVERHEAD, TrainingMemory
from lightningrl.bench.model_shape import SHAPES, Shape
from lightningrl.decoding import sampler
from lightningrl.models import head

SHAPE = Shape(**memory_walk.WIDE, block_size=4)
STEP = {
    "prompts": 2, "responses": 2, "updates": 1, "microbatch": 2, "validate_every": 1, "steps": 2,
    "method": {"filter_all_wrong": False, "filter_tpf_range": 0.0},
}  # fmt: skip
VALUE = {"algorithm": "tracerl", "method": {"filter_accuracy": [0.0, 1.0], "value": {}}}
ROTATIONS = 3 * 2 * 32_768 * 128 * 2
"""Bytes of the cosines and sines of three models, which the plan has in its overhead."""
TABLES = 120_000
"""Bytes of what grows with nothing here: the rotations of 128 positions in three models, indices."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    memory_walk.save_base(folder)
    return folder


@pytest.mark.parametrize(
    ("processes", "precision", "value"),
    [(1, "float32", False), (1, "bfloat16", True), (2, "float32", False), (2, "bfloat16", True)],
)
def test_bytes_alive_at_each_point_are_at_most_what_the_plan_says(base, tmp_path, processes, precision, value):
    """Loading, rollouts with their pages, reference, update with its reduce-scatter buffers, hand-over, validation."""
    out, options = str(tmp_path / "found"), STEP | {"precision": precision} | (VALUE if value else {})
    if processes == 1:
        memory_walk.main(str(base), out, options)
    else:
        killing.run_ranks(processes, memory_walk.main, str(base), out, options)
    number_bytes = 4 if precision == "float32" else 2
    for rank in range(processes):
        found = json.loads((tmp_path / f"found-{rank}.json").read_text())
        said = TrainingMemory(
            SHAPE, processes, number_bytes, found["positions"], found["pool"], found["rows"], value, overhead=0
        )  # fmt: skip
        on_host = number_bytes * SHAPE.parameters if rank == 0 else 0
        peaks = {
            point: most - TABLES - on_host * (not point.startswith("load")) for point, most in found["peaks"].items()
        }
        assert_within(peaks, said.totals())


def test_a_training_without_a_reference_model_is_planned_without_it():
    with_it, without = (
        TrainingMemory(Shape.of_size("8b", 32), 8, 2, 65_536, 0, 8, has_reference=has) for has in (True, False)
    )
    assert with_it.resident.keys() - without.resident.keys() == {"reference, a shard"}
    assert "reference" not in without.totals() and max(without.totals().values()) < max(with_it.totals().values())


def assert_within(peaks, totals):
    """Each counted peak is at most the largest of the plan's points of its name."""
    most = {
        point: max(total for name, total in totals.items() if name == point or name.startswith(f"{point}:"))
        for point in peaks
    }
    assert {point: (counted, most[point]) for point, counted in peaks.items() if counted > most[point]} == {}


@pytest.mark.parametrize(
    ("layers", "value"),
    [(2, False), *(pytest.param(36, value, marks=pytest.mark.slow) for value in (False, True))],
)
def test_one_of_eight_processes_of_an_8b_has_at_most_what_the_plan_says_and_fits_80_gb(tmp_path, layers, value):
    """The stage's own set-up, a pool of 25 GB, and an update of 32,768 positions; every tensor counted, none made."""
    keys = SHAPES["8b"] | {"num_hidden_layers": layers}
    said = TrainingMemory(Shape.of(keys, 32), 8, 2, 32_768, 25e9, 256, value, overhead=0)
    found = memory_8b.walk(tmp_path, value, keys)
    assert_within({point: most - ROTATIONS for point, most in found.items()}, said.totals())
    assert max(found.values()) < 0.92 * 80e9 - OVERHEAD


def test_the_plan_counts_logits_as_they_are_computed():
    assert (HEAD_LOGITS, DRAW_LOGITS) == (head.CHUNK_LOGITS, sampler.CHUNK_LOGITS)
