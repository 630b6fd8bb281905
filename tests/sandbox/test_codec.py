"""The codec: plain data crosses unchanged, nothing else crosses, hostile text ends soon."""

import collections
import decimal
import fractions
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightningrl.sandbox import codec, plain_types

SCALARS = st.none() | st.booleans() | st.integers() | st.integers(-(2**200), 2**200) | st.floats() | st.text()
SCALARS |= st.complex_numbers() | st.binary() | st.builds(range, st.integers(), st.integers(), st.integers(1, 2**70))
SCALARS |= st.sampled_from([int, str, dict, frozenset]) | st.fractions() | st.dates() | st.timedeltas()
SCALARS |= (st.times() | st.datetimes()).map(lambda moment: moment.replace(fold=0))  # which no equality looks at
TEXT = SCALARS | st.text(st.characters())
KEYS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)
VALUES = st.recursive(
    TEXT,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.lists(inner, max_size=4).map(collections.deque)
        | st.sets(KEYS, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4).map(lambda value: value.keys())
        | st.dictionaries(KEYS, inner, max_size=4).map(lambda value: value.items())
        | st.dictionaries(st.sampled_from(["a", "$tuple", "$", ""]), inner)
    ),
    max_leaves=12,
)


def shape(value):
    """Returns types and values at every depth, -0.0 and NaN told apart, sets and dicts in any order."""
    if type(value) in (list, tuple, collections.deque, plain_types.KEYS, plain_types.ITEMS):
        return type(value).__name__, [shape(part) for part in value]
    if type(value) in (set, frozenset):
        return type(value).__name__, sorted(map(repr, map(shape, value)))
    if type(value) is dict:
        return "dict", sorted((repr(shape(key)), repr(shape(part))) for key, part in value.items())
    if type(value) is complex:
        return "complex", value.real.hex(), value.imag.hex()
    return type(value).__name__, value.hex() if type(value) is float else value


@given(VALUES)
def test_plain_data_crosses_unchanged_as_one_line_of_ascii(value):
    text = codec.dumps(value)
    assert shape(codec.loads(text)) == shape(value) and text.isascii() and "\n" not in text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda i: st.lists(i) | st.dictionaries(st.text("abc"), i),
    )
)
def test_plain_json_means_itself(value):
    assert codec.from_json(json.loads(json.dumps(value))) == value


PART = [1]
CROSS = [
    -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308, 10**5000, fractions.Fraction(10**5000, 7),
    decimal.Decimal("1" * 5000), [PART, PART, (PART,)],
]  # fmt: skip


@pytest.mark.parametrize("value", CROSS, ids=range(len(CROSS)))
def test_every_bit_crosses(value):
    """Also of long numbers, and of parts that are shared, which is no self-reference."""
    crossed = codec.loads(codec.dumps(value))
    assert shape(crossed) == shape(value)


