"""Plain data as JSON text: the only data that may cross between a jail and its judge.

Values are exactly None, bool, int, float, complex, Decimal, Fraction, str, bytes, list, tuple, set, frozenset, dict,
its keys and items, range, deque, and a date, a time, a datetime without time zone and a timedelta, distinguished by
`type(x) is ...`. A Counter, an OrderedDict and a defaultdict cross as the dict that they equal, a bytearray as bytes,
NumPy's scalars and arrays as their `tolist()`. An instance of a subclass of a plain type crosses as the value that it
equals (a named tuple as a tuple, a member of an IntEnum as an int), unless its class defines its own equality: an
object that equals everything cannot cross. The other side reads the value alone, with the exact plain type, and nothing
of the object itself.

Lists, strings, small integers, finite floats and objects with ordinary string keys are those of JSON, so a benchmark's
gold data is plain JSON; any other value is an object with a single key:

    {"$tuple": [1, 2]}   {"$set": [1, 2]}   {"$dict": [[1, "a"]]}   {"$int": "0x1f..."}   {"$float": "nan"}
    {"$frozenset": [1]}   {"$deque": [1]}   {"$complex": [0.5, 1.0]}   {"$range": [0, 9, 2]}   {"$bytes": "00ff"}
    {"$type": "int"}     (a builtin value type)
    {"$keys": [1, 2]}   {"$items": [[1, "a"]]}   {"$decimal": "0.50"}   {"$fraction": [1, 3]}
    {"$date": [2024, 2, 29]}   {"$datetime": [2024, 2, 29, 0, 0, 0, 0]}   {"$time": [23, 59, 59, 0]}
    {"$timedelta": [1, 0, 500000]}     (days, seconds, microseconds)

If both sides agree (`refer`), an object that is not plain data crosses as a number, `{"$object": 3}`: it stays where it
is, and the other side can only send the number back. An instance of a subclass crosses as both,
`{"$like": [3, {"$tuple": [1, 2]}]}`, so that the object itself can be sent back.

Depth, size and the number of hashed keys are bounded in both directions: reading hostile text ends soon, executes
nothing, and keeps no shared references. This file runs inside the jail too: it uses only the standard library, and
little of it, since each judgement pays for the imports.
"""

import collections
import json
from collections.abc import Callable
from typing import Any

if __package__:
    from lightningrl.sandbox import plain_types
else:  # in the jail, where this file is not in a package
    import plain_types  # pyright: ignore[reportMissingImports]

MAX_DEPTH = 64
"""The nesting of containers."""
MAX_NODES = 500_000
"""The values of one message, containers and elements alike."""
MAX_HASHED = 10_000
"""The set elements and non-string dict keys of one message: colliding integers cost their number squared."""
MAX_CHARS = 4_000_000
"""The characters of one message's strings."""
MAX_DIGITS = 100_000
"""The digits of a Decimal."""

_PLAIN_INT = 1 << 63
_TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)}
_NON_FINITE = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


class CodecError(ValueError):
    """The value is not plain data or is too large, or the text is not in this codec."""


class TooLarge(CodecError):
    """The value is plain data, but larger than a message may be."""


class Budget:
    """The remainder of the bounds above for one message, or for the sum of several messages that share it."""

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


def dumps(value: Any, refer: Callable[[Any], int] | None = None) -> str:
    """Returns one line of ASCII JSON.

    `refer` returns the number of an object that is not plain data, or not exactly (None: CodecError for the former).

    >>> dumps([1, True, (2.5, "a"), {3}, {"k": None}])
    '[1,true,{"$tuple":[2.5,"a"]},{"$set":[3]},{"k":null}]'
    """
    return json.dumps(to_json(value, refer=refer), separators=(",", ":"), allow_nan=False)


def loads(text: str, budget: Budget | None = None, refer: Callable[..., Any] | None = None) -> Any:
    """Returns the value of a text by `dumps`; strict, and safe on hostile text (no code runs, the cost is bounded).

    `refer` returns a stand-in for the object of a number >= 0; its second argument is the plain value that the object
    equals, if any (None: CodecError).

    >>> loads('{"$tuple":[1,{"$float":"inf"}]}')
    (1, inf)
    """
    try:
        tree = json.loads(text, parse_int=_short_int, parse_constant=_refuse_constant)
    except (RecursionError, ValueError) as error:
        raise CodecError(f"not the codec's JSON: {error}") from None
    return from_json(tree, budget, refer)


def to_json(value: Any, budget: Budget | None = None, refer: Callable[[Any], int] | None = None) -> Any:
    """Returns the JSON tree of a value. Raises CodecError for anything but plain data, and for self-reference."""
    return _Writer(budget or Budget(), refer).write(value, MAX_DEPTH)


