"""Runs an experiment under another seed and keeps its rows: `workflow/seeds.py CONFIG SEED TABLE [CORES [COLLECTED]]`.

A seed is everything that is drawn: problems, initial weights, data order, rollouts. The config is the one that is
given with this `seed`, in the same experiment, so stages that two such configs share are made once. The rows of
COLLECTED, a collected table (`headline` if nothing is said, or `quantized`), are added to TABLE, a CSV file, with the
step that validation chose, the seconds of each training and the commit; where the experiment makes the table `trained`,
also with the token-forwards of each training. A seed's rows are written once: to run it again
they must be taken out by hand, so that nobody chooses among repetitions. Two seeds may run side by side, best with one
core each: the number of cores changes no row, and rows are added under a lock.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent


def main(config: Path, seed: int, table: Path, cores: int = 2, collected: str = "headline") -> None:
    from lightningrl.config.experiment import load
    from lightningrl.pipeline.plan import plan
    from lightningrl.pipeline.system import git_state
    from lightningrl.report.formats import csv_text
    from lightningrl.utils import files as io

    weights = {system.name: system.policy for system in load(config).all_systems()}
    wanted = set(weights)
    known = _read(table) if table.exists() else pd.DataFrame(columns=["seed", "policy", "benchmark"])
    known_rows = known[known.seed == str(seed)]
    there = set(zip(known_rows.policy, known_rows.benchmark, strict=True))
    if wanted <= {policy for policy, _ in there}:
        sys.exit(f"{table} has seed {seed} of {config} already: every seed is run once")
    state = git_state()
    if state["dirty"]:
        sys.exit("the checkout has changes that are not committed: the rows would be of no commit")
    own = Path("results") / "seeds" / f"{config.stem}-{seed}.yaml"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(f"extends: {config.resolve()}\nseed: {seed}\n")
    snakemake = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--ignore-incomplete", "--nolock"]
    files = ["--quiet", "rules", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(own)]
    subprocess.run([*snakemake, "collect_frontier", *files], check=True)
    rows = _rows(plan(load(own)), weights, collected)
    rows = rows[[pair not in there for pair in zip(rows.policy, rows.benchmark, strict=True)]]
    rows.insert(0, "seed", str(seed))
    rows["commit"] = state["commit"][:7]
    with open(ROOT / "workflow" / "seeds.py") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        earlier = [_read(table)] if table.exists() else []
        io.write_text(table, csv_text(pd.concat([*earlier, rows])))


def _rows(found, weights: dict[str, str], collected: str) -> pd.DataFrame:
    """The rows of a collected table, each with what is known of how its system's weights were made."""
    from lightningrl.report.quantization import with_states

    folder = found.stage("collect", "frontier").folder
    rows = _read(folder / f"{collected}.csv")
    if collected == "quantized":  # with what the probes found on fixed states
        rows = with_states(rows, pd.read_csv(folder / "probes.csv"))
    rows["chosen_step"] = [_chosen(found, weights[policy]) for policy in rows.policy]
    rows["seconds"] = [_seconds(found, weights[policy]) for policy in rows.policy]
    if any(stage.name == "trained" for stage in found.of("table")):
        trainings = pd.read_csv(folder / "trainings.csv").set_index("run")
        spent = trainings["token_forwards"] + trainings["earlier_token_forwards"]
        rows["token_forwards"] = [spent.get(weights[policy]) for policy in rows.policy]
    return rows


def _read(path: Path) -> pd.DataFrame:
    """Every cell as it is written."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _stage(found, policy: str):
    """The stage that made a policy's weights: the pre-training of a base, or a run."""
    is_base = any(stage.name == policy for stage in found.of("pretrain"))
    return found.stage("pretrain" if is_base else "train", policy)


def _chosen(found, policy: str) -> int | None:
    path = _stage(found, policy).folder / "selection.json"
    return json.loads(path.read_text())["chosen"]["step"] if path.exists() else None


def _seconds(found, policy: str) -> float:
    """From the stage's last start to its end, with its validations."""
    lines = (_stage(found, policy).folder / "timing.jsonl").read_text().splitlines()
    return round(next(row["seconds"] for row in map(json.loads, reversed(lines)) if row.get("event") == "end"), 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), *map(int, sys.argv[4:5]), *sys.argv[5:6])
