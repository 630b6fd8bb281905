"""The interface of a benchmark, the stored form of its examples, and the check that its splits share no problem.

A benchmark is one file with one `Benchmark` object and one line in `registry.py`. Nothing here depends on a tokenizer,
a model or the code of a judge: a benchmark only names its judge.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Protocol

from lightningrl.benchmarks.sources import Row, Source
from lightningrl.errors import BenchmarkError
from lightningrl.types import Example

SPLITS = ("train", "validation", "test")
NO_ROWS: Mapping[str, Sequence[Row]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """How a problem is presented to the model: what the config's `prompt` says (`config.tasks.Prompt`)."""

    suffix: str | None = None
    style: str = "default"
    shots: int = 0
    compat: bool = False


class Benchmark(Protocol):
    """A source of problems. Generated and downloaded benchmarks have the same interface."""

    name: str
    """The registry's key and the first part of every uid."""
    licence: str
    """An SPDX identifier."""
    citation: str
    judge: str
    """`module:attribute` of the judge class that decides answers."""
    sources: tuple[Source, ...]
    """The published files it is read from; empty where problems are generated."""
    styles: tuple[str, ...]
    """The prompt styles it offers, `default` among them."""
    shots: tuple[int, ...]
    """The numbers of worked examples that its prompt can have, 0 among them; others with the style `default` only."""
    splits: tuple[str, ...]
    """The splits it has problems for; a benchmark without this attribute has all three."""

    def load(
        self, sizes: Mapping[str, int | None], seed: int, rows: Mapping[str, Sequence[Row]] = NO_ROWS
    ) -> dict[str, list[Example]]:
        """Returns the splits named in `sizes`, each with exactly that many examples (an empty list for size 0).

        `rows` has the rows that were read from each source, by the source's key. A size of None means all problems
        (published benchmarks only). The same sizes and seed give equal examples, and the size of one split never
        changes another split. A benchmark with a fixed order (a published test file) may ignore `seed`. Raises
        BenchmarkError when a split is unknown or too small, or when rows of different sources do not match.
        """
        ...

    def signature(self, example: Example) -> str:
        """Returns a text that is equal for two wordings of the same problem (other names, another order)."""
        ...

    def render(self, example: Example, prompt: PromptOptions) -> list[dict[str, str]]:
        """Returns messages for the chat template; a last turn by the assistant is the beginning of its answer."""
        ...


def render_chat(example: Example, prompt: PromptOptions) -> list[dict[str, str]]:
    """Returns the example's messages with `prompt.suffix` added to the last user turn: the usual `Benchmark.render`."""
    messages = [dict(message) for message in example.messages]
    if prompt.suffix:  # generated problems have no wording of their own to add
        last_user = max(i for i, message in enumerate(messages) if message["role"] == "user")
        messages[last_user]["content"] += "\n" + prompt.suffix
    return messages


def question_text(example: Example) -> str:
    """Returns the content of every turn, normalised (NFKC, case folded, white space collapsed).

    Punctuation stays: `x + 1` and `x - 1` are two problems.
    """
    text = " ".join(message["content"] for message in example.messages)
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def check_disjoint(splits: Mapping[str, list[Example]], signature: Callable[[Example], str]) -> None:
    """Raises BenchmarkError, naming two examples, when two splits share a question text or a problem signature."""
    for what, key in (("question", question_text), ("problem", signature)):
        first_use: dict[str, tuple[str, str]] = {}
        for split, examples in splits.items():
            for example in examples:
                value = key(example)
                other_split, other_uid = first_use.setdefault(value, (split, example.uid))
                if other_split != split:
                    raise BenchmarkError(
                        f"splits {other_split!r} and {split!r} share a {what}: {other_uid} and {example.uid} "
                        f"({value[:120]!r}). Training would see what is tested; every problem must belong to one split."
                    )


def check_sizes(benchmark: str, sizes: Mapping[str, int | None]) -> None:
    """Raises BenchmarkError for an unknown split name or a negative size."""
    for split, size in sizes.items():
        if split not in SPLITS:
            raise BenchmarkError(f"{benchmark} has no split {split!r}; expected one of {', '.join(SPLITS)}.")
        if size is not None and size < 0:
            raise BenchmarkError(f"{benchmark}: the size of split {split!r} is {size}; expected 0 or more.")


def example_to_json(example: Example) -> dict[str, Any]:
    """Returns a row for `utils.files.write_jsonl`, which writes it as canonical text."""
    return asdict(example) | {"messages": [dict(message) for message in example.messages]}


def example_from_json(row: dict[str, Any]) -> Example:
    """Returns the example of a row. Raises BenchmarkError when a field is missing, unknown or malformed."""
    try:
        given: dict[str, Any] = row | {"messages": tuple(row["messages"])}
        example = Example(**given)
        is_chat = all(isinstance(turn[key], str) for turn in example.messages for key in ("role", "content"))
        if is_chat and example.messages and str(example.uid).count("/") == 2:
            return example
    except (TypeError, KeyError):
        pass
    names = ", ".join(field.name for field in fields(Example))
    raise BenchmarkError(
        f"malformed example {str(row)[:200]}: expected the fields {names}, with a uid `benchmark/split/number` and a "
        "list of messages with role and content. Prepare the data again."
    )