def test_an_object_that_equals_everything_does_not_cross():
    class Everything(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    for value in (Everything(3), [Everything(3)], {Everything(3)}, {Everything(3): 1}, {"a": Everything(3)}):
        with pytest.raises(codec.CodecError, match="not plain data"):
            codec.dumps(value)


@given(VALUES)
def test_an_instance_of_a_subclass_crosses_as_the_value_that_it_holds(value):
    base = type(value)
    if base not in plain_types.BASES:
        return
    crossed = codec.loads(codec.dumps(type("Own", (base,), {})(value)))
    assert shape(crossed) == shape(value) and codec.loads(codec.dumps([value])) is not value


def test_an_instance_of_a_subclass_crosses_with_its_number_where_both_sides_agree():
    point = collections.namedtuple("Point", "x y")(1, 2)
    text = codec.dumps([point], refer=[point].index)
    assert text == '[{"$like":[0,{"$tuple":[1,2]}]}]'
    assert codec.loads(text, refer=lambda number, value: (number, value)) == [(0, (1, 2))]


NUMPY = [
    np.int64(3), np.float32(0.5), np.bool_(True), np.str_("a"), np.complex128(1j), np.uint8(255), np.float64("nan"),
    np.array([1, 2]), np.array([[0.5, np.nan]]), np.array(3), np.array(["a"]), np.array([]), np.zeros((2, 0)),
    np.datetime64("2024-02-29"), np.timedelta64(36, "h"), np.array([{1: (2,)}], dtype=object),
]  # fmt: skip


@pytest.mark.parametrize("value", NUMPY, ids=repr)
def test_numpy_crosses_as_what_tolist_says(value):
    assert shape(codec.loads(codec.dumps(value))) == shape(value.tolist())


def test_numpy_that_says_no_plain_value_does_not_cross():
    liar = type("Liar", (np.float64,), {"__eq__": lambda self, other: True, "__hash__": lambda self: 0})
    for value in (np.longdouble(1), liar(1), np.ma.array([1], mask=[True]), np.zeros(codec.MAX_NODES + 1)):
        with pytest.raises(codec.CodecError):
            codec.dumps(value)


def test_self_reference_depth_and_size_are_refused():
    loop: list = []
    loop.append({"a": (loop,)})
    deep: list = []
    for _ in range(codec.MAX_DEPTH):
        deep = [deep]
    for value in (loop, deep):
        with pytest.raises(codec.CodecError, match="deeper"):
            codec.dumps(value)
    assert codec.loads(codec.dumps(deep[0])) == deep[0]
    for large in ("x" * 4_000_001, [0] * 500_001, set(range(10_001)), 1 << 20_000_000):
        with pytest.raises(codec.TooLarge):
            codec.dumps(large)


HOSTILE = {
    "not JSON": "True",
    "python": "__import__('os')",
    "pickle": "\x80\x04N.",
    "nothing": "",
    "two values": "1 2",
    "bare NaN": "NaN",
    "bare infinity": "[Infinity]",
    "float out of range": "1e999",
    "long integer": "1" * 5000,
    "deep list": "[" * 100_000,
    "deep closed list": "[" * 1000 + "]" * 1000,
    "unknown tag": '{"$eval": "1"}',
    "two tags": '{"$tuple": [], "$set": []}',
    "tag beside a key": '{"a": 1, "$set": []}',
    "tuple of text": '{"$tuple": "ab"}',
    "set of lists": '{"$set": [[1]]}',
    "set with a twin": '{"$set": [1, 1]}',
    "set with an equal twin": '{"$set": [1, true]}',
    "dict of text": '{"$dict": ["ab"]}',
    "dict with a twin": '{"$dict": [[1, 2], [1, 3]]}',
    "dict with a list key": '{"$dict": [[[1], 2]]}',
    "integer as a number": '{"$int": 3}',
    "integer with underscores": '{"$int": "0x1_0"}',
    "decimal integer": '{"$int": "12"}',
    "integer of nothing": '{"$int": "0x"}',
    "float by expression": '{"$float": "1.0"}',
    "float as a list": '{"$float": []}',
    "frozenset of lists": '{"$frozenset": [[1]]}',
    "items that are no pairs": '{"$items": [1]}',
    "items with a twin": '{"$items": [[1, 2], [1, 3]]}',
    "keys with a twin": '{"$keys": [1, 1]}',
    "a fraction of nothing": '{"$fraction": [1, 0]}',
    "a fraction of floats": '{"$fraction": [1.0, 2]}',
    "a day that is none": '{"$date": [2023, 2, 29]}',
    "a date of truths": '{"$date": [2023, true, 1]}',
    "a duration without end": '{"$timedelta": [1000000000, 0, 0]}',
    "a moment of two": '{"$datetime": [1, 2]}',
    "a decimal that signals": '{"$decimal": "sNaN"}',
    "a likeness where none is expected": '{"$like": [0, 1]}',
    "complex of one": '{"$complex": [1.0]}',
    "complex of integers": '{"$complex": [1, 2]}',
    "complex of text": '{"$complex": "1j"}',
    "range of floats": '{"$range": [0.0, 1, 1]}',
    "range of booleans": '{"$range": [false, 1, 1]}',
    "range without steps": '{"$range": [0, 1, 0]}',
    "bytes with blanks": '{"$bytes": "00 ff"}',
    "bytes of half a digit": '{"$bytes": "0"}',
    "bytes as a list": '{"$bytes": [0]}',
    "type of another name": '{"$type": "type"}',
    "type of a list": '{"$type": ["int"]}',
    "object where none is expected": '{"$object": 0}',
    "too many": "[" + "0," * 500_001 + "0]",
}


@pytest.mark.parametrize("title", HOSTILE)
def test_hostile_text_is_refused(title):
    with pytest.raises(codec.CodecError):
        codec.loads(HOSTILE[title])


@given(st.text() | st.text('{}[]",:$0123456789-.eEtuplsdicn '))
def test_any_text_is_read_or_refused(text):
    try:
        value = codec.loads(text)
    except codec.CodecError:
        return
    assert shape(codec.loads(codec.dumps(value))) == shape(value)


def test_the_collections_of_dicts_cross_as_the_dict_they_equal():
    for value in (collections.Counter("aab"), collections.OrderedDict(b=1, a=2), collections.defaultdict(int, {1: 2})):
        crossed = codec.loads(codec.dumps(value))
        assert type(crossed) is dict and crossed == value and list(crossed) == list(value)


def test_objects_cross_as_numbers_where_both_sides_agree():
    things = [object(), len]
    text = codec.dumps([things[1], (things[0],)], refer=things.index)
    assert text == '[{"$object":1},{"$tuple":[{"$object":0}]}]'
    assert codec.loads(text, refer=things.__getitem__) == [len, (things[0],)]
    for number in ("-1", "true", "1.0", '"1"', "null"):
        with pytest.raises(codec.CodecError):
            codec.loads(f'{{"$object": {number}}}', refer=things.__getitem__)


def test_colliding_integers_cost_little():
    modulus = 2**61 - 1
    text = codec.dumps({number * modulus for number in range(1, codec.MAX_HASHED)})
    start = time.process_time()
    assert len(codec.loads(text)) == codec.MAX_HASHED - 1
    assert time.process_time() - start < 5  # 0.6 s here; without the bound a 4 MB reply would take minutes


def test_a_shared_budget_bounds_the_sum():
    budget = codec.Budget()
    text = codec.dumps([0] * 300_000)
    codec.loads(text, budget)
    with pytest.raises(codec.TooLarge):
        codec.loads(text, budget)
