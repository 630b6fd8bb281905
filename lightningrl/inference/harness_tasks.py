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

ANTLR = (
    "MATH is scored with sympy's grammar of LaTeX, which needs antlr4-python3-runtime 4.11; the judge of this package "
    "needs 4.13. Put the other one before it for this command alone: "
    "pip install --no-deps --target harness-antlr 'antlr4-python3-runtime==4.11.0', and then "
    "PYTHONPATH=harness-antlr lightningrl harness ..."
)
OTHERWISE = (
    "It needs the network once, for the task's problems and, for programs, the metric code_eval with "
    "HF_ALLOW_CODE_EVAL=1. On a machine without a network, give --tasks FOLDER with tasks of these names"
)


def load_tasks(names: Iterable[str], folder: Path | None = None) -> dict[str, Any]:
    """Returns the harness's task or group of each name, with its problems. folder: tasks in place of the harness's own.

    Raises ConfigError, which says what to do, for one that is not there or cannot be made ready.
    """
    manager = TaskManager(include_path=None if folder is None else str(folder), include_defaults=folder is None)
    found: dict[str, Any] = {}
    for name in names:
        if name not in manager.all_tasks:
            place = f" in {folder}" if folder else ""
            raise ConfigError(f"the harness {lm_eval.__version__} has no task {name!r}{place}")
        try:
            loaded: dict[str, Any] = dict(manager.load([name]))
        except Exception as error:  # a task is a program of others, and may raise anything
            told = " ".join(str(error).split()) or "no reason given"
            advice = ANTLR if "antlr4" in told else OTHERWISE
            raise ConfigError(f"the harness's task {name}: {type(error).__name__}: {told[:300]}. {advice}") from error
        found[name] = (loaded["groups"] | loaded["tasks"])[name]
    return found
