"""What crosses from a jail, at whatever level: plain values unchanged, and nothing by what an object claims to be."""

import collections
import math

from lightningrl.sandbox.jail import run_calls
from lightningrl.sandbox.limits import Limits


def test_values_that_are_not_plain_data_do_not_cross(jail_level):
    source = """
import collections
loop = []; loop.append(loop)
deep = []
for _ in range(10_000): deep = [deep]
bomb = []
for _ in range(50): bomb = [bomb, bomb]
own = {"__eq__": lambda self, other: True, "__hash__": lambda self: 0}
values = [
    object(), iter([]), type("B", (bytearray,), {})(b"x"), object, {}.values(), type("T", (tuple,), own)(), print, loop,
    [[loop]],
    {1: loop}, deep, bomb, type("C", (collections.Counter,), {})(),
    type("L", (list,), own)(), type("J", (type("I", (int,), own),), {})(3), set(range(20_000)), [NotImplemented],
]
def attack(number): return values[number] if number < len(values) else None
"""
    results = run_calls(source, "attack", [(number,) for number in range(18)], limits=Limits(wall_s=60))
    assert [call.error for call in results.calls] == ["not_plain_data"] * 17 + [None], results


def test_what_an_object_claims_to_be_does_not_cross(jail_level):
    source = """
import collections, sys, types
lies = {name: (lambda self, *rest: 5) for name in ("__int__", "__index__", "__len__", "__add__", "__str__", "__repr__",
                                                   "__float__", "__abs__", "__sub__", "__getitem__")}
lies |= {"__iter__": lambda self: iter([5]), "items": lambda self: [(5, 5)], "__class__": int, "tolist": lambda self: 5}
kinds = (int, float, str, bytes, tuple, list, dict, set, frozenset, collections.deque)
values = [kind.__new__(type("Liar", (kind,), lies)) for kind in kinds]
class Meta(type):
    __mro__ = property(lambda c: (Liar, int, object))
    __module__ = property(lambda c: "numpy")
    def __eq__(c, other): return True
    __hash__ = type.__hash__
class Liar(metaclass=Meta):
    __eq__ = lambda self, other: True
    __class__ = property(lambda self: int)
    tolist = lambda self: 5
class Array:
    size = 1
    def tolist(self): return object()
sys.modules["numpy"] = types.SimpleNamespace(ndarray=Array, generic=Meta)
values += [Liar(), Array()]
def attack(number): return values[number]
"""
    calls = run_calls(source, "attack", [(number,) for number in range(12)]).calls
    plain = [0, 0.0, "", b"", (), [], {}, set(), frozenset(), collections.deque()]
    assert [(type(call.value), call.value) for call in calls[:10]] == [(type(value), value) for value in plain]
    assert [call.error for call in calls[10:]] == ["not_plain_data"] * 2, calls


def test_plain_values_cross_unchanged(jail_level):
    values = [-0.0, math.inf, -math.inf, 2**100_000, -(2**63), 1e308, "\ud800\0é", {(1, "a"): {2, None}}, {"$tuple": 1}]
    returned = run_calls("def f(x): return x\n", "f", [(value,) for value in values]).calls
    for value, call in zip(values, returned, strict=True):
        assert type(call.value) is type(value) and call.value == value
    assert math.copysign(1, returned[0].value) == -1
    source = "def f(n): return [float('nan'), bytearray(b'x'), {1: 2, 'a': 3}.keys()][n]\n"
    nan, data, keys = (call.value for call in run_calls(source, "f", [(0,), (1,), (2,)]).calls)
    assert math.isnan(nan) and data == b"x" and keys == {1, "a"}
