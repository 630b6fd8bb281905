"""A published row of Table 2 under lm-evaluation-harness: its own prompt form, decoder and stop rule (extra `lm-eval`).

`BlockDiffusionLM` with what the evaluated repositories do around it: a user's turn made of the harness's text, a first
token, answers that are not cut at stop strings, the first fenced program of an answer. Not repeated: their pruning of
programs (`sanitize`), and that their counts leave the first ten samples of each process out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from lightningrl.config.decoding import preset
from lightningrl.errors import ConfigError
from lightningrl.inference.llm import LLM
from lightningrl.inference.lm_eval import BlockDiffusionLM

AS_PUBLISHED = {"bans_mask": False}
"""No published sampler forbids the mask token."""


class RowLM(BlockDiffusionLM):
    """The model of one row; the keywords beside those of `BlockDiffusionLM` are the fields of a cell of that name."""

    llm: LLM  # behind the registry's decorator a type checker sees the harness's own class
    figures: Callable[[], dict[str, float]]

    def __init__(self, *words: Any, turn: str, bos: bool, stops: bool, fenced: bool, **more: Any) -> None:
        super().__init__(*words, **more)
        self._turn, self._stops, self._fenced = turn, stops, fenced
        self._first = self.llm.tokenizer.bos_token or "" if bos else ""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        def changed(each: Instance) -> Instance:
            given: tuple[Any, ...] = each.args
            return replace(each, arguments=(self._prompt(given[0]), self._settings(given[1])))

        texts = super().generate_until([changed(each) for each in requests])
        return [fenced_program(text) for text in texts] if self._fenced else texts

    def _prompt(self, text: str) -> str:
        if self._turn:
            turn = self._turn.replace("{prompt}", text)
            text = self.apply_chat_template([{"role": "user", "content": turn}])
        return self._first + text

    def _settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return settings if self._stops else settings | {"until": []}


def fenced_program(answer: str) -> str:
    """Returns what stands in the first fence that says `python`, or else all before the first fence.

    >>> fenced_program("Here: ```python\\nx = 1\\n``` Done"), fenced_program("x = 1")
    ('x = 1\\n', 'x = 1')
    """
    return answer.split("```python\n", 1)[-1].split("```")[0]


def pieces_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a preset's pieces with these keys over it, as published: the mask token is not banned. The selector's own
    options are called `options`, as `policy_of` does."""
    found = preset(name)["decoding"] | dict(options)
    if found["schedule"] != "autoregressive":
        found["logits_options"] = found["logits_options"] | AS_PUBLISHED
    found["options"] = found.pop("selector_options")
    return found


def run_cell(
    cell: Any, model: Path, *, adapter: Path | None = None, tasks: Path | None = None, limit: int | None = None,
    runs_code: bool = False, **words: Any,
) -> dict[str, Any]:  # fmt: skip
    """Runs one row on one benchmark; returns its numbers, of all problems or of the first `limit`.

    cell: a `report.paper.harness.Cell`. tasks: a folder of tasks in place of the harness's own. words: of
    `BlockDiffusionLM` (dtype, device, batch_size). Raises ConfigError for a task, or a metric of it, that is not there.
    """
    found_tasks = TaskManager(include_path=None if tasks is None else str(tasks), include_defaults=tasks is None)
    if cell.task not in found_tasks.all_tasks:
        raise ConfigError(
            f"the harness {lm_eval.__version__} has no task {cell.task!r}{f' in {tasks}' if tasks else ''}"
        )
    lm = RowLM(  # pyright: ignore[reportAbstractUsage]
        str(model), turn=cell.turn, bos=cell.bos, stops=cell.stops, fenced=cell.fenced, threshold=cell.parameter,
        adapter=None if adapter is None else str(adapter), **pieces_of(cell.preset, cell.options), **words,
    )  # fmt: skip
    drawing = {"do_sample": True, "temperature": cell.temperature, "top_p": cell.top_p} if cell.temperature else {}
    found = simple_evaluate(
        lm, tasks=[cell.task], task_manager=found_tasks, num_fewshot=cell.shots, apply_chat_template=cell.chat,
        fewshot_as_multiturn=cell.multiturn, limit=limit, bootstrap_iters=0, confirm_run_unsafe_code=runs_code,
        gen_kwargs={"do_sample": False} | drawing | {"max_gen_toks": cell.tokens},
    )  # fmt: skip
    assert found is not None  # of the first process, and there is one
    told: Mapping[str, Any] = dict(found)
    results = {**told["results"], **told.get("groups", {})}[cell.task]
    metrics = {name: value for name, value in results.items() if isinstance(value, float)}
    if cell.metric not in metrics:
        raise ConfigError(f"{cell.task} has no metric {cell.metric!r}, found {', '.join(metrics)}")
    figures = lm.figures()
    return {
        "problems": int(figures["responses"]), "measured": {
            "accuracy_pct": 100 * metrics[cell.metric], "tpf": figures["tpf_harness"],
        },
        "metrics": metrics, "figures": figures, "harness": lm_eval.__version__,
        "versions": {name: str(value) for name, value in told["versions"].items()},
    }  # fmt: skip
