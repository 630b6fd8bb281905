"""A published row of Table 2 under lm-evaluation-harness: its own prompt form, decoder and stop rule (extra `lm-eval`).

`BlockDiffusionLM` with what the evaluated repositories do around it: a user's turn made of the harness's text, a first
token, answers that are not cut at stop strings, the first fenced program of an answer. Not repeated: their pruning of
programs (`sanitize`), and that their counts leave the first ten samples of each process out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from lightningrl.config.decoding import preset
from lightningrl.errors import ConfigError
from lightningrl.inference.harness_answers import Answer, AnswerFile
from lightningrl.inference.llm import LLM
from lightningrl.inference.lm_eval import BlockDiffusionLM

AS_PUBLISHED = {"bans_mask": False}
"""No published sampler forbids the mask token."""


class RowLM(BlockDiffusionLM):
    """The model of one row; the keywords beside those of `BlockDiffusionLM` are the fields of a cell of that name."""

    llm: LLM  # behind the registry's decorator a type checker sees the harness's own class
    figures: Callable[[], dict[str, float]]
    answers: MutableMapping[str, Answer]

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
    cell: Any, task: Any, model: Path, answers: AnswerFile | None = None, *, adapter: Path | None = None,
    limit: int | None = None, runs_code: bool = False, **words: Any,
) -> dict[str, Any]:  # fmt: skip
    """Runs one row on one benchmark; returns its numbers, of all problems or of the first `limit`.

    cell: a `report.paper.harness.Cell`. task: its task, from `load_tasks`; used once. answers: where answers are kept,
    and those it has are taken from. words: of `BlockDiffusionLM` (dtype, device, batch_size). Raises ConfigError for a
    metric that the task does not have.
    """
    lm = RowLM(  # pyright: ignore[reportAbstractUsage]
        str(model), turn=cell.turn, bos=cell.bos, stops=cell.stops, fenced=cell.fenced, threshold=cell.parameter,
        adapter=None if adapter is None else str(adapter), **pieces_of(cell.preset, cell.options), **words,
    )  # fmt: skip
    if answers is not None:
        lm.answers = answers
    accuracy, found = score(lm, cell, task, limit, runs_code)
    figures = lm.figures()
    measured = {"accuracy_pct": accuracy, "tpf": figures["tpf_harness"]}
    return {"problems": int(figures["responses"]), "measured": measured, "figures": figures} | found


def score(
    lm: LM, cell: Any, task: Any, limit: int | None = None, runs_code: bool = False
) -> tuple[float, dict[str, Any]]:  # fmt: skip
    """Lets a model of the harness answer a cell's task; returns its accuracy in percent, and what else is told of it.

    A task that has fewer examples than the published command asks for (`mbpp_instruct` has three, of four) shows those
    it has, as `shots` says. Raises ConfigError for a metric that the task does not have.
    """
    drawing = {"do_sample": True, "temperature": cell.temperature, "top_p": cell.top_p} if cell.temperature else {}
    shots = int(min(cell.shots, *map(_examples, _leaves(task))))
    found = simple_evaluate(
        lm, tasks=[task], num_fewshot=shots, apply_chat_template=cell.chat, fewshot_as_multiturn=cell.multiturn,
        task_manager=TaskManager(include_defaults=False), limit=limit, bootstrap_iters=0,
        confirm_run_unsafe_code=runs_code,
        gen_kwargs={"do_sample": False} | drawing | {"max_gen_toks": cell.tokens},
    )  # fmt: skip
    assert found is not None  # of the first process, and there is one
    told: Mapping[str, Any] = dict(found)
    results = {**told["results"], **told.get("groups", {})}[cell.task]
    metrics = {name: value for name, value in results.items() if isinstance(value, float)}
    if cell.metric not in metrics:
        raise ConfigError(f"{cell.task} has no metric {cell.metric!r}, found {', '.join(metrics)}")
    versions = {name: str(value) for name, value in told["versions"].items()}
    return 100 * metrics[cell.metric], {"metrics": metrics, "versions": versions, "shots": shots}


def _leaves(task: Any) -> list[Any]:
    return list(task.get_all_tasks()) if isinstance(task, Group) else [task]


def _examples(task: Any) -> float:
    """Returns how many examples a task can show: infinitely many where they are drawn from a split."""
    samples = task.fewshot_cfg.samples
    found = samples() if callable(samples) else samples
    return len(found) if isinstance(found, list) else float("inf")
