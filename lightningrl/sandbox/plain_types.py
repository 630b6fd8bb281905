"""Which objects are, or equal, a plain value although their type is none of JSON's: asked by exact type.

Nothing here calls a method that a program's own class could define: an instance of a subclass is read by the methods
of the plain type that it is derived from. What the codec writes of it is that value alone, so an object gains nothing
by what it claims to be. Runs inside the jail as well: standard library only.
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
"""Plain types whose subclasses' instances equal the value that they hold."""
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
"""Tag -> module and name of a class, the attributes that an instance is made of again, and their type."""
_MRO, _NAMES = type.__dict__["__mro__"].__get__, type.__dict__["__dict__"].__get__


def is_exactly(kind: type, module: str, name: str) -> bool:
    """Whether it is that class; its module is loaded where there is an instance of it."""
    return kind is getattr(sys.modules.get(module), name, None)


def record_parts(value: Any, kind: type) -> tuple[str, list[Any]] | None:
    """The tag and the parts of an instance of one of RECORDS; None: it is none, or has a time zone."""
    for tag, (module, name, fields, _) in RECORDS.items():
        if is_exactly(kind, module, name) and getattr(value, "tzinfo", None) is None:
            return tag, [getattr(value, field) for field in fields]
    return None


def plain_base(kind: type) -> type | None:
    """The plain type whose equality the instances of a subclass of it have; None: there is none, or it has its own."""
    for parent in _MRO(kind):
        if any(parent is base for base in BASES):
            return parent
        if "__eq__" in _NAMES(parent):
            return None
    return None


def plain_value(value: Any, base: type) -> Any:
    """The value that an instance of a subclass of `base` holds, of the type `base` itself.

    >>> plain_value(collections.namedtuple("P", "x y")(1, 2), tuple)
    (1, 2)
    """
    if base in (int, float, str):
        return {int: int.__int__, float: float.__float__, str: str.__str__}[base](value)
    if base is dict:
        return dict(dict.items(value))
    return base(memoryview(value) if base is bytes else base.__iter__(value))


def numpy_value(value: Any, kind: type, most: int) -> Any:
    """What NumPy's `tolist` says of its scalars and of arrays of at most so many; of all else, the value itself."""
    numpy: Any = sys.modules.get("numpy")
    array, scalar = getattr(numpy, "ndarray", None), getattr(numpy, "generic", None)
    if kind is array:
        return numpy.ndarray.tolist(value) if value.size <= most else value
    is_scalar = kind.__module__ == "numpy" and any(parent is scalar for parent in _MRO(kind))
    return numpy.generic.tolist(value) if is_scalar else value
