"""Prompts that several rows of a stream have in common: their whole pages of the KV cache are computed once and shared.

What may be shared are the pages of a prompt that hold nothing but blocks before the first that is decoded. A block that
is part prompt, part response is every row's own, and so are blocks on a page that is not full of the prompt; nothing is
ever copied. The first row to enter computes the pages; those behind it wait until it has. A prompt's pages are freed
when its last holder goes and no request that waits wants them, or when others need them and nobody holds them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lightningrl.decoding.row_state import QueuedRequest


@dataclass(slots=True, eq=False)
class Prefix:
    """The shared pages of one prompt, in the order of its positions."""

    key: bytes
    pages: list[int]
    holders: int = 0
    is_written: bool = False
    """Whether the keys and values are there; until then only the row that computes them goes on."""


class Prefixes:
    """The shared pages of one stream. `free`: the pages that nobody has, which are taken from and given back to."""

    def __init__(self, free: list[int], page_tokens: int):
        self.free, self.page_tokens = free, page_tokens
        self.known: dict[bytes, Prefix] = {}
        self._expected: Counter[bytes] = Counter()
        """Requests in the queue that have not been in a slot yet, by their prompt's shareable part."""

    def expect(self, item: QueuedRequest) -> None:
        """Takes note of a request that has come into the queue."""
        if item.prefix_key is not None:
            self._expected[item.prefix_key] += 1

    def ready(self, item: QueuedRequest) -> int:
        """Returns how many pages a request would find in place."""
        found = self.known.get(item.prefix_key) if item.prefix_key is not None else None
        return len(found.pages) if found is not None else 0

    def join(self, item: QueuedRequest) -> Prefix | None:
        """Returns the pages that a row which enters shares, with itself among the holders; they are new where it is the
        first of several (there must be as many free ones), and None where it is alone."""
        key = item.prefix_key
        if key is None:
            return None
        if item.saved is None:
            self._expected[key] -= 1
        found = self.known.get(key)
        if found is None:
            if not self._expected[key]:
                return None
            count = len(key) // np.dtype(np.int64).itemsize // self.page_tokens
            found = self.known[key] = Prefix(key, [self.free.pop() for _ in range(count)])
        found.holders += 1
        return found

    def part(self, prefix: Prefix, is_sound: bool) -> None:
        """A holder goes. is_sound: what it has computed is known to be finite."""
        prefix.holders -= 1
        if not prefix.holders and not (is_sound and prefix.is_written and self._expected[prefix.key]):
            self._dissolve(prefix)

    def reclaim(self, wanted: int, but: bytes | None = None) -> bool:
        """Returns whether so many pages are free, after giving up those that nobody holds now, one prompt's aside."""
        for prefix in list(self.known.values()):
            if len(self.free) >= wanted:
                break
            if not prefix.holders and prefix.key != but:
                self._dissolve(prefix)
        return len(self.free) >= wanted

    @property
    def pages(self) -> list[int]:
        """All shared pages."""
        return [page for prefix in self.known.values() for page in prefix.pages]

    def _dissolve(self, prefix: Prefix) -> None:
        del self.known[prefix.key]
        self.free.extend(reversed(prefix.pages))


def prefix_key(prompt_ids: np.ndarray, start: int, page_tokens: int) -> bytes | None:
    """Returns the tokens of the pages that lie whole before the first decoded block, as bytes; None: there are none.

    >>> len(prefix_key(np.arange(40), 40, 16)) // 8, prefix_key(np.arange(15), 12, 16)
    (32, None)
    """
    whole = start // page_tokens * page_tokens
    return np.asarray(prompt_ids[:whole], dtype=np.int64).tobytes() if whole else None
