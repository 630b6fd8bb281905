"""The prompts of published problems, worded as in the paper's evaluation, and their worked examples (shots).

Mathematics has three styles: the problem and a request for a box; the same request as a system turn; and one for models
that think aloud. Code has the problem and a *prefill*, the beginning of the assistant's turn, which opens a block of
Python. The blank after "code block." is in the original; how worked examples of MBPP become turns, and the blanks
inside those of mathematics, are our choice. The four worked examples of mathematics are Minerva's (Lewkowycz et al.,
2022); those of MBPP are its own tasks 2, 3 and 4 (Austin et al., 2021; CC BY 4.0), reserved for this.
"""

from __future__ import annotations

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

MATH_SHOTS: tuple[tuple[str, str, str], ...] = (
    (
        "Find the domain of the expression  $\\frac{\\sqrt{x-2}}{\\sqrt{5-x}}$.}",
        "The expressions inside each square root must be non-negative. Therefore, $x-2 \\ge 0$, so $x\\ge2$, and "
        "$5 - x \\ge 0$, so $x \\le 5$. Also, the denominator cannot be equal to zero, so $5-x>0$, which gives $x<5$. "
        "Therefore, the domain of the expression is $\\boxed{[2,5)}$.",
        "$[2,5)$",
    ),
    (
        "If $\\det \\mathbf{A} = 2$ and $\\det \\mathbf{B} = 12,$ then find $\\det (\\mathbf{A} \\mathbf{B}).$",
        "We have that $\\det (\\mathbf{A} \\mathbf{B}) = (\\det \\mathbf{A})(\\det \\mathbf{B}) = (2)(12) = "
        "\\boxed{24}.$",
        "$24$",
    ),
    (
        "Terrell usually lifts two 20-pound weights 12 times. If he uses two 15-pound weights instead, how many times "
        "must Terrell lift them in order to lift the same total weight?",
        "If Terrell lifts two 20-pound weights 12 times, he lifts a total of $2\\cdot 12\\cdot20=480$ pounds of "
        "weight.  If he lifts two 15-pound weights instead for $n$ times, he will lift a total of $2\\cdot15\\cdot "
        "n=30n$ pounds of weight.  Equating this to 480 pounds, we can solve for $n$:\n\\begin{align*}\n30n&=480\\\\\n"
        "\\Rightarrow\\qquad n&=480/30=\\boxed{16}\n\\end{align*}",
        "$16$",
    ),
    (
        "If the system of equations\n\n\\begin{align*}\n6x-4y&=a,\\\\\n6y-9x &=b.\n\\end{align*}has a solution "
        "$(x, y)$ where $x$ and $y$ are both nonzero,\nfind $\\frac{a}{b},$ assuming $b$ is nonzero.",
        "If we multiply the first equation by $-\\frac{3}{2}$, we obtain\n\n$$6y-9x=-\\frac{3}{2}a.$$Since we also "
        "know that $6y-9x=b$, we have\n\n$$-\\frac{3}{2}a=b\\Rightarrow\\frac{a}{b}=\\boxed{-\\frac{2}{3}}.$$",
        "$-\\frac{2}{3}$",
    ),
)
"""Triples (problem, worked solution, answer)."""

MBPP_SHOTS: tuple[tuple[str, str, str], ...] = (
    (
        "Write a function to find the similar elements from the given two tuple lists.",
        "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)",
        "def similar_elements(test_tup1, test_tup2):\n  res = tuple(set(test_tup1) & set(test_tup2))\n  return (res) ",
    ),
    (
        "Write a python function to identify non-prime numbers.",
        "assert is_not_prime(2) == False",
        "import math\ndef is_not_prime(n):\n    result = False\n    for i in range(2,int(math.sqrt(n)) + 1):\n"
        "        if n % i == 0:\n            result = True\n    return result",
    ),
    (
        "Write a function to find the largest integers from a given list of numbers using heap queue algorithm.",
        "assert heap_queue_largest( [25, 35, 22, 85, 14, 65, 75, 22, 58],3)==[85, 75, 65] ",
        "import heapq as hq\ndef heap_queue_largest(nums,n):\n  largest_nums = hq.nlargest(n, nums)\n"
        "  return largest_nums",
    ),
)
"""Triples (text, first test, reference code)."""


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def math_prompt(example: Example, prompt: PromptOptions, has_shots: bool = False) -> Messages:
    """Returns a problem in the style `default`, `system` or `think`; `prompt.suffix` replaces the request for a box."""
    question = example.messages[-1]["content"]
    if prompt.style == "system":
        request = BOX_AS_SYSTEM if prompt.suffix is None else prompt.suffix
        return [{"role": "system", "content": request}, user(question)] if request else [user(question)]
    if prompt.style == "think":
        request = BOX_BEFORE if prompt.suffix is None else prompt.suffix
        return [user(f"{request}\n{question}" if request else question), assistant(THINK)]
    turns: Messages = []
    for problem, solution, answer in MATH_SHOTS[: prompt.shots] if has_shots else ():
        final = f"Final Answer: The final answer is {answer}. I hope it is correct."
        turns += [user(f"Problem: {problem}"), assistant(f"{solution}\nAnswer: {answer}\n{final}")]
    request = BOX if prompt.suffix is None else prompt.suffix
    return [*turns, user(_with_request(question, request))]


def mbpp_question(text: str, first_test: str) -> str:
    """Returns the question of a task in the words of the paper's evaluation."""
    return f"{text}\nYour code should pass the test:\n{first_test}\n"


def function_prompt(example: Example, prompt: PromptOptions) -> Messages:
    """Returns a task that asks for a function; the example's last turn is the prefill."""
    request = FUNCTION if prompt.suffix is None else prompt.suffix
    turns: Messages = []
    for text, test, code in MBPP_SHOTS[: prompt.shots]:
        turns += [user(_with_request(mbpp_question(text, test), request)), assistant(f"{COMPLETED}\n{code}\n```")]
    question, prefill = (message["content"] for message in example.messages)
    return [*turns, user(_with_request(question, request)), assistant(prefill)]


def script_prompt(example: Example, prompt: PromptOptions) -> Messages:
    """Returns a task that asks for a program that reads input and prints output."""
    request = STDIO if prompt.suffix is None else prompt.suffix
    return [user(_with_request(f"This is the problem:\n{example.messages[-1]['content']}", request))]


def _with_request(question: str, request: str) -> str:
    return f"{question}\n{request}" if request else question
