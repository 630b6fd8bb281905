"""Randomness keyed by what it is for, not by a stream: a draw does not depend on the batch it is made in.

A response has a 64-bit key from (run seed, step, uid, sample); the uniform for one of its positions at one of its
forwards is a hash of (key, position, forward). Counter-based (SplitMix64's finaliser), the same on every device.
"""

from __future__ import annotations

import hashlib

from torch import Tensor

_GOLDEN, _FIRST, _SECOND = (value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""SplitMix64's constants, as signed numbers."""


def row_key(seed: int, step: int, uid: str, sample: int) -> int:
    """Signed 64-bit key of one response."""
    text = f"{seed}/{step}/{uid}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def another(key_n: Tensor) -> Tensor:
    """Keys for draws of a second kind, independent of those by the keys themselves."""
    return _mix(key_n ^ _SECOND)


def uniform(key_n: Tensor, position_n: Tensor, forward_n: Tensor) -> Tensor:
    """One float64 in [0, 1) for each (key, position, forward); int64 arguments of one shape."""
    mixed_n = _mix(_mix(key_n + position_n * _GOLDEN) + forward_n * _GOLDEN)
    return _shift(mixed_n, 11).double() * 2.0**-53


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = value + _GOLDEN
    value = (value ^ _shift(value, 30)) * _FIRST
    value = (value ^ _shift(value, 27)) * _SECOND
    return value ^ _shift(value, 31)
