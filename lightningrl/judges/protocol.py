"""What a judge is: responses in, verdicts out, in batches. No judge knows rewards or training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lightningrl.types import Example, Verdict


class Judge(Protocol):
    """Decides whether responses answer their examples. Thread use: one `judge` call at a time.

    A judge is made with `workers=n`: how many processes of its own it may use at a time.
    """

    graded: bool
    """Whether a verdict's value is a fraction (of tests passed) that RL rewards as such, not just right or wrong."""

    needs_jail: bool
    """Whether it runs programs that the model wrote."""

    def judge(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Verdict]:
        """One verdict for each (example, response), in order; identical pairs are judged once.

        Responses are text up to the first stop token, special tokens removed; anything may be in them. A response
        that cannot be judged has a status that says so. A judge that cannot do its work raises; it never scores 0.
        """
        ...

    def close(self) -> None:
        """Free threads and processes; the judge is not used afterwards."""
        ...


def check_lengths(examples: Sequence[Example], responses: Sequence[str]) -> None:
    """Raises ValueError unless there is one response for each example."""
    if len(examples) != len(responses):
        raise ValueError(f"found {len(examples)} examples and {len(responses)} responses: expected one each")