def from_json(tree: Any, budget: Budget | None = None, refer: Callable[..., Any] | None = None) -> Any:
    """Returns the value of a JSON tree, such as a benchmark's gold data after `json.loads`."""
    return _Reader(budget or Budget(), refer).read(tree, MAX_DEPTH)


class _Writer:
    def __init__(self, budget: Budget, refer: Callable[[Any], int] | None) -> None:
        self.budget, self.refer = budget, refer
        self.open_ids: set[int] = set()

    def write(self, value: Any, depth: int) -> Any:
        self.budget.spend(nodes=1)
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            self.budget.spend(chars=len(value))
            return value
        if kind is int:
            return self._integer(value)
        if kind is float:
            return value if value - value == 0 else {"$float": repr(value)}
        if not any(kind is container for container in plain_types.CONTAINERS):
            return self._rare(value, kind, depth)
        if depth == 0:
            raise CodecError(f"nested deeper than {MAX_DEPTH}")
        if id(value) in self.open_ids:
            raise CodecError("a container that contains itself")
        self.open_ids.add(id(value))
        tree = self._container(value, kind, depth - 1)
        self.open_ids.discard(id(value))
        return tree

    def _integer(self, value: int) -> Any:
        if -_PLAIN_INT < value < _PLAIN_INT:
            return value
        self.budget.spend(chars=value.bit_length() // 4)
        return {"$int": hex(value)}

    def _rare(self, value: Any, kind: type, depth: int) -> Any:
        if kind is bytes or kind is bytearray:
            self.budget.spend(chars=2 * len(value))
            return {"$bytes": value.hex()}
        if kind is plain_types.KEYS or kind is plain_types.ITEMS:
            self.budget.spend(hashed=len(value))
            name = "$keys" if kind is plain_types.KEYS else "$items"
            return {name: [self.write(part if kind is plain_types.KEYS else list(part), depth) for part in value]}
        if plain_types.is_exactly(kind, "decimal", "Decimal"):
            text = str(value)
            self.budget.spend(chars=len(text))
            return {"$decimal": text}
        record = plain_types.record_parts(value, kind)
        if record is not None:
            return {record[0]: [self.write(part, depth) for part in record[1]]}
        name = next((name for name, known in _TYPES.items() if value is known), None)
        return self._foreign(value, kind, depth) if name is None else {"$type": name}

    def _foreign(self, value: Any, kind: type, depth: int) -> Any:
        """Writes an object that has no plain type: it may contain, or convert to, a plain value."""
        base = plain_types.plain_base(kind)
        if base is not None:
            tree = self.write(plain_types.plain_value(value, base), depth)
            return tree if self.refer is None else {"$like": [self.refer(value), tree]}
        converted = plain_types.numpy_value(value, kind, MAX_NODES)
        if type(converted) is not kind:
            return self.write(converted, depth)
        if self.refer is None:
            raise CodecError("not plain data: expected None, a number, text, a list, tuple, set, dict or the like")
        return {"$object": self.refer(value)}

    def _container(self, value: Any, kind: type, depth: int) -> Any:
        if kind is list:
            return [self.write(part, depth) for part in value]
        if kind in plain_types.SEQUENCES:
            return {"$tuple" if kind is tuple else "$deque": [self.write(part, depth) for part in value]}
        if kind in plain_types.SETS:
            self.budget.spend(hashed=len(value))
            return {"$set" if kind is set else "$frozenset": [self.write(part, depth) for part in value]}
        items = list(value.items())
        if all(type(key) is str and not key.startswith("$") for key, _ in items):
            self.budget.spend(chars=sum(len(key) for key, _ in items))
            return {key: self.write(part, depth) for key, part in items}
        self.budget.spend(hashed=len(items))
        return {"$dict": [[self.write(key, depth), self.write(part, depth)] for key, part in items]}


class _Reader:
    def __init__(self, budget: Budget, refer: Callable[..., Any] | None) -> None:
        self.budget, self.refer = budget, refer

    def read(self, tree: Any, depth: int) -> Any:
        self.budget.spend(nodes=1)
        kind = type(tree)
        if tree is None or kind is bool or kind is int:
            return tree
        if kind is str:
            self.budget.spend(chars=len(tree))
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
            return [self.read(part, depth - 1) for part in tree]
        tag = next((key for key in tree if type(key) is not str or key.startswith("$")), None)
        if tag is None:
            self.budget.spend(chars=sum(map(len, tree)))
            return {key: self.read(part, depth - 1) for key, part in tree.items()}
        if len(tree) != 1 or tag not in _TAGS:
            raise CodecError(f"an object whose key begins with $: expected a single key of {', '.join(_TAGS)}")
        return _TAGS[tag](self, tree[tag], depth - 1)

    def parts(self, body: Any, depth: int) -> list[Any]:
        if type(body) is not list:
            raise CodecError("a tagged container without its list")
        return [self.read(part, depth) for part in body]


def _read_set(reader: _Reader, body: Any, depth: int) -> set[Any]:
    parts = reader.parts(body, depth)
    reader.budget.spend(hashed=len(parts))
    try:
        value = set(parts)
    except TypeError as error:
        raise CodecError(f"a set element: {error}") from None
    if len(value) != len(parts):
        raise CodecError("a set with an element twice")
    return value


def _read_dict(reader: _Reader, body: Any, depth: int) -> dict[Any, Any]:
    pairs = reader.parts(body, depth)
    if any(type(pair) is not list or len(pair) != 2 for pair in pairs):
        raise CodecError("a dict whose items are not [key, value]")
    reader.budget.spend(hashed=len(pairs))
    try:
        value = dict(pairs)
    except TypeError as error:
        raise CodecError(f"a dict key: {error}") from None
    if len(value) != len(pairs):
        raise CodecError("a dict with a key twice")
    return value


def _read_keys(reader: _Reader, body: Any, depth: int) -> Any:
    """Reads the keys in their order, which a list of them would have."""
    return _read_dict(reader, [[part, None] for part in body] if type(body) is list else body, depth).keys()


def _read_int(reader: _Reader, body: Any, depth: int) -> int:
    if type(body) is not str or not body.removeprefix("-").startswith("0x") or "_" in body:
        raise CodecError('an integer that is not "0x..."')
    reader.budget.spend(chars=len(body))
    try:
        return int(body, 16)
    except ValueError:
        raise CodecError('an integer that is not "0x..."') from None


def _read_float(reader: _Reader, body: Any, depth: int) -> float:
    if type(body) is not str or body not in _NON_FINITE:
        raise CodecError(f"a float that is not one of {', '.join(_NON_FINITE)}")
    return _NON_FINITE[body]


def _read_bytes(reader: _Reader, body: Any, depth: int) -> bytes:
    if type(body) is not str or (body and not body.isalnum()):
        raise CodecError("bytes that are not hexadecimal digits")
    reader.budget.spend(chars=len(body))
    try:
        return bytes.fromhex(body)
    except ValueError:
        raise CodecError("bytes that are not hexadecimal digits") from None


def _read_decimal(reader: _Reader, body: Any, depth: int) -> Any:
    import decimal

    if type(body) is not str or len(body) > MAX_DIGITS or not body.isascii():
        raise CodecError("a Decimal that is none")
    reader.budget.spend(chars=len(body))
    try:
        value = decimal.Decimal(body)
    except decimal.InvalidOperation:
        raise CodecError("a Decimal that is none") from None
    if value.is_snan():
        raise CodecError("a signalling NaN, which cannot be compared")
    return value


def _record(tag: str) -> Callable[[_Reader, Any, int], Any]:
    module, name, fields, kind = plain_types.RECORDS[tag]

    def read(reader: _Reader, body: Any, depth: int) -> Any:
        parts = reader.parts(body, depth)
        if len(parts) != len(fields) or any(type(part) is not kind for part in parts):
            raise CodecError(f"{tag}: expected {len(fields)} numbers")
        try:
            return getattr(__import__(module), name)(*parts)
        except (ValueError, OverflowError, ZeroDivisionError) as error:
            raise CodecError(f"{tag}: {error}") from None

    return read


def _read_like(reader: _Reader, body: Any, depth: int) -> Any:
    if reader.refer is None or type(body) is not list or len(body) != 2 or type(body[0]) is not int or body[0] < 0:
        raise CodecError("an object's number and value where none are expected")
    return reader.refer(body[0], reader.read(body[1], depth))


def _read_type(reader: _Reader, body: Any, depth: int) -> type:
    if type(body) is not str or body not in _TYPES:
        raise CodecError(f"a type that is not one of {', '.join(_TYPES)}")
    return _TYPES[body]


def _read_object(reader: _Reader, body: Any, depth: int) -> Any:
    if reader.refer is None or type(body) is not int or body < 0:
        raise CodecError("an object's number where none is expected")
    return reader.refer(body)


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("an integer literal of more than 20 characters")
    return int(digits)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"the bare word {name}")


_TAGS: dict[str, Callable[[_Reader, Any, int], Any]] = {
    "$tuple": lambda reader, body, depth: tuple(reader.parts(body, depth)),
    "$deque": lambda reader, body, depth: collections.deque(reader.parts(body, depth)),
    "$set": _read_set,
    "$frozenset": lambda reader, body, depth: frozenset(_read_set(reader, body, depth)),
    "$dict": _read_dict,
    "$keys": _read_keys,
    "$items": lambda reader, body, depth: _read_dict(reader, body, depth).items(),
    "$int": _read_int,
    "$float": _read_float,
    "$bytes": _read_bytes,
    "$decimal": _read_decimal,
    **{tag: _record(tag) for tag in plain_types.RECORDS},
    "$type": _read_type,
    "$object": _read_object,
    "$like": _read_like,
}
