"""Plain data as JSON text: what may cross between a jail and its judge, and nothing else.

Values are exactly None, bool, int, float, str, list, tuple, set and dict, told apart by `type(x) is ...`: an
instance of a subclass, such as an object that says it equals everything, cannot cross. Lists, strings, small
integers, finite floats and objects with ordinary string keys are JSON's own, so a benchmark's gold data is plain
JSON; the rest is an object with a single key:

    {"$tuple": [1, 2]}   {"$set": [1, 2]}   {"$dict": [[1, "a"]]}   {"$int": "0x1f..."}   {"$float": "nan"}

Depth, size and the number of hashed keys are bounded in both directions: reading hostile text ends soon. It does
not execute anything, and keeps no shared references. This file runs inside the jail as well: standard library
only, and few imports of it, since each judgement pays for them.
"""

import json
from typing import Any

MAX_DEPTH = 64
"""Nesting of containers."""
MAX_NODES = 500_000
"""Values of one message, containers and elements alike."""
MAX_HASHED = 10_000
"""Set elements and non-string dict keys of one message: chosen integers collide, and cost their number squared."""
MAX_CHARS = 4_000_000
"""Characters of one message's strings."""

_PLAIN_INT = 1 << 63
_NON_FINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


class CodecError(ValueError):
    """The value is not plain data, or too large, or the text is not this codec's."""


class TooLarge(CodecError):
    """Plain data, but more of it than a message may hold."""


class Budget:
    """What one message may still use of the bounds above; share one between messages to bound their sum."""

    __slots__ = ("chars", "hashed", "nodes")

    def __init__(self) -> None:
        self.nodes, self.hashed, self.chars = MAX_NODES, MAX_HASHED, MAX_CHARS

    def spend(self, nodes: int = 0, hashed: int = 0, chars: int = 0) -> None:
        self.nodes -= nodes
        self.hashed -= hashed
        self.chars -= chars
        if self.nodes < 0 or self.hashed < 0 or self.chars < 0:
            raise TooLarge(
                f"too large: at most {MAX_NODES} values, {MAX_HASHED} set elements and dict keys that are not "
                f"strings, and {MAX_CHARS} characters"
            )


def dumps(value: Any) -> str:
    """One line of ASCII JSON.

    >>> dumps([1, True, (2.5, "a"), {3}, {"k": None}])
    '[1,true,{"$tuple":[2.5,"a"]},{"$set":[3]},{"k":null}]'
    """
    return json.dumps(to_json(value), separators=(",", ":"), allow_nan=False)


def loads(text: str, budget: Budget | None = None) -> Any:
    """The value of `dumps`'s text; strict, and safe on hostile text (no code runs, the cost is bounded).

    >>> loads('{"$tuple":[1,{"$float":"inf"}]}')
    (1, inf)
    """
    try:
        tree = json.loads(text, parse_int=_short_int, parse_constant=_refuse_constant)
    except (RecursionError, ValueError) as error:
        raise CodecError(f"not the codec's JSON: {error}") from None
    return from_json(tree, budget)


def to_json(value: Any, budget: Budget | None = None) -> Any:
    """The JSON tree of a value. Raises CodecError for anything but plain data, and for self-reference."""
    return _encode(value, budget or Budget(), MAX_DEPTH, set())


def from_json(tree: Any, budget: Budget | None = None) -> Any:
    """The value of a JSON tree, such as a benchmark's gold data after `json.loads`."""
    return _decode(tree, budget or Budget(), MAX_DEPTH)


