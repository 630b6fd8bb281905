"""Values between test code and the jail: they cross unchanged, keep Python's semantics, and cannot cheat."""

import pytest
from code_examples import example, judge_one, passes, values

from lightningrl.judges.code.judge import CodeJudge
from lightningrl.sandbox import codec


@pytest.fixture(scope="module")
def judge(jail_level):
    judge = CodeJudge(workers=2)
    yield judge
    judge.close()


@pytest.mark.parametrize("value", [
    "-0.0", "float('inf')", "2**70", "'\\ud800\\0é'", "b'\\xff'", "1j", "frozenset({1})", "range(3, 9, 2)",
    "(1, [2, {3}])",
    "{(1, 2): None}", "__import__('collections').deque([1])", "__import__('collections').Counter('aab')", "int",
    "__import__('collections').OrderedDict(a=1)", "__import__('collections').defaultdict(int, {1: 2})",
])  # fmt: skip
def test_values_cross_in_both_directions(value, judge):
    program = "def f(x): return x"
    assert passes(judge, program, f"x = {value}\nassert f(x) == x and f([x])[0] == x and f(x=x) == x and repr(x)")
    assert passes(judge, f"def f(): return {value}", f"x = {value}\nassert f() == x")


def test_nan_and_signed_zero_keep_python_s_semantics(judge):
    assert passes(judge, "def f(x): return x", "import math", "assert math.isnan(f(float('nan')))")
    assert not passes(judge, "def f(x): return x", "assert f(float('nan')) == float('nan')")
    assert passes(judge, "def f(x): return x", "assert str(f(-0.0)) == '-0.0'")


def test_python_s_own_equality_holds(judge):
    assert passes(judge, "def f(): return True", "assert f() == 1", "assert f() is True", "assert f() == 1.0")
    assert not passes(judge, "def f(): return [1]", "assert f() == (1,)")
    assert not passes(judge, "def f(): return False", "assert f()")


def test_exceptions_arrive_as_the_same_builtin_class(judge):
    test = "try:\n    f(1)\nexcept ValueError as error:\n    assert type(error) is ValueError\nelse:\n    assert False"
    assert passes(judge, "class E(ValueError): pass\ndef f(x): raise E", test)
    assert not passes(judge, "def f(x): raise KeyError(1)", test)
    for other in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
        assert not passes(judge, f"def f(x): raise {other}", test)
        assert passes(judge, f"def f(x): raise {other}", "try:\n    f(1)\nexcept Exception: pass")
    assert not passes(judge, "def f(x): raise UnicodeDecodeError('a', b'b', 0, 1, 'c')", test.replace("Value", "Key"))
    liar = "class M(type):\n    __mro__ = property(lambda c: (ValueError,))\nclass E(Exception, metaclass=M): pass\n"
    assert passes(judge, liar + "def f(x): raise E", "try:\n    f(1)\nexcept Exception: pass")


NODE = """
class Node:
    def __init__(self, value): self.value, self.left = value, None
    def __eq__(self, other): return True
    def __hash__(self): return 0
def f(node): return node if node is None else node.left
"""


def test_objects_of_the_program_are_handles(judge):
    setup = "root = Node(1)\nroot.left = Node(2)"
    tests = ["assert f(root).value == 2", "assert root.left.left is None", "assert f(root) is root.left"]
    assert passes(judge, NODE, *tests, setup=setup)
    for forbidden in (
        "f(root) == 2", "f(root) == root", "[f(root)] == [2]", "2 in [f(root)]", "f(root) in {2, 3}",
        "isinstance(f(root), int)", "f(root).__class__ is int", "f(root) < 3", "len(f(root)) == 1",
    ):  # fmt: skip
        assert not passes(judge, NODE, f"assert {forbidden}", setup=setup), forbidden


def test_truth_and_iteration_of_objects_are_the_program_s(judge):
    assert passes(judge, "import re\ndef f(x): return re.match('a', x)", "assert f('ab')", "assert not f('b')")
    assert passes(judge, "def f(n): return (i * i for i in range(n))", "assert list(f(3)) == [0, 1, 4]")
    assert not passes(judge, "def f(n): return (i for i in range(n))", "assert f(3) == [0, 1, 2]")
    assert passes(judge, "def f(n): return map(str, range(n))", "assert sorted(f(2)) == ['0', '1']")


def test_what_the_program_does_to_its_arguments_stays_there(judge):
    program = "def f(x):\n    x.append(1)\n    return x"
    assert passes(judge, program, "x = []\nassert f(x) == [1] and x == [] and f(x) == [1]")


