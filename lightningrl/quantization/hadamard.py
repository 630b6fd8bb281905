"""Hadamard transforms: orthogonal, of entries +-1 / sqrt(n), and fast.

A size n = m 2^k is a Kronecker product of a matrix of order m, by Paley's constructions (1933), and Sylvester's of
order 2^k. For 12 and 20 the matrices are those of QuaRot (arXiv 2404.00456), so that its numbers come out.
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

import torch
from torch import Tensor

from lightningrl.errors import ConfigError

LARGEST_ORDER = 256
"""The largest order that is tried for the factor that is no power of 2."""


def hadamard(x: Tensor) -> Tensor:
    """Returns (..., n): H x for each line. Raises ConfigError for a size that has no such matrix here.

    >>> hadamard(torch.tensor([8.0, 0.0, 0.0, 0.0])).tolist(), hadamard(torch.ones(4)).tolist()
    ([4.0, 4.0, 4.0, 4.0], [2.0, 0.0, 0.0, 0.0])
    """
    size = x.shape[-1]
    order = base_order(size)
    found = x.reshape(*x.shape[:-1], order, size // order)
    width = 1
    while width < size // order:
        pairs = found.unflatten(-1, (-1, 2, width))
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        found = torch.stack([first + second, first - second], dim=-2).flatten(-3)
        width *= 2
    if order > 1:
        found = _matrix(order).to(x) @ found
    return found.reshape(x.shape) / size**0.5


def transposed_hadamard(x: Tensor) -> Tensor:
    """Returns (..., n): H^T x for each line, which undoes `hadamard`."""
    size = x.shape[-1]
    order = base_order(size)
    if order == 1:
        return hadamard(x)
    mixed = _matrix(order).to(x).T @ x.reshape(*x.shape[:-1], order, size // order)
    return hadamard(mixed).reshape(x.shape) * order**-0.5


def base_order(size: int) -> int:
    """Returns the least order whose product with a power of 2 is the size. Raises ConfigError where there is none.

    >>> [base_order(size) for size in (32, 384, 3584, 9728, 18944)]
    [1, 12, 28, 76, 148]
    """
    odd = size
    while odd > 1 and odd % 2 == 0:
        odd //= 2
    order = odd
    while order <= min(size, LARGEST_ORDER):
        if order == 1 or (order % 4 == 0 and _paley(order)):
            return order
        order *= 2
    raise ConfigError(
        f"there is no Hadamard matrix here for {size} = {odd} x {size // odd}: take a method without rotations"
    )


@lru_cache
def _matrix(order: int) -> Tensor:
    kind, prime = _paley(order) or (0, 0)
    values = {i * i % prime for i in range(1, prime)}
    signs = torch.tensor([0] + [1 if i in values else -1 for i in range(1, prime)], dtype=torch.float32)
    at = torch.arange(prime)
    square = signs[(at[None, :] - at[:, None]) % prime]
    if kind == 1:
        found = torch.ones(order, order)
        found[0, 1:] = -1
        found[1:, 1:] = torch.eye(prime) - square
        return found
    conference = torch.ones(prime + 1, prime + 1)
    conference[0, 0] = 0
    conference[1:, 1:] = square
    one, other = torch.tensor([[1.0, 1.0], [1.0, -1.0]]), torch.tensor([[1.0, -1.0], [-1.0, -1.0]])
    return torch.kron(conference, one) + torch.kron(torch.eye(prime + 1), other)


def _paley(order: int) -> tuple[int, int] | None:
    """Returns which construction has a matrix of the order, and of which prime."""
    if _is_prime(order - 1) and (order - 1) % 4 == 3:
        return 1, order - 1
    half = order // 2 - 1
    return (2, half) if _is_prime(half) and half % 4 == 1 else None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, isqrt(number) + 1))
