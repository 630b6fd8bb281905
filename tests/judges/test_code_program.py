"""Which part of a response is the program, with and without the prompt's beginning of the answer."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightningrl.judges.code.blocks import PYTHON, Piece, split_pieces
from lightningrl.judges.code.program import extract_program

MBPP = "Here is the completed code:\n```python"
HUMANEVAL = "Here is the completed code:\n```python\ndef f(x):\n    '''Add one.'''\n\n"
BODY = "    return x + 1\n"
WHOLE = "def f(x):\n    '''Add one.'''\n\n    return x + 1"
ALONE = "def f(x):\n    return x + 1"
DRAFT = "def f(x):\n    return x - 1"
HELPED = "def f(x):\n    return plus(x, ONE)"
HELP = "import math\n\nONE = 1\n\n@math.cache\ndef plus(a, b):\n    return a + b\n\nprint(f(1))"


def runs_to(program, answer=4):
    """Whether the program defines f and f(3) is the answer."""
    namespace = {}
    exec(program, namespace)
    return namespace["f"](3) == answer


CASES = {
    "closed": (HUMANEVAL, BODY + "```\nThat is it.", WHOLE),
    "ends with the code": (HUMANEVAL, BODY, WHOLE + "\n"),
    "closed, and an example of its use": (HUMANEVAL, BODY + "```\nUse:\n```python\nprint(f(1))\n```", WHOLE),
    "closed, and an example that was cut off": (HUMANEVAL, BODY + "```\nUse:\n```python\nprint(f(", WHOLE),
    "opened again": (HUMANEVAL, f"```python\n{ALONE}\n```\n", ALONE),
    "opened again, never closed": (HUMANEVAL, f"```python\n{ALONE}\n", ALONE + "\n"),
    "closed at once, then a block": (HUMANEVAL, f"```\nSo:\n```python\n{ALONE}\n```", ALONE),
    "opened again, then another language": (HUMANEVAL, f"```python\n{ALONE}\n```\n```bash\nls\n```", ALONE),
    "opened again for the body alone": (HUMANEVAL, f"```python\n{BODY}```", WHOLE[:-16] + "\n    return x + 1"),
    "opened again with tildes": (HUMANEVAL, f"~~~python\n{ALONE}\n~~~", ALONE),
    "opened again with four backticks": (HUMANEVAL, f"````py\n{ALONE}\n````\nDone.", ALONE),
    "opened again behind a sentence": (HUMANEVAL, f"Sure, here it is:\n```python\n{ALONE}\n```", ALONE),
    "opened again with tildes behind a sentence": (HUMANEVAL, f"Here it is:\n~~~python\n{ALONE}\n~~~", ALONE),
    "a sentence behind the code, no fence": (HUMANEVAL, BODY + "\nThis adds one to x.\n", WHOLE + "\n"),
    "the fence at the end of the code's last line": (HUMANEVAL, "    return x + 1```\nDone.", WHOLE),
    "the signature again, without a fence": (MBPP + "\n", f"{ALONE}\n\nNote that x is a number.", ALONE + "\n"),
    "nothing": (HUMANEVAL, "", "def f(x):\n    '''Add one.'''\n\n"),
    "fence of the prefill, line break of the response": (MBPP, f"\n{ALONE}\n```", ALONE),
    "fence of the prefill, no line break": (MBPP, f"{ALONE}\n```", ALONE),
    "fence of the prefill, blanks": (MBPP, f" \n{ALONE}\n```", ALONE),
    "fence of the prefill, opened again": (MBPP, f"\n```python\n{ALONE}\n```", ALONE),
    "fence of the prefill, opened again without a line break": (MBPP, f"```python\n{ALONE}\n```", ALONE),
    "fence of the prefill, opened again without a language": (MBPP, f"\n```\n{ALONE}\n```", ALONE),
    "fence of the prefill, nothing": (MBPP, "", None),
    "fence of the prefill, blanks only": (MBPP, "\n \n```", None),
    "fence of the prefill, not closed": (MBPP, f"\n{ALONE}", ALONE),
    "carriage returns": (MBPP, "\r\ndef f(x):\r\n    return x\r\n```\r\n", "\ndef f(x):\n    return x"),
    "a prefill without a fence": ("def f(x):\n", "    return x + 1", ALONE),
    "a prefill of words": ("Sure.", f"\n```python\n{ALONE}\n```", ALONE),
}


@pytest.mark.parametrize("title", CASES)
def test_program_from_prefill_and_response(title):
    prefill, response, program = CASES[title]
    found = extract_program(response, prefill, "f")
    assert found == program or (found and program and found.strip() == program.strip())


EXTRACTION = {
    "no fence": ("x = 1", "x = 1"),
    "one block": ("a\n```python\nx = 1\n```\nb", "x = 1"),
    "python before unnamed": ("```python\nx = 1\n```\n```\n3\n```", "x = 1"),
    "unnamed when there is no other": ("so\n```\nx = 1\n```", "x = 1"),
    "another language does not count": ("```bash\nls\n```", None),
    "another language beside": ("```python\nx = 1\n```\n```bash\nls\n```", "x = 1"),
    "upper case and blanks": ("``` Python \nx = 1\n```  ", "x = 1"),
    "more words behind the language": ('```python title="a.py"\nx = 1\n```', "x = 1"),
    "a language in braces": ("```{.python .numberLines}\nx = 1\n```", "x = 1"),
    "carriage returns": ("```py\r\nx = 1\r\n```\r\n", "x = 1"),
    "a byte-order mark": ("\ufeffx = 1", "x = 1"),
    "a byte-order mark in the block": ("```python\n\ufeffx = '\ufeff'\n```", "x = '\ufeff'"),
    "fence inside a line": ("print('```')", "print('```')"),
    "form feed and separator stay": ("```python\nx = '\x0c\u2028'\n```", "x = '\x0c\u2028'"),
    "never closed": ("```python\nx = 1", "x = 1"),
    "empty block": ("```python\n\n```", None),
    "nothing": (" \n", None),
    "nothing but words is what it is": ("This adds a and b.", "This adds a and b."),
}


@pytest.mark.parametrize("title", EXTRACTION)
def test_extraction(title):
    response, program = EXTRACTION[title]
    assert extract_program(response) == program


def block(text, mark="```", tag="python"):
    return f"{mark}{tag}\n{text}\n{mark}\n"


SEVERAL = {
    "a draft, then the solution": block(DRAFT) + "Wait, that is wrong.\n" + block(ALONE),
    "a draft that does not compile": block("def f(x:\n    return") + block(ALONE),
    "a draft of another language": block("int f(int x);", tag="c") + block(ALONE),
    "an example of its use": block(ALONE) + "Use it like this:\n" + block("print(f(1))"),
    "an example of its use that fails": block(ALONE) + block("assert f(1) == 7"),
    "an example before it": block("print(f(1))  # 2") + block(ALONE),
    "its output, without a tag": block(ALONE) + "Output:\n" + block("2", tag=""),
    "its output, with a tag": block(ALONE) + block("2", tag="text") + block("2", tag="output"),
    "a session": block(ALONE) + block(">>> f(1)\n2"),
    "shell": block("pip install numpy", tag="bash") + block(ALONE),
    "shell without a tag": block("pip install numpy", tag="") + block(ALONE),
    "the first complete, the second cut off": block(ALONE) + "```python\ndef f(x):\n    ret",
    "an import by itself": block("import math") + block("def f(x):\n    return x + int(math.cos(0))"),
    "an import of several lines": block("from math import (\n    cos,\n    sin,\n)")
    + block("def f(x):\n    return x + int(cos(0))"),
    "a starred import": block("from math import *") + block("def f(x):\n    return x + int(cos(0))"),
    "helpers by themselves": block(HELP.replace("cache", "trunc.__class__").replace("@math.trunc.__class__\n", ""))
    + block(HELPED),
    "helpers of helpers": block("def a(x):\n    return b(x)\n\ndef b(x):\n    return x + 1")
    + block("def f(x):\n    return a(x)"),
    "a helper that is fixed": block("def g(x):\n    return x") + block("def g(x):\n    return x + 1")
    + block("def f(x):\n    return g(x)"),
    "the draft has the imports": block(f"import math\n{DRAFT}\nassert f(1) == 2")
    + block("def f(x):\n    return x + int(math.cos(0))"),
    "an example binds a name that the solution has inside": block("result = f(3)\nx = 4")
    + block("def f(x):\n    result = x + 1\n    return result"),
    "parts": block("def g(x):\n    return x + 1") + block("import sys\nif True:\n    def f(x): return g(x)"),
    "an untagged block and an example in Python": block(ALONE, tag="") + block("print(f(1))"),
    "a page in a block": "````markdown\nText.\n" + block(ALONE) + "````\n",
    "a page in a block without a tag": "````\n" + block(ALONE) + "````\n",
    "in a list": "1. So:\n\n   ```python\n   def f(x):\n       return x + 1\n   ```\n2. Done.",
    "deep in a list": "- a\n    - b\n\n      ```python\n      def f(x):\n          return x + 1\n      ```\n",
    "behind a list's mark": "1. ```python\n   def f(x):\n       return x + 1\n   ```\n",
    "a tab as the list's indentation": "* So:\n\n\t```python\n\tdef f(x):\n\t\treturn x + 1\n\t```\n",
    "the fence at the end of the last line": f"```python\n{ALONE}```\nThat is it.",
    "words around, no fence": f"Sure! Here's the function:\n\n{ALONE}\n\nThis function adds one.\nNote: x is a number.",
    "words before, no fence": f"The answer\n{ALONE}",
    "words in Chinese, no fence": f"这是代码：\n{ALONE}\n\n这个函数返回 x 加一。",
    "indented, no fence": "Here it is:\n\n    def f(x):\n        return x + 1\n\nDone.",
    "several drafts, no fence": f"First attempt:\n{DRAFT}\nThat is wrong. So:\n{ALONE}\n",
    "marks": f"[BEGIN]\n{ALONE}\n[DONE]\n",
    "marks, and what base models go on with": f"[BEGIN]\n{ALONE}\n[DONE]\nYou are an expert.\n[BEGIN]\nx = 1\n[DONE]",
    "marks around other things too": f"[PYTHON]\n{ALONE}\n[/PYTHON]\n[TESTS]\nassert f(1) == 7\n[/TESTS]",
    "marks on the lines of code": f"[BEGIN]{ALONE} [DONE]",
    "words with code in them, no fence": f"Use `f`:\n{ALONE}\nCall `f(1)`.",
    "a tag that names no language": block(ALONE, tag="code"),
    "marks in a block": block(f"[BEGIN]\n{ALONE}\n[DONE]"),
    "marks around a block": "[PYTHON]\n" + block(ALONE) + "[/PYTHON]",
    "tags": f"<code>\n{ALONE}\n</code>",
    "a closing fence alone": f"{ALONE}\n```\nThis adds one.",
}  # fmt: skip


@pytest.mark.parametrize("title", SEVERAL)
def test_of_several_pieces_the_last_that_defines_the_function_counts(title):
    assert runs_to(extract_program(SEVERAL[title], "", "f")), extract_program(SEVERAL[title], "", "f")


def test_a_later_wrong_solution_counts_as_well():
    assert runs_to(extract_program(block(ALONE) + "Better:\n" + block(DRAFT), "", "f"), 2)


def test_what_the_prompt_imports_is_there_when_the_response_begins_anew():
    begun = "from typing import List\n\ndef g(x):\n    return x + 1\n\ndef f(x: List) -> int:\n    ''' '''\n"
    prefill = f"So:\n```python\n{begun}"
    assert runs_to(extract_program(block("def f(x: List) -> int:\n    return g(x)"), prefill, "f"))


READS = "n = int(input())\nprint(n + 1)"
READING = {
    "an example of the call": block(f"def g(n): return n + 1\n{READS}") + block("print(g(1))"),
    "the example's input": block(READS) + "Input:\n" + block("1", tag=""),
    "a sample that speaks of input": block(READS) + block("Sample input\n1", tag=""),
    "a draft": block("print(input())") + block(READS),
    "without a fence": f"Here is the program:\n{READS}\n\nIt reads a number.",
}


@pytest.mark.parametrize("title", READING)
def test_of_several_pieces_the_last_that_reads_is_the_program_that_reads(title):
    assert extract_program(READING[title]).strip().endswith(READS)


def test_a_reading_program_takes_its_imports_along():
    assert (
        extract_program(block("import sys") + block("print(sys.stdin.read())")) == "import sys\nprint(sys.stdin.read())"
    )


# Fences, generated: character, length, indentation, tag, and whether there is an end.
MARKS = st.sampled_from("`~").flatmap(lambda c: st.integers(3, 7).map(lambda n: c * n))
TAGS = st.sampled_from(["python", "Python", "python3", "py", "PY", "python3.11", "", " python", "{python}", "ipython"])
CODE_LINES = st.lists(st.sampled_from([
    "def f(x):", "    return x + 1", "", "    s = '```'", "        ```", "    '''", "x = ~~~1", "# `a`", "\tpass", "``",
]), min_size=1, max_size=6)  # fmt: skip


@given(MARKS, st.integers(0, 3), TAGS, CODE_LINES, st.integers(0, 2), st.booleans())
@example("~~~", 0, "python", ["def f(x):", "    '''", "    ```", "    '''"], 0, True)
def test_a_block_is_what_stands_between_fences_of_one_kind(mark, indent, tag, lines, longer, has_words):
    blank = " " * indent
    inside = [line for line in lines if not (line.strip().startswith(mark[0] * 3) and line.strip(mark[0] + " ") == "")]
    body = "\n".join(blank + line if line else line for line in inside)
    text = f"{blank}{mark}{tag}\n{body}\n{blank}{mark}{mark[0] * longer}\n"
    text = f"Words.\n\n{text}\nMore words.\n" if has_words else text
    (found,) = [piece for piece in split_pieces(text) if piece.is_complete] or [None]
    if not any(line.strip() for line in inside):
        assert found is None
        return
    assert found.text == "\n".join(inside) and (found.kind == PYTHON) == (tag != "")


@given(MARKS, MARKS, CODE_LINES)
def test_a_shorter_fence_or_one_of_another_character_closes_nothing(outer, inner, lines):
    closes = inner[0] == outer[0] and len(inner) >= len(outer)
    code = ["def f(x):", "    return x + 1"]
    text = "\n".join([f"{outer}python", *code, inner, "y = 2", outer])
    (first, *_) = split_pieces(text)
    assert first == Piece("python", "\n".join(code if closes else [*code, inner, "y = 2"]), True)


@given(MARKS, st.integers(0, 3), TAGS)
def test_a_block_without_an_end_is_taken_to_the_end(mark, indent, tag):
    text = f"So:\n{' ' * indent}{mark}{tag}\n{ALONE}\n"
    assert runs_to(extract_program(text, "", "f"))


@given(MARKS, TAGS, st.sampled_from(["", "\n", "Sure:\n"]), st.booleans(), st.sampled_from([MBPP, HUMANEVAL]))
def test_a_block_that_is_opened_again_in_the_prompts_block(mark, tag, before, is_closed, prefill):
    if before.strip() and (not tag or mark[0] == "~"):
        tag = "python"
    response = f"{before}{mark}{tag}\n{ALONE}\n" + (f"{mark}\nThat is it." if is_closed else "")
    assert runs_to(extract_program(response, prefill, "f")), extract_program(response, prefill, "f")


PROGRAMS = [
    "x, y = 1, 2\nprint(x)", "x: int = 3", "from a import b", "print 'x'", "if x in y: pass\nelse:\n    pass",
    "for a, b in c: print(a)\nwhile True: break", "'''\nThis is a docstring of words.\n'''\nx = 1",
    "a = [\n1, 2,\n]\nb = -a", "lambda x: x", "match x:\n    case 1: pass", "del a, b\nglobal c", "type X = int",
    "try:\n    x\nfinally:\n    y", "x = a if b else c", "assert f(1) == 2, 'this is a message'", "not x\nawait y",
    "a.b(c).d()\n(a, b) = c", 'x = """\nWords at the margin. More.\n- and so on\n"""', "return x", "# Words and words",
    "*a, b = c", "-x", "f(\n  x)\n", "main() if __name__ == '__main__' else None", "@a.b\nasync def g(): pass",
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_line_of_python_is_taken_for_prose(program):
    assert [piece.text for piece in split_pieces(program)] == [program]


def test_the_standard_library_has_hardly_a_line_that_is_taken_for_prose():
    """Unfenced modules stay whole; the two that do not hold text in strings that go on behind a backslash."""
    modules = [path.read_text() for path in Path(re.__file__).parents[1].glob("*.py")]
    whole = sum([piece.text for piece in split_pieces(text)] == [text] for text in modules if text.strip())
    assert whole >= 0.98 * len(modules) > 100


LONG = {
    "fences": "```python\n" * 25_000 + "`" * 250_000,
    "line breaks": "\n" * 250_000,
    "a fence that is none": "```" + " " * 100_000 + "a" * 100_000 + "`",
    "words": "word " * 50_000 + "\n" + "a," * 50_000 + "\n" + "a" * 125_000,
    "names": "\n".join(f"def g{n}(): return g{n + 1}()" for n in range(5_000)) + "\nwords here\n" + ALONE + " + g0()",
    "blanks": "a" + " " * 75_000 + "b\n" + "a, " * 25_000 + "\ndef f(x): return a",
    "pages in pages": "".join("`" * (300 - n) + "md\n" for n in range(290)) + "```python\nx\n" * 1000,
    "quotes": "'''" * 75_000,
}


@pytest.mark.parametrize("title", LONG)
@pytest.mark.parametrize("prefill", ["", MBPP, HUMANEVAL])
def test_extraction_is_linear(title, prefill):
    start = time.process_time()
    extract_program(LONG[title], prefill, "f")
    extract_program(LONG[title], prefill)
    assert time.process_time() - start < 4


@pytest.mark.parametrize("statements", [
    "TABLE = {}\nfor n in range(9):\n    TABLE[n] = n + 1", "TABLE = {}\nfor n in range(9): TABLE[n] = n + 1",
    "TABLE = []\nTABLE.append(1)\nTABLE.extend([2, 3])\nTABLE += [4]", "TABLE = [0] * 4\nTABLE[3] = 4",
    "TABLE = [1, 2, 3, 9]\nif len(TABLE) < 4:\n    TABLE = None\nelse:\n    TABLE[3] = 4",
    "TABLE = [9] * 4\nTABLE[3] = 5\nTABLE = [9] * 4\nTABLE[3] = 4\nprint(TABLE, f(3))\nassert TABLE == [4]",
    "import sys\nTABLE = [0] * 4\ndef fill(n):\n    TABLE[n] = n + 1\n"
    "for n in TABLE, :\n    fill(len(n) - 1)\nsys.exit(TABLE)",
])  # fmt: skip
def test_what_fills_a_table_comes_along_with_it(statements):
    response = f"First:\n```python\n{statements}\n```\nThen:\n```python\ndef f(x): return TABLE[x]\n```"
    assert runs_to(extract_program(response, "", "f"))


def test_examples_that_read_or_use_the_entry_point_stay_behind():
    used = "TABLE = [1, 2, 3, 4]\nTABLE.append(f(3))\nTABLE[3] = input()\nTABLE[3] = g(3)\n"
    pieces = f"```python\n{used}```\n```\nTABLE of all values is\n```\n```python\ndef f(x): return TABLE[x]\n```"
    assert extract_program(pieces, "", "f") == "TABLE = [1, 2, 3, 4]\nTABLE[3] = g(3)\ndef f(x): return TABLE[x]"


@pytest.mark.parametrize("response", [
    "```python def f(x): return x + 1```", "So:\n``` def f(x): return x + 1 ```\nThat is all.",
    "It is <code>def f(x): return x + 1</code> here.", "It is\n<code>\ndef f(x):\n    return x + 1\n</code>\nas asked.",
    "Wrong: <code>def f(x): return x</code>, right: <code>def f(x): return x + 1</code>",
])  # fmt: skip
def test_a_block_on_one_line_and_one_of_html_are_blocks(response):
    assert runs_to(extract_program(response, "", "f"))
