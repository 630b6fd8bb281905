"""The harness's own tasks of Table 2, with problems from here: prompts, stop strings and scores are its real code."""

import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")
import datasets
import evaluate
import huggingface_hub
import lm_eval
from fixtures.limits import HANG_S
from lm_eval.api.model import LM

from lightningrl.errors import ConfigError
from lightningrl.inference.harness_lm import score
from lightningrl.inference.harness_tasks import CHANGED, load_tasks
from lightningrl.report.paper.harness import cells

TASKS = Path(lm_eval.__file__).parent / "tasks"
FILES = {
    "gsm8k_cot_zeroshot": "gsm8k/gsm8k-cot-zeroshot.yaml", "gsm8k_cot": "gsm8k/gsm8k-cot.yaml",
    "mbpp": "mbpp/mbpp.yaml", "mbpp_instruct": "mbpp/mbpp_instruct.yaml", "humaneval": "humaneval/humaneval.yaml",
    "humaneval_instruct": "humaneval/humaneval_instruct.yaml", "minerva_math": "minerva_math/minerva_math_algebra.yaml",
}  # fmt: skip
PROGRAM = "def twice(x):\n"
PROBLEMS = {
    "gsm8k": ({"question": "Two pens and 3 cups?", "answer": "2 + 3 = 5\n#### 5"}, "So 2 + 3. The answer is 5."),
    "math500": (
        {"problem": "Half of one?", "solution": "It is $\\boxed{\\frac{1}{2}}$.", "type": "Algebra"},
        "Final Answer: The final answer is $\\frac{2}{4}$. I hope it is correct.",
    ),
    "mbpp": (
        {"task_id": 1, "text": "Write twice.", "code": f"{PROGRAM}    return 2 * x",
         "test_list": ["assert twice(2) == 4", "assert twice(0) == 0", "assert twice(1) == 2"]},
        f"{PROGRAM}    return 2 * x\n",
    ),
    "humaneval": (
        {"task_id": "x/0", "prompt": PROGRAM, "canonical_solution": "    return 2 * x\n", "entry_point": "twice",
         "test": "def check(candidate):\n    assert candidate(2) == 4\n"},
        "    return 2 * x\n",
    ),
}  # fmt: skip
SHOWN = {"gsm8k": "Q:", "math500": "Problem:", "mbpp": "expert Python programmer", "humaneval": "def "}
"""What stands once in each example, and in the problem; in that of `humaneval_instruct` twice."""
HAS_ANTLR = version("antlr4-python3-runtime").startswith("4.11")
FORMS = {(c.task, c.shots, c.chat, c.multiturn): c for c in cells() if HAS_ANTLR or not c.task.startswith("minerva")}
"""A cell of each form of each task."""


class Oracle(LM):
    """Says the same to every prompt, and keeps the prompts."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, []

    tokenizer_name = "turns"

    def chat_template(self, chat_template=False):
        return "turns"

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in chat_history)

    def generate_until(self, requests, disable_tqdm=False):
        self.asked += [each.args for each in requests]
        return [self.answer for _ in requests]

    loglikelihood = loglikelihood_rolling = None


class Programs:
    """The metric code_eval, which is fetched from the hub: what passes its tests."""

    def compute(self, references, predictions, k):
        def passes(program, test):
            try:
                exec(f"{program}\n{test}", {})
            except Exception:
                return False
            return True

        passed = [passes(of[0], test) for test, of in zip(references, predictions, strict=True)]
        return {"pass@1": sum(passed) / len(passed)}, {}


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(evaluate, "load", lambda name: Programs())
    monkeypatch.setattr(signal, "alarm", lambda seconds: 0)  # MATH's scorer gives up after 5 s of a busy machine


def local(cell, folder, monkeypatch):
    """The harness's own task over one problem from here."""
    data, name = folder / "data.jsonl", cell.task
    data.write_text(json.dumps(PROBLEMS[cell.benchmark][0]) + "\n")
    if name in CHANGED:
        here = {
            "dataset_path": "json",
            "dataset_name": "default",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
        }
        monkeypatch.setitem(CHANGED, name, CHANGED[name] | here)
        return load_tasks([name])[name]
    lines = [f"include: {TASKS / FILES[name]}", f"task: {name}", "dataset_path: json", "dataset_name: default"]
    lines.append(f"dataset_kwargs: {{data_files: {{train: {data}, test: {data}, prompt: {data}}}}}")
    (folder / "task.yaml").write_text("\n".join(lines) + "\n")
    return load_tasks([name], folder)[name]


def test_every_task_of_the_arguments_is_one_of_the_harness_and_tried_here():
    assert {cell.task for cell in cells()} == FILES.keys() and len(FILES) == 7


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
def test_a_right_answer_scores_100_and_another_one_0_by_the_harness_itself(form, tmp_path, monkeypatch):
    cell, answer = FORMS[form], PROBLEMS[FORMS[form].benchmark][1]
    answer += "```" * (cell.task == "humaneval_instruct")  # the others are cut at their stop strings
    shots = 3 if cell.task == "mbpp_instruct" and cell.shots else cell.shots  # it has three, the command says four
    for said, expected in ((answer, 100.0), ("9", 0.0)):
        (folder := tmp_path / f"{expected:g}").mkdir()
        accuracy, found = score(oracle := Oracle(said), cell, local(cell, folder, monkeypatch), runs_code=True)
        assert accuracy == expected, (found, oracle.asked)
        [(prompt, settings)] = oracle.asked
        assert settings["max_gen_toks"] == cell.tokens and ("<user>" in prompt) == cell.chat
        assert len(re.findall("<user>", prompt)) == (1 + shots if cell.multiturn else int(cell.chat))
        assert found["shots"] == shots == prompt.count(SHOWN[cell.benchmark]) - 1 - (cell.task == "humaneval_instruct")


@pytest.mark.parametrize("name", FILES)
def test_what_a_machine_without_a_network_lacks_is_told_before_a_model_is_loaded(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    told = "4.11.0" if name == "minerva_math" and not HAS_ANTLR else "--tasks FOLDER with tasks of these names"
    with pytest.raises(ConfigError, match=f"the harness's task {name}: .*{re.escape(told)}"):
        load_tasks([name])


@pytest.mark.skipif(HAS_ANTLR, reason="the grammar that MATH needs is there")
def test_math_is_refused_with_what_to_do_where_its_grammar_is_not_there(tmp_path, monkeypatch):
    cell = next(cell for cell in cells() if cell.benchmark == "math500")
    with pytest.raises(
        ConfigError, match=r"pip install --no-deps --target harness-antlr 'antlr4-python3-runtime==4\.11\.0'"
    ):
        local(cell, tmp_path, monkeypatch)


@pytest.mark.network
def test_math_is_scored_where_its_grammar_is_put_before_ours(tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(tmp_path / "antlr")]
    subprocess.run([*pip, "antlr4-python3-runtime==4.11.0"], check=True, timeout=HANG_S)
    tests = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        "minerva and right",
    ]
    path = os.pathsep.join(filter(None, [str(tmp_path / "antlr"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(tests, timeout=HANG_S, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout
