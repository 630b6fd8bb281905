"""The gold data of programs, in its three forms.

- `{"entry_point": "f", "setup": code, "tests": [code, ...], "time_limit_s": 1}`: a benchmark's own test code;
- `{"entry_point": "f", "tests": [{"args": [...], "expected": ...}, ...]}`: values, which are written as in
  `lightningrl.sandbox.codec` if JSON does not have them (`{"$tuple": [1, 2]}`);
- `{"stdin_tests": [{"input": text, "output": text}, ...], "time_limit_s": 1}`: programs that read and print.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from lightningrl.sandbox.codec import from_json


@functools.lru_cache(maxsize=16_384)
def _code(text: str) -> str:
    try:
        compile(text, "<tests>", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ValueError(f"test code that does not compile: {error}") from error
    return text


def _function(name: str) -> str:
    if not name.isidentifier():
        raise ValueError(f"{name!r} is no function's name")
    return name


Code = Annotated[str, AfterValidator(_code)]
EntryPoint = Annotated[str, AfterValidator(_function)]
Plain = Annotated[Any, BeforeValidator(from_json)]
TimeLimit = Annotated[float | None, Field(gt=0, lt=3600)]
"""Seconds; None: the judge's own limit."""


class TestsGold(BaseModel, strict=True, frozen=True):
    __test__ = False  # pytest would collect it

    entry_point: EntryPoint
    setup: Code = ""
    tests: list[Code] = Field(min_length=1)
    time_limit_s: TimeLimit = None


class Call(BaseModel, strict=True, frozen=True, extra="forbid"):
    args: Annotated[list[Any], BeforeValidator(from_json)]
    expected: Plain


class CallsGold(BaseModel, strict=True, frozen=True):
    entry_point: EntryPoint
    tests: list[Call] = Field(min_length=1)


class StdinTest(BaseModel, strict=True, frozen=True, extra="forbid"):
    input: str
    output: str


class StdioGold(BaseModel, strict=True, frozen=True):
    entry_point: ClassVar[None] = None
    tests: list[StdinTest] = Field(min_length=1, alias="stdin_tests")
    time_limit_s: TimeLimit = None


Gold = TestsGold | CallsGold | StdioGold


def read_gold(gold: dict[str, Any]) -> Gold:
    """Returns the parsed gold data. Raises ValueError for data of another form or code that does not compile.

    >>> read_gold({"stdin_tests": [{"input": "1 2", "output": 3}]})
    Traceback (most recent call last):
    ValueError: stdin_tests.0.output: Input should be a valid string
    """
    tests = gold.get("tests")
    is_code = isinstance(tests, list) and tests and isinstance(tests[0], str)
    form = StdioGold if "stdin_tests" in gold else TestsGold if is_code else CallsGold
    try:
        return form.model_validate(gold)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise ValueError("; ".join(found)) from error
