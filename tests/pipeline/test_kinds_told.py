"""The kinds of stages that pages count and list are those that there are."""

import re

from lightningrl.config.experiment import load
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.kinds import KINDS
from lightningrl.pipeline.plan import plan

ROOT = PACKAGE.parent


def test_what_nano_makes_is_told_as_it_is():
    made = {stage.kind for stage in plan(load(ROOT / "config" / "nano.yaml"))}
    lacking = [kind for kind in KINDS if kind not in made]
    page = (ROOT / "config" / "README.md").read_text(encoding="utf-8")
    told = ", ".join(f"`{kind}`" for kind in lacking[:-1]) + f" and `{lacking[-1]}`"
    assert f"| `nano.yaml` | every kind of stage but {told} " in page


def test_the_table_of_stages_has_every_kind():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    table = page.partition("| stage | folder")[2].partition("\n\n")[0]
    told = [kind for row in re.findall(r"^\| ([a-z_, ]+) \|", table, re.M) for kind in row.split(", ")]
    assert sorted(told) == sorted(KINDS)