def _encode(value: Any, budget: Budget, depth: int, open_ids: set[int]) -> Any:
    budget.spend(nodes=1)
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        budget.spend(chars=len(value))
        return value
    if kind is int:
        if -_PLAIN_INT < value < _PLAIN_INT:
            return value
        budget.spend(chars=value.bit_length() // 4)
        return {"$int": hex(value)}
    if kind is float:
        return value if value - value == 0 else {"$float": repr(value)}
    if kind is not list and kind is not tuple and kind is not set and kind is not dict:
        raise CodecError("not plain data: expected None, bool, int, float, str, list, tuple, set or dict")
    if depth == 0:
        raise CodecError(f"nested deeper than {MAX_DEPTH}")
    if id(value) in open_ids:
        raise CodecError("a container that contains itself")
    open_ids.add(id(value))
    tree = _encode_container(value, kind, lambda part: _encode(part, budget, depth - 1, open_ids), budget)
    open_ids.discard(id(value))
    return tree


def _encode_container(value: Any, kind: type, encode: Any, budget: Budget) -> Any:
    if kind is list:
        return [encode(part) for part in value]
    if kind is tuple:
        return {"$tuple": [encode(part) for part in value]}
    if kind is set:
        budget.spend(hashed=len(value))
        return {"$set": [encode(part) for part in value]}
    if all(type(key) is str and not key.startswith("$") for key in value):
        budget.spend(chars=sum(map(len, value)))
        return {key: encode(part) for key, part in value.items()}
    budget.spend(hashed=len(value))
    return {"$dict": [[encode(key), encode(part)] for key, part in value.items()]}


def _decode(tree: Any, budget: Budget, depth: int) -> Any:
    budget.spend(nodes=1)
    kind = type(tree)
    if tree is None or kind is bool or kind is int:
        return tree
    if kind is str:
        budget.spend(chars=len(tree))
        return tree
    if kind is float:
        if tree - tree != 0:
            raise CodecError('a number out of range: expected {"$float": "inf"} or the like')
        return tree
    if kind is not list and kind is not dict:
        raise CodecError("not JSON data")
    if depth == 0:
        raise CodecError(f"nested deeper than {MAX_DEPTH}")
    if kind is list:
        return [_decode(part, budget, depth - 1) for part in tree]
    tag = next((key for key in tree if type(key) is not str or key.startswith("$")), None)
    if tag is None:
        budget.spend(chars=sum(map(len, tree)))
        return {key: _decode(part, budget, depth - 1) for key, part in tree.items()}
    if len(tree) != 1 or tag not in _TAGS:
        raise CodecError(f"an object whose key begins with $: expected a single key of {', '.join(_TAGS)}")
    return _TAGS[tag](tree[tag], budget, depth - 1)


def _parts(body: Any, budget: Budget, depth: int) -> list[Any]:
    if type(body) is not list:
        raise CodecError("a tagged container without its list")
    return [_decode(part, budget, depth) for part in body]


def _read_tuple(body: Any, budget: Budget, depth: int) -> tuple[Any, ...]:
    return tuple(_parts(body, budget, depth))


def _read_set(body: Any, budget: Budget, depth: int) -> set[Any]:
    parts = _parts(body, budget, depth)
    budget.spend(hashed=len(parts))
    try:
        value = set(parts)
    except TypeError as error:
        raise CodecError(f"a set element: {error}") from None
    if len(value) != len(parts):
        raise CodecError("a set with an element twice")
    return value


def _read_dict(body: Any, budget: Budget, depth: int) -> dict[Any, Any]:
    pairs = _parts(body, budget, depth)
    if any(type(pair) is not list or len(pair) != 2 for pair in pairs):
        raise CodecError("a dict whose items are not [key, value]")
    budget.spend(hashed=len(pairs))
    try:
        value = dict(pairs)
    except TypeError as error:
        raise CodecError(f"a dict key: {error}") from None
    if len(value) != len(pairs):
        raise CodecError("a dict with a key twice")
    return value


def _read_int(body: Any, budget: Budget, depth: int) -> int:
    if type(body) is not str or not body.removeprefix("-").startswith("0x") or "_" in body:
        raise CodecError('an integer that is not "0x..."')
    budget.spend(chars=len(body))
    try:
        return int(body, 16)
    except ValueError:
        raise CodecError('an integer that is not "0x..."') from None


def _read_float(body: Any, budget: Budget, depth: int) -> float:
    if type(body) is not str or body not in _NON_FINITE:
        raise CodecError(f"a float that is not one of {', '.join(_NON_FINITE)}")
    return _NON_FINITE[body]


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("an integer literal of more than 20 characters")
    return int(digits)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"the bare word {name}")


_TAGS = {"$tuple": _read_tuple, "$set": _read_set, "$dict": _read_dict, "$int": _read_int, "$float": _read_float}
