"""Names that other packages add to the registries."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest
import yaml

from lightningrl.cli.app import VERBS
from lightningrl.config.experiment import load
from lightningrl.config.registries import REGISTRIES, member, names
from lightningrl.errors import ConfigError
from lightningrl.pipeline.code_digest import PACKAGE
from lightningrl.pipeline.kinds import KINDS, RESERVED, Kind, jobs_of, kinds_of
from lightningrl.utils.registry import resolve

NANO = PACKAGE.parent / "config" / "nano.yaml"


@pytest.fixture
def plugin(monkeypatch):
    """Makes a module with these `MEMBERS`, and others of its attributes, importable; returns its name."""

    def make(members: object, name: str = "somebodys_names", **others: object) -> str:
        module = ModuleType(name)
        vars(module).update(others if members is None else others | {"MEMBERS": members})
        monkeypatch.setitem(sys.modules, name, module)
        return name

    return make


def test_a_name_stands_for_what_its_registry_or_a_plugin_says(plugin):
    module = plugin({"selector": {"gap": "colours.gap:Gap"}})
    assert member("selector", "gap", "decoding.selector", [module]) == "colours.gap:Gap"
    assert member("selector", "quota", "decoding.selector", [module]) == names("selector")["quota"]
    assert member("selector", "other.place:Thing", "decoding.selector") == "other.place:Thing"
    with pytest.raises(ConfigError, match=r"^decoding\.selector: there is no selector 'gap'"):
        member("selector", "gap", "decoding.selector")  # another experiment has no such name
    with pytest.raises(
        ConfigError, match=r"Did you mean `gap`.*Allowed: bernoulli, cumulative_entropy, entropy, factor, gap"
    ):
        member("selector", "gaps", "decoding.selector", [module])
    again = plugin({"selector": {"gap": "colours.gap:Gap"}}, "second_names")  # two plug-ins may say the same
    assert names("selector", [module, again])["gap"] == "colours.gap:Gap"


def test_every_registry_maps_names_to_references():
    for kind, registry in REGISTRIES.items():
        for name, reference in resolve(registry).items():
            assert isinstance(name, str) and ":" in reference, (kind, name)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (None, "has no attribute 'MEMBERS'"),
        (["gap"], "expected a mapping of kinds"),
        ({"selector": {"gap": "colours.gap"}}, "expected a mapping of kinds"),
        ({"selector": "gap"}, "expected a mapping of kinds"),
        ({"selektor": {}}, r"registers \['selektor'\]; the kinds that have names are"),
        ({"selector": {"quota": "colours.quota:Quota"}}, "a name that lightningrl.*:Quota has already"),
    ],
)
def test_a_plugin_that_cannot_be_used_is_refused(plugin, members, message):
    with pytest.raises(ConfigError, match=message):
        names("selector", [plugin(members)])


@pytest.mark.parametrize(
    ("module", "message"),
    [("nobodys_names", "no module 'nobodys_names'"), ("names.py:MEMBERS", "expected the dotted name of a module")],
)
def test_a_module_that_is_not_there_is_named(module, message):
    with pytest.raises(ConfigError, match=message):
        names("selector", [module])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:", r"SyntaxError: invalid syntax \(broken_names\.py, line 1\); fix it"),
        ("from os import nope", r"ImportError: cannot import name 'nope'.*broken_names\.py, line 1;"),
        ("import nobodys_part", "broken_names imports what is not there: no module 'nobodys_part'; install it"),
        ("1 / 0", r"ZeroDivisionError: division by zero, at .*broken_names\.py, line 1; fix it, or leave it out"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3, at .*broken_names\.py, line 2;"),
        ("def __getattr__(name):\n    raise RuntimeError(name)", r"RuntimeError: MEMBERS, at .*names\.py, line 2;"),
    ],
)
def test_a_plugin_that_fails_when_it_is_imported_is_told_with_its_key(tmp_path, monkeypatch, text, said):
    (tmp_path / "broken_names.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_names", raising=False)
    tree = yaml.safe_load(NANO.read_text()) | {"plugins": ["broken_names"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=rf"plugins\.0: broken_names:MEMBERS: .*{said}"):
        load(tmp_path / "mine.yaml")
    sys.modules.pop("broken_names", None)
    with pytest.raises(ConfigError, match=r"^report\.tables: broken_names:MEMBERS"):
        resolve("broken_names:MEMBERS", "report.tables")


def test_a_plugin_adds_a_kind_of_stage_with_a_job_of_its_own(plugin):
    cost = Kind("cost", ("cost.csv",), (), job="cost", outside="colours.cost", plan=lambda experiment, stages: [])
    module = plugin({"stage": {"cost": "somebodys_names:COST"}}, COST=cost)
    assert kinds_of([module]) == {**KINDS, "cost": cost} and cost.module == "colours.cost"
    assert jobs_of([module]) == (*jobs_of([]), "cost")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("cost", "cost.csv", r"the stage 'cost' is somebodys_names:FOUND, which is 'cost\.csv'; expected a .*Kind"),
        ("cost", Kind("price", (), (), outside="a", plan=lambda *_: []), "with name='cost'"),
        ("cost", Kind("cost", (), (), plan=lambda *_: []), "outside=<the module that has its run>"),
        ("cost", Kind("cost", (), (), outside="colours.cost"), "and plan"),
        (
            "cost",
            Kind("cost", (), (), outside="a", plan=lambda *_: [], in_parts=True, collected="a.csv"),
            "the stage 'cost' sets in_parts, collected, which work for the package's own kinds only; leave them out",
        ),
        ("table", Kind("table", (), (), outside="a", plan=lambda *_: []), "as a kind of stage of the package; rename"),
    ],
)
def test_a_kind_of_stage_that_cannot_be_used_is_refused(plugin, name, kind, message):
    with pytest.raises(ConfigError, match=message):
        kinds_of([plugin({"stage": {name: "somebodys_names:FOUND"}}, FOUND=kind)])


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", "", "-a", "Cost", "a b", "cost\n", "all", "cache", "logs", "latest", "release-1a2b3c4d", "chat",
     "evaluate_part", "train_lightningrl", "table1", "figure8"],
)  # fmt: skip
def test_a_kind_from_outside_may_not_be_called_like_a_verb_a_target_or_a_folder(plugin, name):
    kind = Kind(name, (), (), outside="colours.cost", plan=lambda *_: [])
    with pytest.raises(ConfigError, match=re.escape(f"is called {name!r}; expected small letters")):
        kinds_of([plugin({"stage": {name: "somebodys_names:FOUND"}}, FOUND=kind)])


def test_every_verb_is_a_kind_or_reserved():
    assert set(VERBS) <= {*RESERVED, *KINDS}
