"""The objects that are, or equal, a plain value although JSON has no such type, recognised by their exact type.

Nothing here calls a method that a program's class could define: the methods of the plain base type read an instance of
a subclass. The codec writes that value alone, so an object gains nothing by what it claims to be. This file runs inside
the jail too: standard library only.
"""

import collections
import sys
from typing import Any

SEQUENCES = (list, tuple, collections.deque)
SETS = (set, frozenset)
MAPPINGS = (dict, collections.Counter, collections.OrderedDict, collections.defaultdict)
CONTAINERS = (*SEQUENCES, *SETS, *MAPPINGS)
KEYS, ITEMS = type({}.keys()), type({}.items())
BASES = (int, float, str, bytes, *SEQUENCES, *SETS, dict)
"""The plain types; an instance of a subclass equals the value of the base type that it contains."""
_CLOCK = ("hour", "minute", "second", "microsecond")
RECORDS = {
    "$complex": ("builtins", "complex", ("real", "imag"), float),
    "$range": ("builtins", "range", ("start", "stop", "step"), int),
    "$fraction": ("fractions", "Fraction", ("numerator", "denominator"), int),
    "$date": ("datetime", "date", ("year", "month", "day"), int),
    "$time": ("datetime", "time", _CLOCK, int),
    "$datetime": ("datetime", "datetime", ("year", "month", "day", *_CLOCK), int),
    "$timedelta": ("datetime", "timedelta", ("days", "seconds", "microseconds"), int),
}
"""Maps a tag to the module and name of a class, the attributes that rebuild an instance, and their type."""
_MRO, _NAMES = type.__dict__["__mro__"].__get__, type.__dict__["__dict__"].__get__


def is_exactly(kind: type, module: str, name: str) -> bool:
    """Whether `kind` is that class, whose module is loaded if it has an instance."""
    return kind is getattr(sys.modules.get(module), name, None)


def record_parts(value: Any, kind: type) -> tuple[str, list[Any]] | None:
    """Returns the tag and the parts of an instance of one of RECORDS; None for others and those with a time zone."""
    for tag, (module, name, fields, _) in RECORDS.items():
        if is_exactly(kind, module, name) and getattr(value, "tzinfo", None) is None:
            return tag, [getattr(value, field) for field in fields]
    return None


def plain_base(kind: type) -> type | None:
    """Returns the plain type whose equality a subclass inherits; None: there is none, or it has its own equality."""
    for parent in _MRO(kind):
        if any(parent is base for base in BASES):
            return parent
        if "__eq__" in _NAMES(parent):
            return None
    return None


def plain_value(value: Any, base: type) -> Any:
    """Returns the value of an instance of a subclass of `base`, with the type `base` itself.

    >>> plain_value(collections.namedtuple("P", "x y")(1, 2), tuple)
    (1, 2)
    """
    if base in (int, float, str):
        return {int: int.__int__, float: float.__float__, str: str.__str__}[base](value)
    if base is dict:
        return dict(dict.items(value))
    return base(memoryview(value) if base is bytes else base.__iter__(value))


def numpy_value(value: Any, kind: type, most: int) -> Any:
    """Returns the `tolist` of NumPy's scalars and of arrays of at most `most` elements; any other value itself."""
    numpy: Any = sys.modules.get("numpy")
    array, scalar = getattr(numpy, "ndarray", None), getattr(numpy, "generic", None)
    if kind is array:
        return numpy.ndarray.tolist(value) if value.size <= most else value
    is_scalar = kind.__module__ == "numpy" and any(parent is scalar for parent in _MRO(kind))
    return numpy.generic.tolist(value) if is_scalar else value
