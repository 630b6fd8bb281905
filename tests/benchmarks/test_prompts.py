"""Prompts are the paper's, to the character: golden files, and the published code's own sources through Jinja."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
from fixtures.small_benchmarks import NAMES, SMALL, load

from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.tokenization import build_tokenizer, load_tokenizer, prompt_text

GOLDENS = Path(__file__).parent / "goldens"
FORMS = {name: {"default": PromptOptions(), "compat": PromptOptions(compat=True)} for name in NAMES}
for _name in ("gsm8k", "math500"):
    for _style in ("system", "think"):
        FORMS[_name] |= {
            _style: PromptOptions(style=_style), f"{_style}-compat": PromptOptions(style=_style, compat=True)
        }  # fmt: skip
FORMS["math500"]["4-shot"] = PromptOptions(shots=4)
FORMS["mbpp"]["3-shot"] = PromptOptions(shots=3)
CASES = [(name, form) for name, forms in FORMS.items() for form in forms]

# What the published code gives to jinja2.Template, per task; the prefix is part of the source.
PUBLISHED = {
    "gsm8k": "<|im_start|>user\n{{problem}}\nPlease reason step by step, and put your final answer within \\boxed{}."
    "<|im_end|>\n<|im_start|>assistant\n",
    "mbpp": "<|im_start|>user\n{{problem}}\nPlace your code within a single Python code block ```python ```. "
    "Do not include more than one code block. <|im_end|>\n<|im_start|>assistant\n",
    "primeintellect": "<|im_start|>user\nThis is the problem:\n{{problem}}\nYou should put your code in ```python ```. "
    "Use input() to read input and print() to produce output in your script. <|im_end|>\n<|im_start|>assistant\n",
    "think": "<|im_start|>user\nYou need to put your final answer in \\boxed{}. This is the problem:\n{{problem}}"
    "<|im_end|>\n<|im_start|>assistant<think>\n",
    "system": "<|im_start|>system\nPlease reason step by step, and put your final answer within $\\boxed{}$."
    "<|im_end|>\n<|im_start|>user\n{{problem}}<|im_end|>\n<|im_start|>assistant\n",
}  # fmt: skip
PUBLISHED |= {"math500": PUBLISHED["gsm8k"], "humaneval": PUBLISHED["mbpp"]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(["a"], folder)
    return load_tokenizer(folder)


def first_problem(name):
    splits = load(name)
    return next(example for split in ("test", "train", "validation") for example in splits[split])


@pytest.mark.parametrize(("name", "form"), CASES)
def test_golden(name, form, tokenizer):
    options = FORMS[name][form]
    found = prompt_text(tokenizer, SMALL[name].render(first_problem(name), options), options.compat)
    assert found == (GOLDENS / f"{name}.{form}.txt").read_bytes().decode()


@pytest.mark.parametrize(("name", "form"), [(n, f) for n, f in CASES if "compat" in f])
def test_the_compat_form_is_what_jinja_makes_of_the_published_sources(name, form, tokenizer):
    options = FORMS[name][form]
    source = PUBLISHED[name if options.style == "default" else options.style]
    for split in load(name).values():
        for example in split:
            *_, question = (m["content"] for m in example.messages if m["role"] == "user")
            begun = "".join(m["content"] for m in example.messages if m["role"] == "assistant")
            expected = jinja2.Template(source + begun).render(problem=question)
            rendered = SMALL[name].render(example, options)
            assert prompt_text(tokenizer, rendered, compat=True) == expected


@pytest.mark.parametrize(("name", "form"), [(n, f) for n, f in CASES if f == "compat"])
def test_compat_is_one_newline_less_or_equal(name, form, tokenizer):
    default, compat = (
        prompt_text(tokenizer, SMALL[name].render(first_problem(name), options), options.compat)
        for options in (FORMS[name]["default"], FORMS[name][form])
    )
    assert compat == default.removesuffix("\n")
    assert (compat == default) == (name == "mbpp"), "only MBPP's beginning of an answer ends without a newline"


def test_a_suffix_replaces_the_benchmarks_own_words_and_empty_leaves_them_out(tokenizer):
    example = first_problem("gsm8k")
    for suffix, end in (("In one word.", "\nIn one word."), ("", "")):
        text = prompt_text(tokenizer, SMALL["gsm8k"].render(example, PromptOptions(suffix=suffix)))
        assert f"{example.messages[0]['content']}{end}<|im_end|>" in text and "boxed" not in text


@pytest.mark.parametrize("style", ["default", "system", "think"])
def test_an_empty_suffix_asks_for_nothing_in_every_style(style):
    example = first_problem("gsm8k")
    turns = SMALL["gsm8k"].render(example, PromptOptions(style=style, suffix=""))
    assert [turn["content"] for turn in turns if turn["role"] != "assistant"] == [example.messages[0]["content"]]


def test_worked_examples_come_before_the_problem_and_end_as_minerva_does():
    turns = SMALL["math500"].render(first_problem("math500"), PromptOptions(shots=4))
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 4 + ["user"]
    assert all(turn["content"].startswith("Problem: ") for turn in turns[0:8:2])
    assert not turns[-1]["content"].startswith("Problem: ")
    answers = ("[2,5)", "24", "16", "-\\frac{2}{3}")
    for turn, answer in zip(turns[1:8:2], answers, strict=True):
        assert f"\\boxed{{{answer}}}" in turn["content"]
        final = f"\nAnswer: ${answer}$\nFinal Answer: The final answer is ${answer}$. I hope it is correct."
        assert turn["content"].endswith(final)
