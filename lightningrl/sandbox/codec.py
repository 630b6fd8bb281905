"""Plain data as JSON text: the only data that may cross between a jail and its judge.

Values are exactly None, bool, int, float, complex, Decimal, Fraction, str, bytes, list, tuple, set, frozenset, dict,
its keys and items, range, deque, and a date, a time, a datetime without time zone and a timedelta, distinguished by
`type(x) is ...`. A Counter, an OrderedDict and a defaultdict cross as the dict that they equal, a bytearray as bytes,
NumPy's scalars and arrays as their `tolist()`. An instance of a subclass of a plain type crosses as the value that it
equals (a named tuple as a tuple, a member of an IntEnum as an int), unless its class defines its own equality: an
object that equals everything cannot cross.

Lists, strings, small integers, finite floats and objects with ordinary string keys are those of JSON, so a benchmark's
gold data is plain JSON; any other value is an object with a single key:

    {"$tuple": [1, 2]}   {"$set": [1, 2]}   {"$dict": [[1, "a"]]}   {"$int": "0x1f..."}   {"$float": "nan"}
    {"$frozenset": [1]}   {"$deque": [1]}   {"$complex": [0.5, 1.0]}   {"$range": [0, 9, 2]}   {"$bytes": "00ff"}
    {"$keys": [1, 2]}   {"$items": [[1, "a"]]}   {"$decimal": "0.50"}   {"$fraction": [1, 3]}   {"$type": "int"}
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
import re
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
_COLLECTIONS = {"$tuple": tuple, "$deque": collections.deque, "$set": set, "$frozenset": frozenset}
_TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict)}


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
    return json.dumps(to_json(value, refer), separators=(",", ":"), allow_nan=False)


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


def to_json(value: Any, refer: Callable[[Any], int] | None = None) -> Any:
    """Returns the JSON tree of a value. Raises CodecError for anything but plain data; self-reference is too deep."""
    return _Writer(refer).write(value, MAX_DEPTH)


def from_json(tree: Any, budget: Budget | None = None, refer: Callable[..., Any] | None = None) -> Any:
    """Returns the value of a JSON tree, such as a benchmark's gold data after `json.loads`."""
    return _Reader(budget or Budget(), refer).read(tree, MAX_DEPTH)


