"""Which part of a response is the program, with and without the prompt's beginning of the answer."""

import time

import pytest

from lightningrl.judges.code_program import extract_program

MBPP = "Here is the completed code:\n```python"
HUMANEVAL = "Here is the completed code:\n```python\ndef f(x):\n    '''Add one.'''\n\n"
BODY = "    return x + 1\n"
WHOLE = "def f(x):\n    '''Add one.'''\n\n    return x + 1"
ALONE = "def f(x):\n    return x + 1"

CASES = {
    "closed": (HUMANEVAL, BODY + "```\nThat is it.", WHOLE),
    "ends with the code": (HUMANEVAL, BODY, WHOLE + "\n"),
    "closed, and an example of its use": (HUMANEVAL, BODY + "```\nUse:\n```python\nprint(f(1))\n```", WHOLE),
    "closed, and an example that was cut off": (HUMANEVAL, BODY + "```\nUse:\n```python\nprint(f(", WHOLE),
    "opened again": (HUMANEVAL, f"```python\n{ALONE}\n```\n", ALONE),
    "opened again, never closed": (HUMANEVAL, f"```python\n{ALONE}\n", ALONE + "\n"),
    "closed at once, then a block": (HUMANEVAL, f"```\nSo:\n```python\n{ALONE}\n```", ALONE),
    "opened again, then another language": (HUMANEVAL, f"```python\n{ALONE}\n```\n```bash\nls\n```", ALONE),
    "nothing": (HUMANEVAL, "", "def f(x):\n    '''Add one.'''\n\n"),
    "fence of the prefill, line break of the response": (MBPP, f"\n{ALONE}\n```", ALONE),
    "fence of the prefill, no line break": (MBPP, f"{ALONE}\n```", ALONE),
    "fence of the prefill, blanks": (MBPP, f" \n{ALONE}\n```", f" \n{ALONE}"),
    "fence of the prefill, opened again": (MBPP, f"\n```python\n{ALONE}\n```", ALONE),
    "fence of the prefill, opened again without a line break": (MBPP, f"```python\n{ALONE}\n```", ALONE),
    "fence of the prefill, opened again without a language": (MBPP, f"\n```\n{ALONE}\n```", ALONE),
    "fence of the prefill, nothing": (MBPP, "", None),
    "fence of the prefill, blanks only": (MBPP, "\n \n```", None),
    "fence of the prefill, not closed": (MBPP, f"\n{ALONE}", ALONE),
    "carriage returns": (MBPP, "\r\ndef f(x):\r\n    return x\r\n```\r\n", "\r\ndef f(x):\r\n    return x\r"),
    "a prefill without a fence": ("def f(x):\n", "    return x + 1", ALONE),
    "a prefill of words": ("Sure.", f"\n```python\n{ALONE}\n```", ALONE),
}


@pytest.mark.parametrize("title", CASES)
def test_program_from_prefill_and_response(title):
    prefill, response, program = CASES[title]
    assert extract_program(response, prefill) == program


def test_extraction_with_a_prefill_is_linear():
    start = time.perf_counter()
    extract_program("```python\n" * 100_000 + "`" * 1_000_000, MBPP)
    extract_program("\n" * 1_000_000, HUMANEVAL)
    assert time.perf_counter() - start < 5


def test_a_fence_that_is_none_after_all_takes_no_time():
    start = time.perf_counter()
    extract_program("```" + " " * 100_000 + "a" * 100_000 + "`")
    assert time.perf_counter() - start < 2
