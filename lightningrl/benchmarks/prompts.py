"""The prompts of published problems, worded as in the paper's evaluation, and their worked examples (shots).

Mathematics has three styles: the problem and a request for a box; the same request as a system turn; and one for models
that think aloud. Code has the problem and a *prefill*, the beginning of the assistant's turn, which opens a block of
Python. The blank after "code block." is in the original; how worked examples of MBPP become turns, and the blanks
inside those of mathematics, are our choice. `prompt.suffix` replaces the request, and "" leaves it out.
"""

from __future__ import annotations

import json
from pathlib import Path

from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.types import Example

Messages = list[dict[str, str]]

BOX = "Please reason step by step, and put your final answer within \\boxed{}."
BOX_AS_SYSTEM = "Please reason step by step, and put your final answer within $\\boxed{}$."
BOX_BEFORE = "You need to put your final answer in \\boxed{}. This is the problem:"
THINK = "<think>"
FUNCTION = "Place your code within a single Python code block ```python ```. Do not include more than one code block. "
STDIO = (
    "You should put your code in ```python ```. "
    "Use input() to read input and print() to produce output in your script. "
)
COMPLETED = "Here is the completed code:\n```python"
SHOTS = json.loads(Path(__file__).with_name("shots.json").read_text(encoding="utf-8"))
"""The worked examples of mathematics are Minerva's (Lewkowycz et al., 2022), with problem, solution and answer; those
of MBPP its own tasks 2, 3 and 4 (Austin et al., 2021; CC BY 4.0), reserved for this, with text, first test and code."""


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def math_prompt(example: Example, prompt: PromptOptions) -> Messages:
    """Returns a problem in the style `default`, `system` or `think`."""
    question = example.messages[-1]["content"]
    if prompt.style == "system":
        request = _request(BOX_AS_SYSTEM, prompt)
        return [{"role": "system", "content": request}] * bool(request) + [user(question)]
    if prompt.style == "think":
        request = _request(BOX_BEFORE, prompt)
        return [user(f"{request}\n{question}" if request else question), assistant(THINK)]
    turns: Messages = []
    for shot in SHOTS["math"][: prompt.shots]:
        final = f"Final Answer: The final answer is {shot['answer']}. I hope it is correct."
        answer = f"{shot['solution']}\nAnswer: {shot['answer']}\n{final}"
        turns += [user(f"Problem: {shot['problem']}"), assistant(answer)]
    return [*turns, _asked(question, BOX, prompt)]


def mbpp_question(text: str, first_test: str) -> str:
    """Returns the question of a task in the words of the paper's evaluation."""
    return f"{text}\nYour code should pass the test:\n{first_test}\n"


def function_prompt(example: Example, prompt: PromptOptions) -> Messages:
    """Returns a task that asks for a function; the example's last turn is the prefill."""
    turns: Messages = []
    for shot in SHOTS["mbpp"][: prompt.shots]:
        question = mbpp_question(shot["text"], shot["test"])
        turns += [_asked(question, FUNCTION, prompt), assistant(f"{COMPLETED}\n{shot['code']}\n```")]
    question, prefill = (message["content"] for message in example.messages)
    return [*turns, _asked(question, FUNCTION, prompt), assistant(prefill)]


def script_prompt(example: Example, prompt: PromptOptions) -> Messages:
    """Returns a task that asks for a program that reads input and prints output."""
    return [_asked(f"This is the problem:\n{example.messages[-1]['content']}", STDIO, prompt)]


def _asked(question: str, usual: str, prompt: PromptOptions) -> dict[str, str]:
    request = _request(usual, prompt)
    return user(f"{question}\n{request}" if request else question)


def _request(usual: str, prompt: PromptOptions) -> str:
    return usual if prompt.suffix is None else prompt.suffix
