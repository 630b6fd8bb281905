"""Write the conda environments from the locks: `python workflow/envs/write.py`, as `make lock` does.

That for GPUs has a C compiler, with which Triton starts; Python's headers come with conda's Python.

Each holds the pins themselves and names no file, so that Snakemake, which knows an environment by its text, makes a new
one when a pin changes.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
# Written by workflow/envs/write.py from {locks}; used with `snakemake --sdm conda`.
name: {name}
channels:
  - conda-forge
dependencies:
  - python =3.11
{tools}  - pip
  - pip:
"""
ENVIRONMENTS = {
    "lightningrl": ("requirements.lock",),
    "lightningrl-cuda": ("requirements.lock", "requirements-cuda.lock"),
}


def pins(lock: str) -> list[str]:
    """The `name==version` lines of a lock."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / lock).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def text(name: str) -> str:
    """An environment's file."""
    locks = ENVIRONMENTS[name]
    lines = "".join(f"      - {pin}\n" for lock in locks for pin in pins(lock))
    tools = "  - c-compiler\n" if "requirements-cuda.lock" in locks else ""
    return HEAD.format(name=name, locks=" and ".join(locks), tools=tools) + lines


if __name__ == "__main__":
    for name in ENVIRONMENTS:
        (ROOT / "workflow" / "envs" / f"{name}.yaml").write_text(text(name))
