"""Prompts are the paper's, to the character: golden files, and the published code's own sources through Jinja."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
from fixtures.small_benchmarks import NAMES, SMALL, load

from lightningrl.benchmarks.protocol import PromptOptions
from lightningrl.tokenization import build_tokenizer, load_tokenizer, prompt_text

GOLDENS = Path(__file__).parent / "goldens"
STYLED = {
    form: PromptOptions(style=style, compat=form.endswith("compat"))
    for style in ("system", "think") for form in (style, f"{style}-compat")
}  # fmt: skip
FORMS = {name: {"default": PromptOptions(), "compat": PromptOptions(compat=True)} for name in NAMES}
FORMS["gsm8k"] |= STYLED
FORMS["math500"] |= STYLED | {"4-shot": PromptOptions(shots=4)}
FORMS["mbpp"] |= {"3-shot": PromptOptions(shots=3)}
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


@pytest.mark.parametrize("name", NAMES)
def test_compat_is_one_newline_less_or_equal(name):
    default, compat = ((GOLDENS / f"{name}.{form}.txt").read_bytes().decode() for form in ("default", "compat"))
    assert compat == default.removesuffix("\n")
    assert (compat == default) == (name == "mbpp"), "only MBPP's beginning of an answer ends without a newline"


def test_a_suffix_replaces_the_benchmarks_own_words_and_empty_leaves_them_out_in_every_style():
    example = first_problem("gsm8k")
    question, render = example.messages[0]["content"], SMALL["gsm8k"].render
    asked = render(example, PromptOptions(suffix="In one word."))
    assert asked == [{"role": "user", "content": f"{question}\nIn one word."}]
    for style in ("default", "system", "think"):
        turns = render(example, PromptOptions(style=style, suffix=""))
        assert [turn["content"] for turn in turns if turn["role"] != "assistant"] == [question]
