"""A benchmark from outside that lacks a piece, or has one of another kind, is refused before anything runs."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from lightningrl.benchmarks.checked import checked
from lightningrl.benchmarks.gsm_mini import GSM_MINI
from lightningrl.benchmarks.registry import BENCHMARKS
from lightningrl.cli.app import app
from lightningrl.errors import BenchmarkError, ConfigError
from lightningrl.pipeline.code_digest import PACKAGE

WHOLE = {
    name: getattr(GSM_MINI, name)
    for name in ("name", "licence", "citation", "judge", "sources", "styles", "shots", "load", "render", "signature")
}


class Graceless:
    """A judge that lacks `graded`."""

    needs_jail = False

    def judge(self, examples, responses):
        raise NotImplementedError

    def close(self):
        raise NotImplementedError


@pytest.fixture
def offered(monkeypatch):
    """Makes an object with these attributes in place of a whole benchmark's; None takes one away. Returns its path."""

    def make(**changed):
        found = {name: value for name, value in (WHOLE | changed).items() if value is not None}
        module = ModuleType("somebodys_benchmark")
        vars(module).update(MINE=SimpleNamespace(**found), Graceless=Graceless, number=3)
        monkeypatch.setitem(sys.modules, "somebodys_benchmark", module)
        return "somebodys_benchmark:MINE"

    return make


@pytest.mark.parametrize("name", BENCHMARKS)
def test_ours_and_a_whole_one_from_outside_are_benchmarks(name, offered):
    assert checked(BENCHMARKS[name]).name == name
    assert checked(offered()).judge == GSM_MINI.judge
    assert checked(offered(splits=("test",))).splits == ("test",)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"judge": None}, "`judge` is missing, expected module:attribute of a class"),
        ({"judge": Graceless}, "`judge` is <class .*Graceless'>, expected module:attribute"),
        ({"judge": "somebodys_benchmark:Judge"}, r"benchmarks\.mine: judge: .*has no attribute 'Judge'"),
        ({"judge": "somebodys_judges:Judge"}, r"benchmarks\.mine: judge: .*no module 'somebodys_judges'; install it"),
        ({"judge": "somebodys_benchmark:number"}, "number is not a judge: it lacks judge, close, needs_jail, graded"),
        ({"judge": "somebodys_benchmark:Graceless"}, "Graceless is not a judge: it lacks graded"),
        ({"name": "a/b"}, "`name` is 'a/b', expected a text without slashes"),
        ({"sources": ["gsm8k.jsonl"]}, r"`sources` is \['gsm8k\.jsonl'\], expected a tuple of `benchmarks\.sources"),
        ({"styles": "default"}, "`styles` is 'default', expected a tuple of texts with 'default'"),
        ({"shots": (4,)}, r"`shots` is \(4,\), expected a tuple of numbers with 0"),
        ({"splits": ("tset",)}, r"`splits` is \('tset',\), expected a tuple of some of train, validation, test"),
        ({"load": lambda sizes, seed: {}}, r"`load` cannot be called as load\(sizes, seed, rows\)"),
        ({"render": "{question}"}, r"`render\(example, prompt\)` is missing"),
        ({"licence": None, "signature": None}, r"`licence` is missing, .*; `signature\(example\)` is missing"),
    ],
)
def test_what_is_wrong_is_named_with_the_key_that_has_it(offered, changed, told):
    with pytest.raises((BenchmarkError, ConfigError), match=told) as error:
        checked(offered(**changed), "benchmarks.mine")
    assert str(error.value).startswith("benchmarks.mine: ")


def test_validate_says_it_before_anything_runs(offered, tmp_path):
    tree = yaml.safe_load((PACKAGE.parent / "config" / "nano.yaml").read_text())
    tree["benchmarks"].append(
        {"name": offered(judge=None, shots=None), "train": 0, "validation": 0, "test": 2, "max_new_tokens": 8}
    )
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    done = CliRunner().invoke(app, ["validate", "--config", str(tmp_path / "mine.yaml")])
    assert done.exit_code == 2 and "Traceback" not in done.stderr
    assert "benchmarks.somebodys_benchmark:MINE.name: somebodys_benchmark:MINE is not a benchmark" in done.stderr
    assert "`judge` is missing" in done.stderr and "`shots` is missing" in done.stderr
