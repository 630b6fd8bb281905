"""Tasks of lm-evaluation-harness, made ready before a model is loaded, or the reason why they cannot be (extra
`lm-eval`).

Making a task ready imports its code and fetches its problems: what is missing on this machine is found out here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from lightningrl.errors import ConfigError

OWN = Path(lm_eval.__file__).parent / "tasks"
HOMES = ("gsm8k", "minerva_math", "benchmarks", "mbpp", "humaneval")
"""The folders of the harness with the tasks of Table 2; to look at all its thousands takes long."""
ANTLR = (
    "MATH is scored with sympy's grammar of LaTeX, which needs antlr4-python3-runtime 4.11; the judge of this package "
    "needs 4.13. Put the other one before it for this command alone: "
    "pip install --no-deps --target harness-antlr 'antlr4-python3-runtime==4.11.0', and then "
    "PYTHONPATH=harness-antlr lightningrl harness ..."
)
_TESTS = "{{test_list[0]}}\n{{test_list[1]}}\n{{test_list[2]}}"
CHANGED: dict[str, dict[str, Any]] = {
    "mbpp_instruct": {
        "doc_to_text": "You are an expert Python programmer, and here is your task: {{text}} Your code should pass "
        f"these tests:\n\n{_TESTS}",
        "doc_to_target": f"{{% if is_fewshot is defined %}}{{{{code}}}}\n[DONE]{{% else %}}{_TESTS}{{% endif %}}",
        "gen_prefix": "Here is the completed function:\n```python\n",
        "generation_kwargs": {"until": ["```"], "do_sample": False},
        "filter_list": [{"name": "none", "filter": [{"function": "take_first"}]}],
    },
}
"""What the leaderboard's copy of the harness says otherwise than the installed one (hao-ai-lab/d3LLM, commit e5bfcac,
utils/utils_Dream/eval_instruct): its answer is the program, cut at the fence. The installed task looks for a fence in
the answer and takes the program's first word, `def`, for the fence's language."""
OTHERWISE = (
    "It needs the network once, for the task's problems and, for programs, the metric code_eval with "
    "HF_ALLOW_CODE_EVAL=1. On a machine without a network, give --tasks FOLDER with tasks of these names"
)


def load_tasks(names: Iterable[str], folder: Path | None = None) -> dict[str, Any]:
    """Returns the harness's task or group of each name, as published, with its problems. folder: tasks in place of the
    harness's own, taken as they are.

    Raises ConfigError, which says what to do, for one that is not there or cannot be made ready.
    """
    places: list[str | Path] = [OWN / name for name in HOMES] if folder is None else [folder]
    manager = TaskManager(include_path=places, include_defaults=False)
    found: dict[str, Any] = {}
    for name in names:
        if name not in manager.all_tasks:
            place = f" in {folder}" if folder else ""
            raise ConfigError(f"the harness {lm_eval.__version__} has no task {name!r}{place}")
        try:
            is_changed = folder is None and name in CHANGED
            spec = {"group": "changed", "task": [{"task": name, **CHANGED[name]}]} if is_changed else name
            loaded: dict[str, Any] = dict(manager.load([spec]))
        except Exception as error:  # a task is a program of others, and may raise anything
            told = " ".join(str(error).split()) or "no reason given"
            found_out = ANTLR if "antlr4" in told else f"{type(error).__name__}: {told[:300]}. {OTHERWISE}"
            raise ConfigError(f"the harness's task {name}: {found_out}") from error
        found[name] = (loaded["groups"] | loaded["tasks"])[name]
    return found
