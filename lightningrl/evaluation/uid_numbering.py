"""Which problem a bare number means: other people's files may number a benchmark's problems differently than its uids.

The uids of GSM8K's test problems follow the order of the paper's file, which is not that of the authors' file. MBPP's
uids have the authors' task ids, 11 to 510; the paper's file has the same problems in the same order, so that places in
it begin with 0. All other benchmarks have one numbering: that of the uids, from 0. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightningrl.benchmarks.fetch import Origins, obtain
from lightningrl.benchmarks.mbpp import TEST_TASKS
from lightningrl.benchmarks.sources import Source
from lightningrl.errors import BenchmarkError, ConfigError
from lightningrl.types import Example

ORDERS = ("official", "paper")
GSM8K_OFFICIAL = Source(
    "test", "openai/gsm8k", ("main/test-00000-of-00001.parquet",), "gsm8k/test.jsonl", 1319, ("question",),
    mirror_sha256="3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    content_sha256="b1eaa20e536903ceff01ef18da5e46c5037c396c4be8f2717aab1506fd264a1f",
)  # fmt: skip
_TWO_ORDERS: Mapping[tuple[str, str], str] = {
    ("gsm8k", "test"): "gsm8k's test problems stand in two orders: `--order official` takes the number for a place in "
    "the authors' file (openai/gsm8k), `--order paper` for one in the paper's, whose order the uids follow. Both count "
    "from 0",
    ("mbpp", "test"): "mbpp's test problems have two numberings: `--order official` takes the number for the authors' "
    f"task id ({TEST_TASKS[0]} to {TEST_TASKS[-1]}, as in the uids), `--order paper` for the place in the paper's "
    "file, from 0",
}
_FEW_PCT, _ENOUGH = 5.0, 20
"""Below this accuracy, over at least so many problems, the order is doubted: GSM8K's other order scores 1 %."""


def uid_of_number(
    benchmark: str, split: str, examples: Sequence[Example], order: str | None, origins: Origins
) -> Callable[[int], str]:
    """Returns a function from bare numbers to uids, which raises ConfigError where only `order` could decide.

    Raises ConfigError for an unknown order, and BenchmarkError when the authors' file cannot be read or has other
    problems.
    """
    if order not in (None, *ORDERS):
        raise ConfigError(f"--order: found {order!r}, expected one of {', '.join(ORDERS)}")
    own = {int(number): e.uid for e in examples if (number := e.uid.rpartition("/")[2]).isdecimal()}
    two_orders = _TWO_ORDERS.get((benchmark, split))
    numbers = None if two_orders is None or order is None else _numbers(benchmark, order, examples, origins)

    def uid(number: int) -> str:
        if numbers is not None and number not in numbers:
            raise ConfigError(
                f"the number {number} is none of {benchmark}'s test problems by `--order {order}`, which has "
                f"{min(numbers)} to {max(numbers)}"
            )
        if numbers is None and two_orders is not None:
            raise ConfigError(f"the id is the bare number {number}, and {two_orders}. Say which is meant")
        found = number if numbers is None else numbers[number]
        return own.get(found, f"{benchmark}/{split}/{found:05d}")

    return uid


def _numbers(benchmark: str, order: str, examples: Sequence[Example], origins: Origins) -> dict[int, int]:
    """Returns the numbers of an order -> the numbers of the uids."""
    if benchmark == "mbpp":
        return dict(enumerate(TEST_TASKS)) if order == "paper" else {task: task for task in TEST_TASKS}
    if order == "paper":
        return {place: place for place in range(GSM8K_OFFICIAL.rows or 0)}
    number_of = {_words(e.messages[0]["content"]): int(e.uid.rpartition("/")[2]) for e in examples}
    questions = [_words(row["question"]) for row in obtain(GSM8K_OFFICIAL, origins).rows]
    if not set(number_of) <= set(questions):
        raise BenchmarkError(f"{GSM8K_OFFICIAL.name} has other questions than the problems here; get the files again.")
    # A question that is not among the problems here (--limit) gets a number that no problem has.
    return {place: number_of.get(words, len(questions) + place) for place, words in enumerate(questions)}


def unused_order_note(benchmark: str, split: str, order: str | None) -> str | None:
    """Returns a note when an order was named where there is only one."""
    if order is None or (benchmark, split) in _TWO_ORDERS:
        return None
    return f"{benchmark}{'' if split == 'test' else f' ({split})'} has one numbering; --order changes nothing"


def wrong_order_note(benchmark: str, split: str, summary: Mapping[str, Any]) -> str | None:
    """Returns a note when hardly an answer is right, so that the numbers may follow the other order."""
    is_low = summary["accuracy_pct"] < _FEW_PCT and summary["n_problems"] >= _ENOUGH
    if not is_low or (benchmark, split) not in _TWO_ORDERS:
        return None
    other = "If yours are of the other one, give bare numbers"
    return f"hardly an answer is right, and {_TWO_ORDERS[benchmark, split]}. {other}"


def _words(text: str) -> str:
    return " ".join(text.split())
