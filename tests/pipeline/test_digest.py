"""Digests follow meaning, not layout: on every Python, for every kind of import."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightningrl.errors import ConfigError
from lightningrl.pipeline import code_digest
from lightningrl.pipeline.code_digest import Sources, digest, file_digest, normalise

SOURCE = '''"""Module."""
import os  # a comment


class Thing:
    """What it is."""

    field: int = 1
    """Unit."""

    def method(self, x):
        """Do."""
        return f"{x}#{os.sep}"  # not the hash in the string


TEXT = """first

  # part of the text

last"""
'''

LAYOUT = '''# A licence.

"""Another
text, longer.
"""

import os
class Thing:
    field: int = 1
    # of what


    def method(self, x):

        return f"{x}#{os.sep}"
    "a bare string anywhere"
TEXT = """first

  # part of the text

last"""     # the end'''

NORMAL = '''import os
class Thing:
    field: int = 1
    def method(self, x):
        return f"{x}#{os.sep}"
TEXT = """first

  # part of the text

last"""
'''


def test_comments_docstrings_blank_lines_and_line_ends_change_nothing():
    assert normalise(SOURCE) == normalise(LAYOUT) == normalise(NORMAL) == NORMAL
    assert normalise(SOURCE.replace("\n", "\r\n")) == NORMAL


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("int = 1", "int = 2"),
        ("return f", "return rf"),
        ("{x}#", "{x}%"),
        ("  # part", "  # bit"),  # looks like a comment, is text
        ("first\n\n", "first\n"),  # a blank line of a text
        ("def method(self, x)", "def method(self, y)"),
        ("import os ", "import io "),
    ],
)
def test_one_token_changes_it(old, new):
    assert old in SOURCE
    assert normalise(SOURCE.replace(old, new)) != NORMAL


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('x = "é"; y = 1  # ü\n"doc é"  # ü\n', 'x = "é"; y = 1\n'),
        ('x = 1\ny = f"""{x}\n\n# text {x}\n"""\n', 'x = 1\ny = f"""{x}\n\n# text {x}\n"""\n'),
        ("x = [  # one\n\n    1,\n    # two\n    2,\n]\n", "x = [\n    1,\n    2,\n]\n"),
        ('def f():\n    """Of two\n\n    lines."""\n', "def f():\n"),
        ('def f():\n    f"{g()}"\n    Rb"code"\n', 'def f():\n    f"{g()}"\n    Rb"code"\n'),
        ('class A: "doc"\nclass B:\n    r"doc"\n', 'class A: "doc"\nclass B:\n'),
        ("", ""),
    ],
)
def test_what_is_left_of_a_source(source, expected):
    assert normalise(source) == expected


@pytest.fixture
def package(tmp_path: Path) -> Path:
    files = {
        "__init__.py": "",
        "a.py": "from pack import b\nfrom pack.sub.c import thing\n",
        "b.py": "def f():\n    import pack.d\n",
        "d.py": "import typing\nif typing.TYPE_CHECKING:\n    from pack import typed\nelse:\n    import pack.e\n",
        "e.py": 'TEMPLATE = "style.txt"\n',
        "style.txt": "one",
        "typed.py": "",
        "unused.py": "",
        "sub/__init__.py": '"""Empty but for this."""\n',
        "sub/c.py": "from . import f\nfrom ..g import thing\n",
        "sub/f.py": 'COMMAND = ["python", "-m", "pack.helper"]\nNAME = "pack.unused:thing"\n',
        "g.py": "import numpy\nthing = 1\n",
        "helper.py": '"""Talks about pack.unused and unused.py."""\n',
        "full/__init__.py": "x = 1\n",
        "full/h.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pack"


def test_a_closure_is_exactly_what_is_imported_at_any_depth(package):
    names = ["a", "b", "d", "e", "g", "helper", "sub/c", "sub/f"]
    assert Sources(package).closure("pack.a") == sorted(["pack/style.txt", *(f"pack/{name}.py" for name in names)])


def test_init_files_count_only_with_code(package):
    assert Sources(package).closure("pack.full.h") == ["pack/full/__init__.py", "pack/full/h.py"]


def test_a_digest_follows_its_closure_only(package):
    before = digest(["pack.a"], package)
    (package / "unused.py").write_text("changed = 1\n")
    (package / "typed.py").write_text("changed = 1\n")
    assert digest(["pack.a"], package) == before
    (package / "style.txt").write_text("two")
    assert digest(["pack.a"], package) != before


def test_a_plug_in_counts_as_its_own_file_and_what_it_imports_of_the_package(package, tmp_path, monkeypatch):
    plug_in = tmp_path / "my_plug_in.py"
    plug_in.write_text("from pack.e import TEMPLATE\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(Sources(package).of(["my_plug_in"])) == ["pack/e.py", "pack/style.txt", "plug-in my_plug_in"]
    before = digest(["my_plug_in"], package)
    plug_in.write_text("# comment\nfrom pack.e import TEMPLATE\n")
    assert digest(["my_plug_in"], package) == before
    plug_in.write_text("from pack.e import TEMPLATE as T\n")
    assert digest(["my_plug_in"], package) != before


def test_what_cannot_be_found_is_named(package, tmp_path):
    with pytest.raises(ConfigError, match=r"no module 'pack\.nothing'"):
        Sources(package).closure("pack.nothing")
    with pytest.raises(ConfigError, match="no_such_plug_in"):
        Sources(package).of(["no_such_plug_in"])


def test_a_broken_file_is_named_with_its_line(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ny = (\n")
    with pytest.raises(ConfigError, match=r"broken\.py, line \d"):
        file_digest(path)


def test_what_was_read_before_is_the_same_however_it_was_kept(package, tmp_path, monkeypatch):
    """Kept by another process, by other code, damaged, or somewhere that nothing can be written to."""
    expected = Sources(package).of(["pack.a"])
    monkeypatch.setattr(code_digest, "KEPT", tmp_path / "cache" / "parsed.json")

    def afresh() -> dict[str, str]:
        code_digest._kept.cache_clear()
        code_digest._read.cache_clear()
        found = Sources(package).of(["pack.a"])
        code_digest.keep()
        return found

    assert afresh() == expected
    kept = json.loads(code_digest.KEPT.read_text())
    assert len(kept["files"]) >= 9
    with monkeypatch.context() as patched:  # read from there, nothing is parsed
        patched.setattr(code_digest, "parse", lambda source: pytest.fail("parsed again"))
        assert afresh() == expected
    for damaged in ("", "[]", '{"by": 1}', json.dumps(kept | {"files": {key: {} for key in kept["files"]}})):
        code_digest.KEPT.write_text(damaged)
        assert afresh() == expected
    of_others = {key: row | {"sha256": "wrong", "imports": []} for key, row in kept["files"].items()}
    code_digest.KEPT.write_text(json.dumps({"by": "another version", "files": of_others}))
    assert afresh() == expected
    (package / "e.py").write_text('TEMPLATE = "style.txt"\nchanged = 1\n')
    assert afresh()["pack/e.py"] != expected["pack/e.py"]
    (tmp_path / "no-folder").write_text("")
    (tmp_path / "taken" / "parsed.json").mkdir(parents=True)
    for nowhere in ("no-folder", "taken"):  # no folder can be made there; one is there, but no file can be written
        monkeypatch.setattr(code_digest, "KEPT", tmp_path / nowhere / "parsed.json")
        assert set(afresh()) == set(expected)
    code_digest._kept.cache_clear()
