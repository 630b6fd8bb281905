"""The interface of a judge: batches of responses in, verdicts out. No judge knows rewards or training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lightningrl.types import Example, Verdict


class Judge(Protocol):
    """A judge decides whether responses answer their examples. Only one `judge` call may run at a time.

    Its constructor takes `workers=n`, the number of processes that it may use at the same time.
    """

    graded: bool
    """Whether RL rewards a verdict's value, a fraction of passed tests, and not just right or wrong."""

    needs_jail: bool
    """Whether it runs model-written programs."""

    def judge(self, examples: Sequence[Example], responses: Sequence[str]) -> list[Verdict]:
        """Returns one verdict per (example, response), in order; identical pairs are judged once.

        Responses are arbitrary text up to the first stop token, without special tokens. The status reports a response
        that cannot be judged. A judge that cannot work raises an error; it never scores 0.
        """
        ...

    def close(self) -> None:
        """Frees threads and processes; the judge must not be used afterwards."""
        ...


def check_lengths(examples: Sequence[Example], responses: Sequence[str]) -> None:
    """Raises ValueError unless there is one response for each example."""
    if len(examples) != len(responses):
        raise ValueError(f"found {len(examples)} examples and {len(responses)} responses: expected one of each")
