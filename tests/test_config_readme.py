"""config/README.md lists the keys there are. `python tests/test_config_readme.py` writes it anew."""

from pathlib import Path

from lightningrl.config.describe import describe
from lightningrl.config.experiment import Experiment

PAGE = Path(__file__).resolve().parents[1] / "config" / "README.md"

HEAD = """\
# An experiment in one YAML file

| file | what it is |
|---|---|
| `config.yaml` | the miniature of the paper: what runs when no other file is named |
| `paper.yaml` | the paper at its main size, from a published checkpoint, with the source of every number; GPUs |
| `study.yaml` | several seeds of every method, in miniature (docs/study.md); `study_search.yaml`: its search |
| `nano.yaml` | every stage in at most 90 seconds, with numbers that mean nothing: for tests and for trying things |

Run another with `snakemake --cores 2 --configfile my.yaml`, one of these by its name: `snakemake --cores 2 study`.
A file may begin with `extends: config.yaml` (relative to itself): mappings are merged key by key, lists and values are
replaced. Only the keys below exist; a wrong one, or a value out of range, is refused before anything runs.
`lightningrl validate --config my.yaml` only checks.

The base policy is either pre-trained (`model` and `pretrain`), or a checkpoint that exists (`base`). What an experiment
will need in memory and time, `lightningrl plan --config my.yaml` says before it is run.

A changed key makes those stages run again that read it, and what follows from them; nothing else. Keys under
`resources` and `sandbox` are part of no stage's key: they make nothing run again.

Where a section says "default: as below" it may be left out. `list[...]` and `dict[str, ...]`: the keys under it are
those of one entry.

## Every key

Also: `lightningrl config-help`, or `lightningrl config-help runs.threshold` for one.

"""


def page() -> str:
    return HEAD + "```text\n" + "".join(f"{line}\n" for line in describe(Experiment)) + "```\n"


def test_the_page_of_config_keys_is_what_the_config_says():
    assert PAGE.read_text(encoding="utf-8") == page(), "stale; write it anew with `python tests/test_config_readme.py`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