def test_exact_numbers_and_views_cross_and_lookalikes_do_not(judge):
    assert passes(judge, "from decimal import Decimal\ndef f(x): return Decimal(x)", "assert f('10') == 10")
    assert passes(judge, "from fractions import Fraction\ndef f(x): return Fraction(x)", "assert f('1/3') * 3 == 1")
    assert passes(judge, "def f(d): return d.keys()", "assert f({1: 2}) == {1} and list(f({2: 3})) == [2]")
    assert passes(judge, "def f(): return bytearray(b'a')", "assert f() == b'a'")
    liar = "from decimal import Decimal\nclass D(Decimal):\n    def __eq__(s, o): return True\ndef f(): return D(1)"
    verdict = judge_one(judge, example(["assert f() == 3"]), liar)
    assert not verdict.correct and verdict.compat is None  # where they share a process, the object would have decided


EQUAL = {
    "a named tuple": ("from collections import namedtuple\nP = namedtuple('P', 'x y')", "P(1, 2)", "(1, 2)"),
    "a typed named tuple": ("from typing import NamedTuple\nclass P(NamedTuple):\n    x: int", "[P(1)]", "[(1,)]"),
    "an IntEnum": ("from enum import IntEnum\nclass A(IntEnum):\n    X = 3", "A.X", "3"),
    "a StrEnum": ("from enum import StrEnum\nclass A(StrEnum):\n    X = 'x'", "{A.X: A.X}", "{'x': 'x'}"),
    "a flag": ("from enum import IntFlag\nclass A(IntFlag):\n    X = 1\n    Y = 2", "A.X | A.Y", "3"),
    "an enum of texts": ("from enum import Enum\nclass A(str, Enum):\n    X = 'x'", "A.X", "'x'"),
    "a list of one's own": ("class L(list):\n    def last(self): return self[-1]", "L([1, 2])", "[1, 2]"),
    "a dict of one's own": ("class D(dict):\n    def __missing__(self, k): return 0", "D(a=1)", "{'a': 1}"),
    "the items of a dict": ("", "{0: 1}.items()", "{(0, 1)}"),
    "the keys of a dict": ("", "{0: 1}.keys()", "{0}"),
    "a date": ("import datetime", "datetime.date(2024, 2, 29)", "__import__('datetime').date(2024, 2, 29)"),
    "a duration": ("import datetime as d", "d.timedelta(hours=36)", "__import__('datetime').timedelta(1.5)"),
    "a fraction of long numbers": ("from fractions import Fraction", "Fraction(10**5000, 3) * 3", "10**5000"),
    "a long decimal": ("from decimal import Decimal", "Decimal('1' * 5000)", "(10**5000 - 1) // 9"),
    "a long integer": ("", "10**5000", "10**5000"),
    "the text of a long integer": ("", "str(10**5000)", "'1' + '0' * 5000"),
}


UNEQUAL = {
    "a tuple and a list": ("", "(1, 2)", "[1, 2]"), "a range and a list": ("", "range(2)", "[0, 1]"),
    "a map and a list": ("", "map(int, '12')", "[1, 2]"), "a generator and a list": ("", "(x for x in [1])", "[1]"),
    "the values of a dict": ("", "{0: 1}.values()", "[1]"), "keys and a list": ("", "{0: 1}.keys()", "[0]"),
    "an enum that is no number": ("from enum import Enum\nclass A(Enum):\n    X = 3", "A.X", "3"),
    "a named tuple of other values": ("from collections import namedtuple\nP = namedtuple('P', 'x')", "P(1)", "(2,)"),
    "an int with an equality of its own": (
        "class I(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__", "I(3)", "4",
    ),
    "and of its heirs": (
        "class I(int):\n    def __eq__(self, other): return True\nclass J(I): pass", "J(4)", "5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("title", EQUAL | UNEQUAL)
def test_what_python_calls_equal_is_equal(title, judge):
    """By the tests' own `==`, and, where the gold data is values, by ours."""
    setup, value, expected = (EQUAL | UNEQUAL)[title]
    program = f"{setup}\ndef f(): return {value}"
    assert passes(judge, program, f"assert f() == {expected}") is (title in EQUAL)
    assert passes(judge, program, f"assert {expected} == f()") is (title in EQUAL)
    gold = values(([], codec.to_json(eval(expected))))
    assert judge_one(judge, gold, program).correct is (title in EQUAL)


def test_an_object_that_equals_a_value_is_the_object_again_when_it_is_passed_back(judge):
    pair = "from collections import namedtuple\nPair = namedtuple('Pair', 'a b')\ndef f(p): return p.a + p.b"
    assert passes(judge, pair, "p = Pair(1, 2)", "assert f(p) == 3 and p.b == 2 and p == (1, 2) and f(p=p) == 3")
    assert passes(judge, pair, "assert [f(p) for p in [Pair(3, 4)]] == [7] and isinstance(Pair(1, 2), tuple)")
    enum = "from enum import IntEnum\nclass A(IntEnum):\n    X = 3\ndef f(x): return x.name"
    assert passes(judge, enum + "\ndef g(): return A.X", "assert f(g()) == 'X' and g().name == 'X' and g() + 1 == 4")
