"""The evaluation of a server: its answers to a benchmark's problems, judged as ours, one record a problem and sample.

A threshold's answers gather in a journal (`inference.endpoint.asking`), their verdicts in another
(`evaluation.scoring`): a run that was stopped or killed goes on from both. What the server says of tokens and forwards
goes into a record's `reported`; our own counts stay empty but for `response_tokens`, where a tokenizer is given. A
request without an answer, where the endpoint may have some, is a record that says so and counts as wrong. No torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lightningrl.config.endpoint import Endpoint
from lightningrl.evaluation.external import ExternalResponse
from lightningrl.evaluation.metrics import summarise
from lightningrl.evaluation.reported import COUNTS, summarise_reported
from lightningrl.evaluation.scoring import judge_all
from lightningrl.inference.endpoint.asking import Asked, ask_all
from lightningrl.inference.endpoint.reply import Reply
from lightningrl.inference.endpoint.request import EndpointRequest, Sampling, load_chat_tokenizer, make_requests
from lightningrl.judges.protocol import Judge
from lightningrl.types import EvalRecord, Example
from lightningrl.utils.numbers import shortest

Render = Callable[[Example], Sequence[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class EndpointEvaluation:
    """One server on one benchmark."""

    name: str
    """The system's name in the records."""
    endpoint: Endpoint
    examples: Sequence[Example]
    render: Render
    """Chat turns of a problem."""
    samples: int
    sampling: Sampling
    cache: Path
    """The folder of the journals."""
    make_judge: Callable[[], Judge]
    identity: Mapping[str, Any]
    """What the verdicts depend on beside the answers."""
    compat: bool = False
    """Prompts that are rendered here end as the published code's do."""
    report: Callable[[str], None] = lambda _: None
    timing: Callable[..., None] = lambda **_: None
    should_stop: Callable[[], bool] = lambda: False

    @property
    def most_failed(self) -> int:
        """How many answers may be missing."""
        return int(len(self.examples) * self.samples * self.endpoint.max_failed_pct / 100)

    def requests(self, threshold: float) -> list[EndpointRequest]:
        """Returns what the server is asked. Raises what `make_requests` does."""
        conversations = ((example.uid, self.render(example)) for example in self.examples)
        return make_requests(self.endpoint, conversations, self.samples, self.sampling, threshold, self.compat)

    def at(self, threshold: float) -> list[EvalRecord]:
        """Returns all records of a threshold, by problem and sample. Raises what `ask_all` and `judge_all` do."""
        requests, at = self.requests(threshold), shortest(threshold)
        asked = ask_all(
            self.endpoint, requests, self.cache / f"replies-{at}.jsonl", most_failed=self.most_failed,
            report=self.report, timing=self.timing, should_stop=self.should_stop,
        )  # fmt: skip
        responses = self._responses(requests, asked, threshold)
        rows = judge_all(
            responses, self.examples, self.make_judge, self.cache / f"records-{at}.jsonl", self.identity, lambda _: None
        )
        judged = {(row["uid"], row["sample"]): EvalRecord.from_json(row) for row in rows}
        records = [judged.get(r.key) or self._without_answer(r, asked.failed[r.key], threshold) for r in requests]
        correct, missing = sum(record.correct for record in records), len(asked.failed)
        told = f", {missing} of them without an answer" if missing else ""
        self.report(f"accuracy {100 * correct / len(records):.1f} %  ({len(records)} responses{told})")
        return records

    def _responses(
        self, requests: Sequence[EndpointRequest], asked: Asked, threshold: float
    ) -> list[ExternalResponse]:  # fmt: skip
        """Returns the answers as the judging of external responses takes them."""
        tokenizer = load_chat_tokenizer(Path(self.endpoint.tokenizer)) if self.endpoint.tokenizer else None
        ids = Counter(reply.reply_id for reply in asked.replies.values() if reply.reply_id)
        found = []
        for request in (request for request in requests if request.key in asked.replies):
            reply = asked.replies[request.key]
            tokens = None
            if tokenizer is not None:
                tokens = len(tokenizer(reply.text, add_special_tokens=False)["input_ids"]) or None
            facts = {"prompt_sha256": request.prompt_sha256, "stop": reply.stop, "response_tokens": tokens}
            facts["reported"] = self._reported(reply, ids[reply.reply_id] > 1, tokens)
            found.append(ExternalResponse(self.name, threshold, *request.key, reply.text, facts))
        return found

    def _reported(self, reply: Reply, is_repeated: bool, tokens: int | None) -> dict[str, Any]:
        row: dict[str, Any] = {name: getattr(reply, name) for name in COUNTS}
        row["doubts"] = list(reply.doubts)
        if is_repeated:
            row["doubts"].append("another reply has the same id")
        row |= {"model": self.endpoint.model, "lossless": self.endpoint.lossless}
        return row | {"response_tokens_by": "tokenizer" if tokens else None}

    def _without_answer(self, request: EndpointRequest, why: str, threshold: float) -> EvalRecord:
        row: dict[str, Any] = dict.fromkeys(field.name for field in fields(EvalRecord))
        row |= {"policy": self.name, "uid": request.uid, "sample": request.sample, "threshold": threshold}
        row |= {"prompt_sha256": request.prompt_sha256, "response": "", "correct": False, "status": "no_answer"}
        row |= {"detail": why, "tokens_by_step": [], "reported": {"model": self.endpoint.model, "doubts": []}}
        return EvalRecord.from_json(row)


def summary_of(records: Sequence[EvalRecord]) -> dict[str, Any]:
    """Returns the summary of one threshold: accuracy as ever, what needs our counts None, the server's word apart."""
    row = summarise(records, require_counts=False).to_json()
    known = {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}
    return known | {"reported": summarise_reported(records)}