class _Writer:
    def __init__(self, refer: Callable[[Any], int] | None) -> None:
        self.budget, self.refer = Budget(), refer

    def write(self, value: Any, depth: int) -> Any:
        self.budget.spend(nodes=1)
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            self.budget.spend(chars=len(value))
            return value
        if kind is int:
            if -_PLAIN_INT < value < _PLAIN_INT:
                return value
            self.budget.spend(chars=value.bit_length() // 4)
            return {"$int": hex(value)}
        if kind is float:
            return value if value - value == 0 else {"$float": repr(value)}
        if not any(kind is container for container in plain_types.CONTAINERS):
            return self._rare(value, kind, depth)
        if depth == 0:
            raise CodecError(f"nested deeper than {MAX_DEPTH}")
        depth -= 1
        if kind not in plain_types.MAPPINGS:
            if kind in plain_types.SETS:
                self.budget.spend(hashed=len(value))
            parts = [self.write(part, depth) for part in value]
            tag = next((tag for tag, known in _COLLECTIONS.items() if known is kind), None)
            return parts if tag is None else {tag: parts}
        items = list(value.items())
        if all(type(key) is str and not key.startswith("$") for key, _ in items):
            self.budget.spend(chars=sum(len(key) for key, _ in items))
            return {key: self.write(part, depth) for key, part in items}
        self.budget.spend(hashed=len(items))
        return {"$dict": [[self.write(key, depth), self.write(part, depth)] for key, part in items]}

    def _rare(self, value: Any, kind: type, depth: int) -> Any:
        if kind is bytes or kind is bytearray:
            self.budget.spend(chars=2 * len(value))
            return {"$bytes": value.hex()}
        if kind is plain_types.KEYS or kind is plain_types.ITEMS:
            self.budget.spend(hashed=len(value))
            if kind is plain_types.KEYS:
                return {"$keys": [self.write(key, depth) for key in value]}
            return {"$items": [self.write(list(item), depth) for item in value]}
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
            _expect(tree - tree == 0, 'a number within the range, or {"$float": "inf"} or the like')
            return tree
        _expect(kind is list or kind is dict, "JSON data")
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
        try:
            return _TAGS[tag](self, tree[tag], depth - 1)
        except CodecError:
            raise
        except (TypeError, ValueError, ArithmeticError) as error:  # of the class that is to be made
            raise CodecError(f"{tag}: {error}") from None

    def parts(self, body: Any, depth: int) -> list[Any]:
        _expect(type(body) is list, "the list of a tagged container")
        return [self.read(part, depth) for part in body]


def _read_collection(tag: str) -> Callable[[_Reader, Any, int], Any]:
    kind: Callable[[list[Any]], Any] = _COLLECTIONS[tag]

    def read(reader: _Reader, body: Any, depth: int) -> Any:
        parts = reader.parts(body, depth)
        if kind in plain_types.SETS:
            reader.budget.spend(hashed=len(parts))
        value = kind(parts)
        _expect(len(value) == len(parts), "a set without an element twice")
        return value

    return read


def _read_dict(reader: _Reader, body: Any, depth: int) -> dict[Any, Any]:
    pairs = reader.parts(body, depth)
    _expect(all(type(pair) is list and len(pair) == 2 for pair in pairs), "a dict whose items are [key, value]")
    reader.budget.spend(hashed=len(pairs))
    value = dict(pairs)
    _expect(len(value) == len(pairs), "a dict without a key twice")
    return value


def _read_keys(reader: _Reader, body: Any, depth: int) -> Any:
    """Reads the keys in their order, which a list of them would have."""
    return _read_dict(reader, [[part, None] for part in body] if type(body) is list else body, depth).keys()


def _read_text(pattern: str, make: Callable[[str], Any]) -> Callable[[_Reader, Any, int], Any]:
    def read(reader: _Reader, body: Any, depth: int) -> Any:
        _expect(type(body) is str and re.fullmatch(pattern, body) is not None, f"text of the form {pattern}")
        reader.budget.spend(chars=len(body))
        return make(body)

    return read


def _make_decimal(text: str) -> Any:
    import decimal

    value = decimal.Decimal(text)
    _expect(not value.is_snan(), "a Decimal that can be compared, which a signalling NaN cannot")
    return value


def _read_record(tag: str) -> Callable[[_Reader, Any, int], Any]:
    module, name, fields, kind = plain_types.RECORDS[tag]

    def read(reader: _Reader, body: Any, depth: int) -> Any:
        parts = reader.parts(body, depth)
        _expect(len(parts) == len(fields) and all(type(part) is kind for part in parts), f"{len(fields)} numbers")
        return getattr(__import__(module), name)(*parts)

    return read


def _read_object(reader: _Reader, body: Any, depth: int, *like: Any) -> Any:
    if reader.refer is None or type(body) is not int or body < 0:
        raise CodecError("an object's number where none is expected")
    return reader.refer(body, *like)


def _read_like(reader: _Reader, body: Any, depth: int) -> Any:
    _expect(type(body) is list and len(body) == 2, "an object's number and value")
    return _read_object(reader, body[0], depth, reader.read(body[1], depth))


def _expect(is_so: bool, what: str) -> None:
    if not is_so:
        raise CodecError(f"expected {what}")


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("an integer literal of more than 20 characters")
    return int(digits)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"the bare word {name}")


_TAGS: dict[str, Callable[[_Reader, Any, int], Any]] = {
    **{tag: _read_collection(tag) for tag in _COLLECTIONS},
    "$dict": _read_dict,
    "$keys": _read_keys,
    "$items": lambda reader, body, depth: _read_dict(reader, body, depth).items(),
    "$int": _read_text("-?0x[0-9a-fA-F]+", lambda text: int(text, 16)),
    "$float": _read_text("nan|-?inf", float),
    "$bytes": _read_text("[0-9a-fA-F]*", bytes.fromhex),
    "$decimal": _read_text(f"[ -~]{{1,{MAX_DIGITS}}}", _make_decimal),
    **{tag: _read_record(tag) for tag in plain_types.RECORDS},
    "$type": _read_text("|".join(_TYPES), _TYPES.__getitem__),
    "$object": _read_object,
    "$like": _read_like,
}
